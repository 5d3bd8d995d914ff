"""What every command does with a data file that is broken, odd or hostile: a clear refusal, or every row as it is.

Commands run in processes of their own (`bad_inputs.judging`), so that what they write, execute and take of memory is
observed. `bad_inputs.tables` has the files.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bad_inputs.judging import Judge, Outcome, assert_harmless, assert_refused, assert_warned
from warm import WarmProcess

from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import DataError
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

pa = pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

from bad_inputs.tables import (  # noqa: E402 (needs pyarrow)
    ABSENT,
    LABELS,
    NO_SCORES,
    OF_KIND,
    SCORES,
    Case,
    Expected,
    Kind,
    Rows,
    all_cases,
    cell,
    content_of,
    csv_text,
    json_text,
    parquet_bytes,
    tsv_text,
)

COMMANDS = ("encode", "score", "predict", "doctor", "evaluate", "train")


@pytest.fixture(scope="module")
def models(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of an encoder with a stored decision, and of classifiers of texts and of joined pairs."""
    place = tmp_path_factory.mktemp("models")
    encoder = tiny_bert_folder(place / "encoder")
    siamese = SiameseBert.from_pretrained(encoder, "cpu", "float32")
    fitted = FittedOn("dev.csv", "0" * 64, 40, 20)
    siamese.decision = Decision(0.5, "f1", fitted, calibration=Calibration("platt", slope=5.0, intercept=-2.0))
    siamese.save_pretrained(place / "scores")
    for name, kind, classes in (("labels", "joined", ["no", "yes"]), ("texts", "single", ["bad", "good"])):
        model = ClassifierModel(ConnectionBert.from_pretrained(encoder, "cpu", "float32"), kind)  # type: ignore[arg-type]
        model.start_head(classes)
        model.save_pretrained(place / name)
    return {name: place / name for name in ("encoder", "scores", "labels", "texts")}


@pytest.fixture(scope="module")
def judge(warm: WarmProcess, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(warm, tmp_path_factory.mktemp("judge"))


def commands_of(case: Case) -> list[str]:
    """Return the commands that take such a file and to which the case says something."""
    takes = [c for c in COMMANDS if case.expected_of(c) is not None]
    return [c for c in takes if c != "score" or (case.rows.n_texts == 2 and not case.file.endswith(".txt"))]


def chosen_runs() -> Iterator[Any]:
    """Yield each case with its command, the commands taking turns; some cases with all of them."""
    for number, case in enumerate(all_cases()):
        commands = commands_of(case)
        for command in commands if case.everywhere else [commands[number % len(commands)]]:
            yield pytest.param(command, case, id=f"{command}: {case.name}")
        if (
            "encode" in commands and number % 4 == 0 and case.expected_of("index") is not None
        ):  # reads what encode reads
            yield pytest.param("index", case, id=f"index: {case.name}")


def arguments_of(command: str, case: Case, models: dict[str, Path], folder: Path) -> list[object]:
    """Return the command line; train's JSON is written to the folder."""
    options, rows, file = case.options, case.rows, case.file
    names = options["columns"].split(",") if "columns" in options else []
    reading = [
        part for key in ("encoding", "delimiter", "kind") if key in options for part in (f"--{key}", options[key])
    ]
    if command == "train":
        write_run(case, models, folder)
        return ["train", "run.json", "--dry-run"]
    if command == "doctor":
        named = [f"--column{'s' if len(names) == 2 else ''}", options["columns"]] if names else []
        return ["doctor", models["scores"], "--texts", file, "--json", *named, *reading]
    if command == "evaluate":
        kept = ("columns", "label_column", "on_bad_row", "score_range")
        more = [part for key in kept if key in options for part in (f"--{key.replace('_', '-')}", options[key])]
        return ["evaluate", models[rows.kind], file, "--json", "--samples", 10, *more, *reading]
    if command in ("encode", "index"):
        usual = rows.names[rows.n_texts - 1] in ("sentence2", "hypothesis")
        column = names[-1] if names else rows.names[rows.n_texts - 1] if usual else None
        named = [] if column is None or file.endswith(".txt") else ["--column", column]
        return [command, models["scores"], file, "-o", "out.npy" if command == "encode" else "out", *named, *reading]
    model = models["texts" if rows.kind == "texts" else "scores" if command == "score" else "labels"]
    named = ["--columns", options["columns"]] if names else []
    named += ["--name", "cosine"] if command == "score" and "score" in rows.names else []
    return [command, model, file, "-o", target_of(case), *named, *reading]


def target_of(case: Case) -> str:
    """Return where rows with new columns go: to the file's own format, if it has columns."""
    suffix = Path(case.file).suffix
    return f"out{suffix if suffix in ('.csv', '.tsv', '.jsonl', '.parquet') else '.jsonl'}"


def write_run(case: Case, models: dict[str, Path], folder: Path) -> None:
    options, kind = case.options, case.rows.kind
    data: dict[str, object] = {"train": case.file}
    data |= {
        key: options[key] for key in ("encoding", "delimiter", "kind", "label_column", "on_bad_row") if key in options
    }
    if "columns" in options:
        data["text_columns"] = options["columns"].split(",")
    if "score_range" in options:
        data["score_range"] = [float(end) for end in options["score_range"].split(",")]
    run = {
        "model": {
            "path": str(models[kind]),
            "kind": {"scores": "siamese", "labels": "joined", "texts": "single"}[kind],
        },
        "data": data,
        "objective": "cosine" if kind == "scores" else "softmax",
        "training": {"max_steps": 1, "batch_size": 2, "device": "cpu"},
        "output_dir": "run",
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


@pytest.mark.parametrize(("command", "case"), list(chosen_runs()))
def test_a_data_file_is_refused_or_read_to_the_last_row(
    judge: Judge, models: dict[str, Path], tmp_path: Path, command: str, case: Case
) -> None:
    case.write(tmp_path)
    expected = case.expected_of(command)
    assert expected is not None
    outcome = judge.run(arguments_of(command, case, models, tmp_path), tmp_path)
    if expected.outcome == "refused":
        assert_refused(outcome, *expected.words)
        return
    assert_harmless(outcome)
    assert outcome.code in ((0, 1) if command == "doctor" else (0,)), outcome.stderr[-2000:]
    about_rows = [line for line in outcome.warnings if says(line, expected) or case.file in line]
    if expected.outcome == "warned":
        assert any(says(line, expected) for line in about_rows), f"no warning with {expected.words}: {outcome.stderr}"
    else:
        assert not about_rows, about_rows
    assert_nothing_is_lost(outcome, command, case, tmp_path)


# A vocabulary leaves rows without a text out, takes columns of any name, and its error names the first bad row alone.
NOT_OF_VOCAB = (
    "columns of",
    "a key",
    "escapes of a terminal",
    "an empty",
    "a text that is null",
    "several",
    "many short",
)
NOT_OF_VOCAB += ("short and long rows", "bytes as texts")
BAD_FILES = [
    case
    for case in all_cases()
    if case.streamed is not None and case.streamed.outcome == "refused" and not case.name.startswith(NOT_OF_VOCAB)
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in BAD_FILES[::3]])
def test_a_bad_file_is_refused_for_a_vocabulary_in_the_same_words(judge: Judge, tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    names = case.options.get("columns", case.rows.names[case.rows.n_texts - 1])
    options = [] if case.file.endswith(".txt") else ["--columns", names]
    options += [
        part
        for key in ("encoding", "delimiter", "kind")
        for part in (f"--{key}", case.options.get(key))
        if key in case.options
    ]
    outcome = judge.run(["vocab", case.file, "-o", "start", "--size", 100, *options], tmp_path)
    assert case.streamed is not None
    assert_refused(outcome, *case.streamed.words)


def says(line: str, expected: Expected) -> bool:
    return bool(expected.words) and all(word.lower() in line.lower() for word in expected.words)


def assert_nothing_is_lost(outcome: Outcome, command: str, case: Case, folder: Path) -> None:
    """Every row is counted, and every value that went in comes out."""
    n_rows, n_kept = len(case.rows.rows), len(case.rows.rows) if case.n_kept is None else case.n_kept
    if command == "encode":
        vectors = np.load(folder / "out.npy")
        assert len(vectors) == n_rows and np.isfinite(vectors).all()
    elif command == "index":
        vectors = np.load(folder / "out" / "vectors.npy")
        assert len(vectors) == n_rows and np.isfinite(vectors).all()
    elif command == "doctor":
        checks = {check["name"]: check["found"] for check in json.loads(outcome.stdout)}
        assert checks["texts"] == f"{n_rows * case.rows.n_texts:,}"
    elif command == "evaluate":
        assert json.loads(outcome.stdout)["data"]["n"] == n_kept
    elif command == "train":
        assert f"train: {case.file}, {n_kept} of " in outcome.stderr
        assert set(outcome.changed) == set()
    else:
        found = read_back(folder / target_of(case), case.options)
        names, *rows = found
        expected = as_written(case)
        assert names[: len(expected[0])] == expected[0]
        assert [comparable(row[: len(expected[0])]) for row in rows] == [comparable(row) for row in expected[1:]]
        assert set(outcome.changed) == {target_of(case)}


def comparable(row: list[object]) -> list[object]:
    """Return the row with what is not there as None, and NaN as something that is equal to itself."""
    return [None if value is ABSENT else "NaN" if value != value else value for value in row]


def as_written(case: Case) -> list[list[object]]:
    """Return names and rows as the result's format has them: values in JSON and Parquet, texts in cells."""
    if case.file.endswith(".txt"):
        return [["text"], *([row[0]] for row in case.rows.rows)]
    if target_of(case).endswith((".jsonl", ".parquet")):
        return [list(case.rows.names), *(list(row) for row in case.rows.rows)]
    return [list(case.rows.names), *([cell(value) for value in row] for row in case.rows.rows)]


def read_back(path: Path, options: Any) -> list[list[object]]:
    """Return names and rows of a result, by readers that are not ours."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return [table.column_names, *(list(row.values()) for row in table.to_pylist())]
    content = path.read_bytes()
    codec = options.get("encoding") or ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    text = content.decode(codec)
    if path.suffix == ".jsonl":
        objects = [json.loads(line) for line in text.split("\n") if line.strip()]
        names = list(objects[0]) if objects else []
        return [names, *([each.get(name) for name in names] for each in objects)]
    if path.suffix == ".tsv":
        return [list(line.split("\t")) for line in text.removesuffix("\n").split("\n")]
    csv.field_size_limit(1 << 30)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    return [list(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)]


# ---------------------------------------------------------------- what comes out goes back in

TRICKY = (
    'she said "hello"; twice, and left',
    "=HYPERLINK(A1)",
    "한국어 문장",
    "NA",
    " blank around it ",
    "007",
    "emoji 👩‍👩‍👧‍👦 and zalgo a\u0300\u0301",
    "\x1b[31m red",
)
OF_LINES = ("two\nlines", "a\ttab", "two\r\nlines with CRLF")
IN_KOREAN = ("한국어 문장", '"따옴표", 쉼표', "=1+1", "NA")


def a_table(texts: Sequence[str]) -> Rows:
    """Return pairs of the texts with one more column, whose values are as strange."""
    rows = tuple((text, f"a dog {i}", text) for i, text in enumerate(texts))
    return Rows("scores", ("sentence1", "sentence2", "note"), rows)


ROUNDS: dict[str, tuple[str, Callable[[Rows], bytes], tuple[str, ...]]] = {
    "csv": ("csv", lambda rows: csv_text(rows).encode(), TRICKY + OF_LINES),
    "csv with semicolons": ("csv", lambda rows: csv_text(rows, ";").encode(), TRICKY + OF_LINES),
    "csv with a mark": ("csv", lambda rows: csv_text(rows).encode("utf-8-sig"), TRICKY),
    "csv in UTF-16": ("csv", lambda rows: csv_text(rows).encode("utf-16"), TRICKY),
    "csv in cp949": ("csv", lambda rows: csv_text(rows).encode("cp949"), IN_KOREAN),
    "tsv": ("tsv", lambda rows: tsv_text(rows).encode(), TRICKY),
    "tsv with quotes": ("tsv", lambda rows: csv_text(rows, "\t").encode(), TRICKY + OF_LINES),
    "jsonl": ("jsonl", lambda rows: json_text(rows).encode(), (*TRICKY, *OF_LINES, "a NUL \0")),
    "parquet": ("parquet", parquet_bytes, (*TRICKY, *OF_LINES, "a NUL \0")),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_file_that_a_command_wrote_is_read_by_the_next_with_every_text_as_it_was(
    judge: Judge, models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    suffix, writer, texts = ROUNDS[name]
    table, reading = a_table(texts), ["--encoding", "cp949"] if "cp949" in name else []
    (tmp_path / f"in.{suffix}").write_bytes(writer(table))
    runs = [
        ["score", models["scores"], f"in.{suffix}", "-o", f"scored.{suffix}", *reading],
        ["predict", models["labels"], f"scored.{suffix}", "-o", f"both.{suffix}", "--prefix", "p_", *reading],
        ["encode", models["scores"], f"both.{suffix}", "--column", "note", "-o", "out.npy", *reading],
        ["evaluate", models["scores"], f"both.{suffix}", "--json", "--samples", 2, *reading],
    ]
    for arguments in runs:
        outcome = judge.run(arguments, tmp_path)
        assert_harmless(outcome)
        assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["data"]["n"] == len(table.rows) == len(np.load(tmp_path / "out.npy"))
    options = {"encoding": "cp949"} if reading else {}
    if name == "tsv with quotes":
        text = (tmp_path / "both.tsv").read_bytes().decode()
        found: list[list[object]] = [list(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t")]
    else:
        found = read_back(tmp_path / f"both.{suffix}", options)
    assert [row[:3] for row in found] == [list(table.names), *(list(row) for row in table.rows)]
    assert found[0][3:] == ["score", "probability", "match", "p_predicted", "p_probability"]


def test_rows_that_went_through_every_format_are_what_they_were(
    judge: Judge, models: dict[str, Path], tmp_path: Path
) -> None:
    table = a_table(TRICKY + OF_LINES)
    (tmp_path / "0.csv").write_bytes(csv_text(table).encode())
    for i, (source, target) in enumerate(itertools.pairwise(PATH_OF_FORMATS)):
        columns = ["--name", f"cosine{i}", "--only-score"]
        outcome = judge.run(["score", models["scores"], f"{i}.{source}", "-o", f"{i + 1}.{target}", *columns], tmp_path)
        assert outcome.code == 0, outcome.stderr
    found = read_back(tmp_path / f"{len(PATH_OF_FORMATS) - 1}.csv", {})
    assert [row[:3] for row in found] == [list(table.names), *(list(row) for row in table.rows)]
    assert len({tuple(row[3:]) for row in found}) == len(found)


PATH_OF_FORMATS = ("csv", "jsonl", "parquet", "csv", "parquet", "jsonl", "csv")


@pytest.mark.parametrize("ids", [["007", "=1+1", 'a "b"', "한국어"], [7, -1, 10**18, 0]])
def test_ids_of_vectors_are_those_of_the_file(
    judge: Judge, models: dict[str, Path], tmp_path: Path, ids: list[object]
) -> None:
    table = Rows("texts", ("text", "key"), tuple((f"a dog {i}", key) for i, key in enumerate(ids)))
    (tmp_path / "in.parquet").write_bytes(parquet_bytes(table))
    outcome = judge.run(
        ["encode", models["scores"], "in.parquet", "--column", "text", "--id-column", "key", "-o", "v.parquet"],
        tmp_path,
    )
    assert outcome.code == 0, outcome.stderr
    assert pq.read_table(tmp_path / "v.parquet").column("id").to_pylist() == list(map(str, ids))


@pytest.mark.parametrize(
    ("kind", "name", "columns", "command"),
    [
        ("scores", "worst_pairs.csv", ["text1", "text2"], "score"),
        ("labels", "mistakes.csv", ["text1", "text2"], "predict"),
        ("texts", "mistakes.csv", ["text1"], "predict"),
    ],
)
def test_the_worst_rows_of_a_run_are_read_by_the_next_command_as_they_were(
    judge: Judge, models: dict[str, Path], tmp_path: Path, kind: Kind, name: str, columns: list[str], command: str
) -> None:
    rows = OF_KIND[kind]
    for i, text in enumerate(('a "b",\nc', "=1+1", "한국어, 둘", " NA")):
        rows = rows.with_text(text, i)
    (tmp_path / "rows.csv").write_bytes(csv_text(rows).encode())
    write_run(Case("", "rows.csv", b"", rows), models, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    run["data"]["dev"] = run["data"]["test"] = "rows.csv"
    run["training"]["learning_rate"] = 1e-9
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    outcome = judge.run(["train", "run.json"], tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert_harmless(outcome)
    found = read_back(tmp_path / "run" / name, {})
    places = [found[0].index(column) for column in columns]
    texts = [tuple(row[place] for place in places) for row in found[1:]]
    assert texts and set(texts) <= set(rows.texts())
    more = [] if command == "score" else ["--prefix", "p_", "--columns", ",".join(columns)]
    outcome = judge.run(
        [command, tmp_path / "run" / "model", tmp_path / "run" / name, "-o", "out.csv", *more], tmp_path
    )
    assert outcome.code == 0, outcome.stderr
    again = read_back(tmp_path / "out.csv", {})
    assert [row[: len(found[0])] for row in again] == found


# ---------------------------------------------------------------- several files, and no file


def test_rows_of_train_that_judge_too_are_counted_whatever_the_order_of_their_sides(
    judge: Judge, models: dict[str, Path], tmp_path: Path
) -> None:
    swapped = Rows("scores", SCORES.names, tuple((b, a, score) for a, b, score in SCORES.rows[:2]))
    (tmp_path / "rows.csv").write_text(csv_text(SCORES), "utf-8")
    (tmp_path / "test.csv").write_text(csv_text(swapped), "utf-8")
    write_run(Case("", "rows.csv", b"", SCORES), models, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    run["data"] |= {"dev": "rows.csv", "test": "test.csv"}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    outcome = judge.run(["train", "run.json", "--dry-run"], tmp_path)
    assert_warned(
        outcome, "rows.csv", "4 rows having a pair that dev has too", "2 rows having a pair that test has too"
    )


@pytest.mark.parametrize("kind", ["labels", "texts"])
def test_a_share_for_dev_is_split_off_where_a_class_has_one_row(
    judge: Judge, models: dict[str, Path], tmp_path: Path, kind: Kind
) -> None:
    rows = OF_KIND[kind]
    rare = rows.with_label(rows.rows[0][-1]).with_label(rows.rows[1][-1], 3).with_label(rows.rows[0][-1], 1)
    (tmp_path / "rows.csv").write_text(csv_text(rare), "utf-8")
    write_run(Case("", "rows.csv", b"", rare), models, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    run["data"]["dev_share"] = 0.25
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    outcome = judge.run(["train", "run.json", "--dry-run"], tmp_path)
    assert_warned(outcome, "1 label with only one row")
    assert "dev: rows.csv, 1 of 4 rows" in outcome.stderr


@pytest.mark.parametrize("name", NO_SCORES)
def test_what_no_score_can_be_is_refused_in_frames_and_lists_as_in_files(name: str) -> None:
    value, words = NO_SCORES[name]
    rows = SCORES.with_label(value).rows
    frame = pd.DataFrame(rows, columns=list(SCORES.names))
    with pytest.raises(DataError, match="1 of 4 rows cannot be used: position 1: ") as caught:
        ConnectionDataset.from_dataframe(frame)
    assert words in str(caught.value)
    with pytest.raises(DataError, match="1 of 4 rows cannot be used: position 1: ") as caught:
        ConnectionDataset.from_pairs([row[:2] for row in rows], labels=[row[2] for row in rows])
    assert words in str(caught.value)


def test_a_pair_of_a_joined_classifier_is_counted_as_the_one_sequence_that_it_is(
    judge: Judge, models: dict[str, Path], tmp_path: Path
) -> None:
    sides = ("the dog " * 20).strip()
    table = Rows("labels", LABELS.names, ((sides, sides, "yes"), ("a dog", "a cat", "no")))
    (tmp_path / "rows.csv").write_text(csv_text(table), "utf-8")
    found = {}
    for name in ("scores", "labels"):
        outcome = judge.run(["doctor", models[name], "--texts", "rows.csv", "--json"], tmp_path)
        found[name] = {check["name"]: check for check in json.loads(outcome.stdout)}
    assert found["scores"]["cut texts"]["status"] == "OK"
    assert "longest 42" in found["scores"]["tokens a text"]["found"]
    assert "longest 83" in found["labels"]["tokens a pair"]["found"]
    assert found["labels"]["cut pairs"]["found"] == "50.00 % of the pairs are cut at max_seq_length 64"


@pytest.mark.parametrize("texts", [["   "], ["a dog", "\u200b"]])
def test_a_blank_text_of_the_command_line_is_warned_of(
    judge: Judge, models: dict[str, Path], tmp_path: Path, texts: list[str]
) -> None:
    model = models["texts"] if len(texts) == 1 else models["scores"]
    outcome = judge.run(["predict" if len(texts) == 1 else "score", model, *texts], tmp_path)
    assert_warned(outcome, "is blank")


@pytest.mark.parametrize(
    ("suffix", "labels", "said"),
    [
        ("csv", ["-1", "0", "1", "1000000000"], "classes: '-1' 1, '0' 1, '1' 1, '1000000000' 1"),
        ("jsonl", ["-1", "0", "1", "1000000000"], "classes: '-1' 1, '0' 1, '1' 1, '1000000000' 1"),
        ("csv", ["1.0", "1", "3.0", "7"], "classes: '1' 1, '1.0' 1, '3.0' 1, '7' 1"),  # texts
        ("jsonl", ["1.0", "1", "3.0", "7"], "classes: '1' 2, '3' 1, '7' 1"),  # numbers
        ("csv", ["0.5", "1.5", "0.50", "2"], "classes: '0.5' 1, '0.50' 1, '1.5' 1, '2' 1"),
        ("jsonl", ["0.5", "1.5", "0.50", "2"], "classes: '0.5' 2, '1.5' 1, '2' 1"),
        ("csv", ["b", "a", "B", "나"], "classes: 'B' 1, 'a' 1, 'b' 1, '나' 1"),
        ("jsonl", ["b", "a", "B", "나"], "classes: 'B' 1, 'a' 1, 'b' 1, '나' 1"),
    ],
)
def test_any_labels_are_classes_in_a_stated_order_and_unknown_to_a_model_of_others(
    judge: Judge, models: dict[str, Path], tmp_path: Path, suffix: str, labels: list[str], said: str
) -> None:
    rows = LABELS
    for i, label in enumerate(labels):
        rows = rows.with_label(json.loads(label) if suffix == "jsonl" and label[-1].isdigit() else label, i)
    case = Case("", f"rows.{suffix}", content_of(rows, suffix), rows)
    case.write(tmp_path)
    write_run(case, models, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    run["model"]["path"] = str(models["encoder"])
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    outcome = judge.run(["train", "run.json", "--dry-run"], tmp_path)
    assert_harmless(outcome)
    assert outcome.code == 0 and said in outcome.stderr, outcome.stderr
    outcome = judge.run(["evaluate", models["labels"], case.file], tmp_path)
    assert_refused(outcome, "the labels of", case.file, "but the classes of", "say with --classes")
