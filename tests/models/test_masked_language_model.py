"""`MaskedLanguageModel`: the logits of transformers' own classes for every kind, and folders that all read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import default_vocabulary, make_bert_folder
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from test_spec import SETTINGS, make_encoder_folder, sentences
from tokenizers import Tokenizer, decoders, processors
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForPreTraining,
    PreTrainedModel,
    pipeline,
)

from sbert_ft import BertClassifier, ConnectionBert, SiameseBert
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.errors import InputError, ModelFolderError, SbertFtError
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.tokenization.masking import Masker

TOLERANCE = 5e-5
NEXT = "next_sentence"
TEXTS = sentences(24, seed=3)


def spread(model: nn.Module, seed: int = 0) -> None:
    """Spread the parameters wider than for training, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.normal_(middle, scale, generator=generator)


def make_language_folder(target: Path, kind: str, model_class: Any = None, **settings: Any) -> Path:
    """Write a small masked language model of this kind with transformers' own class; the tokenizer has a mask token."""
    make_encoder_folder(target, kind)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    mask = "<mask>" if KINDS[kind].counts_from_padding else "[MASK]"
    tokenizer.add_special_tokens([mask])
    tokenizer.decoder = decoders.ByteLevel() if kind in ("roberta", "modernbert") else decoders.Metaspace()
    if tokenizer.get_vocab().keys() & {"##a"}:
        tokenizer.decoder = decoders.WordPiece()
    if not KINDS[kind].counts_from_padding:
        special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
        )
    tokenizer.save(str(target / "tokenizer.json"))
    config = AutoConfig.from_pretrained(target, **settings)
    model = (model_class or MODEL_FOR_MASKED_LM_MAPPING[type(config)])(config)
    spread(model)
    (target / "model.safetensors").unlink()
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a kind, with heads; ``next_sentence`` is a BERT with those of BertForPreTraining."""
    place = tmp_path_factory.mktemp("language")

    @cache
    def make(kind: str) -> Path:
        if kind == NEXT:
            return make_language_folder(place / kind, "bert", BertForPreTraining)
        return make_language_folder(place / kind, kind)

    return make


def load(folder: Path, **options: Any) -> MaskedLanguageModel:
    return MaskedLanguageModel.from_pretrained(folder, "cpu", "float32", **options)


def stock_logits(model: PreTrainedModel, folder: Path, texts: list[str], places: list[list[int]], mask: int) -> Tensor:
    """Return the logits of a stock model, padded, at some places of each text, where the mask token stands."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    padding = next(i for token in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(token)) is not None)
    tokenizer.enable_padding(pad_id=padding)
    encodings = tokenizer.encode_batch(texts)
    ids = torch.tensor([encoding.ids for encoding in encodings])
    for row, of_row in enumerate(places):
        ids[row, of_row] = mask
    attention = torch.tensor([encoding.attention_mask for encoding in encodings])
    with torch.inference_mode():
        logits = model.eval()(input_ids=ids, attention_mask=attention).logits
    return torch.cat([logits[row, of_row] for row, of_row in enumerate(places)])


def masked_texts(model: MaskedLanguageModel, texts: list[str]) -> tuple[Any, list[list[int]]]:
    """Return texts with a mask token at some places, and the places of each."""
    tokens = model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_seq_length)
    chosen = Masker(model.tokenizer, 0.3).mask(tokens, np.random.default_rng(0))
    chosen.tokens.token_ids[chosen.places] = model.tokenizer.mask_id
    places: list[list[int]] = [[] for _ in texts]
    for place, owner in zip(chosen.places.tolist(), chosen.owners.tolist(), strict=True):
        places[owner].append(place - int(tokens.offsets[owner]))
    return chosen, places


def largest_difference(
    model: MaskedLanguageModel, stock: PreTrainedModel, folder: Path, texts: list[str] = TEXTS
) -> float:
    """Return the largest difference of the logits at masked places in any layout."""
    chosen, places = masked_texts(model, texts)
    assert model.tokenizer.mask_id is not None
    expected = stock_logits(stock, folder, texts, places, model.tokenizer.mask_id)
    assert len(expected) > 5 and float(expected.std()) > 0.1
    found = []
    with torch.inference_mode():
        for layout in model.bert.probe.layouts:
            batch = model.bert.pack(chosen.tokens, layout)
            hidden = model.bert.infer(batch).flatten(0, 1)[batch.cells[chosen.places]]
            found.append(float((model.head.word_logits(hidden) - expected).abs().max()))
    return max(found)


def records_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of, without the layouts that a kind does not run."""
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sbert_ft")]
    return [said for said in ours if "is run padded" not in said]


# ---------------------------------------------------------------- every kind of encoder


@pytest.mark.parametrize("kind", [*KINDS, NEXT])
def test_logits_are_those_of_transformers_before_and_after_a_save(
    kind: str, folder_of: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    next_sentence = kind == NEXT
    stock_class = BertForPreTraining if next_sentence else AutoModelForMaskedLM
    folder = folder_of(kind)
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        model = load(folder, next_sentence=next_sentence)
        assert records_of(caplog) == []
        model.save_pretrained(tmp_path / "saved")
        again = load(tmp_path / "saved", next_sentence=next_sentence)
        assert records_of(caplog) == []

    class Language(nn.Module):
        """Gives the logits of the words as `logits`."""

        def __init__(self, stock: Any) -> None:
            super().__init__()
            self.stock = stock

        def forward(self, **inputs: Any) -> Any:
            found = self.stock(**inputs)
            found.logits = found.prediction_logits
            return found

    for place, ours in ((folder, model), (tmp_path / "saved", again)):
        stock, info = stock_class.from_pretrained(place, output_loading_info=True, local_files_only=True)
        assert not info["missing_keys"] and not info["mismatched_keys"] and not info["error_msgs"]
        assert next_sentence or all("pooler" in key for key in info["unexpected_keys"])
        assert not next_sentence or not info["unexpected_keys"]
        read: Any = Language(stock) if next_sentence else stock
        assert largest_difference(ours, read, folder) <= TOLERANCE
        words, output = ours.bert.encoder.get_input_embeddings(), ours.head.stock.get_output_embeddings()
        assert output.weight is words.weight
    before, after = (dict(one.trained.state_dict()) for one in (model, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_tables_that_the_config_does_not_tie_are_two(kind: str, tmp_path: Path) -> None:
    folder = make_language_folder(tmp_path / "model", kind, tie_word_embeddings=False)
    model = load(folder)
    words, output = model.bert.encoder.get_input_embeddings(), model.head.stock.get_output_embeddings()
    assert not torch.equal(output.weight, words.weight)
    model.save_pretrained(tmp_path / "saved")
    for place in (folder, tmp_path / "saved"):
        stock = AutoModelForMaskedLM.from_pretrained(place, local_files_only=True)
        assert largest_difference(load(place), stock, folder) <= TOLERANCE


def test_the_order_of_segments_is_that_of_transformers(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(NEXT)
    model = load(folder, next_sentence=True)
    stock = BertForPreTraining.from_pretrained(folder, local_files_only=True).eval()
    firsts, seconds = TEXTS[:12], TEXTS[12:]
    tokens = model.tokenizer.join(*map(model.tokenizer.tokenize, (firsts, seconds)), model.max_seq_length)
    tokenizer = AutoTokenizer.from_pretrained(_saved(model, folder.parent / "next-saved"))
    inputs = tokenizer(
        firsts, seconds, padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = stock(**inputs).seq_relationship_logits
        for layout in model.bert.probe.layouts:
            batch = model.bert.pack(tokens, layout)
            hidden = model.bert.infer(batch).flatten(0, 1)[batch.cells[batch.starts]]
            assert float((model.head.order_logits(hidden) - expected).abs().max()) <= TOLERANCE
    assert float(expected.std()) > 0.01


def _saved(model: MaskedLanguageModel, target: Path) -> Path:
    model.save_pretrained(target)
    return target


# ---------------------------------------------------------------- heads of a folder


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of 2018, with the tied table and position numbers beside them."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    renamed["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    renamed["bert.embeddings.position_ids"] = torch.arange(100)[None]
    return renamed


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "pytorch_model.bin": lambda tensors, folder: torch.save(tensors, folder / "pytorch_model.bin"),
    "wrapped": lambda tensors, folder: save_file(
        {f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    ),
    "of 2018": lambda tensors, folder: torch.save(old_names(tensors), folder / "pytorch_model.bin"),
    "half": lambda tensors, folder: save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder / "model.safetensors"
    ),
}


@pytest.mark.parametrize("how", WRITERS)
def test_heads_are_read_under_every_name(
    how: str, folder_of: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder_of(NEXT)
    expected = dict(load(source, next_sentence=True).trained.state_dict())
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    WRITERS[how](load_file(source / "model.safetensors"), tmp_path)
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        found = dict(load(tmp_path, next_sentence=True).trained.state_dict())
    assert records_of(caplog) == []
    assert found.keys() == expected.keys() and len([name for name in found if name.startswith("head.")]) == 9
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(torch.bfloat16).float() if how == "half" else tensor), name


@pytest.mark.parametrize(
    ("next_sentence", "n_missing", "first"), [(False, 5, "cls.predictions.bias"), (True, 7, "cls.predictions.bias")]
)
def test_a_folder_without_heads_is_said_once_and_starts_from_the_seed(
    next_sentence: bool, n_missing: int, first: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_bert_folder(tmp_path / "model", safetensors=True)
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        model = load(folder, next_sentence=next_sentence)
    (said,) = records_of(caplog)
    assert f"heads that are not there and start with random numbers: {n_missing}, such as '{first}'" in said
    again, other = (load(folder, next_sentence=next_sentence, seed=seed) for seed in (42, 43))
    name = "head.stock/cls/predictions/transform/dense/weight"
    weights = [dict(one.trained.state_dict())[name] for one in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("removed", ["bert.pooler.dense.bias", "cls.seq_relationship.weight"])
def test_a_head_that_is_there_in_part_is_said(
    removed: str, folder_of: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(folder_of(NEXT) / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder_of(NEXT) / name).read_bytes())
    save_file({k: v for k, v in tensors.items() if k != removed}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        load(tmp_path, next_sentence=True)
    (said,) = records_of(caplog)
    assert (
        "heads that are not there and start with random numbers: 1, such as" in said
        and removed.removeprefix("bert.") in said
    )


@pytest.mark.parametrize(
    ("name", "shape", "next_sentence"),
    [
        ("cls.predictions.bias", (7,), False),
        ("cls.predictions.transform.dense.weight", (32, 31), True),
        ("cls.seq_relationship.weight", (3, 32), True),
        ("bert.pooler.dense.weight", (16, 32), True),
        ("bert.pooler.dense.bias", (16,), True),
    ],
)
def test_heads_of_another_shape_are_refused_by_name(
    name: str, shape: tuple[int, ...], next_sentence: bool, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source = folder_of(NEXT)
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    save_file({**load_file(source / "model.safetensors"), name: torch.zeros(shape)}, tmp_path / "model.safetensors")
    found = " x ".join(map(str, shape))
    with pytest.raises(ModelFolderError, match=f"tensor '{name.removeprefix('bert.')}' is {found}, expected"):
        load(tmp_path, next_sentence=next_sentence)


def test_a_head_that_is_there_twice_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    source, name = folder_of("bert"), "cls.predictions.transform.dense.bias"
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    twice = {**load_file(source / "model.safetensors"), f"module.{name}": torch.zeros(32)}
    save_file(twice, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match=f"both claim to be '{name}'"):
        load(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bert"])
def test_only_bert_predicts_next_sentences(kind: str, folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=f"next-sentence prediction is for bert encoders.*this one is {kind}"):
        load(folder_of(kind), next_sentence=True)


def test_a_vocabulary_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    words = [word for word in default_vocabulary() if word != "[MASK]"]
    folder = make_bert_folder(tmp_path / "model", vocab=words)
    with pytest.raises(InputError, match=r"model' has no mask token, \[MASK\] or <mask>.*add a line"):
        load(folder)


# ---------------------------------------------------------------- random weights


def test_random_weights_follow_from_the_seed_and_leave_the_callers_generator(tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").unlink()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [
        MaskedLanguageModel.from_config(folder, "cpu", "float32", next_sentence=True, seed=seed) for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (dict(model.trained.state_dict()) for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name.endswith("weight") and "LayerNorm" not in name]
    assert len(drawn) > 12 and not any(torch.equal(first[name], other[name]) for name in drawn)
    assert not (first["head.stock/cls/predictions/bias"] != 0).any()


# ---------------------------------------------------------------- fill-mask


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "albert"])
def test_fill_mask_gives_the_words_and_scores_of_the_pipeline(
    kind: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(folder_of(kind))
    theirs: Any = pipeline("fill-mask", str(_saved(model, tmp_path / "saved")), device="cpu")
    mask = theirs.tokenizer.mask_token
    for text in (f"the dog {mask} in the park", f"{mask}", f"A man plays the {mask} guitar and sings."):
        ours, expected = model.fill_mask(text, 7), theirs(text, top_k=7)
        assert [one["token"] for one in ours] == [one["token"] for one in expected]
        assert [one["token_str"] for one in ours] == [one["token_str"] for one in expected]
        np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in expected], rtol=1e-4)
    assert len(model.fill_mask(f"a {mask}")) == 5


def test_all_words_can_be_asked_for_and_their_scores_add_up_to_one(folder_of: Callable[[str], Path]) -> None:
    model = load(folder_of("bert"))
    rows = int(model.bert.plan.config.vocab_size)
    found = model.fill_mask("the [MASK]", rows)
    assert len({one["token"] for one in found}) == rows  # the table has rows beyond the vocabulary
    assert sum(one["score"] for one in found) == pytest.approx(1.0, abs=1e-4)
    assert all(isinstance(one["token_str"], str) for one in found)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("no mask here", {}, r"has 0 mask tokens \[MASK\] within 100 tokens, expected one.*write \[MASK\]"),
        ("[MASK] and [MASK]", {}, "has 2 mask tokens"),
        ("dog " * 200 + "[MASK]", {}, "has 0 mask tokens"),
        ("", {}, "has 0 mask tokens"),
        (3, {}, r"is '?3'? \(int\), expected a string"),
        ("\ud800 [MASK]", {}, "lone surrogate"),
        ("the [MASK]", {"top_k": 0}, "top_k is '0'"),
        ("the [MASK]", {"top_k": 10**6}, "top_k is '1000000'"),
        ("the [MASK]", {"top_k": 1.5}, "top_k is '1.5'"),
    ],
)
def test_what_fill_mask_cannot_answer_is_one_sentence(
    folder_of: Callable[[str], Path], text: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        load(folder_of("bert")).fill_mask(text, **options)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- folders for others


def test_a_sentence_encoders_folder_stays_one(minilm_path: Path, tmp_path: Path) -> None:
    model = MaskedLanguageModel.from_pretrained(minilm_path, "cpu", "float32", max_seq_length=128)
    folder = _saved(model, tmp_path / "saved")
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    base = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    ours = SiameseBert.from_pretrained(folder, "cpu", "float32")
    assert (ours.pooling, ours.max_seq_length, theirs.max_seq_length) == (base.pooling, 128, 128)
    texts = ["A man plays a guitar.", "the dog", "Someone makes music in the park."]
    vectors = base.encode(texts)
    assert np.abs(ours.encode(texts) - vectors).max() < 5e-6
    assert np.abs(theirs.encode(texts) - vectors).max() < 5e-6
    stock, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]
    assert largest_difference(model, stock, folder, TEXTS[:6]) <= TOLERANCE


def test_what_a_run_decided_for_other_weights_is_left_out(tmp_path: Path) -> None:
    base = SiameseBert.from_pretrained(make_bert_folder(tmp_path / "model"), "cpu", "float32")
    base.decision = Decision(0.5, "f1", FittedOn("dev.csv", "0" * 64, 10, 5))
    base.save_pretrained(tmp_path / "decided")
    assert SiameseBert.from_pretrained(tmp_path / "decided", "cpu", "float32").decision is not None
    folder = _saved(load(tmp_path / "decided"), tmp_path / "saved")
    assert SiameseBert.from_pretrained(folder, "cpu", "float32").decision is None


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", NEXT])
def test_fine_tuning_starts_from_the_folder(
    kind: str, folder_of: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(folder_of(kind), next_sentence=kind == NEXT)
    folder = _saved(model, tmp_path / "saved")
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        siamese = SiameseBert.from_pretrained(folder, "cpu", "float32")
        classifier = BertClassifier(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "joined")
    assert records_of(caplog) == []
    encoder = model.bert.encoder.state_dict()
    for bert in (siamese.bert, classifier.bert):
        assert all(torch.equal(tensor, encoder[name]) for name, tensor in bert.encoder.state_dict().items())
    assert np.isfinite(siamese.encode(TEXTS)).all()
    if kind == NEXT:
        assert model.head.pooler is not None
        assert torch.equal(siamese.bert.pooler["pooler.dense.weight"], model.head.pooler.state_dict()["dense.weight"])
        # a head put on the same encoder begins with the pooler that was trained
        with torch.no_grad():
            model.head.pooler.get_parameter("dense.bias").fill_(0.5)
        assert (model.bert.pooler["pooler.dense.bias"] == 0.5).all()


def test_a_save_that_fails_is_one_sentence_and_leaves_nothing(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    model = load(folder_of("bert"))
    for target in (tmp_path / "file", tmp_path / "a\0b", 3):
        with pytest.raises(SbertFtError):
            model.save_pretrained(target)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_config_names_the_class_and_the_card_the_pipeline(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    assert len(SETTINGS) == len(KINDS) == 10
    for kind, expected in (("bert", "BertForMaskedLM"), (NEXT, "BertForPreTraining"), ("mpnet", "MPNetForMaskedLM")):
        folder = _saved(load(folder_of(kind), next_sentence=kind == NEXT), tmp_path / kind)
        assert json.loads((folder / "config.json").read_text())["architectures"] == [expected]
        assert "pipeline_tag: fill-mask" in (folder / "README.md").read_text()
