"""The settings of a run as frozen dataclasses, one for each section of its JSON.

Names are those of transformers and sentence-transformers where they have one. The allowed values of a field are in its
metadata (`Limits`), and its meaning in the docstring of its class: `config.loader` checks settings made in Python or
JSON by these, and the JSON schema, the commented start and the table in docs/configuration.md are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from sbert_ft.config.file_kinds import TABLE_KINDS
from sbert_ft.config.limits import setting
from sbert_ft.config.metrics import CHOOSING_METRICS
from sbert_ft.config.objectives import ObjectiveSettings

OnBadRow = Literal["error", "skip"]
Schedule = Literal["linear", "constant", "cosine"]
CalibrationKind = Literal["auto", "isotonic", "platt", "temperature", "none"]
ModelKind = Literal["siamese", "towers", "joined", "single", "masked_lm"]
Features = Literal["uv", "difference", "uv_difference", "uv_difference_product"]
Truncation = Literal["longest_first", "only_first", "only_second"]

RETRIEVAL_FILES: Final = ("queries", "corpus", "relevant")


@dataclass(frozen=True)
class ModelSettings:
    """The BERT to train, and what is done with its texts and layers.

    Attributes:
        path: The model's folder.
        kind: What is put on the encoder. siamese: pooling, for vectors and cosines. The others are classifiers: over
            both texts' vectors (towers), over the two texts joined to one (joined), or over one text (single).
            masked_lm: the heads of pre-training on raw texts; sbert-ft pretrain takes this kind.
        init: Where the weights come from: the folder, or random ones after its config.json.
        layers: The layers to begin with, by their numbers from 0, such as [0, 2, 5]; the others are cut off. None for
            all. Every other one is what DistilBERT begins with.
        max_seq_length: Tokens a text may have, special ones included (kind joined: both texts together); None for
            the folder's.
        pooling: How tokens become one vector: mean, cls or max; joined and single: pooler too, BERT's own dense layer
            with tanh on the first token. None for pooler there, and for the folder's elsewhere, which is mean where
            it says nothing.
        features: Kind towers: what the head sees of the vectors u and v: uv for (u, v), difference for |u-v|,
            uv_difference for (u, v, |u-v|), uv_difference_product for (u, v, |u-v|, u*v).
        truncation: Kind joined: which text of too long a pair is cut.
        head_dropout: Classifiers: probability of the dropout before the head's last layer; None for what the model's
            config.json says.
        dropout: Probability of all dropout layers of the encoder; None for what the model's config.json says.
        freeze_embeddings: Keep the embedding tables as they are.
        freeze_layers: Keep so many of the lowest layers as they are.
    """

    path: str
    kind: ModelKind = "siamese"
    init: Literal["pretrained", "random"] = "pretrained"
    layers: tuple[int, ...] | None = setting(None, n_items=(1, 1000), at_least=0)
    max_seq_length: int | None = setting(None, at_least=3)
    pooling: Literal["mean", "cls", "max", "pooler"] | None = None
    features: Features = "uv_difference"
    truncation: Truncation = "longest_first"
    head_dropout: float | None = setting(None, at_least=0, below=1)
    dropout: float | None = setting(None, at_least=0, below=1)
    freeze_embeddings: bool = False
    freeze_layers: int = setting(0, at_least=0)


@dataclass(frozen=True)
class Reading:
    """How the data files are read; what is None is detected and logged.

    Attributes:
        text_columns: Names of the columns with the texts: two, three for triplets and hard negatives, one for a
            classifier of single texts. Objectives on single texts and kind masked_lm take up to three columns, each
            text as a row of its own; for such objectives one name is that of the training file alone.
        label_column: Name of the column with the score or label.
        label_kind: Whether labels are scores or classes, each different one a class; None for what the objective
            needs; words are always classes.
        classes: The labels that are classes, in their order; rows with any other label are left out and counted.
        label_values: What each label in the file means, such as {"entailment": 1, "contradiction": 0}; rows with
            any other label are left out and counted.
        score_range: Lowest and highest score of the scale, such as 0 and 5.
        encoding: The codec, such as utf-8 or cp949.
        delimiter: What separates cells.
        kind: The format, where the suffix does not say it.
        on_bad_row: What to do with a row that has no text or no usable score: stop with an error, or skip and count.
            Kind masked_lm always leaves out empty texts, and counts them.
    """

    text_columns: tuple[str, ...] | None = setting(None, n_items=(1, 3))
    label_column: str | None = None
    label_kind: Literal["scores", "classes"] | None = None
    classes: tuple[str, ...] | None = setting(None, n_items=(2, 10_000))
    label_values: Mapping[str, float] | None = None
    score_range: tuple[float, float] | None = None
    encoding: str | None = None
    delimiter: str | None = setting(
        None,
        pattern=r"""[^"\r\n\x00]|comma|semicolon|tab|\\t|pipe""",
        words="one character, or comma, semicolon, tab, pipe",
    )
    kind: str | None = setting(None, choices=TABLE_KINDS)
    on_bad_row: OnBadRow = "error"


@dataclass(frozen=True)
class NegativeSettings:
    """Hard negatives that a run mines among its own texts, with the model as it is.

    Attributes:
        per_pair: Negatives for each pair, as further texts of its row.
        ranks: First and last rank of the nearest texts among which they are looked for; the first is 0. Texts that are
            known or likely to match have no rank.
        max_probability: A text that matches the first text with a higher probability is no negative.
        every_epochs: Mine again after so many epochs; None for only before the first.
    """

    per_pair: int = setting(1, at_least=1)
    ranks: tuple[int, int] = (10, 50)
    max_probability: float = setting(0.5, above=0, at_most=1)
    every_epochs: int | None = setting(None, at_least=1)


@dataclass(frozen=True)
class DataSettings:
    """The rows for training and for evaluation: pairs, triplets or texts.

    Attributes:
        train: File of the rows to train on; for objectives on single texts also a .txt of one text a line. Kind
            masked_lm: a file of raw texts, or a folder of such files.
        dev: File of the rows by which the best step, the threshold and the calibration are chosen.
        test: File of the rows for the final evaluation; nothing is chosen by them.
        dev_share: Share of `train` to split off as dev, where there is no `dev`; no text is in both.
        document_column: Kind masked_lm: column whose value is the same for all rows of a document; in files of one
            text per line an empty line ends a document.
        prompts: What is put before the texts of a sentence encoder: one text for all of them, or one for each column by
            its name in `train`, such as {"sentence1": "query: ", "sentence2": "passage: "}; columns without one have
            none. Evaluation and use put them before the first and the second texts of pairs, and the model keeps them
            as its prompts query and document. None for the model's own.
        retrieval: Kind siamese: files of queries, of the texts to search in (corpus), and of which text is relevant for
            which query. The model is evaluated on them beside dev, and ndcg@10 and others may choose the best step.
        negatives: Objective in_batch_negatives: hard negatives that the run mines for its pairs among their second
            texts, as an object.
        reading: How the files are read (its fields stand in the JSON's section itself).
    """

    train: str
    dev: str | None = None
    test: str | None = None
    dev_share: float | None = setting(None, above=0, at_most=0.5)
    document_column: str | None = None
    prompts: str | Mapping[str, str] | None = None
    retrieval: Mapping[str, str] | None = None
    negatives: NegativeSettings | None = None
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class TeacherSettings:
    """A model from whose scores or vectors the encoder learns.

    Attributes:
        path: Its folder: a classifier of kind joined, or another sentence encoder, whose vectors mse, margin_mse and
            guided_in_batch_negatives learn from. None for a joined classifier that the run trains first, from the same
            base model and pairs.
        texts: File of further texts without labels, which the teacher labels too, or encodes for mse.
        pairs_per_text: Kind joined: the nearest texts that are paired with each text, for the teacher to label.
        sampling: Kind joined: which pairs it labels: each text with its nearest ones, with random ones, or with both,
            of which matched then keeps so many of each score that silver and gold scores are distributed alike.
        epochs: Without a path: passes of the joined classifier over the training pairs.
        learning_rate: Without a path: peak of its schedule.
        batch_size: Without a path: its pairs a batch.
    """

    path: str | None = None
    texts: str | None = None
    pairs_per_text: int = setting(4, at_least=1)
    sampling: Literal["matched", "nearest", "random"] = "matched"
    epochs: int = setting(4, at_least=1)
    learning_rate: float = setting(5e-5, above=0, at_most=1)
    batch_size: int = setting(32, at_least=1)


@dataclass(frozen=True)
class TrainingSettings:
    """How the weights are trained, and when to evaluate, save and stop.

    Attributes:
        epochs: Passes over the training rows.
        max_steps: Optimizer steps at most; None for all of the epochs.
        batch_size: Rows a batch: pairs, triplets or texts, of all processes together.
        accumulation_steps: Batches an optimizer step; each has its own loss, the mean of them is stepped on.
        micro_batch_size: Rows a forward at most, in each process; None to fit the device. It changes memory, not the
            gradient.
        learning_rate: Peak of the schedule.
        schedule: The rate after the warm-up: linear or cosine to 0, or constant.
        warmup_ratio: Share of the steps in which the rate rises from 0.
        warmup_steps: The warm-up as a number of steps; replaces the ratio.
        weight_decay: Decoupled, as in AdamW; biases and norms have none.
        max_grad_norm: Gradients are scaled down to this norm; 0 for never.
        adversarial_epsilon: Train each step a second time with the word embeddings moved by this norm to where its
            loss rises; null for never. A step takes twice as long.
        precision: Of the forward's products, auto for what is fast here; weights and optimizer are always float32.
        device: Device to train on; None for the first of CUDA, MPS and CPU that is there.
        average: The weights that are evaluated and saved: null for those that are trained, ema for their exponential
            moving average, best_k for the mean of the best evaluated steps if it is not worse than the best of them.
        ema_decay: With ema: what the average keeps of itself in a step; after t steps at most (1 + t) / (10 + t), so
            that the starting weights are soon forgotten.
        best_k: With best_k: so many evaluated steps are averaged.
        gradient_checkpointing: Compute activations twice instead of keeping them: slower, less memory.
        seed: Fixes order, dropout and split.
        eval_steps: Evaluate on dev (and data.retrieval) every so many steps; None for the end of each epoch.
        save_steps: Checkpoint every so many steps; None for the end of each epoch.
        metric: By which the best step is chosen; None for spearman (scores), average_precision (labels), macro_f1
            (classes), loss (masked tokens), or ndcg@10 if there is data.retrieval and no dev.
        early_stopping_patience: Evaluations without a better metric after which to stop; None for never.
        logging_steps: A line in metrics.jsonl every so many steps.
        tensorboard: Write event files for TensorBoard too.
        allow_unknown: Train although more than 90 % of the tokens are not in the model's vocabulary.
    """

    epochs: int = setting(1, at_least=1)
    max_steps: int | None = setting(None, at_least=1)
    batch_size: int = setting(16, at_least=1)
    accumulation_steps: int = setting(1, at_least=1)
    micro_batch_size: int | None = setting(None, at_least=1)
    learning_rate: float = setting(2e-5, above=0, at_most=1)
    schedule: Schedule = "linear"
    warmup_ratio: float = setting(0.1, at_least=0, at_most=1)
    warmup_steps: int | None = setting(None, at_least=0)
    weight_decay: float = setting(0.01, at_least=0, at_most=1)
    max_grad_norm: float = setting(1.0, at_least=0)
    adversarial_epsilon: float | None = setting(None, above=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = setting(
        None, pattern=r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", words="cpu, cuda, cuda:1 (a card by its number) or mps"
    )
    average: Literal["ema", "best_k"] | None = None
    ema_decay: float = setting(0.99, above=0, below=1)
    best_k: int = setting(3, at_least=2)
    gradient_checkpointing: bool = False
    seed: int = setting(42, at_least=0, at_most=2**32 - 1)
    eval_steps: int | None = setting(None, at_least=1)
    save_steps: int | None = setting(None, at_least=1)
    metric: str | None = setting(None, choices=CHOOSING_METRICS)
    early_stopping_patience: int | None = setting(None, at_least=1)
    logging_steps: int = setting(10, at_least=1)
    tensorboard: bool = False
    allow_unknown: bool = False


@dataclass(frozen=True)
class EvaluationSettings:
    """How the result is evaluated, and how a cosine becomes a decision.

    Attributes:
        threshold_target: What the stored threshold is chosen for: the best F1, or the best recall at so much
            precision, or the reverse.
        calibration: How a cosine becomes a probability; auto chooses by the number of dev pairs. A classifier of
            classes has temperature (auto) or none.
        match_from: Graded scores: a pair belongs together from this gold score on, in the file's scale; None for
            the middle of the scale.
        bootstrap_samples: Resamples behind each interval.
        confidence: Share of cases in which each interval should contain the true value.
    """

    threshold_target: str = setting(
        "f1",
        pattern=r"f1|(precision|recall)>=(1(\.0+)?|0?\.[0-9]*[1-9][0-9]*)",
        words="f1, or precision>=X or recall>=X with X above 0 and at most 1, such as precision>=0.95",
    )
    calibration: CalibrationKind = "auto"
    match_from: float | None = None
    bootstrap_samples: int = setting(1000, at_least=1, at_most=1_000_000)
    confidence: float = setting(0.95, above=0, below=1)


@dataclass(frozen=True)
class RunSettings:
    """One run: the whole JSON.

    Attributes:
        model: What is fine-tuned.
        data: What it is fine-tuned and evaluated on.
        objective: The objectives whose losses are added; usually one.
        training: How it is trained.
        evaluation: How the result is evaluated.
        teacher: A model to learn from, as an object; null for none.
        output_dir: The run's folder.
    """

    model: ModelSettings
    data: DataSettings
    output_dir: str
    objective: tuple[ObjectiveSettings, ...] = (ObjectiveSettings(),)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    teacher: TeacherSettings | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """The paths that the run reads, by their keys."""
        data = self.data
        paths = {"model.path": self.model.path, "data.train": data.train, "data.dev": data.dev, "data.test": data.test}
        paths |= {f"data.retrieval.{name}": path for name, path in (data.retrieval or {}).items()}
        if self.teacher is not None:
            paths |= {"teacher.path": self.teacher.path, "teacher.texts": self.teacher.texts}
        return {key: path for key, path in paths.items() if path is not None}
