"""Every kind of encoder gives the stock padded model's results in each layout that it may run.

The reference is transformers' own class on a plain padded batch, tokenised by the tokenizers library; no code of this
project is in it. The encoders are small, with large random weights, so that a wrong mask, position or window shows.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, default_vocabulary
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel

from sbert_ft.encoder import devices
from sbert_ft.encoder.devices import choose_device, choose_precision, describe_device, multiplies_bfloat16
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.encoder.packing import Layout
from sbert_ft.errors import InputError, ModelFolderError, ResourceError
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "encoders.md"
WORDS = COMMON_WORDS.split()

# Which packed layouts each kind is admitted to; what is not listed is padded.
ADMITTED: dict[str, tuple[Layout, ...]] = {
    "bert": ("rows", "runs"),
    "roberta": ("rows", "runs"),
    "xlm-roberta": ("rows", "runs"),
    "camembert": ("rows", "runs"),
    "electra": ("rows", "runs"),
    "distilbert": ("rows", "runs"),
    "albert": ("rows", "runs"),
    "mpnet": ("rows",),
    "modernbert": (),
    "deberta-v2": (),
}
EMBEDDING_TOLERANCE = 1e-5
NEIGHBOUR_TOLERANCE = 5e-6
# Relative to the largest gradient of the parameter. One that is zero but for rounding, such as that of a key's bias,
# is compared with a thousandth of the largest of all.
GRADIENT_TOLERANCE = 1e-4

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 100,
}
ROBERTA: dict[str, Any] = {
    "max_position_embeddings": 102,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": {"embedding_size": 16},
    "distilbert": {"hidden_dim": 64},
    "albert": {"embedding_size": 16, "pad_token_id": 0},
    "mpnet": ROBERTA,
    # settings as published models have them, some of which the config class takes without listing them
    "modernbert": {
        "num_hidden_layers": 3,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 80_000.0,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
}


def tokenizer_of(kind: str) -> Tokenizer:
    """Return a small tokenizer of the type that this kind of encoder is published with."""
    like_roberta = KINDS[kind].counts_from_padding
    special = ["<s>", "<pad>", "</s>", "<unk>"] if like_roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    unknown, first, last = ("<unk>", "<s>", "</s>") if like_roberta else ("[UNK]", "[CLS]", "[SEP]")
    if kind in ("roberta", "modernbert"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator([f" {word} {word}" for word in WORDS], trainer)
    elif kind in ("xlm-roberta", "camembert", "albert", "deberta-v2"):
        pieces = [(token, 0.0) for token in special] + [(f"▁{word}", -3.0) for word in dict.fromkeys(WORDS)]
        pieces += [("▁", -6.0), *((chr(code), -8.0) for code in range(33, 127))]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index(unknown)))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        tokens = [*special, *(t for t in default_vocabulary() if not t.startswith("[") or t == "[")]
        tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = tokenizer.get_vocab()
    if like_roberta:
        tokenizer.post_processor = processors.RobertaProcessing((last, ids[last]), (first, ids[first]))
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", special_tokens=[(first, ids[first]), (last, ids[last])]
        )
    tokenizer.add_special_tokens(special)
    return tokenizer


def make_encoder_folder(target: Path, kind: str) -> Path:
    """Write a small encoder of this kind with transformers' own classes, and a tokenizer.json; return its folder."""
    target.mkdir(parents=True)
    tokenizer = tokenizer_of(kind)
    tokenizer.save(str(target / "tokenizer.json"))
    config = CONFIG_MAPPING[kind](**{**SIZES, "vocab_size": tokenizer.get_vocab_size() + 3, **SETTINGS[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_MAPPING[type(config)](config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
                parameter.normal_(mean=middle, std=spread)
    model.save_pretrained(target)
    return target


def sentences(n: int, seed: int = 0) -> list[str]:
    """Return texts of 1 to 45 common words each, short texts more often."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice([1, 2, 3, 5, 8, 8, 13, 21, 45]))) for _ in range(n)]


@dataclass
class Subject:
    """The same encoder loaded by this project and by transformers."""

    ours: ConnectionBert
    stock: torch.nn.Module
    tokenizer: Tokenizer

    def framed(self, texts: list[str]) -> TextTokens:
        return self.ours.tokenizer.frame(self.ours.tokenizer.tokenize(texts), self.ours.max_tokens)

    def pool_stock(self, texts: list[str]) -> Tensor:
        """Return the stock model's mean over each text's tokens in one padded batch, with gradients."""
        encodings = self.tokenizer.encode_batch(texts)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        ids = torch.tensor([encoding.ids for encoding in encodings])
        hidden = self.stock(input_ids=ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def pool_ours(self, texts: list[str], layout: Layout) -> Tensor:
        """Return the vectors of this project's model, with gradients."""
        batch = self.ours.pack(self.framed(texts), layout)
        assert batch.layout == layout
        return batch.pool(self.ours(batch))


def load_subject(folder: Path) -> Subject:
    ours = ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(ours.max_tokens)
    tokenizer.enable_padding(pad_id=ours.tokenizer.padding_id)
    return Subject(ours, AutoModel.from_pretrained(folder, local_files_only=True).eval(), tokenizer)


@pytest.fixture(scope="module")
def subject_of(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """Return the `Subject` of a kind, or of the real MiniLM; each is made once."""
    folder = tmp_path_factory.mktemp("encoders")

    @cache
    def make(kind: str) -> Subject:
        return load_subject(minilm_path if kind == "MiniLM" else make_encoder_folder(folder / kind, kind))

    return make


def largest_difference(subject: Subject) -> float:
    """Return the largest difference from the stock padded model, of all vectors in all accepted layouts."""
    differences = []
    with torch.inference_mode():
        for n in (1, 2, 7, 32, 64):
            texts = sentences(n, seed=n)
            expected = subject.pool_stock(texts)
            for layout in subject.ours.probe.layouts:
                differences.append(float((subject.pool_ours(texts, layout) - expected).abs().max()))
    return max(differences)


SUBJECTS = ["MiniLM", *KINDS]


def test_each_kind_is_admitted_to_the_layouts_of_the_table(subject_of: Callable[[str], Subject]) -> None:
    assert tuple(ADMITTED) == tuple(KINDS)
    for kind in KINDS:
        probe = subject_of(kind).ours.probe
        assert probe.layouts == (*ADMITTED[kind], "padded"), (kind, probe)
        assert set(probe.refused) == {"rows", "runs"} - set(ADMITTED[kind]) and all(probe.refused.values())
    assert subject_of("MiniLM").ours.probe.layouts == ("rows", "runs", "padded")


@pytest.mark.parametrize("kind", SUBJECTS)
def test_embeddings_equal_the_stock_padded_model_in_every_layout(
    kind: str, subject_of: Callable[[str], Subject]
) -> None:
    assert largest_difference(subject_of(kind)) <= EMBEDDING_TOLERANCE


@pytest.mark.parametrize("kind", SUBJECTS)
def test_every_parameters_gradient_equals_the_stock_padded_models(
    kind: str, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(kind)
    texts = sentences(8, seed=3)
    direction = torch.randn(len(texts), subject.ours.hidden_size)
    stock = {name: p for name, p in subject.stock.named_parameters() if "pooler" not in name}
    loss = (subject.pool_stock(texts) * direction).sum()
    expected = dict(zip(stock, torch.autograd.grad(loss, list(stock.values()), allow_unused=True), strict=True))
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)

    ours = dict(subject.ours.encoder.named_parameters())
    assert set(ours) == set(stock)
    for layout in subject.ours.probe.layouts:
        loss = (subject.pool_ours(texts, layout) * direction).sum()
        gradients = torch.autograd.grad(loss, list(ours.values()), allow_unused=True)
        for name, gradient in zip(ours, gradients, strict=True):
            theirs = expected[name]
            assert (gradient is None) == (theirs is None), name
            if gradient is not None and theirs is not None:
                scale = max(float(theirs.abs().max()), 1e-3 * largest)
                difference = float((gradient - theirs).abs().max()) / scale
                assert difference <= GRADIENT_TOLERANCE, (layout, name, difference)


@pytest.mark.parametrize("kind", SUBJECTS)
def test_a_text_has_the_same_vector_whoever_stands_beside_it(kind: str, subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of(kind)
    model = SiameseBert(subject.ours)
    texts = sentences(24, seed=5)

    together = model.encode(texts)

    for position in (0, 7, 23):
        assert np.abs(model.encode(texts[position]) - together[position]).max() <= NEIGHBOUR_TOLERANCE
    assert np.abs(model.encode(texts[::-1])[::-1] - together).max() <= NEIGHBOUR_TOLERANCE
    for batch_size in (1, 3):
        assert np.abs(model.encode(texts, batch_size=batch_size) - together).max() <= NEIGHBOUR_TOLERANCE
    # beside a text longer than a row, and among so many of its length that it lies in a run
    longer = " ".join(WORDS[:80])
    assert np.abs(model.encode([longer, *texts])[1:] - together).max() <= NEIGHBOUR_TOLERANCE
    crowd = [texts[0]] * 300
    if "runs" in subject.ours.probe.layouts:
        assert subject.ours.pack(subject.framed(crowd)).layout == "runs"
        assert subject.ours.pack(subject.framed(texts)).layout == "rows"
    assert np.abs(model.encode(crowd) - together[0]).max() <= NEIGHBOUR_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_padding_token_in_the_text_itself_is_counted_as_the_stock_model_counts_it(
    kind: str, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(kind)
    padding = "<pad>" if KINDS[kind].counts_from_padding else "[PAD]"
    texts = ["the dog", f"the dog {padding} and {padding} the cat", f"{padding} a bird"]
    with torch.inference_mode():
        expected = subject.pool_stock(texts)
        for layout in subject.ours.probe.layouts:
            assert (subject.pool_ours(texts, layout) - expected).abs().max() <= EMBEDDING_TOLERANCE


def test_the_document_says_what_the_probe_finds_now(subject_of: Callable[[str], Subject]) -> None:
    cells = re.findall(
        r"^\| `([\w-]+)` \| (yes|no) \| (yes|no) \| (.+?) \| ([\d.e-]+) \|$", DOC.read_text("utf-8"), re.M
    )
    assert [row[0] for row in cells] == list(KINDS)
    for kind, rows, runs, otherwise, written in cells:
        subject = subject_of(kind)
        found = tuple("yes" if layout in subject.ours.probe.layouts else "no" for layout in ("rows", "runs"))
        assert (rows, runs) == found, kind
        refused = subject.ours.probe.refused.get("rows")
        assert ("padded" in otherwise) == (rows == "no")
        assert ("raise" in otherwise) == (refused is not None and "differs" not in refused), (kind, refused)
        # a rounding error differs between processors, an order of magnitude does not
        assert largest_difference(subject) <= 5 * float(written) <= EMBEDDING_TOLERANCE, kind


def test_a_padded_kind_is_named_once_in_the_log(
    subject_of: Callable[[str], Subject], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_encoder_folder(tmp_path / "model", "modernbert")
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        model = ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")
        SiameseBert(model).encode(sentences(3))
    (record,) = caplog.records
    assert (
        "modernbert is run padded, not packed: layout rows was refused: differs from the padded model"
        in record.getMessage()
    )


def test_a_layout_that_was_not_admitted_is_refused_with_the_reason(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("mpnet")
    with pytest.raises(InputError, match=r"does not run layout runs correctly: .*attention function"):
        subject.ours.pack(subject.framed(["a dog"]), "runs")


# Random weights


def test_from_config_gives_random_weights_that_follow_from_the_seed(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model")
    loaded = ConnectionBert.from_pretrained(folder, device="cpu", precision="float32").encoder.state_dict()
    (folder / "pytorch_model.bin").unlink()
    state = torch.get_rng_state()

    first, same, other = (
        ConnectionBert.from_config(folder, device="cpu", seed=seed).encoder.state_dict() for seed in (1, 1, 2)
    )

    assert torch.equal(torch.get_rng_state(), state), "the caller's generator has moved"
    assert set(first) == set(loaded)
    name = "encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], loaded[name])
    assert 0.01 < float(first[name].std()) < 0.03, "initializer_range is 0.02"


def test_from_pretrained_never_falls_back_to_random_weights(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["encoder.layer.1.output.dense.bias"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        ConnectionBert.from_pretrained(folder, device="cpu")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin|model\.safetensors"):
        ConnectionBert.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(("key", "value"), [("vocab_size", 2**31 - 1), ("max_position_embeddings", 10**9)])
def test_from_config_refuses_sizes_beyond_memory(
    key: str, value: int, tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model", hidden_size=512)
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ResourceError, match=r"GiB of weights, but this machine has"):
        ConnectionBert.from_config(folder, device="cpu")


# Settings that make no sense

WRONG_SETTINGS: list[tuple[str, object]] = [
    ("vocab_size", -1),
    ("vocab_size", 0),
    ("vocab_size", "100"),
    ("vocab_size", True),
    ("vocab_size", 99.5),
    ("vocab_size", None),
    ("vocab_size", 2**31),
    ("hidden_size", -32),
    ("hidden_size", "32"),
    ("hidden_size", 33),
    ("hidden_size", 2_000_000_000),
    ("hidden_size", 10**30),
    ("num_attention_heads", 0),
    ("num_attention_heads", 5),
    ("num_attention_heads", True),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 2.0),
    ("num_hidden_layers", 50_000_000),
    ("intermediate_size", 0),
    ("intermediate_size", -5),
    ("intermediate_size", 10**30),
    ("max_position_embeddings", 0),
    ("max_position_embeddings", "64"),
    ("max_position_embeddings", 10**9),
    ("type_vocab_size", 0),
    ("type_vocab_size", -2),
    ("hidden_act", "nonsense"),
    ("hidden_act", 3),
    ("hidden_act", ["gelu"]),
    ("hidden_dropout_prob", 1.5),
    ("hidden_dropout_prob", "0.1"),
    ("attention_probs_dropout_prob", -0.1),
    ("attention_probs_dropout_prob", None),
    ("layer_norm_eps", -1e-12),
    ("layer_norm_eps", "small"),
    ("initializer_range", 0),
    ("pad_token_id", -1),
    ("pad_token_id", 100_000),
    ("pad_token_id", "0"),
    ("model_type", "gpt2"),
    ("model_type", "t5"),
    ("model_type", ["bert"]),
    ("model_type", None),
    ("position_embedding_type", "relative_key"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("is_encoder_decoder", True),
    ("quantization_config", {"load_in_4bit": True}),
]


@pytest.mark.parametrize(("key", "value"), WRONG_SETTINGS)
def test_a_wrong_setting_is_one_quick_sentence_that_names_the_key(
    key: str, value: object, tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with pytest.raises(ModelFolderError) as caught:
        ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")
    assert re.search(rf"\b{key}\b", str(caught.value)), caught.value
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert time.monotonic() - start < 20, "refused, but only after having built something"


WRONG_SETTINGS_OF_OTHERS: list[tuple[str, str, object]] = [
    ("distilbert", "n_layers", 0),
    ("distilbert", "dim", -1),
    ("distilbert", "activation", "nonsense"),
    ("distilbert", "dropout", 2),
    ("albert", "embedding_size", 0),
    ("albert", "num_hidden_groups", 0),
    ("mpnet", "relative_attention_num_buckets", 0),
    ("mpnet", "pad_token_id", None),
    ("roberta", "max_position_embeddings", 4),
    ("modernbert", "hidden_activation", "nonsense"),
    ("modernbert", "global_attn_every_n_layers", 0),
    ("modernbert", "local_attention", -2),
    ("modernbert", "rope_parameters", 3),
    ("deberta-v2", "position_buckets", "many"),
    ("deberta-v2", "share_att_key", 1),
    ("deberta-v2", "pos_att_type", 7),
    ("deberta-v2", "norm_rel_ebd", None),
]


@pytest.mark.parametrize(("kind", "key", "value"), WRONG_SETTINGS_OF_OTHERS)
def test_a_wrong_setting_of_another_kind_names_the_key_as_its_file_has_it(
    kind: str, key: str, value: object, tmp_path: Path
) -> None:
    folder = make_encoder_folder(tmp_path / "model", kind)
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=rf"\b{key}\b"):
        ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


def test_an_encoder_that_does_not_run_is_a_fault_of_its_folder(tmp_path: Path) -> None:
    folder = make_encoder_folder(tmp_path / "model", "deberta-v2")
    config = json.loads((folder / "config.json").read_text())
    config |= {"conv_kernel_size": 2}  # gives one token fewer than it takes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"config\.json' describes an encoder that does not run: RuntimeError"):
        ConnectionBert.from_config(folder, device="cpu", precision="float32")


def test_settings_that_steer_loading_are_left_out_and_nothing_named_is_imported(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model")
    expected = SiameseBert.from_pretrained(folder, "cpu", "float32").encode(["a dog"])
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil_module.Config", "AutoModel": "evil_module.Model"},
        "_attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation_internal": "kernels-community/flash-attn",
        "attn_implementation": "flash_attention_2",
        "torch_dtype": "nonsense",
        "dtype": "float16",
        "chunk_size_feed_forward": 3,
        "output_hidden_states": "yes",
        "return_dict": False,
        "some_key_of_tomorrow": {"deep": [1, 2]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()")

    model = SiameseBert.from_pretrained(folder, "cpu", "float32")

    assert np.array_equal(model.encode(["a dog"]), expected)
    assert model.bert.encoder.dtype == torch.float32
    assert "evil_module" not in sys.modules and not (tmp_path / "imported").exists()


# Devices and precision


def test_a_device_is_chosen_or_refused_in_words() -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device() == torch.device("cuda", torch.cuda.current_device())
    elif not torch.backends.mps.is_available():
        assert choose_device() == torch.device("cpu")
        with pytest.raises(ResourceError, match="mps is not there"):
            choose_device("mps")
    with pytest.raises(ResourceError, match=r"cuda:77 is not there: torch .* finds"):
        choose_device("cuda:77")
    for nonsense in ("gpu", "", "cuda:x", 3.5):
        with pytest.raises(InputError, match="is not a device"):
            choose_device(nonsense)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not supported"):
        choose_device("meta")


def test_the_description_is_one_line_with_device_precision_and_layouts(subject_of: Callable[[str], Subject]) -> None:
    assert re.fullmatch(r"cpu \(\d+ threads, .+\)", describe_device(torch.device("cpu")))
    line = subject_of("bert").ours.describe()
    assert re.fullmatch(r"bert on cpu \(.+\), float32, layouts rows, runs, padded", line)


def test_precision_is_chosen_by_what_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("float16", cpu) == torch.float16
    with pytest.raises(InputError, match="'int8' is not one of auto, float32, bfloat16, float16"):
        choose_precision("int8", cpu)  # type: ignore[arg-type]
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert isinstance(multiplies_bfloat16(cpu), bool)
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        for limit in ("AVX2", "avx512_core"):
            monkeypatch.setenv(variable, limit)
            assert not multiplies_bfloat16(cpu) and choose_precision("auto", cpu) == torch.float32
        monkeypatch.setenv(variable, "DEFAULT")
        assert multiplies_bfloat16(cpu) == (not devices.cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"}))
        monkeypatch.delenv(variable)


def test_bfloat16_gives_nearly_the_same_vectors_as_float32(minilm_path: Path, stsb_sentences: list[str]) -> None:
    texts = stsb_sentences[:64]
    full = SiameseBert.from_pretrained(minilm_path, "cpu", "float32").encode(texts)
    half = SiameseBert.from_pretrained(minilm_path, "cpu", "bfloat16").encode(texts)
    assert full.dtype == half.dtype == np.float32
    cosines = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert not np.array_equal(full, half) and cosines.min() > 0.999


def test_the_copy_in_bfloat16_follows_the_weights_and_never_touches_them(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "bfloat16")
    before = {name: tensor.clone() for name, tensor in model.bert.encoder.state_dict().items()}
    texts = sentences(5)

    first = model.encode(texts)

    after = model.bert.encoder.state_dict()
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, before[name]) for name, tensor in after.items())
    copy = model.bert._inference_encoder()
    assert copy is not model.bert.encoder and copy.dtype == torch.bfloat16
    model.encode(texts)
    assert model.bert._inference_encoder() is copy, "made again although nothing has changed"
    halves = [p for p in copy.parameters() if p.dtype == torch.bfloat16]
    assert halves and all(p.grad_fn is None and not p.requires_grad for p in halves)

    with torch.no_grad():
        model.bert.encoder.get_parameter("encoder.layer.1.output.LayerNorm.bias").add_(0.5)
    changed = model.encode(texts)
    assert np.abs(changed - first).max() > 0.1, "the copy is of the weights as they were"
    # a step of an optimiser, and a whole state loaded, count as changes too
    optimiser = torch.optim.SGD(model.parameters(), lr=10.0)
    model(model.bert.pack(model.tokenizer.frame(model.tokenizer.tokenize(texts), 64))).square().sum().backward()
    optimiser.step()
    stepped = model.encode(texts)
    assert np.abs(stepped - changed).max() > 1e-3
    model.bert.encoder.load_state_dict(before)
    assert np.array_equal(model.encode(texts), first)


# Memory

LOW_MEMORY_SCRIPT = """
import logging, resource, sys
import numpy as np, torch
from sbert_ft.errors import ResourceError
from sbert_ft.models.siamese import SiameseBert

MIB = 2**20
warned = []
class Listener(logging.Handler):
    def emit(self, record): warned.append(record.getMessage())
logging.getLogger("sbert_ft").addHandler(Listener())

def limit_to(spare):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, resource.RLIM_INFINITY))

torch.set_num_threads(1)
model = SiameseBert.from_pretrained(sys.argv[1], "cpu", "float32")
texts = [("the dog and the cat " * (n % 7 + 1)).strip() for n in range(1200)]
long = "dog " * 2000
expected = model.encode(texts)
assert not warned, warned

# 2,048 tokens of 8,192 features in float32 are 64 MiB, and the activation function makes as many again
limit_to(50 * MIB)
found = model.encode(texts)
assert np.abs(found - expected).max() <= 5e-6, np.abs(found - expected).max()
budgets = [int(w.split("at most ")[1].split()[0]) for w in warned]
assert all("out of memory on cpu: continuing with batches of at most" in w for w in warned), warned
assert 2 <= len(budgets) <= 5, warned
assert budgets[0] <= 1024 and all(a >= 2 * b for a, b in zip(budgets, budgets[1:])), budgets
print("halved", budgets)

warned.clear()
limit_to(60 * MIB)
try:
    model.encode([long])
except ResourceError as error:
    assert "one text of 2002 tokens does not fit into the memory of cpu" in str(error), error
    print("refused")
"""


def test_out_of_memory_halves_the_budget_and_one_text_too_large_is_an_error(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is measured and limited by Linux's /proc and RLIMIT_AS")
    folder = tiny_bert_folder(tmp_path / "model", hidden_size=64, layers=1, intermediate=8192, max_positions=2048)
    environment = os.environ | {
        # what the allocator keeps for later would blur the limit
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "1000000",
        "MALLOC_TRIM_THRESHOLD_": "1000000",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOW_MEMORY_SCRIPT, str(folder)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "halved" in done.stdout and "refused" in done.stdout, done.stdout + done.stderr
