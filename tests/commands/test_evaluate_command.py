"""`sbert-ft evaluate` as a user sees it: the same numbers as scipy and scikit-learn, and the right warnings."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from sbert_ft import ConnectionDataset, SiameseBert, fit_threshold
from sbert_ft.cli import main

CPU = ("--device", "cpu", "--precision", "float32")
FEW = ("--samples", "20")


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def stsb(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 120 rows of the STS benchmark's test part."""
    lines = (shared_data / "stsb" / "test.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("data") / "stsb.csv"
    path.write_text("".join(lines[:121]), encoding="utf-8")
    return path


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


GRADED = (
    ("sentence1", "sentence2", "score"),
    ("a man", "the man plays", 5),
    ("two dogs run", "dogs in a park", 4),
    ("green water", "blue food", 1.5),
    ("a cat", "the long street", 0),
    ("she was here", "four", 0.5),
    ("music", "a guitar", 3),
)
YES_NO = (("sentence1", "sentence2", "label"), *((*row[:2], int(float(row[2]) >= 3)) for row in GRADED[1:]))


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command and return its exit code, standard output and standard error."""
    capsys.readouterr()
    code = main(["evaluate", *map(str, arguments), *CPU])
    said = capsys.readouterr()
    return code, said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = evaluate(capsys, *arguments, "--json", "--quiet")
    assert code == 0, err

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    report: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return report


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    return [value] if isinstance(value, (int, float)) else []


def test_real_pairs_get_the_numbers_of_scipy_and_scikit_learn(
    minilm: SiameseBert, minilm_path: Path, stsb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(capsys, minilm_path, stsb, *FEW)
    dataset = ConnectionDataset.from_file(stsb)
    assert dataset.labels is not None
    scores, matches = minilm.score(dataset.pairs()), dataset.labels >= 2.5
    metrics = report["metrics"]
    assert metrics["spearman"]["value"] == pytest.approx(spearmanr(scores, dataset.labels).statistic, abs=1e-6)
    assert metrics["average_precision"]["value"] == pytest.approx(average_precision_score(matches, scores), abs=1e-6)
    assert metrics["roc_auc"]["value"] == pytest.approx(roc_auc_score(matches, scores), abs=1e-6)
    assert set(metrics) == {"spearman", "pearson", "average_precision", "roc_auc"}
    assert all(score["low"] <= score["value"] <= score["high"] for score in metrics.values())
    assert report["data"] == {"source": str(stsb), "sha256": dataset.sha256, "n": 120, "note": None}
    assert (report["model"], report["against"], report["threshold"]) == (str(minilm_path), None, None)
    assert -0.1 < report["chance_cosine"] < 0.3
    assert all(math.isfinite(number) for number in numbers_in(report))


def test_two_models_are_compared_on_the_same_pairs(
    minilm: SiameseBert, minilm_path: Path, folder: Path, stsb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(capsys, minilm_path, stsb, "--against", folder, *FEW)
    dataset = ConnectionDataset.from_file(stsb)
    other = SiameseBert.from_pretrained(folder, "cpu", "float32").score(dataset.pairs())
    expected = spearmanr(other, dataset.labels).statistic
    assert report["against_metrics"]["spearman"]["value"] == pytest.approx(expected, abs=1e-6)
    for name, change in report["difference"].items():
        sides = (report[part][name]["value"] for part in ("metrics", "against_metrics"))
        assert change["value"] == pytest.approx(np.subtract(*sides), abs=1e-9)
    assert report["difference"]["spearman"]["low"] > 0.1
    alone = as_json(capsys, minilm_path, stsb, *FEW)
    assert alone["metrics"] == report["metrics"]


def test_a_model_against_itself_differs_in_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.csv", *GRADED)
    report = as_json(capsys, folder, data, "--against", folder, *FEW)
    assert all(change["value"] == change["low"] == change["high"] == 0 for change in report["difference"].values())


def test_the_table_shows_what_the_json_holds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data.csv", *GRADED)
    report = as_json(capsys, folder, data, "--against", folder, *FEW)
    code, out, err = evaluate(capsys, folder, data, "--against", folder, *FEW)
    assert code == 0
    first, heads, *rows = out.splitlines()
    assert first == f"6 pairs, chance pairs have a mean cosine of {report['chance_cosine']:.4f}"
    assert heads.split() == ["MODEL", "OTHER", "difference"]
    assert [row.split("  ")[0].strip() for row in rows] == [name.replace("_", " ") for name in report["metrics"]]
    score = report["metrics"]["spearman"]
    assert f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})" in rows[0]
    assert rows[0].endswith("+0.0000 (+0.0000 to +0.0000)")
    assert "labels from 'score'" in err and "scale 0..5" in err


def test_what_is_undefined_says_why(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [("sentence1", "sentence2", "score"), *((a, b, 2.5) for a, b, _ in GRADED[1:])]
    data = write(tmp_path / "data.csv", *same)
    score = as_json(capsys, folder, data, "--score-range", "0,5", *FEW)["metrics"]["spearman"]
    assert score == {"value": None, "low": None, "high": None, "reason": "all gold scores are equal"}
    _, out, _ = evaluate(capsys, folder, data, "--score-range", "0,5", *FEW)
    assert "none: all gold scores are equal" in out


def test_words_are_labels_once_their_meaning_is_given(
    minilm: SiameseBert, minilm_path: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (shared_data / "nli_en" / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    data = tmp_path / "nli.tsv"
    data.write_text("".join(lines[:121]), encoding="utf-8")
    code, _, err = evaluate(capsys, minilm_path, data)
    assert code == 2 and "label_values" in err.splitlines()[-1]
    report = as_json(capsys, minilm_path, data, "--label-values", "entailment=1, contradiction=0", *FEW)
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=False)) for line in lines[1:121]]
    rows = [row for row in rows if row["label"] in ("entailment", "contradiction")]
    assert report["data"]["n"] == len(rows) < 120
    assert set(report["metrics"]) == {"average_precision", "roc_auc"}
    scores = minilm.score([(row["premise"], row["hypothesis"]) for row in rows])
    expected = roc_auc_score([row["label"] == "entailment" for row in rows], scores)
    assert report["metrics"]["roc_auc"]["value"] == pytest.approx(expected, abs=1e-6)


def test_korean_pairs_with_words_for_labels_are_judged(
    folder: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (shared_data / "korxnli" / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    data = tmp_path / "korxnli.tsv"
    data.write_text("".join(lines[:91]), encoding="utf-8")
    report = as_json(capsys, folder, data, "--label-values", "entailment=1,neutral=0,contradiction=0", *FEW)
    assert report["data"]["n"] == 90


def test_columns_of_other_names_are_found_when_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "plain.csv", *GRADED)
    other = write(tmp_path / "other.csv", ("left", "right", "gold"), *GRADED[1:])
    named = ("--columns", "left,right", "--label-column", "gold")
    expected, found = as_json(capsys, folder, plain, *FEW), as_json(capsys, folder, other, *named, *FEW)
    assert found["metrics"] == expected["metrics"]


def test_graded_pairs_match_from_where_it_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.csv", *GRADED)
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    scores = model.score([row[:2] for row in GRADED[1:]])  # type: ignore[misc]
    for match_from in (None, 1.0, 4.5):
        options = () if match_from is None else ("--match-from", match_from)
        report = as_json(capsys, folder, data, *options, *FEW)
        matches = [float(row[2]) >= (2.5 if match_from is None else match_from) for row in GRADED[1:]]
        expected = average_precision_score(matches, scores)
        assert report["metrics"]["average_precision"]["value"] == pytest.approx(expected, abs=1e-6)


def test_pairs_without_labels_are_judged_beside_chance_pairs_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.csv", *(row[:2] for row in GRADED))
    report = as_json(capsys, folder, data, *FEW)
    note = "6 pairs known to match, and 6 random pairs of their first and second texts"
    assert report["data"]["note"] == note and report["data"]["n"] == 12
    assert note in evaluate(capsys, folder, data, *FEW)[1].splitlines()


# a stored threshold


@pytest.fixture(scope="module")
def decided(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model with a threshold from graded pairs that match from 1 on, and these pairs."""
    place = tmp_path_factory.mktemp("decided")
    data = write(place / "dev.csv", *GRADED)
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    fit_threshold(model, ConnectionDataset.from_file(data), match_from=1.0)
    model.save_pretrained(place / "model")
    return place / "model", data


OTHERS = (GRADED[0], *((f"{a} now", b, score) for a, b, score in GRADED[1:]))


def test_decisions_of_a_stored_threshold_are_judged(
    decided: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "test.csv", *OTHERS)
    report = as_json(capsys, decided[0], data, *FEW)
    model = SiameseBert.from_pretrained(decided[0], "cpu", "float32")
    assert model.decision is not None and report["threshold"] == model.decision.threshold
    # the same pairs match as when the threshold was chosen, from 1 on and not from the middle of the scale
    matches = [float(row[2]) >= 1.0 for row in OTHERS[1:]]
    answers = model.match([row[:2] for row in OTHERS[1:]])  # type: ignore[misc]
    assert report["metrics"]["f1"]["value"] == pytest.approx(f1_score(matches, answers))
    other_way = as_json(capsys, decided[0], data, "--match-from", 4, *FEW)
    assert other_way["metrics"]["accuracy"] != report["metrics"]["accuracy"]
    assert f"threshold {report['threshold']:.4f}" in evaluate(capsys, decided[0], data, *FEW)[1].splitlines()[0]


def test_judging_on_the_pairs_of_the_threshold_is_warned_of(
    decided: tuple[Path, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = decided
    others = write(tmp_path / "test.csv", *OTHERS)
    renamed = write(tmp_path / "renamed.csv", *GRADED)
    warning = "was chosen on these very pairs"
    assert warning not in evaluate(capsys, model, others, *FEW)[2]
    assert evaluate(capsys, model, data, *FEW)[2].count(warning) == 1
    assert warning in evaluate(capsys, model, renamed, *FEW)[2]
    code, _, err = evaluate(capsys, folder, data, "--against", model, *FEW)
    assert code == 0 and err.count(warning) == 1 and str(model) in err
    # --quiet does not hide warnings
    assert warning in evaluate(capsys, model, data, "--quiet", *FEW)[2]


def test_a_collapsed_model_is_warned_of(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    data = write(tmp_path / "data.csv", *GRADED)
    assert "hardly tells texts apart" not in evaluate(capsys, folder, data, *FEW)[2]
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            parameter.fill_(0.5).add_(torch.randn_like(parameter) * 1e-4)
    model.save_pretrained(tmp_path / "collapsed")
    code, _, err = evaluate(capsys, tmp_path / "collapsed", data, *FEW)
    assert code == 0 and "hardly tells texts apart" in err


# what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--samples", "0"), "--samples is 0, expected a whole number from 1 to 1,000,000"),
        (("--samples", "x"), "invalid int value: 'x'"),
        (("--columns", "a"), "has no column 'a'"),
        (("--columns", "sentence1"), "has one text, but the model needs two texts"),
        (("--columns", "sentence1,sentence9"), "did you mean 'sentence2'?"),
        (("--columns", "sentence1,sentence1"), "text_columns: expected an array of 1 to 3 different texts"),
        (("--label-column", "scor"), "did you mean 'score'?"),
        (("--label-values", "5"), "not of the form WORD=NUMBER, such as entailment=1"),
        (("--label-values", "=1"), "not of the form WORD=NUMBER"),
        (("--label-values", "a=b"), "not of the form WORD=NUMBER"),
        (("--label-values", "a=nan"), "label_values: expected an object from label to number"),
        (("--label-values", "a=nan"), "found {'a': NaN}"),
        (("--label-values", "a=1,a=0"), "'a' is given twice"),
        (("--score-range", "5"), "expected LOW,HIGH such as 0,5"),
        (("--score-range", "5,0"), "expected the lower end first"),
        (("--score-range", "0,nan"), "expected the lower end first"),
        (("--score-range", "0,inf"), "score_range: expected an array of two numbers, the lower first"),
        (("--score-range", "0,1"), "outside the stated scale 0..1"),
        (("--match-from", "9"), "expected a score on the scale 0..5"),
        (("--match-from", "nan"), "expected a score on the scale 0..5"),
        (("--match-from", "high"), "invalid float value"),
        (("--against", "nowhere"), "is not a model folder"),
        (("--kind", "xlsx"), "xlsx"),
        (("--encoding", "klingon"), "klingon"),
        (("--on-bad-row", "keep"), "invalid choice: 'keep'"),
        (("--batch-size", "0"), "a whole number of at least 1"),
        (("--max-seq-length", "1"), "max_seq_length"),
        (("--on-truncate", "error", "--max-seq-length", "4"), "max_seq_length is 4"),
        (("--unknown",), "unrecognized arguments"),
        (("more",), "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_options_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    data = write(tmp_path / "data.csv", *GRADED)
    code, out, err = evaluate(capsys, folder, data, *options, "--quiet")
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1 and errors[0].startswith("sbert-ft: error: ") and said in errors[0]


def test_what_is_not_there_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.csv", *GRADED)
    for model, path in ((folder, tmp_path / "no.csv"), (tmp_path / "no", data), (folder, tmp_path)):
        code, out, err = evaluate(capsys, model, path, "--quiet")
        assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_bad_rows_stop_or_are_skipped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data.csv", *GRADED, ("", "b", 3))
    code, _, err = evaluate(capsys, folder, data, "--quiet")
    assert code == 2 and "line 8" in err
    assert as_json(capsys, folder, data, "--on-bad-row", "skip", *FEW)["data"]["n"] == 6


def test_yes_and_no_are_judged(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = as_json(capsys, folder, write(tmp_path / "data.csv", *YES_NO), *FEW)
    assert set(report["metrics"]) == {"average_precision", "roc_auc"}
