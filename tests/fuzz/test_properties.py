"""What holds for any input: a reader gives back what its writer was given, and any damage gives a result or the error.

The strategies begin with something valid and change it, for random bytes hardly ever get past the first check. What
they change a file with is shared with the fuzz targets (`fuzz/`), which look for the same with more time.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fuzz.mutations import mutated_input, mutated_json
from fuzz.run import TARGETS
from sbert_ft.data.file_formats import write_table_with_columns
from sbert_ft.data.formats import NewColumn
from sbert_ft.data.ledger import Ledger
from sbert_ft.data.table import Kind, open_table
from sbert_ft.encoder.packing import pack
from sbert_ft.errors import CheckpointError, DataError, InputError, ModelFolderError, RunFolderError, SbertFtError
from sbert_ft.files.atomic import json_bytes
from sbert_ft.files.strict_json import parse_json
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.weights import find_tensors, find_weights, read_tensors
from sbert_ft.model_folder.writer import write_own, write_tensors
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.training.checkpoints import TrainerState, read_checkpoint, save_checkpoint
from sbert_ft.training.resume import checked_fingerprint, differences
from sbert_ft.training.run_log import RunLog, read_log

pyarrow = pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")

PROFILE = settings.default.max_examples if settings.default is not None else 50
DEAR = settings(max_examples=max(10, PROFILE // 4))  # an example reads and writes several files
DEAREST = settings(max_examples=max(5, PROFILE // 10))  # an example runs an encoder many times

# What BERT's tokenizers, CSV and JSON each take apart in their own way.
TRICKY = st.sampled_from(
    "\",;\t\r\\'# \u00a0\u3000\u200b\u200d\u0301\ufeff\u2028\u2029\x85\x1f\x7f각가ﷺİßＡ😀"
) | st.sampled_from(
    ["👩\u200d👧", "[SEP]", "[PAD]", "##s", "中文", "\U000e0001", "e\u0301", "NULL", "1e5", "=1+1", "\\ud800"]
)
TEXTS = st.lists(st.text(max_size=5) | TRICKY | st.sampled_from(["a", "cat ", "the man "]), max_size=8).map("".join)
ANY_TEXT = st.text(st.characters(), max_size=12) | TEXTS  # lone surrogates, too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(ANY_TEXT, JSON, max_size=4)
CHANCE = st.integers(0, 2**32).map(random.Random)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this file, in which each example writes its files anew."""
    return tmp_path_factory.mktemp("properties")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with some flipped, cut out, doubled, moved, or cut off at the end."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((1, 1, 2, 8, 64, 1000)))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:begin] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[begin:end]) + data[end:]
        elif kind == 1:
            data = data[:begin] + data[end:]
        elif kind == 2:
            data = data[:end] + data[begin:end] + data[end:]
        elif kind == 3:
            data = data[:begin]
        elif kind == 4:
            other = rng.randrange(len(data) + 1)
            data = data[:other] + data[begin:end] + data[other + end - begin :]
        else:
            data = (
                data[:begin] + rng.choice((b"\0", b"\xff" * 8, b"\n", b'"', b"\xed\xa0\x80", b"9" * 30)) + data[begin:]
            )
    return data


# ---------------------------------------------------------------- tables


LINES = TEXTS.map(lambda text: re.sub("[\r\n]", " ", text).replace("\0", ""))


@given(texts=st.lists(LINES.filter(bool), min_size=1, max_size=6), ends=st.sampled_from(["\n", "\r\n"]))
def test_a_text_a_line_is_read_back(folder: Path, texts: list[str], ends: str) -> None:
    assume(not texts[0].startswith("\ufeff"))  # a byte order mark is none of the text
    path = folder / "texts.txt"
    path.write_bytes("".join(text + ends for text in texts).encode())
    try:
        assert [text for (text,) in open_table(path).texts((0,))] == texts
    except DataError as error:
        assert "expected" in str(error) and texts[0].lstrip()[:1] in ("<", "{", "%", "P"), error


@DEAR
@given(
    rows=st.lists(st.tuples(LINES, LINES), min_size=1, max_size=4),
    chain=st.lists(st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), min_size=2, max_size=4),
)
def test_rows_survive_any_chain_of_formats(folder: Path, rows: list[tuple[str, str]], chain: list[Kind]) -> None:
    assume(not any("\t" in text or "\r" in text for row in rows for text in row))  # which a .tsv cannot hold
    path = folder / "start.jsonl"
    path.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows))
    for i, kind in enumerate(chain):
        target = folder / f"step{i}.{kind}"
        added = (NewColumn(f"s{i}"), NewColumn(f"t{i}", "text"))
        write_table_with_columns(open_table(path), target, added, ((0.5, a) for a, _ in rows))
        path = target
    found = [row.values for row in open_table(path)]
    assert [row[:2] for row in found] == rows
    assert [row[2 * len(chain) + 1] for row in found] == [a for a, _ in rows]


@pytest.fixture(scope="module")
def parquet_files(folder: Path) -> list[bytes]:
    """Return Parquet files: plain, and as pyarrow writes them unless told otherwise, with lists and nulls."""
    from pyarrow.parquet import write_table

    table = pyarrow.table(
        {"a": ["cat", None, "각" * 40] * 9, "b": ["x"] * 27, "score": [0.5, None, 1.0] * 9, "v": [[1, 2], [], None] * 9}
    )
    path, contents = folder / "valid.parquet", []
    for options in ({}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 5, "version": "1.0"}):
        write_table(table, path, **options)
        contents.append(path.read_bytes())
    return contents


@given(which=st.integers(0, 2), chance=CHANCE)
def test_damaged_parquet_gives_all_rows_or_the_error(
    folder: Path, parquet_files: list[bytes], which: int, chance: random.Random
) -> None:
    path = folder / "damaged.parquet"
    path.write_bytes(damaged(parquet_files[which], chance))
    try:
        table = open_table(path)
        assert len(list(table)) == table.count_rows()
    except DataError as error:
        assert "damaged.parquet" in str(error)


# ---------------------------------------------------------------- any damage: a result or the typed error


@pytest.mark.filterwarnings("ignore")  # of the libraries, on what is wrong on purpose
@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data(), chance=CHANCE, is_json=st.booleans())
def test_a_valid_file_with_a_change_gives_a_result_or_the_typed_error(
    target: str, data: st.DataObject, chance: random.Random, is_json: bool
) -> None:
    module = importlib.import_module(f"fuzz.{target}")
    seed = module.seeds()[data.draw(st.sampled_from(sorted(module.seeds())))]
    changed = mutated_input(seed, chance) if is_json else None
    if changed is None:
        name, _, content = seed.partition(b"\n")
        changed = name + b"\n" + damaged(content, chance)
    module.test_one_input(changed)


@given(content=JSON, at=st.sampled_from(["settings", "data", "model", "versions", "device"]))
def test_any_fingerprint_survives_the_disk_and_is_compared(content: Any, at: str) -> None:
    whole = {"settings": {"a": [1, {"b": 2.0}]}, "data": {}, "model": {}, "versions": {}, "device": "cpu"}
    usual = checked_fingerprint(whole, Path("usual"))
    try:
        found = checked_fingerprint({**whole, at: content}, Path("fingerprint.json"))
    except RunFolderError as error:
        assert at in str(error)
        return
    again = checked_fingerprint(parse_json(json_bytes(found), "it"), Path("fingerprint.json"))
    assert again == found and not differences(found, again)
    assert all(difference.sentence.isprintable() for difference in differences(usual, found))


PROGRESS = {
    **vars(TrainerState(step=20, best_step=10, best_value=0.5, losses_by_objective=[[0.5]])),
    "saved_step": None,
}


@DEAR
@given(chance=CHANCE)
def test_a_changed_state_of_a_checkpoint_gives_progress_or_the_error(folder: Path, chance: random.Random) -> None:
    state = mutated_json(json.dumps({"progress": PROGRESS, "scaler": None}), chance)
    assert state is not None
    try:
        content = parse_json(state.encode(), "it")
    except ModelFolderError:
        return
    path = save_checkpoint(folder / "changed", 20, {}, content)
    progress = read_checkpoint(path).state.get("progress")
    assert progress == content.get("progress")
    try:
        found = TrainerState.from_json(progress, path)
    except CheckpointError:
        return
    assert all(isinstance(getattr(found, name), int) for name in ("step", "epoch", "step_in_epoch", "micro_rows"))


# ---------------------------------------------------------------- weights


def tensors_of(seed: int, shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return random tensors, of which the second is a view that is not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    found = {f"layer.{i}.weight": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    return {
        name: tensor.t() if i == 1 and tensor.dim() == 2 else tensor for i, (name, tensor) in enumerate(found.items())
    }


SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=4)


@DEAR
@given(seed=st.integers(0, 99), shapes=SHAPES)
def test_tensors_written_are_read_back_bit_by_bit(folder: Path, seed: int, shapes: list[tuple[int, ...]]) -> None:
    (folder / "config.json").write_text("{}")
    tensors = tensors_of(seed, shapes)
    write_tensors(tensors, folder / "model.safetensors")
    found = read_tensors(find_tensors(folder / "model.safetensors"), {name: name for name in tensors})
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@DEAR
@given(
    state=OBJECTS,
    seed=st.integers(0, 99),
    shapes=SHAPES,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]),
)
def test_a_checkpoint_gives_back_any_state_and_tensors(
    folder: Path, state: dict[str, Any], seed: int, shapes: list[tuple[int, ...]], dtype: torch.dtype
) -> None:
    tensors = {name: (tensor * 9).to(dtype) for name, tensor in tensors_of(seed, shapes).items()}
    found = read_checkpoint(save_checkpoint(folder / "checkpoints", 7, {"weights": tensors}, state))
    assert found.state == state and found.step == 7
    read = found.read_tensors("weights")
    assert all(read[name].dtype == dtype and torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def bins(folder: Path) -> dict[str, bytes]:
    """Return what torch.save writes of some tensors, in its format of today and in the one before."""
    tensors = tensors_of(0, [(3, 4), (2, 5), (7,)])
    found = {}
    for name, is_zip in (("zip", True), ("legacy", False)):
        torch.save(tensors, folder / "valid.bin", _use_new_zipfile_serialization=is_zip)
        found[name] = (folder / "valid.bin").read_bytes()
    return found


def read_bin(folder: Path, content: bytes) -> dict[str, torch.Tensor]:
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    (place / "pytorch_model.bin").write_bytes(content)
    weights = find_weights(place)
    return read_tensors(weights, {key: key for key in weights.tensors})


@pytest.mark.filterwarnings("ignore")
@given(kind=st.sampled_from(["zip", "legacy"]), chance=CHANCE)
def test_a_damaged_bin_gives_the_tensors_that_were_saved_or_the_error(
    folder: Path, bins: dict[str, bytes], kind: str, chance: random.Random
) -> None:
    try:
        found = read_bin(folder, damaged(bins[kind], chance))
    except ModelFolderError as error:
        assert "pytorch_model.bin" in str(error)
        return
    if kind == "zip":  # which has checksums
        expected = tensors_of(0, [(3, 4), (2, 5), (7,)])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.filterwarnings("ignore")
@given(data=st.data(), chance=CHANCE)
def test_a_bin_with_a_record_changed_gives_tensors_or_the_error(
    folder: Path, bins: dict[str, bytes], data: st.DataObject, chance: random.Random
) -> None:
    with zipfile.ZipFile(BytesIO(bins["zip"])) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    which = data.draw(st.integers(0, len(records) - 1))
    name, content = records[which]
    changed = {
        "content": [(name, damaged(content, chance))],
        "name": [(name + "x", content)],
        "folder": [(name.replace("/", "/../"), content)],
        "twice": [(name, content), (name, damaged(content, chance))],
        "gone": [],
        "empty": [(name, b"")],
        "other": [(name, chance.choice(records)[1])],
    }
    kind = data.draw(st.sampled_from(sorted(changed)))
    whole = BytesIO()
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(whole, "w", method) as archive:
        for record in [*records[:which], *changed[kind], *records[which + 1 :]]:
            archive.writestr(*record)
    try:
        found = read_bin(folder, whole.getvalue())
    except ModelFolderError as error:
        assert "pytorch_model.bin" in str(error)
    else:
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in found.values())


# ---------------------------------------------------------------- JSON files of models and runs


@DEAR
@given(others=OBJECTS, scale=st.tuples(st.floats(-9, 0), st.floats(1, 9)))
@example(others={"note": "\ud800"}, scale=(0.0, 5.0))
def test_own_settings_are_read_back_with_keys_that_are_not_ours(
    folder: Path, others: dict[str, Any], scale: tuple[float, float]
) -> None:
    others = {
        key: value for key, value in others.items() if key not in ("decision", "score_scale", "classifier", "format")
    }
    place = folder / "own"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text("{}")
    settings_ = OwnSettings(None, scale, others)
    write_own(settings_, place)
    assert OwnSettings.of(read_folder(place)) == settings_


@given(records=st.lists(OBJECTS, max_size=4))
def test_a_log_gives_back_its_records(folder: Path, records: list[dict[str, Any]]) -> None:
    path = folder / "metrics.jsonl"
    path.unlink(missing_ok=True)
    with RunLog(path) as log:
        for record in records:
            log.append(record)
        log.append({"loss": math.nan, "inner": [math.inf]})
    assert read_log(path) == [*records, {"loss": None, "inner": [None]}]


@given(source=ANY_TEXT, sentence=ANY_TEXT, notes=st.lists(ANY_TEXT, max_size=2), count=st.integers(0, 9))
def test_a_ledger_survives_the_disk_and_is_told_in_printable_lines(
    source: str, sentence: str, notes: list[str], count: int
) -> None:
    ledger = Ledger(source, "csv", "0" * 64, 10, 10, notes=tuple(notes))
    ledger = ledger.with_finding("empty", count, sentence, dropped=True, first=range(count))
    content = parse_json(json_bytes(ledger.to_json()), "it")
    assert content == json.loads(json.dumps(ledger.to_json()))
    assert content["n_rows"] == content["n_kept"] + sum(f["count"] for f in content["findings"] if f["dropped"])
    assert ledger.describe()[0].isprintable()


# ---------------------------------------------------------------- tokenising


@pytest.fixture(scope="module")
def tokenizers(
    folder: Path, minilm_path: Path, tiny_bert_folder: Callable[..., Path]
) -> list[tuple[TextTokenizer, TextTokenizer]]:
    """Return tokenizers, uncased and cased with Hangul, each with the one that is read from what it saves."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcABC각가", "##b", "##각", "é", "中", "İ"]
    found = []
    for i, source in enumerate([minilm_path, tiny_bert_folder(folder / "cased", vocab=vocab)]):
        tokenizer, target = TextTokenizer.from_pretrained(source), folder / f"saved{i}"
        target.mkdir()
        tokenizer.save_pretrained(target, 128)
        found.append((tokenizer, TextTokenizer.from_pretrained(target)))
        (target / "tokenizer.json").unlink()  # what is left is vocab.txt and the settings
        found.append((tokenizer, TextTokenizer.from_pretrained(target)))
    return found


@given(texts=st.lists(TEXTS, max_size=4))
def test_a_tokenizer_saved_and_read_gives_the_same_ids_for_any_text(
    tokenizers: list[tuple[TextTokenizer, TextTokenizer]], texts: list[str]
) -> None:
    for before, after in tokenizers:
        assert after.specials == before.specials
        assert (after.padding_id, after.unknown_id) == (before.padding_id, before.unknown_id)
        tokens = before.tokenize(texts)
        assert after.tokenize(texts).token_ids.tolist() == tokens.token_ids.tolist()
        assert [before.tokenize([text]).token_ids.tolist() for text in texts] == [
            tokens.token_ids[begin:end].tolist() for begin, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)
        ]


@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_any_text_is_tokenised_but_for_half_characters_which_are_named(
    tokenizers: list[tuple[TextTokenizer, TextTokenizer]], texts: list[str]
) -> None:
    halves = [i for i, text in enumerate(texts) if any("\ud800" <= character <= "\udfff" for character in text)]
    tokenizer = tokenizers[0][0]
    if halves:
        with pytest.raises(InputError, match=f"text at position {halves[0]} holds the lone surrogate"):
            tokenizer.tokenize(texts)
        return
    tokens = tokenizer.tokenize(texts)
    assert len(tokens) == len(texts)
    assert tokens.token_ids.size == 0 or 0 <= tokens.token_ids.min() <= tokens.token_ids.max() < tokenizer.vocab_size


# ---------------------------------------------------------------- packing and encoding


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=40),
    layout=st.sampled_from(["rows", "runs", "padded"]),
    row_tokens=st.integers(1, 80),
    mode=st.sampled_from(["mean", "cls", "max"]),
)
def test_what_is_packed_is_pooled_in_the_callers_order(
    lengths: list[int], layout: Any, row_tokens: int, mode: Any
) -> None:
    n_tokens = sum(lengths)
    texts = TextTokens(np.arange(1, n_tokens + 1, dtype=np.int32), offsets_of(np.array(lengths)))
    batch = pack(texts, layout, padding_id=0, first_position=0, row_tokens=row_tokens)
    # each token's vector is its text's number: whatever is mixed up in between shows in the pooled vectors
    owner = np.zeros(n_tokens + 1, np.float32)
    owner[1:] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    hidden = torch.from_numpy(owner)[batch.token_ids][:, :, None]
    assert batch.pool(hidden, mode)[:, 0].tolist() == list(range(1, len(lengths) + 1))
    assert [vectors.shape[0] for vectors in batch.token_vectors(hidden)] == lengths


@pytest.fixture(scope="module")
def tiny(folder: Path, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return SiameseBert.from_pretrained(tiny_bert_folder(folder / "tiny"), precision="float32", device="cpu")


@DEAREST
@given(
    texts=st.lists(
        TEXTS | st.sampled_from(["the cat sat on the mat", "a" * 90, "word " * 80]), min_size=1, max_size=12
    ),
    batch_size=st.integers(1, 9),
    chance=CHANCE,
)
def test_a_vector_depends_on_its_text_alone(
    tiny: SiameseBert, texts: list[str], batch_size: int, chance: random.Random
) -> None:
    alone = np.concatenate([tiny.encode([text]) for text in texts])
    assert alone.dtype == np.float32 and np.isfinite(alone).all()
    order = list(range(len(texts)))
    chance.shuffle(order)
    mixed = tiny.encode([texts[i] for i in order], batch_size=batch_size)
    np.testing.assert_allclose(mixed, alone[order], rtol=0, atol=5e-6)
    among_others = tiny.encode([*texts, "the dog is playing in the water", *["b"] * 9])[: len(texts)]
    np.testing.assert_allclose(among_others, alone, rtol=0, atol=5e-6)


@DEAREST
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_any_text_has_a_finite_vector_or_is_refused_by_its_position(tiny: SiameseBert, texts: list[str]) -> None:
    try:
        vectors = tiny.encode(texts)
    except SbertFtError as error:
        assert isinstance(error, InputError) and "surrogate" in str(error)
        assert any("\ud800" <= character <= "\udfff" for text in texts for character in text)
    else:
        assert vectors.shape == (len(texts), 32) and np.isfinite(vectors).all()
