"""The doctor: every fault gives a check with a hint, nothing is raised, and loading agrees with the checks."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from sbert_ft.cli import main
from sbert_ft.commands.doctor import table_lines
from sbert_ft.doctor.folder import Check, examine
from sbert_ft.encoder.devices import choose_device, describe_device
from sbert_ft.errors import DataError, ModelFolderError, SbertFtError
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert

HTML = b"<!DOCTYPE html><html><body>404</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"
WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"
CHECKED = ["files", "config", "modules", "weights", "tensors", "names", "special tokens", "vocabulary", "casing"]
CHECKED += ["length", "device", "layouts"]
CHECKED_TEXTS = ["texts", "empty texts", "unknown words", "tokens a text", "cut texts"]
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole_folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a good folder with a pytorch_model.bin, to be copied and broken."""
    return tiny_bert_folder(tmp_path_factory.mktemp("doctor") / "model")


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the good folder."""
    return Path(shutil.copytree(whole_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def korean_folder(
    tiny_bert_folder: Callable[..., Path], ko_vocab: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a bare folder with the cased Korean vocabulary and small random weights."""
    tokens = (ko_vocab / "vocab.txt").read_text("utf-8").splitlines()
    assert len(tokens) == 30_000
    return tiny_bert_folder(tmp_path_factory.mktemp("korean") / "model", vocab=tokens, hidden_size=8, heads=2)


@pytest.fixture(scope="module")
def korean_texts(shared_data: Path) -> list[str]:
    """Return the sentences of the test part of KorSTS."""
    lines = (shared_data / "korsts" / "test.tsv").read_text("utf-8").split("\n")[1:]
    return [sentence for line in lines if line for sentence in line.split("\t")[5:7]]


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    """Return the checks by name, and check that no name appears twice."""
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def failures(checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.status == "FAIL"]


def edit_json(name: str, **changes: object) -> Change:
    """Return a change that sets keys of a JSON file, and creates the file if it does not exist."""

    def change(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text("utf-8")) if file.exists() else {}
        file.write_text(json.dumps(content | changes), "utf-8")

    return change


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Change:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def edit_weights(change: Callable[[dict[str, Any]], dict[str, Any]], name: str = "pytorch_model.bin") -> Change:
    """Return a change that replaces the weights file; the suffix of `name` chooses its format."""

    def rewrite(folder: Path) -> None:
        state = change(torch.load(folder / "pytorch_model.bin", weights_only=True))
        (folder / "pytorch_model.bin").unlink()
        if name.endswith(".bin"):
            torch.save(state, folder / name)
        else:
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)

    return rewrite


def edit_vocab(change: Callable[[list[str]], list[str]], encoding: str = "utf-8") -> Change:
    def rewrite(folder: Path) -> None:
        tokens = change((folder / "vocab.txt").read_text("utf-8").splitlines())
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding)

    return rewrite


def several(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def as_sentence_transformer(pooling: dict[str, object], kind: str = "Pooling", place: str = "1_Pooling") -> Change:
    """Return a change that adds modules.json and the pooling's settings."""
    modules = [("Transformer", ""), (kind, place)]
    entries = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in modules]

    def change(folder: Path) -> None:
        (folder / "modules.json").write_text(json.dumps(entries), "utf-8")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")

    return change


def add_tokenizer_json(folder: Path) -> None:
    """Write the tokenizer.json that belongs to vocab.txt."""
    from sbert_ft.tokenization.tokenizer import TextTokenizer

    TextTokenizer.from_pretrained(folder).backend.save(str(folder / "tokenizer.json"))


def hide_behind_shards(**weight_map: str) -> Change:
    return several(
        remove("pytorch_model.bin"), edit_json("pytorch_model.bin.index.json", metadata={}, weight_map=weight_map)
    )


class Hostile:
    """An object whose pickle calls a function when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo from a pickle",)


# Name of the fault, the change that makes it, and the file that a FAIL must name.
BROKEN: dict[str, tuple[Change, str]] = {
    "no config": (remove("config.json"), "config.json"),
    "empty config": (write("config.json", b""), "config.json"),
    "config is a web page": (write("config.json", HTML), "config.json"),
    "config is a pointer": (write("config.json", POINTER), "config.json"),
    "config cut": (cut("config.json"), "config.json"),
    "config is a list": (write("config.json", b"[1, 2]"), "config.json"),
    "config in latin-1": (write("config.json", '{"name": "é"}'.encode("latin-1")), "config.json"),
    "config with a key twice": (write("config.json", b'{"vocab_size": 1, "vocab_size": 2}'), "config.json"),
    "config nested deeply": (write("config.json", b'{"a":' + b"[" * 100_000), "config.json"),
    "config of gpt2": (edit_json("config.json", model_type="gpt2"), "config.json"),
    "relative positions": (edit_json("config.json", position_embedding_type="relative_key"), "config.json"),
    "negative width": (edit_json("config.json", hidden_size=-32), "config.json"),
    "width in words": (edit_json("config.json", hidden_size="32"), "config.json"),
    "width of two thousand million": (edit_json("config.json", hidden_size=2_000_000_000), "config.json"),
    "fifty million layers": (edit_json("config.json", num_hidden_layers=50_000_000), "config.json"),
    "unknown activation": (edit_json("config.json", hidden_act="wavy"), "config.json"),
    "one layer more in the config": (edit_json("config.json", num_hidden_layers=3), "config.json"),
    "one layer less in the config": (edit_json("config.json", num_hidden_layers=1), "config.json"),
    "other width in the config": (edit_json("config.json", hidden_size=64), "config.json"),
    "config is a pipe": (
        several(remove("config.json"), lambda folder: os.mkfifo(folder / "config.json")),
        "config.json",
    ),
    "no weights": (remove("pytorch_model.bin"), "pytorch_model.bin"),
    "weights of TensorFlow": (lambda folder: (folder / "pytorch_model.bin").rename(folder / "tf_model.h5"), "tf_model"),
    "empty weights": (write("pytorch_model.bin", b""), "pytorch_model.bin"),
    "weights cut": (cut("pytorch_model.bin"), "pytorch_model.bin"),
    "weights are a web page": (write("pytorch_model.bin", HTML), "pytorch_model.bin"),
    "weights are a pointer": (write("pytorch_model.bin", POINTER), "pytorch_model.bin"),
    "hostile weights": (write("pytorch_model.bin", pickle.dumps(Hostile(), 2)), "pytorch_model.bin"),
    "a list for weights": (lambda folder: torch.save([1, 2], folder / "pytorch_model.bin"), "pytorch_model.bin"),
    "no tensor": (lambda folder: torch.save({}, folder / "pytorch_model.bin"), "pytorch_model.bin"),
    "safetensors cut, a good .bin beside it": (
        several(write("model.safetensors", save({"a": torch.ones(9)})), cut("model.safetensors")),
        "model.safetensors",
    ),
    "header without end": (write("model.safetensors", b"\xff" * 7 + b"\x7f{}"), "model.safetensors"),
    "link to nowhere": (lambda folder: (folder / "model.safetensors").symlink_to("away"), "model.safetensors"),
    "a tensor gone": (edit_weights(lambda state: {k: v for k, v in state.items() if k != QUERY}), "'" + QUERY),
    "junk before every name": (edit_weights(lambda state: {f"junk.{k}": v for k, v in state.items()}), "config.json"),
    "a tensor twice": (edit_weights(lambda state: {**state, f"bert.{QUERY}": state[QUERY]}), "'" + QUERY),
    "weights in int8": (
        edit_weights(lambda state: {k: v.to(torch.int8) for k, v in state.items()}, "model.safetensors"),
        "model.safetensors",
    ),
    "pooler in int8": (
        edit_weights(lambda state: {k: v.to(torch.int8) if "pooler" in k else v for k, v in state.items()}),
        "pytorch_model.bin",
    ),
    "a shard gone": (hide_behind_shards(**{WORDS: "pytorch_model-1-of-1.bin"}), "pytorch_model-1-of-1.bin"),
    "shards outside": (hide_behind_shards(**{WORDS: "../pytorch_model.bin"}), "pytorch_model.bin.index.json"),
    "no vocabulary": (remove("vocab.txt"), "vocab.txt"),
    "empty vocabulary": (write("vocab.txt", b""), "vocab.txt"),
    "vocabulary is a web page": (write("vocab.txt", HTML), "vocab.txt"),
    "vocabulary in UTF-16": (edit_vocab(list, "utf-16"), "vocab.txt"),
    "blank line in the vocabulary": (edit_vocab(lambda tokens: [*tokens[:50], "", *tokens[51:]]), "vocab.txt"),
    "no [CLS]": (edit_vocab(lambda tokens: [token.replace("[CLS]", "[CSL]") for token in tokens]), "vocab.txt"),
    "a token too many": (edit_vocab(lambda tokens: [*tokens, "more"]), "vocab.txt"),
    "tokenizer.json cut": (several(add_tokenizer_json, cut("tokenizer.json")), "tokenizer.json"),
    "tokenizer.json of nothing": (write("tokenizer.json", b'{"model": {"type": "None"}}'), "tokenizer.json"),
    "broken tokenizer_config.json": (write("tokenizer_config.json", b"{"), "tokenizer_config.json"),
    "casing in words": (edit_json("tokenizer_config.json", do_lower_case="yes"), "tokenizer_config.json"),
    "foreign module": (as_sentence_transformer({}, kind="Dense"), "modules.json"),
    "module outside": (as_sentence_transformer({}, place="../1_Pooling"), "modules.json"),
    "pooling by weight": (as_sentence_transformer({"pooling_mode": "weightedmean"}), "1_Pooling"),
    "no pooling settings": (
        several(as_sentence_transformer({}), lambda folder: (folder / "1_Pooling" / "config.json").unlink()),
        "1_Pooling",
    ),
    "text for max_seq_length": (
        several(as_sentence_transformer({}), edit_json("sentence_bert_config.json", max_seq_length="long")),
        "max_seq_length",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_the_doctor_fails_does_not_load(folder: Path, fault: str) -> None:
    change, file = BROKEN[fault]
    change(folder)
    checks = examine(folder, ["the cat"])
    faults = failures(checks)
    assert any(file in check.found for check in faults), checks
    assert all(check.hint for check in checks if check.status != "OK")
    with pytest.raises(SbertFtError) as raised:
        ConnectionBert.from_pretrained(folder, "cpu")
    if len(faults) == 1:  # the doctor names the very fault at which loading stops
        assert file in str(raised.value) or faults[0].name in str(raised.value)


@pytest.mark.parametrize("make", [lambda p: p, lambda p: p.write_text("x"), lambda p: p.symlink_to("away")])
def test_what_is_no_folder_is_one_failure(tmp_path: Path, make: Change) -> None:
    path = tmp_path / "model"
    make(path)
    (check,) = examine(path, ["the cat"])
    assert (check.status, check.name) == ("FAIL", "folder")
    assert str(path) in check.found and check.hint


def test_an_empty_folder_lacks_config_weights_and_tokenizer(tmp_path: Path) -> None:
    assert [check.name for check in failures(examine(tmp_path))] == ["config", "weights", "tokenizer"]


def test_a_good_folder_has_every_check_and_no_complaint(folder: Path) -> None:
    checks = examine(folder, ["the cat", "a dog"], deep=True)
    assert [check.name for check in checks] == [*CHECKED[:6], "values", *CHECKED[6:], *CHECKED_TEXTS]
    assert [check for check in checks if check.status != "OK" or check.hint] == []
    found = by_name(checks)
    assert found["files"].found == "used: config.json, pytorch_model.bin, vocab.txt"
    assert "bert, 2 layers, width 32, 4 heads" in found["config"].found
    assert found["device"].found.startswith(describe_device(choose_device()) + ", half precision: ")
    layouts = ConnectionBert.from_pretrained(folder).probe.layouts
    assert f": {', '.join(layouts)} correct" in found["layouts"].found


def test_what_a_cpu_runs_is_found_out_where_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--deep loads it" in by_name(examine(folder))["layouts"].found
    (folder / "pytorch_model.bin").unlink()
    assert by_name(examine(folder, deep=True))["layouts"].found.startswith("not tried")


def test_the_real_model_has_no_complaint(minilm_path: Path) -> None:
    checks = examine(minilm_path, ["A man plays a guitar."])
    assert [check for check in checks if check.status != "OK"] == []
    assert "101 of 101" in by_name(checks)["tensors"].found
    assert "vocab.txt" in by_name(checks)["files"].found.partition("ignored: ")[2]


@pytest.mark.parametrize(
    ("change", "name", "said", "hint"),
    [
        (edit_weights(lambda state: {**state, "extra.thing": torch.ones(2)}), "names", "extra.thing", "one model"),
        (edit_json("config.json", architectures=["BertModel"]), None, "", ""),
        (edit_vocab(lambda tokens: tokens[:-1]), "vocabulary", "one short", "take the vocabulary"),
        (edit_vocab(lambda tokens: [*tokens[:-2], "the", tokens[-1]]), "vocabulary", "duplicate", "take the vocab"),
        (edit_vocab(lambda tokens: tokens[:-2]), None, "", ""),
        (edit_json("tokenizer_config.json", do_lower_case=False), "casing", "lower case", "set do_lower_case true"),
        (edit_json("tokenizer_config.json", do_lower_case=True), None, "", ""),
        (
            edit_vocab(lambda tokens: ["The" if token == "the" else token for token in tokens]),
            None,
            "",
            "",
        ),
        (
            several(
                edit_vocab(lambda tokens: ["The" if token == "the" else token for token in tokens]),
                edit_json("tokenizer_config.json", do_lower_case=True),
            ),
            "casing",
            "cased text",
            "set do_lower_case false in tokenizer_config.json",
        ),
        (
            several(
                edit_vocab(lambda tokens: ["é" if token == "the" else token for token in tokens]),
                edit_json("tokenizer_config.json", do_lower_case=True, strip_accents=True),
            ),
            "casing",
            "letters with accents",
            "set strip_accents false in tokenizer_config.json",
        ),
        (
            several(
                add_tokenizer_json,
                edit_json("tokenizer_config.json", do_lower_case=False, tokenizer_class="BertTokenizer"),
            ),
            "casing",
            "disagree on do_lower_case",
            "set do_lower_case true",
        ),
        (
            several(
                add_tokenizer_json,
                edit_json("tokenizer_config.json", do_lower_case=False, tokenizer_class="PreTrainedTokenizerFast"),
            ),
            "casing",
            "tokenizer.json is used",
            "the same rule",
        ),
        (edit_json("tokenizer_config.json", model_max_length=512), "length", "positions for 64", "model_max_length"),
        (
            several(as_sentence_transformer({}), edit_json("sentence_bert_config.json", max_seq_length=512)),
            "length",
            "64 is used",
            "set max_seq_length in sentence_bert_config.json to 64",
        ),
    ],
)
def test_what_should_be_looked_into_is_a_warning_and_loads(
    folder: Path, change: Change, name: str | None, said: str, hint: str
) -> None:
    change(folder)
    warned = [check for check in examine(folder) if check.status != "OK"]
    assert [(check.name, check.status) for check in warned] == ([(name, "WARN")] if name else [])
    assert all(said in check.found and hint in check.hint for check in warned)
    ConnectionBert.from_pretrained(folder, "cpu")


def test_a_tokenizer_that_puts_nothing_around_texts_is_a_warning(folder: Path) -> None:
    add_tokenizer_json(folder)
    edit_json("tokenizer.json", post_processor=None)(folder)
    check = by_name(examine(folder))["special tokens"]
    assert check.status == "WARN" and "nothing before a text" in check.found and check.hint


def test_prefixes_heads_and_ignored_files_are_told(folder: Path) -> None:
    edit_weights(lambda state: {f"module.bert.{key}": value for key, value in state.items()}, "model.safetensors")(
        folder
    )
    (folder / "pytorch_model.bin").write_bytes(b"something else")
    (folder / "modeling.py").write_text("raise SystemExit", "utf-8")
    found = by_name(examine(folder))
    assert found["names"].found == "prefix 'module.bert.' removed, 2 tensors of heads or pooler left out"
    assert found["files"].found.endswith("; ignored: modeling.py, pytorch_model.bin")
    assert {check.status for check in found.values()} == {"OK"}


def test_modules_and_prompts_are_told(folder: Path) -> None:
    as_sentence_transformer({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})(folder)
    edit_json("config_sentence_transformers.json", prompts={"query": "the way "}, default_prompt_name="query")(folder)
    found = by_name(examine(folder, ["the cat"]))
    assert "cls pooling" in found["modules"].found and "(by default query)" in found["modules"].found
    # [CLS] the way the cat [SEP]
    assert "longest 6" in found["tokens a text"].found and "prompt included" in found["tokens a text"].found


def test_a_fault_does_not_keep_the_rest_from_being_looked_at(folder: Path) -> None:
    write("config.json", b"{")(folder)
    cut("pytorch_model.bin")(folder)
    as_sentence_transformer({}, kind="Dense")(folder)
    found = by_name(examine(folder, ["the cat"]))
    assert [name for name, check in found.items() if check.status == "FAIL"] == ["config", "modules", "weights"]
    assert found["vocabulary"].status == found["casing"].status == found["texts"].status == "OK"


def test_texts_are_left_alone_under_the_vocabulary_of_other_weights(folder: Path) -> None:
    edit_vocab(lambda tokens: [*tokens, "more", "most"])(folder)
    found = by_name(examine(folder, ["the cat"]))
    assert found["vocabulary"].found == "vocab.txt: 300 tokens for 298 embedding rows, so 2 tokens have no row"
    assert "texts" not in found


# Casing and unknown words, on real Korean


def test_a_bare_korean_folder_fits_korean_texts(korean_folder: Path, korean_texts: list[str]) -> None:
    found = by_name(examine(korean_folder, korean_texts))
    assert found["casing"].status == found["unknown words"].status == "OK"
    for words in ("cased", "tokenizer_config.json is absent", "taken from the vocabulary", "other tools", "saving"):
        assert words in found["casing"].found


def test_korean_with_accents_stripped_is_told_which_settings_mend_it(
    korean_folder: Path, korean_texts: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(korean_folder, tmp_path / "model"))
    edit_json("tokenizer_config.json", do_lower_case=True, strip_accents=True)(folder)
    found = by_name(examine(folder, korean_texts))
    hint = "set do_lower_case false and strip_accents false in tokenizer_config.json"
    assert (found["casing"].status, found["casing"].hint) == ("WARN", hint)
    assert "Hangul syllables" in found["casing"].found
    assert (found["unknown words"].status, found["unknown words"].hint) == ("FAIL", hint)


def test_an_english_vocabulary_on_korean_texts_is_told_to_be_changed(
    minilm_path: Path, korean_texts: list[str]
) -> None:
    check = by_name(examine(minilm_path, korean_texts))["unknown words"]
    assert (check.status, check.hint) == ("WARN", "take a model with a Korean vocabulary")
    assert 3.0 < float(check.found.split(" %")[0]) < 8.0
    assert "the texts hold Hangul, the vocabulary has none" in check.found and "position 0" in check.found


# Texts


def test_texts_are_counted(folder: Path) -> None:
    texts = ["the cat", "   ", "the cat the cat the cat", "\u200b"]
    found = by_name(examine(folder, texts, max_seq_length=6))
    assert found["texts"].found == "4"
    assert found["empty texts"].status == "WARN" and "2 of 4" in found["empty texts"].found
    assert "position 1" in found["empty texts"].found and found["empty texts"].hint
    assert found["tokens a text"].found.startswith("median 2, 95 % have at most 8, longest 8")
    cut_texts = found["cut texts"]
    assert cut_texts.status == "WARN" and cut_texts.found == "25.00 % of the texts are cut at max_seq_length 6"
    assert cut_texts.hint.startswith("raise max_seq_length to 8, or ")


def test_texts_beyond_the_positions_can_only_be_taken_in_pieces(folder: Path) -> None:
    check = by_name(examine(folder, ["the cat " * 100]))["cut texts"]
    assert (check.status, check.hint) == ("WARN", "encode with on_truncate='chunk'")


@pytest.mark.parametrize(
    ("n_unknown", "n_known", "status"),
    [(0, 9, "OK"), (1, 399, "OK"), (1, 199, "WARN"), (1, 4, "FAIL")],
)
def test_the_share_of_unknown_words_decides(folder: Path, n_unknown: int, n_known: int, status: str) -> None:
    check = by_name(examine(folder, ["the"] * n_known + ["ж"] * n_unknown))["unknown words"]
    assert check.status == status and bool(check.hint) == (status != "OK")


def test_one_text_in_a_hundred_may_be_cut(folder: Path) -> None:
    long = "the cat the cat the cat"
    assert by_name(examine(folder, ["the"] * 199 + [long], 6))["cut texts"].status == "OK"
    assert by_name(examine(folder, ["the"] * 99 + [long], 6))["cut texts"].status == "WARN"


def test_texts_stream_in_windows(folder: Path) -> None:
    checks = by_name(examine(folder, (word for _ in range(10_000) for word in ("the cat", "dog"))))
    assert checks["texts"].found == "20,000" and checks["tokens a text"].found.startswith("median 3")


@pytest.mark.parametrize("texts", [[], ["the", 7], ["the", "\ud800"], ["the", None]])
def test_texts_that_are_none_are_a_failure(folder: Path, texts: list[Any]) -> None:
    check = examine(folder, texts)[-1]
    assert (check.name, check.status) == ("texts", "FAIL") and check.hint
    assert not texts or "position 1" in check.found


def test_what_the_source_of_texts_raises_goes_through(folder: Path) -> None:
    def source() -> Iterator[str]:
        yield "the cat"
        raise DataError("line 2 is broken")

    with pytest.raises(DataError, match="line 2"):
        examine(folder, source())


@pytest.mark.parametrize("length", [0, 2, 65])
def test_a_length_without_positions_is_a_failure(folder: Path, length: int) -> None:
    check = by_name(examine(folder, ["the cat"], length))["length"]
    assert (check.status, check.hint) == ("FAIL", "give a whole number from 3 to 64")


# What is read


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory of a process is read from /proc")
def test_no_weights_are_read(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> None:
    """A header that declares eight gigabytes, in a sparse file, does not increase memory."""
    folder = tiny_bert_folder(tmp_path / "model", safetensors=True)
    small = load_file(folder / "model.safetensors")
    edit_json("config.json", vocab_size=64_000_000)(folder)
    header, end = {}, 0
    for key, tensor in small.items():
        shape = [64_000_000, 32] if key == WORDS else list(tensor.shape)
        n_bytes = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    assert end > 8e9
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    code = """
import json, sys
from sbert_ft.doctor.folder import examine
def peak(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
examine(sys.argv[1])  # whatever is imported or set up on the first call
before = peak()
checks = [(check.name, check.status) for check in examine(sys.argv[2])]
print(json.dumps([before, peak(), checks]))
"""
    small_folder = tiny_bert_folder(tmp_path / "small")
    result = subprocess.run([sys.executable, "-c", code, small_folder, folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    before, after, checks = json.loads(result.stdout)
    assert after - before < 100_000, "kB"
    assert dict(checks) == dict.fromkeys(CHECKED, "OK")


def put(key: str, value: float, where: slice = slice(None)) -> Change:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state[key].view(-1)[where] = value
        return state

    return edit_weights(change)


def flip_a_byte(folder: Path) -> None:
    """Change one byte of the largest tensor in pytorch_model.bin."""
    file = folder / "pytorch_model.bin"
    table = torch.load(file, weights_only=True)[WORDS].numpy().tobytes()
    data = bytearray(file.read_bytes())
    data[data.index(table) + len(table) // 2] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (flip_a_byte, "FAIL", "checksum"),
        (put(QUERY, float("nan"), slice(3, 4)), "FAIL", "NaN"),
        (put("pooler.dense.bias", float("inf")), "FAIL", "pooler.dense.bias"),
        (put(QUERY, 0.0), "WARN", "1 of "),
        (put("embeddings.token_type_embeddings.weight", 0.0), "OK", "whole and finite"),
        (edit_weights(lambda state: {k: torch.zeros_like(v) for k, v in state.items()}), "FAIL", "nothing but zeros"),
    ],
)
def test_values_are_looked_at_on_request_alone(folder: Path, change: Change, status: str, said: str) -> None:
    change(folder)
    assert not failures(examine(folder))
    check = by_name(examine(folder, deep=True))["values"]
    assert check.status == status and said in check.found and bool(check.hint) == (status != "OK")


# The command


def test_the_command_prints_a_line_a_check_and_the_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "12 OK, 0 WARN, 0 FAIL"
    assert len(lines) == len(CHECKED) + 1
    assert all(line.startswith("OK    ") and name in line for name, line in zip(CHECKED, lines, strict=False))


def test_the_exit_code_tells_of_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut("pytorch_model.bin")(folder)
    assert main(["doctor", str(folder)]) == 1
    assert "1 FAIL" in capsys.readouterr().out
    assert main(["doctor", str(folder.parent / "nowhere")]) == 1


def test_json_holds_the_same_as_the_table(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat\n한국어\n", "utf-8")
    assert main(["doctor", str(folder), "--texts", str(texts), "--json"]) == 1  # a third of the tokens is unknown
    found = json.loads(capsys.readouterr().out)
    assert [Check(**entry) for entry in found] == list(examine(folder, ["the cat", "한국어"]))


@pytest.mark.parametrize(
    ("name", "content", "options", "n_texts"),
    [
        ("texts.txt", "the cat\n\nthe dog\n", [], 3),
        ("pairs.csv", 'sentence1,sentence2\nthe cat,"a dog, a cat"\nthe,\n', [], 4),
        ("texts.csv", "id,document\n1,the cat\n2,a dog\n", [], 2),
        ("texts.tsv", "id\tmine\n1\tthe cat\n2\ta dog\n", ["--column", "mine"], 2),
        ("pairs.tsv", "x\ty\nthe cat\ta dog\n", ["--columns", "x,y"], 2),
        ("pairs.data", "x;y\nthe cat;a dog\n", ["--columns", "x,y", "--kind", "csv", "--delimiter", ";"], 2),
        ("texts.jsonl", '{"text": "the cat"}\n{"text": null}\n', [], 2),
    ],
)
def test_texts_are_found_in_files(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    options: list[str],
    n_texts: int,
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    assert main(["doctor", str(folder), "--texts", str(tmp_path / name), *options, "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["texts"]["found"] == str(n_texts)
    n_empty = content.count("\n\n") + content.count(",\n") + content.count("null")
    assert found["empty texts"]["status"] == ("WARN" if n_empty else "OK")


@pytest.mark.parametrize(
    "options",
    [
        ["--texts", "nowhere.csv"],
        ["--texts", "ragged.csv"],
        ["--texts", "ragged.csv", "--column", "nothing"],
        ["--texts", "ragged.csv", "--columns", "a"],
        ["--texts", "ragged.csv", "--column", "a", "--columns", "a,b"],
        ["--texts", "numbers.jsonl"],
        ["--column", "a"],
        ["--delimiter", "tab"],
        ["--max-seq-length", "none"],
        ["--max-seq-length", "0"],
    ],
)
def test_wrong_usage_ends_with_2(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ragged.csv").write_text("a,b\nthe cat,a dog\nthe,a,of\n", "utf-8")
    Path("numbers.jsonl").write_text('{"text": "the"}\n{"text": 7}\n', "utf-8")
    assert main(["doctor", str(folder), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sbert-ft: error: ") and printed.err.count("\n") == 1


def test_names_of_files_do_not_drive_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "\x1b[31mred\n.txt").write_text("", "utf-8")
    (folder / "config.json").unlink()
    for options in ([], ["--json"]):
        assert main(["doctor", str(folder), *options]) == 1
        printed = capsys.readouterr().out
        assert "\x1b" not in printed and "\\x1b[31mred\\n.txt" in printed.replace("\\\\", "\\")


def test_lines_are_wrapped_at_the_width_of_a_terminal() -> None:
    checks = [
        Check("files", "OK", "used: " + ", ".join(["config.json"] * 20)),
        Check("casing", "WARN", "so", "fix it"),
    ]
    lines = table_lines(checks, 80)
    assert max(map(len, lines)) <= 79 and len(lines) > 4
    assert all(line.startswith(" " * 14) for line in lines[1:-2])
    assert lines[-2:] == ["WARN  casing  so; fix it", "1 OK, 1 WARN, 0 FAIL"]
    assert len(table_lines(checks, None)) == len(table_lines(checks, 30)) == 3


# Classifiers


@pytest.fixture
def classifier(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a classifier's folder."""

    def make(kind: Any, classes: Any = ("contradiction", "entailment", "neutral"), pooling: Any = None) -> Path:
        model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), kind, pooling=pooling)
        model.start_head(classes)
        model.save_pretrained(tmp_path / "classifier")
        return tmp_path / "classifier"

    return make


@pytest.mark.parametrize(
    ("kind", "pooling", "classes", "said"),
    [
        ("joined", None, ("contradiction", "entailment"), "kind joined, 2 classes ('contradiction', 'entailment')"),
        ("single", None, (1, 2, 3), "kind single, 3 classes ('1', '2', '3'), pooler pooling"),
        ("single", "mean", ("부정", "긍정"), "kind single, 2 classes ('부정', '긍정'), mean pooling"),
        ("towers", None, ("no", "yes"), "kind towers, 2 classes ('no', 'yes'), mean pooling"),
        ("joined", None, None, "kind joined, one output, a score"),
    ],
)
def test_a_classifier_is_told_with_its_kind_its_classes_and_its_head(
    classifier: Callable[..., Path], kind: str, pooling: str | None, classes: Any, said: str
) -> None:
    target = classifier(kind, classes, pooling)
    checks = examine(target, ["the cat"], deep=True)
    found = by_name(checks)
    assert said in found["classifier"].found and "head of " in found["classifier"].found
    assert {check.status for check in checks} == {"OK"}
    is_stock = not (target / "head.safetensors").exists()
    assert ("modules" in found) != is_stock
    assert ("head.safetensors" in found["files"].found.partition("; ignored")[0]) != is_stock


def test_a_classifier_without_its_head_is_a_failure_and_does_not_load(classifier: Callable[..., Path]) -> None:
    target = classifier("towers")
    (target / "head.safetensors").unlink()
    check = by_name(examine(target))["classifier"]
    assert check.status == "FAIL" and "head.safetensors" in check.found and check.hint
    with pytest.raises(ModelFolderError):
        ClassifierModel.from_pretrained(target, "cpu")


def test_a_stock_classifier_without_its_head_is_a_warning_for_its_encoder_loads(folder: Path) -> None:
    edit_json("config.json", architectures=["BertForSequenceClassification"])(folder)
    check = by_name(examine(folder))["classifier"]
    assert check.status == "WARN" and "missing" in check.found
    ConnectionBert.from_pretrained(folder, "cpu")


@pytest.mark.parametrize(("kind", "is_said"), [("single", False), ("joined", True)])
def test_a_stock_classifier_of_single_texts_does_not_say_that_it_takes_them(
    classifier: Callable[..., Path], kind: str, is_said: bool
) -> None:
    target = classifier(kind)
    (target / "sbert_ft.json").unlink()
    found = by_name(examine(target))["classifier"].found
    assert f"kind {kind}, 3 classes" in found
    assert ("does not say whether it takes single texts or pairs" in found) != is_said


# Tokenizers that people bring


def test_an_empty_folder_of_normalize_is_used(folder: Path) -> None:
    as_sentence_transformer({"pooling_mode_mean_tokens": True})(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Normalize").mkdir()
    (folder / "3_Other").mkdir()
    found = by_name(examine(folder))
    used, ignored = found["files"].found.split("; ignored: ")
    assert "1_Pooling, 2_Normalize" in used and ignored == "3_Other"
    assert "vectors of length 1" in found["modules"].found


def test_the_settings_of_an_old_version_are_used_under_their_own_name(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 16}')
    found = by_name(examine(folder))
    assert "sentence_roberta_config.json" in found["files"].found.partition("; ignored: ")[0]
    assert "sentence_roberta_config.json" not in found["files"].found.partition("; ignored: ")[2]


def test_lengths_are_counted_with_the_longer_prompt_of_a_pair(folder: Path) -> None:
    as_sentence_transformer({"pooling_mode_mean_tokens": True})(folder)
    prompts = {"query": "the way ", "document": "the "}
    edit_json("config_sentence_transformers.json", prompts=prompts, default_prompt_name=None)(folder)
    plain = by_name(examine(folder, ["the way"]))["tokens a text"].found
    (folder / "sbert_ft.json").write_text(json.dumps({"pair_prompts": ["query", "document"]}))
    found = by_name(examine(folder, ["the way"]))["tokens a text"].found
    assert "longest 4" in plain and "longest 6" in found and "prompt included" in found


def test_added_tokens_and_the_model_file_are_used(folder: Path) -> None:
    n_tokens = len((folder / "vocab.txt").read_text().split())
    edit_vocab(lambda tokens: tokens[:-1])(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": n_tokens - 1}))
    assert "vocab.txt, added_tokens.json" in by_name(examine(folder))["files"].found


@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json", None])
def test_a_tokenizer_json_that_transformers_would_misread_is_a_warning(folder: Path, place: str | None) -> None:
    pieces = [["<unk>", 0.0], ["[PAD]", 0.0], ["[CLS]", 0.0], ["[SEP]", 0.0], ["▁a", -1.0], ["▁dog", -2.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
    content = {"version": "1.0", "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}, "model": model}
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit_json("tokenizer_config.json", model_max_length=32)(folder)
    if place is not None:
        edit_json(place, tokenizer_class="PreTrainedTokenizerFast")(folder)
    found = by_name(examine(folder))
    assert ("tokenizer" in found) == (place is None)
    if place is None:
        check = found["tokenizer"]
        assert (check.status, "Unigram" in check.found) == ("WARN", True)
        assert '"tokenizer_class": "PreTrainedTokenizerFast"' in check.hint
