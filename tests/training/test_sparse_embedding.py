"""A word table updated by rows equals the one from dense AdamW, and training resumes from any step bit by bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_spec import make_encoder_folder, sentences
from torch import Tensor, nn

from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.optimizer import Optimizer, optimizer_tensors, rate_factor, restore_optimizer, set_rate
from sbert_ft.training.sparse_embedding import table_stepped_by_row, word_gradients_by_row
from sbert_ft.training.trainable_model import set_up_for_training

N_ROWS, WIDTH = 60, 8
# A float32 operation rounds by at most 2**-24 of its result, and a step makes three on a weight: decay, update and sum.
# Both ways round, but in other places: they may differ by six such errors a step, and the update, which is at most
# as large as the rate (times a few in the first steps), by what the order in a sum of gradients does to it.
ROUNDING = 2.0**-24
TABLE = "words.weight"


class Words(nn.Module):
    """A model with an embedding table and a dense layer, like an encoder."""

    def __init__(self, sparse: bool, padding_idx: int | None = 0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words = nn.Embedding(N_ROWS, WIDTH, padding_idx=padding_idx, sparse=sparse)
            self.dense = nn.Linear(WIDTH, 3)

    def forward(self, token_ids: Tensor) -> Tensor:
        return torch.tanh(self.dense(self.words(token_ids)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Step:
    """One optimizer step: its batches of token ids, accumulated."""

    batches: Sequence[np.ndarray]
    seed: int

    def lead_back(self, module: Words, optimizer: Optimizer | None) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self.batches:
            wanted = torch.randn(len(batch), 3, generator=generator)
            if optimizer is not None:
                optimizer.prepare(np.append(batch, 0).astype(np.int32))
            ((module(torch.from_numpy(batch)) - wanted).pow(2).sum() / len(self.batches)).backward()


@dataclass
class Course:
    """The steps and settings of a run, and its learning rates."""

    steps: list[Step]
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(learning_rate=1e-2, weight_decay=0.3))

    def rate(self, step: int) -> float:
        return self.settings.learning_rate * rate_factor(step, len(self.steps), self.settings)

    def by_rows(self, module: Words, optimizer: Optimizer, begin: int = 0, end: int | None = None) -> list[float]:
        """Make steps as the loop does, and return the gradients' norms."""
        norms = []
        for number in range(begin, len(self.steps) if end is None else end):
            set_rate(optimizer, self.rate(number))
            self.steps[number].lead_back(module, optimizer)
            norms.append(float(optimizer.clip_gradient(self.settings.max_grad_norm or math.inf)))
            optimizer.step()
            optimizer.zero_grad()
        return norms

    def densely(self, module: Words) -> list[float]:
        """Make all steps with torch only, on dense gradients, and return their norms."""
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=1.0, fused=True)
        norms = []
        for number, step in enumerate(self.steps):
            for group in adamw.param_groups:
                group["lr"] = self.rate(number)
            step.lead_back(module, None)
            norms.append(float(nn.utils.clip_grad_norm_(trained, self.settings.max_grad_norm or math.inf)))
            adamw.step()
            adamw.zero_grad()
        self.moments = adamw.state[module.words.weight]
        return norms

    def check(self, padding_idx: int | None = 0) -> Optimizer:
        """Make all steps both ways, and compare weights, moments and norms."""
        ours, theirs = Words(sparse=True, padding_idx=padding_idx), Words(sparse=False, padding_idx=padding_idx)
        optimizer = Optimizer(ours, self.settings)
        assert optimizer.rows is not None and optimizer.rows.table is ours.words.weight
        norms = self.by_rows(ours, optimizer)
        np.testing.assert_allclose(norms, self.densely(theirs), rtol=1e-5)
        optimizer.settle()
        largest = float(theirs.words.weight.detach().abs().max())
        bound = len(self.steps) * (6 * ROUNDING * largest + 1e-4 * self.settings.learning_rate)
        for name, found in ours.named_parameters():
            torch.testing.assert_close(found, theirs.get_parameter(name), atol=bound, rtol=0, msg=name)
        found, untouched = spread(optimizer), torch.ones(N_ROWS, dtype=torch.bool)
        untouched[optimizer.rows.active] = False
        assert not self.moments["exp_avg_sq"][untouched].any()
        for key, moments in found.items():
            scale = float(self.moments[key].abs().max())
            torch.testing.assert_close(moments, self.moments[key], atol=1e-5 * scale, rtol=1e-4, msg=key)
        return optimizer


def spread(optimizer: Optimizer) -> dict[str, Tensor]:
    assert optimizer.rows is not None
    rows = optimizer.rows
    moments = {"exp_avg": torch.zeros(N_ROWS, WIDTH), "exp_avg_sq": torch.zeros(N_ROWS, WIDTH)}
    moments["exp_avg"][rows.active] = rows.exp_avg
    moments["exp_avg_sq"][rows.active] = rows.exp_avg_sq
    return moments


def course(n_steps: int = 120, n_batches: int = 1, n_rows: int = N_ROWS, seed: int = 0, **settings: float) -> Course:
    """Return a course in which low rows are frequent, high ones late and rare, and batches have repeated rows."""
    draw = np.random.default_rng(seed)
    steps = [
        Step([(draw.random(12) ** 4 * (5 + (n_rows - 5) * i / n_steps)).astype(np.int64) for _ in range(n_batches)], i)
        for i in range(n_steps)
    ]
    return Course(steps, TrainingSettings(**{"learning_rate": 1e-2, "weight_decay": 0.3, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize("padding_idx", [0, None])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.0},
        {"weight_decay": 1.0, "learning_rate": 0.05},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 0.01},
        {"warmup_ratio": 0.5},
    ],
    ids=["usual", "no decay", "much decay", "not clipped", "always clipped", "long warm-up"],
)
def test_steps_by_rows_equal_those_of_dense_adamw(settings: dict[str, float], padding_idx: int | None) -> None:
    optimizer = course(**settings).check(padding_idx)
    assert optimizer.rows is not None and 20 < len(optimizer.rows.active) < N_ROWS


def test_accumulated_batches_that_share_rows_equal_dense_ones() -> None:
    course(n_steps=60, n_batches=3).check()


def test_it_goes_on_when_every_row_is_active() -> None:
    everything = [Step([np.arange(N_ROWS)], 0)]
    steps = [*course(n_steps=40).steps, *everything, *course(n_steps=40, seed=1).steps]
    optimizer = Course(steps).check()
    assert optimizer.rows is not None and sorted(optimizer.rows.active.tolist()) == list(range(N_ROWS))


@given(
    st.lists(
        st.lists(st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=6), min_size=1, max_size=2),
        min_size=2,
        max_size=25,
    ),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_schedule_equals_dense_adamw(schedule: list[list[list[int]]], decay: float, max_norm: float) -> None:
    steps = [Step([np.array(batch) for batch in batches], i) for i, batches in enumerate(schedule)]
    Course(steps, TrainingSettings(learning_rate=1e-2, weight_decay=decay, max_grad_norm=max_norm)).check()


def test_a_row_that_was_never_read_has_its_decay_rounded_once() -> None:
    run = course(n_rows=30)
    module = Words(sparse=True)
    before, optimizer = module.words.weight[-1].detach().clone(), Optimizer(module, run.settings)
    run.by_rows(module, optimizer)
    assert torch.equal(module.words.weight[-1], before)
    optimizer.settle()
    factor = math.prod(1 - run.rate(step) * run.settings.weight_decay for step in range(len(run.steps)))
    assert 0 < factor < 0.9
    # the factor is rounded to float32, and the product
    torch.testing.assert_close(module.words.weight[-1].double(), before.double() * factor, rtol=2 * ROUNDING, atol=0)
    settled = copy.deepcopy(module.state_dict())
    optimizer.settle()
    assert all(torch.equal(tensor, settled[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("stop", [0, 1, 37, 79])
def test_a_run_goes_on_from_any_step_bit_by_bit_and_saving_changes_nothing(stop: int) -> None:
    run = course(n_steps=80)
    unbroken, broken = Words(sparse=True), Words(sparse=True)
    optimizer = Optimizer(unbroken, run.settings)
    run.by_rows(unbroken, optimizer)
    optimizer.settle()

    first = Optimizer(broken, run.settings)
    run.by_rows(broken, first, end=stop)
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(first, broken).items()}
    weights = {name: tensor.clone() for name, tensor in broken.state_dict().items()}
    run.by_rows(broken, first, begin=stop)  # the one that was saved goes on
    first.settle()
    again = Words(sparse=True, seed=1)
    again.load_state_dict(weights)
    second = Optimizer(again, run.settings)
    restore_optimizer(second, again, state)
    run.by_rows(again, second, begin=stop)
    second.settle()
    for name, expected in unbroken.state_dict().items():
        assert torch.equal(broken.state_dict()[name], expected), name
        assert torch.equal(again.state_dict()[name], expected), name
    ends = [optimizer_tensors(made, module) for made, module in ((optimizer, unbroken), (second, again))]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


@pytest.mark.parametrize("begins_sparse", [True, False])
def test_a_run_goes_on_where_tables_are_stepped_otherwise(begins_sparse: bool) -> None:
    run = course(n_steps=80)
    reference = Words(sparse=False)
    run.densely(reference)
    first = Words(sparse=begins_sparse)
    optimizer = Optimizer(first, run.settings)
    assert (optimizer.rows is not None) is begins_sparse
    run.by_rows(first, optimizer, end=30)
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, first).items()}
    second = Words(sparse=not begins_sparse, seed=1)
    second.load_state_dict(first.state_dict())
    optimizer = Optimizer(second, run.settings)
    restore_optimizer(optimizer, second, state)
    run.by_rows(second, optimizer, begin=30)
    optimizer.settle()
    for name, expected in reference.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", torch.tensor([1, N_ROWS])),
        ("rows", torch.tensor([-1, 3])),
        ("rows", torch.tensor([2, 2])),
        ("rows", torch.tensor([1.0, 2.0])),
        ("exp_avg", torch.zeros(2, WIDTH + 1)),
        ("exp_avg_sq", torch.zeros(1, WIDTH)),
    ],
)
@pytest.mark.parametrize("sparse", [True, False])
def test_rows_that_are_not_the_table_s_are_refused(key: str, value: Tensor, sparse: bool) -> None:
    module = Words(sparse)
    optimizer = Optimizer(module, TrainingSettings())
    state = {
        **optimizer_tensors(optimizer, module),
        f"rows:{TABLE}": torch.tensor([1, 2]),
        f"decay:{TABLE}": torch.ones(()),
        f"exp_avg:{TABLE}": torch.zeros(2, WIDTH),
        f"exp_avg_sq:{TABLE}": torch.zeros(2, WIDTH),
    }
    restore_optimizer(optimizer, module, state)
    with pytest.raises(ValueError, match=r"^its |^a row occurs twice"):
        restore_optimizer(optimizer, module, {**state, f"{key}:{TABLE}": value})


def test_a_gradient_is_scaled_down_to_the_norm_and_a_shorter_one_left(seed: int = 3) -> None:
    step = Step([np.array([5, 7, 7, 9])], seed)
    ours, theirs = Words(sparse=True), Words(sparse=False)
    optimizer = Optimizer(ours, TrainingSettings())
    step.lead_back(ours, optimizer)
    step.lead_back(theirs, None)
    norm = float(optimizer.clip_gradient(math.inf))
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)), rel=1e-6) and norm > 1
    assert optimizer.rows is not None and optimizer.rows.sum_gradient() is not None
    assert float(optimizer.clip_gradient(0.5)) == norm
    values = optimizer.rows.sum_gradient()
    assert values is not None and values.shape == (3, WIDTH)
    torch.testing.assert_close(values, theirs.words.weight.grad[[5, 7, 9]])  # type: ignore[index]
    for found, expected in zip(ours.dense.parameters(), theirs.dense.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    assert float(optimizer.clip_gradient(10.0)) == pytest.approx(0.5)


def test_a_row_that_nobody_prepared_is_noticed() -> None:
    module = Words(sparse=True)
    optimizer = Optimizer(module, TrainingSettings())
    optimizer.prepare(np.array([1, 2], np.int32))
    module(torch.tensor([1, 3])).sum().backward()
    with pytest.raises(AssertionError, match="without a call of prepare"):
        optimizer.clip_gradient(1.0)


def test_without_a_gradient_a_step_changes_nothing() -> None:
    module = Words(sparse=True)
    before, optimizer = copy.deepcopy(module.state_dict()), Optimizer(module, TrainingSettings(weight_decay=1.0))
    optimizer.prepare(np.array([1, 2], np.int32))
    optimizer.step()
    optimizer.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# which tables


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_every_kind_of_encoder_is_that_of_the_dense_table(kind: str, tmp_path: Path) -> None:
    bert = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32")
    words = bert.encoder.get_input_embeddings()
    tokens = bert.tokenizer.frame(bert.tokenizer.tokenize(sentences(8)), 32)
    gradients = []
    for wanted in (False, True):
        with word_gradients_by_row(bert.encoder, wanted):
            assert words.sparse is wanted
            bert(bert.pack(tokens)).pow(2).sum().backward()
        assert not words.sparse
        gradients.append(words.weight.grad)
        bert.zero_grad(set_to_none=True)
    assert gradients[0] is not None and not gradients[0].is_sparse
    assert gradients[1] is not None and gradients[1].is_sparse
    torch.testing.assert_close(gradients[1].to_dense(), gradients[0])
    read = set(tokens.token_ids.tolist()) | {bert.tokenizer.padding_id}
    assert set(gradients[1].coalesce().indices()[0].tolist()) <= read


@pytest.mark.parametrize("why", ["frozen", "shared", "max_norm", "by frequency", "half", "scaled"])
def test_a_table_that_rows_do_not_do_for_stays_dense(minilm_path: Path, why: str) -> None:
    bert = ConnectionBert.from_pretrained(minilm_path, "cpu", "float32")
    words = bert.encoder.get_input_embeddings()
    settings = ModelSettings("m", freeze_embeddings=why == "frozen")
    training = TrainingSettings(precision="float16" if why == "scaled" else "auto")
    if why == "shared":
        other = nn.Linear(1, 1)
        other.weight = words.weight
        bert.encoder.add_module("other", other)
    elif why == "max_norm":
        words.max_norm = 1.0
    elif why == "by frequency":
        words.scale_grad_by_freq = True
    elif why == "half":
        bert.encoder.half()
    with set_up_for_training(bert.encoder, RunSettings(settings, DataSettings("d"), "o", training=training)):
        assert not words.sparse and table_stepped_by_row(bert.encoder) is None


# a real one


def test_fine_tuning_by_rows_gives_the_weights_of_dense_fine_tuning(minilm_path: Path) -> None:
    models = [SiameseBert.from_pretrained(minilm_path, "cpu", "float32") for _ in range(2)]
    base = {name: tensor.clone() for name, tensor in models[0].bert.encoder.named_parameters()}
    training = TrainingSettings(learning_rate=1e-4, weight_decay=0.1)
    settings = RunSettings(ModelSettings("m", dropout=0.0), DataSettings("d"), "o", training=training)
    texts, read = sentences(64), []
    for model, by_rows in zip(models, (True, False), strict=True):
        encoder = model.bert.encoder
        with set_up_for_training(encoder, settings):
            words = encoder.get_input_embeddings()
            assert isinstance(words, nn.Embedding) and words.sparse
            words.sparse = by_rows
            optimizer = Optimizer(encoder, training)
            assert (optimizer.rows is not None) is by_rows
            model.train()
            for step in range(8):
                tokens = model.tokenizer.frame(model.tokenizer.tokenize(texts[8 * step : 8 * step + 8]), 32)
                read.append(np.append(tokens.token_ids, model.tokenizer.padding_id).astype(np.int64))
                optimizer.prepare(read[-1])
                vectors = model(model.bert.pack(tokens, "rows"))
                (vectors[:4] * vectors[4:]).sum().backward()
                optimizer.clip_gradient(1.0)
                optimizer.step()
                optimizer.zero_grad()
            optimizer.close()
    with torch.no_grad():
        for name, found in models[0].bert.encoder.named_parameters():
            expected = models[1].bert.encoder.get_parameter(name)
            if "key.bias" in name:  # softmax takes no notice of it: its gradient is rounding, which AdamW scales up
                continue
            moved = float((expected - base[name]).norm())
            # of the way that the weights went; rows have entries whose gradient is next to nothing
            share = 2e-3 if "word_embeddings" in name else 1e-4
            assert float((found - expected).norm()) <= share * moved, name
        found, expected = (model.bert.encoder.get_input_embeddings().weight for model in models)
        unread = torch.ones(len(found), dtype=torch.bool)
        unread[torch.from_numpy(np.concatenate(read))] = False
        # dense: a factor rounded to float32 and a product in each of 8 steps; ours: one factor and one product
        bound = (8 * 2 + 2) * ROUNDING * expected[unread].abs()
        assert bool(((found - expected)[unread].abs() <= bound).all()) and 20_000 < int(unread.sum()) < len(found)
