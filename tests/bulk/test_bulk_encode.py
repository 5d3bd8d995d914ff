"""Texts of many files to a folder of shards: the same bits however they are made, and whole after every crash."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

from sbert_ft import SiameseBert  # noqa: E402 (pyarrow may be absent)
from sbert_ft.bulk.inputs import TextReading, find_inputs  # noqa: E402
from sbert_ft.bulk.run import BulkPart, BulkReport, BulkSettings, encode_to_shards, prepare_bulk  # noqa: E402
from sbert_ft.errors import DataError, InputError, OutputError, SbertFtError  # noqa: E402
from sbert_ft.vectors.shards import ShardSet, shard_facts  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "soak"))
from watched_calls import Call, Fail, Kill, reason_why_not, run_watched  # noqa: E402 (it lies in that folder)

WORDS = (
    *("a", "man", "plays", "the", "guitar", "dog", "runs", "water", "small", "girl", "walking"),
    *("in", "park", "with", "two", "dogs", "red", "car", "music"),
)
N_TEXTS = 47
SETTINGS = BulkSettings(TextReading(id_column="key"), rows_per_shard=10)
# Every how many calls a run is stopped; 1 for all of them, which takes half a minute.
STEP = int(os.environ.get("CRASH_STEP", "3"))
MAKING = ("write", "create", "mkdir", "truncate", "link")


def text_of(number: int) -> str:
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 2 + number % 7))


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("bulk") / "model", safetensors=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[[str | None], SiameseBert]:
    return partial(SiameseBert.from_pretrained, folder, precision="float32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a .csv of 23 texts, a .jsonl of 24 and their ids."""
    place = tmp_path_factory.mktemp("texts")
    rows = [(f"k{number}", text_of(number)) for number in range(N_TEXTS)]
    (place / "one.csv").write_text("key,text\n" + "".join(f"{key},{text}\n" for key, text in rows[:23]))
    (place / "two.jsonl").write_text("".join(json.dumps({"key": k, "text": t}) + "\n" for k, t in rows[23:]))
    return [str(place / "one.csv"), str(place / "two.jsonl")]


@pytest.fixture(scope="module")
def unbroken(
    load: Callable[[str | None], SiameseBert], texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> ShardSet:
    done = encode_to_shards(load, texts, tmp_path_factory.mktemp("unbroken") / "vectors", SETTINGS)
    assert done.finished is not None
    return done.finished


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def read(shards: ShardSet) -> tuple[list[int | str], np.ndarray]:
    blocks = list(shards.blocks(7, check=True))
    stored = np.concatenate([block.stored for block in blocks])
    return [key for block in blocks for key in block.ids], shards.plan.quantizer.decode(stored)


# ---------------------------------------------------------------- the same bits


def test_shards_hold_what_encode_returns(model: SiameseBert, unbroken: ShardSet) -> None:
    ids, vectors = read(unbroken)
    assert ids == [f"k{number}" for number in range(N_TEXTS)]
    np.testing.assert_allclose(vectors, model.encode(list(map(text_of, range(N_TEXTS)))), atol=5e-6)
    assert [facts.n_rows for facts in unbroken.shards] == [10, 10, 10, 10, 7]
    table = pq.read_table(unbroken.folder / "vectors-00001-of-00005.parquet")
    assert table.column_names == ["id", "vector"] and table["id"][0].as_py() == "k10"
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: float")


def test_parts_in_any_order_give_the_bytes_of_one_process(
    load: Callable[[str | None], SiameseBert], texts: list[str], unbroken: ShardSet, tmp_path: Path
) -> None:
    seen = []
    for number in (2, 3, 1, 7, 5, 6, 4):
        done = encode_to_shards(load, texts, tmp_path, SETTINGS, BulkPart(number, 7))
        seen += [facts.shard for facts in done.encoded]
        assert (done.finished is not None) == (len(seen) == 5)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert content(tmp_path) == content(unbroken.folder)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 64])
def test_parts_are_all_shards_once(n_parts: int) -> None:
    for n_shards in (1, 5, 64, 1000):
        parts = [list(BulkPart(number, n_parts).shards(n_shards)) for number in range(1, n_parts + 1)]
        assert [shard for part in parts for shard in part] == list(range(n_shards))


def test_two_workers_give_the_bytes_of_one_process_with_real_weights(minilm_path: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"{text_of(number)}\n" for number in range(40)))
    load = partial(SiameseBert.from_pretrained, minilm_path, precision="float32")
    settings = BulkSettings(rows_per_shard=25, vectors="int8")
    one = encode_to_shards(load, tmp_path / "texts.txt", tmp_path / "one", settings)
    encode_to_shards(load, tmp_path / "texts.txt", tmp_path / "two", settings, BulkPart(devices=("cpu", "cpu")))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert one.finished is not None and one.finished.plan.recall is not None
    ids, vectors = read(one.finished)
    assert ids == list(range(40)) and one.finished.plan.recall.recall > 0.9
    expected = SiameseBert.from_pretrained(minilm_path, "cpu", "float32").encode(list(map(text_of, range(40))))
    assert (np.einsum("ij,ij->i", vectors, expected) / np.linalg.norm(vectors, axis=1) > 0.999).all()


def test_ranges_of_one_run_are_those_of_every_part(
    load: Callable[[str | None], SiameseBert], texts: list[str], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, vectors="int8", truncate_dim=20, normalize=True)
    encode_to_shards(load, texts, tmp_path / "whole", settings)
    for number in (2, 1):
        encode_to_shards(load, texts, tmp_path / "parts", settings, BulkPart(number, 2))
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


# ---------------------------------------------------------------- after a crash


def go_on(model: SiameseBert, texts: list[str], place: Path) -> BulkReport:
    return prepare_bulk(lambda device: model, texts, place, SETTINGS, BulkPart(resume=True)).run()


def shards_there(place: Path, plan_of: ShardSet) -> dict[int, int]:
    """Return the inode of each shard that is there; each must be whole."""
    there = {}
    for shard in range(plan_of.plan.n_shards):
        if (facts := shard_facts(place, plan_of.plan, shard)) is not None:
            assert facts == plan_of.shards[shard]
            there[shard] = (place / plan_of.plan.file_of(shard)).stat().st_ino
    return there


def check_resumed(model: SiameseBert, texts: list[str], place: Path, unbroken: ShardSet) -> int:
    """Go on after a stop, and hold it against the unbroken run; return how many shards were there."""
    before = shards_there(place, unbroken)
    done = go_on(model, texts, place)
    assert done.n_there == len(before)
    assert {facts.shard for facts in done.encoded} == set(range(5)) - set(before)
    after = shards_there(place, unbroken)
    assert {shard: after[shard] for shard in before} == before, "a shard was written again"
    assert content(place) == content(unbroken.folder)
    return len(before)


@pytest.mark.skipif(bool(reason_why_not()), reason=str(reason_why_not()))
@pytest.mark.parametrize("way", ["killed", "torn", "full"])
def test_stopped_at_any_call_no_shard_is_lost_or_done_twice(
    model: SiameseBert,
    texts: list[str],
    unbroken: ShardSet,
    tmp_path: Path,
    way: str,
    record_property: Callable[[str, object], None],
) -> None:
    place = tmp_path / "v"

    def run() -> int:
        try:
            go_on(model, texts, place)
        except OutputError as error:
            print(error)
            return 2
        return 0

    whole = run_watched(run, place, tmp_path / "said", lambda call: None, 60)
    assert whole.code == 0, whole.said
    assert {"mkdir", "create", "write", "sync", "rename", "link", "unlink"} <= {call.kind for call in whole.calls}
    kinds = {"killed": None, "torn": ("write",), "full": MAKING}[way]
    points = [call for call in whole.calls if kinds is None or call.kind in kinds]
    counts = []
    for point in points[::STEP]:
        shutil.rmtree(place)

        def decide(call: Call, at: int = point.number) -> Kill | Fail | None:
            if way == "full":
                return Fail(errno.ENOSPC, torn=True) if call.number >= at and call.kind in MAKING else None
            return Kill(torn=way == "torn") if call.number == at else None

        ended = run_watched(run, place, tmp_path / "said", decide, 60)
        if way == "full":
            assert ended.code == 2 and "cannot be written: " in ended.said, ended.said
            assert "No space left on device" in ended.said and ended.said.count("\n") == 1
            assert not place.exists() or not [name for name in os.listdir(place) if name.startswith(".")]
        else:
            assert ended.code == -9, ended.said
        place.mkdir(exist_ok=True)
        counts.append(check_resumed(model, texts, place, unbroken))
    assert set(counts) >= {0, 1, 2, 3, 4} and counts == sorted(counts)
    record_property("printed", f"sharded encode, {way}: {len(counts)} of {len(points)} calls, each resumed; losses: 0")


# The processes under test run an exported model, which they load in a moment, since it needs no torch.
def start(folder: Path, texts: list[str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sbert_ft", "encode", str(folder), *texts, "--engine", "onnxruntime", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # a shell that runs the tests in the background has told them to ignore SIGINT, and Python keeps to that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_shards(process: subprocess.Popen[str], place: Path, n: int) -> None:
    until = time.monotonic() + 120
    while len(list(place.glob("vectors-*.parquet"))) < n:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_workers_too_and_leaves_whole_shards(
    exported_path: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "many.txt").write_text("".join(f"{text_of(number)}\n" for number in range(60_000)))
    place = tmp_path / "v"
    process = start(
        exported_path,
        [str(tmp_path / "many.txt")],
        "-o",
        f"{place}/",
        "--shard-size",
        "500",
        "--workers",
        "2",
        "--quiet",
    )
    wait_for_shards(process, place, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    n_there = len(list(place.glob("vectors-*.parquet")))
    assert 2 <= n_there < 120
    if number != signal.SIGKILL:
        assert not [name for name in os.listdir(place) if name.startswith(".")]
    for path in place.glob("vectors-*.parquet"):
        assert pq.ParquetFile(path).metadata.num_rows == 500


def test_a_killed_worker_is_named_and_the_rest_can_be_done(exported_path: Path, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the workers are found in Linux's /proc")
    (tmp_path / "many.txt").write_text("".join(f"{text_of(number)}\n" for number in range(60_000)))
    process = start(
        exported_path,
        [str(tmp_path / "many.txt")],
        "-o",
        f"{tmp_path}/v/",
        "--shard-size",
        "500",
        "--workers",
        "2",
        "--quiet",
    )
    wait_for_shards(process, tmp_path / "v", 2)
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
            break
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.startswith("sbert-ft: error: a worker process has gone (ended by SIGKILL") and "--resume" in said


def test_processes_on_the_same_shards_do_no_harm(exported_path: Path, tmp_path: Path) -> None:
    """Who finishes first removes what killed processes left, and must leave alone what the others are writing."""
    (tmp_path / "many.txt").write_text("".join(f"{text_of(number)}\n" for number in range(600)))
    given = ["-o", f"{tmp_path}/v/", "--shard-size", "5", "--resume", "--quiet"]
    every = [start(exported_path, [str(tmp_path / "many.txt")], *given) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in every]
    assert [process.returncode for process in every] == [0, 0, 0, 0], said
    ids, _ = read(ShardSet.open(tmp_path / "v"))
    assert ids == list(range(600))
    assert len(os.listdir(tmp_path / "v")) == 122


def test_resuming_a_finished_folder_changes_nothing(
    load: Callable[[str | None], SiameseBert], texts: list[str], unbroken: ShardSet, tmp_path: Path
) -> None:
    place = shutil.copytree(unbroken.folder, tmp_path / "v")
    before = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    done = encode_to_shards(load, texts, place, SETTINGS, BulkPart(resume=True))
    assert (done.encoded, done.n_there) == ((), 5) and done.finished is not None
    assert {path.name: path.stat().st_mtime_ns for path in place.iterdir()} == before


# ---------------------------------------------------------------- what is refused


def refused(
    load: Callable[[str | None], SiameseBert],
    inputs: list[str],
    place: Path,
    settings: BulkSettings = SETTINGS,
    part: BulkPart = BulkPart(resume=True),  # noqa: B008 (frozen)
) -> str:
    """Return the sentence with which a run is refused; the folder stays as it was."""
    before = content(place) if place.is_dir() else None
    with pytest.raises(SbertFtError) as caught:
        encode_to_shards(load, inputs, place, settings, part)
    assert (content(place) if place.is_dir() else None) == before
    return str(caught.value)


def test_another_run_is_refused_by_what_differs(
    load: Callable[[str | None], SiameseBert],
    texts: list[str],
    unbroken: ShardSet,
    tmp_path: Path,
    tiny_bert_folder: Callable[..., Path],
) -> None:
    place = shutil.copytree(unbroken.folder, tmp_path / "v")
    (place / "vectors-00002-of-00005.parquet").unlink()
    other = partial(SiameseBert.from_pretrained, tiny_bert_folder(tmp_path / "other", seed=9), precision="float32")
    assert "holds vectors of another run: the model was 'sha256" not in refused(other, texts, place)
    assert "another run: the model was sha256" in refused(other, texts, place)
    for settings, name in [
        (replace(SETTINGS, vectors="int8"), "--vectors was 'float32', and is 'int8' now"),
        (replace(SETTINGS, rows_per_shard=11), "--shard-size was '10', and is '11' now"),
        (replace(SETTINGS, normalize=True), "the setting normalize was 'False', and is 'True' now"),
        (replace(SETTINGS, truncate_dim=8), "the dimension was '32', and is '8' now"),
        (replace(SETTINGS, reading=TextReading()), "the setting id_column was 'key', and is none now"),
    ]:
        assert name in refused(load, texts, place, settings)
    half = partial(load, max_seq_length=16)
    assert "the setting max_seq_length was '64', and is '16' now" in refused(half, texts, place)
    changed = tmp_path / "two.jsonl"
    changed.write_text(Path(texts[1]).read_text().replace("dog", "cat"))
    assert "the content of input 'two.jsonl' was sha256" in refused(load, [texts[0], str(changed)], place)
    assert "the number of inputs was '2', and is '1' now" in refused(load, texts[:1], place)
    assert "the name of input 1 was 'one.csv', and is 'two.jsonl' now" in refused(load, texts[::-1], place)


def test_a_folder_that_holds_something_is_refused(
    load: Callable[[str | None], SiameseBert], texts: list[str], unbroken: ShardSet, tmp_path: Path
) -> None:
    assert "add --resume" in refused(load, texts, unbroken.folder, part=BulkPart())
    assert "holds 2 of these shards already; add --resume" in refused(load, texts, unbroken.folder, part=BulkPart(1, 2))
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "mine.txt").touch()
    assert "holds other files, and no vectors of sbert-ft encode: 'mine.txt'" in refused(load, texts, tmp_path / "v")
    (tmp_path / "file").touch()
    assert "cannot be a folder of vectors: Not a directory" in refused(load, texts, tmp_path / "file")
    assert "cannot be a folder of vectors: Not a directory" in refused(load, texts, tmp_path / "file" / "v")


def damage(place: Path, change: Callable[[bytes], bytes], name: str = "vectors-00001-of-00005.parquet") -> None:
    (place / name).write_bytes(change((place / name).read_bytes()))


def test_a_damaged_shard_is_named(
    load: Callable[[str | None], SiameseBert], texts: list[str], unbroken: ShardSet, tmp_path: Path
) -> None:
    place, name = shutil.copytree(unbroken.folder, tmp_path / "v"), "vectors-00001-of-00005.parquet"
    whole = (place / name).read_bytes()
    damage(place, lambda data: data[: len(data) // 2])
    assert f"{name}': is cut short or damaged; delete it and encode again" in refused(load, texts, place)
    with pytest.raises(DataError, match="is cut short or damaged"):
        read(ShardSet.open(place))
    shutil.copy(place / "vectors-00003-of-00005.parquet", place / name)
    with pytest.raises(DataError, match="is a shard of another run"):
        read(ShardSet.open(place))
    pq.write_table(pq.read_table(place / "vectors-00003-of-00005.parquet").replace_schema_metadata({}), place / name)
    with pytest.raises(DataError, match="is no shard of sbert-ft encode"):
        read(ShardSet.open(place))
    (place / name).write_bytes(whole)
    place_of_vector = whole.index(read(unbroken)[1][10].tobytes()[:8])
    damage(place, lambda data: data[:place_of_vector] + b"\1" + data[place_of_vector + 1 :])
    with pytest.raises(DataError, match=f"{name}.*(has changed since it was written|is cut short or damaged)"):
        read(ShardSet.open(place))
    damage(place, lambda data: whole[:place_of_vector] + b"\0\0\xc0\x7f" + whole[place_of_vector + 4 :])
    with pytest.raises(DataError, match=r"row 10: the vector holds NaN"):
        read(ShardSet.open(place))
    (place / name).unlink()
    with pytest.raises(DataError, match="is missing; encode it again with --resume"):
        ShardSet.open(place)
    go_on_with = encode_to_shards(load, texts, place, SETTINGS, BulkPart(resume=True))
    assert [facts.shard for facts in go_on_with.encoded] == [1] and content(place) == content(unbroken.folder)


@pytest.mark.parametrize("file", ["manifest.json", "plan.json"])
def test_another_version_and_broken_json_are_named(
    load: Callable[[str | None], SiameseBert], texts: list[str], unbroken: ShardSet, tmp_path: Path, file: str
) -> None:
    place = shutil.copytree(unbroken.folder, tmp_path / "v")

    def message() -> str:
        if file == "plan.json":
            return refused(load, texts, place)
        with pytest.raises(DataError) as caught:
            ShardSet.open(place)
        return str(caught.value)

    damage(place, lambda data: data.replace(b'"format": 1', b'"format": 2'), file)
    assert "another version of sbert_ft wrote it" in message() and file in message()
    damage(place, lambda data: data[:100], file)
    assert f"{file}' is broken JSON" in message()
    (place / file).unlink()
    if file == "manifest.json":
        assert "is not finished: 5 of 5 shards are there" in message()
    else:
        assert "holds other files" in message()
    with pytest.raises(DataError, match="is no folder of vectors"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("k1,a dog\nk1,a cat\n", "line 3: column 'key': the id 'k1' is there twice"),
        ("k1,a dog\n,a cat\n", "line 3: column 'key': expected an id"),
        ("k1,a dog\nk2,\n", "line 3: column 'text': expected a text, found an empty one"),
        ("", "holds no text; expected at least one"),
    ],
)
def test_bad_rows_are_named_before_a_model_is_loaded(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text("key,text\n" + rows)
    with pytest.raises(DataError) as caught:
        prepare_bulk(lambda device: pytest.fail("a model was loaded"), [tmp_path / "bad.csv"], tmp_path / "v", SETTINGS)
    assert message in str(caught.value)
    assert not (tmp_path / "v").exists()


def test_an_id_of_two_files_is_named(texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "three.csv").write_text("key,text\nk100,a\nk5,b\n")
    with pytest.raises(DataError, match=r"three.csv', line 3: column 'key': the id 'k5' is there twice"):
        prepare_bulk(lambda device: pytest.fail("loaded"), [*texts, tmp_path / "three.csv"], tmp_path / "v", SETTINGS)


def test_an_input_that_changes_meanwhile_leaves_no_shard_of_it(
    model: SiameseBert, texts: list[str], tmp_path: Path
) -> None:
    copies = [shutil.copy(name, tmp_path) for name in texts]
    job = prepare_bulk(lambda device: model, copies, tmp_path / "v", SETTINGS)

    def change(n: int) -> None:
        with open(copies[1], "a") as file:
            file.write('{"key": "new", "text": "a new one"}\n')

    with pytest.raises(DataError, match=r"two.jsonl': has changed while it was read"):
        job.run(change)
    assert {path.name for path in (tmp_path / "v").glob("vectors-*")} <= {
        f"vectors-0000{shard}-of-00005.parquet" for shard in (0, 1)
    }


def test_inputs_are_files_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a.csv", "notes.md", ".hidden.csv", "c[1].txt", "deep/d.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("x\n")
    found = {given: [str(path) for path in find_inputs([given])] for given in (".", "*.csv", "c[1].txt", "**/*.jsonl")}
    assert found == {
        ".": ["a.csv", "b.csv", "c[1].txt"],
        "*.csv": ["a.csv", "b.csv"],
        "c[1].txt": ["c[1].txt"],
        "**/*.jsonl": ["deep/d.jsonl"],
    }
    with pytest.raises(DataError, match=r"'\*.tsv': there is no file of texts"):
        find_inputs(["*.tsv"])
    with pytest.raises(DataError, match=r"'a.csv': is there twice among the inputs"):
        find_inputs(["*.csv", "a.csv"])


def test_wrong_settings_are_refused(
    load: Callable[[str | None], SiameseBert], texts: list[str], tmp_path: Path
) -> None:
    for make in (
        lambda: BulkPart(4, 3),
        lambda: BulkPart(devices=()),
        lambda: BulkSettings(vectors="int4"),  # type: ignore[arg-type]
        lambda: BulkSettings(rows_per_shard=0),
    ):
        with pytest.raises(InputError):
            make()
    assert "truncate_dim" in refused(load, texts, tmp_path / "v", replace(SETTINGS, truncate_dim=33))
    assert "prompt_name is 'query'" in refused(load, texts, tmp_path / "v", replace(SETTINGS, prompt_name="query"))


def test_what_a_worker_refuses_is_said_in_its_words(exported_path: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a dog\na cat\n")
    given = ["-o", f"{tmp_path}/v/", "--shard-size", "1", "--devices", "cpu,cuda:7"]
    process = start(exported_path, [str(tmp_path / "texts.txt")], *given)
    said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 2 and len(said) == 2, said  # the first line tells of the first device's model
    assert said[1].startswith("sbert-ft: error: ") and "onnxruntime" in said[1] and "cuda:7" in said[1]


def test_memory_is_that_of_some_texts_and_not_of_all(exported_path: Path, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the highest memory of a child is read as Linux reports it")
    code = """
import resource, sys
from sbert_ft import ExportedEncoder
from sbert_ft.bulk.run import BulkSettings, encode_to_shards
model = ExportedEncoder.from_pretrained(sys.argv[1], "onnxruntime")
encode_to_shards(lambda device: model, sys.argv[2], sys.argv[3], BulkSettings(rows_per_shard=9_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for n in (9_000, 54_000):
        (tmp_path / f"{n}.txt").write_text("a dog runs\n" * n)
        command = [sys.executable, "-c", code, str(exported_path), str(tmp_path / f"{n}.txt"), str(tmp_path / f"v{n}")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 25, f"{peaks} MiB: 45,000 more texts, whose vectors take 5.8 MB"
