"""Runs that mine negatives for their pairs: which ones, in which batches, and what a person gets to see of them."""

from __future__ import annotations

import csv
import json
import logging
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COMMON_WORDS, make_bert_folder

from sbert_ft import ConnectionDataset, NegativeSettings, SiameseBert, fine_tune
from sbert_ft.cli import main
from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.data.duplicates import text_key
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.training.negatives import CLOSEST, NegativeMiner
from sbert_ft.training.plan import plan_run
from sbert_ft.training.prepare import PreparedRun, RunData, prepare
from sbert_ft.training.run import FineTuneResult

WORDS = COMMON_WORDS.split()
Pairs = list[tuple[str, str]]


def some_pairs(n: int, seed: int = 1) -> Pairs:
    """Return pairs known to match: some share a first or a second text, one is there in the other order."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(2 * n)]
    pairs = list(zip(texts[:n], texts[n:], strict=True))
    pairs[3] = (pairs[2][0].upper(), pairs[3][1])  # one anchor with two positives
    pairs[5] = (pairs[5][0], pairs[4][1])
    pairs[7] = (pairs[6][1], pairs[6][0])
    return pairs


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small BERT without dropout."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "bert", safetensors=True, config_extra=still)


def loaded(bert: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(bert, "cpu", "float32")


def prepared(
    bert: Path, pairs: Pairs, negatives: NegativeSettings, dev: ConnectionDataset | None = None, **training: Any
) -> PreparedRun:
    settings = RunSettings(
        ModelSettings(str(bert)),
        DataSettings("train", negatives=negatives),
        "run",
        (ObjectiveSettings("in_batch_negatives"),),
        TrainingSettings(**{"batch_size": 8, "precision": "float32", **training}),
    )
    return prepare(loaded(bert), RunData(ConnectionDataset(pairs), dev), settings)


def tuned(bert: Path, folder: Path, pairs: Pairs, negatives: NegativeSettings, **options: Any) -> FineTuneResult:
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1, **options}
    named = {name: training.pop(name) for name in ("dev", "on_existing", "prompts") if name in training}
    return fine_tune(
        loaded(bert),
        pairs,
        output_dir=folder,
        objective="in_batch_negatives",
        training=TrainingSettings(**training, precision="float32"),
        evaluation=EvaluationSettings(bootstrap_samples=5),
        negatives=negatives,
        **named,
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def log_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [record for record in records if record["kind"] == kind]


def labelled(n: int = 40) -> ConnectionDataset:
    """Return pairs with labels: equal texts match, others do not."""
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 8))) for _ in range(n)]
    rows = [(text, f"{text} it", 1) for text in texts[::2]]
    rows += [(first, second, 0) for first, second in pairwise(texts)]
    return ConnectionDataset(rows)


# ---------------------------------------------------------------- which ones


@pytest.mark.parametrize("n_pairs", [60, 30])  # of 30, most texts are in a batch or near to one of its anchors
def test_each_row_has_the_nearest_texts_that_fit_its_batch(bert: Path, n_pairs: int) -> None:
    pairs = some_pairs(n_pairs)
    run = prepared(bert, pairs, NegativeSettings(per_pair=2, ranks=(1, 12)), labelled())
    plan = plan_run(run)
    assert plan.miner is not None
    mined = plan.miner.mine(True, Ranks(), lambda: False)
    assert mined is not None and mined.rule == "dev" and mined.calibration is not None
    candidates, matching = mined.candidates, plan.miner.pairs
    corpus, of_row = matching.corpus, matching.anchors.of_row
    known = {frozenset(map(text_key, pair)) for pair in pairs}
    model = loaded(bert)
    n_taken = 0
    for epoch in range(3):
        chosen = plan.miner.choose(candidates, plan.batches(epoch), epoch)
        for batch in plan.batches(epoch):
            texts = [text for row in batch.tolist() for text in pairs[row]]
            negatives = [corpus.texts[text] for text in chosen.texts[batch].ravel().tolist()]
            keys = [*set(map(text_key, texts)), *map(text_key, negatives)]
            assert len(keys) == len(set(keys)), "no text is twice in a batch"
            for row, places in zip(batch.tolist(), chosen.places[batch].tolist(), strict=True):
                own = [corpus.texts[text] for text in chosen.texts[row].tolist()]
                assert not {frozenset((text_key(pairs[row][0]), text_key(text))) for text in own} & known
                assert n_pairs == 30 or places == sorted(places, key=lambda place: place if place >= 0 else 99)
                n_taken += sum(place == number for number, place in enumerate(places))
        scores = candidates.scores[of_row[:, None], chosen.places]
        is_mined = chosen.places >= 0
        texts = [corpus.texts[text] for text in chosen.texts[is_mined].tolist()]
        anchors = [pairs[row][0] for row in np.nonzero(is_mined)[0].tolist()]
        np.testing.assert_allclose(model.score(list(zip(anchors, texts, strict=True))), scores[is_mined], atol=1e-5)
        assert mined.calibration.probability(scores[is_mined]).max() <= 0.5
        again = plan.miner.choose(candidates, plan.batches(epoch), epoch)
        assert (again.texts == chosen.texts).all() and (again.places == chosen.places).all()
    assert n_taken > n_pairs


def test_no_anchor_of_a_batch_is_known_to_match_a_negative_of_another_row(bert: Path) -> None:
    """Two clusters of texts that all match each other: every near text is a match of a row in the batch."""
    pairs = [(f"the dog number {a}", f"a dog number {b}") for a in range(4) for b in range(4)]
    pairs += [(f"red cars go {a}", f"blue cars {b}") for a in range(4) for b in range(4)]
    pairs += some_pairs(60, seed=3)
    plan = plan_run(prepared(bert, pairs, NegativeSettings(ranks=(0, 20), max_probability=1.0), labelled()))
    assert plan.miner is not None
    mined = plan.miner.mine(True, Ranks(), lambda: False)
    assert mined is not None
    chosen = plan.miner.choose(mined.candidates, plan.batches(0), 0)
    known = {frozenset(map(text_key, pair)) for pair in pairs}
    for batch in plan.batches(0):
        negatives = [plan.miner.pairs.corpus.texts[text] for text in chosen.texts[batch].ravel().tolist()]
        anchors = [pairs[row][0] for row in batch.tolist()]
        assert not {frozenset((text_key(a), text_key(n))) for a in anchors for n in negatives} & known


def test_the_rank_is_that_of_the_model_s_order(bert: Path) -> None:
    pairs = some_pairs(40)
    run = prepared(bert, pairs, NegativeSettings(ranks=(3, 20), max_probability=1.0), labelled())
    miner = NegativeMiner(run, NegativeSettings(ranks=(3, 20), max_probability=1.0))
    mined = miner.mine(True, Ranks(), lambda: False)
    assert mined is not None and mined.candidates.suspects.shape == (2, 0)
    corpus, anchor = miner.pairs.corpus, 10
    known = {text_key(b) for a, b in pairs if text_key(a) == int(miner.pairs.anchors.keys[anchor])}
    others = [text for text in corpus.texts if text_key(text) not in known]
    scores = loaded(bert).score([(miner.pairs.anchors.texts[anchor], text) for text in others])
    expected = [others[place] for place in np.argsort(-scores)[3:12].tolist()]
    assert [corpus.texts[text] for text in mined.candidates.texts[anchor].tolist()] == expected


# ---------------------------------------------------------------- likely matches


def decision(slope: float, intercept: float) -> Decision:
    calibration = Calibration("platt", slope=slope, intercept=intercept)
    return Decision(0.5, "f1", FittedOn("dev", "0" * 64, 10, 5), calibration=calibration)


def test_a_stored_calibration_holds_for_the_first_weights_alone(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = prepared(bert, some_pairs(40), NegativeSettings(ranks=(0, 10), max_probability=0.4))
    run.model.decision = decision(60.0, -54.0)
    miner = NegativeMiner(run, NegativeSettings(ranks=(0, 10), max_probability=0.4))
    mined = miner.mine(True, Ranks(), lambda: False)
    assert mined is not None and mined.rule == "stored" and "max_probability" not in caplog.text
    found = mined.candidates
    most = run.model.decision.calibration.probability  # type: ignore[union-attr]
    assert most(found.scores[found.texts >= 0]).max() <= 0.4 < most(found.suspect_scores).min()
    assert len(found.suspect_scores) > 3
    for _ in range(2):
        later = miner.mine(False, Ranks(), lambda: False)
        assert later is not None and later.rule == "margin" and later.calibration is None
    said = [record.getMessage() for record in caplog.records if record.name == "sbert_ft.training.negatives"]
    assert len(said) == 1 and "the model's own is that of its weights before training" in said[0]


def test_without_a_calibration_a_negative_keeps_a_margin_to_the_positive(
    bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(first, f"{first} {second[:3]}") for first, second in some_pairs(40)]
    result = tuned(bert, tmp_path / "run", pairs, NegativeSettings(ranks=(0, 10)))
    assert "the model has none, and no dev has labels to fit one on" in caplog.text
    assert any("95 % of that of the anchor's positive" in sentence for sentence in result.metrics["warnings"])
    rows = table(result.folder / "negatives-1.csv")
    mined = [row for row in rows if row["rank"]]
    model = loaded(bert)
    positives = model.score([(row["anchor"], row["positive"]) for row in mined])
    cosines = np.array([float(row["cosine"]) for row in mined])
    assert len(mined) > 5 and (cosines <= positives - np.abs(positives) * (1 - CLOSEST) + 1e-5).all()
    assert {row["probability"] for row in rows} == {""}
    suspects = table(result.folder / "suspects-1.csv")
    (line,) = log_of(result.folder, "negatives")
    assert line["n_suspects"] == len(suspects) > 0 and line["rule"] == "margin"
    assert line["n_drawn"] == len(rows) - len(mined)


def test_where_all_near_texts_are_likely_to_match_others_are_drawn(bert: Path, tmp_path: Path) -> None:
    pairs = some_pairs(40)
    few = NegativeSettings(per_pair=2, ranks=(0, 4), max_probability=1e-6)
    result = tuned(bert, tmp_path / "run", pairs, few, dev=labelled())
    rows = table(result.folder / "negatives-1.csv")
    (line,) = log_of(result.folder, "negatives")
    assert line["n"] == len(rows) == 80 and line["n_drawn"] == sum(row["cosine"] == "" for row in rows) == 80
    assert line["mean_cosine"] is None and line["examples"] == []
    assert any("80 of 80 negatives are drawn at random" in sentence for sentence in result.metrics["warnings"])
    suspects = {
        frozenset((text_key(r["text_1"]), text_key(r["text_2"]))) for r in table(result.folder / "suspects-1.csv")
    }
    drawn = {frozenset((text_key(row["anchor"]), text_key(row["negative"]))) for row in rows}
    assert suspects and not suspects & drawn


# ---------------------------------------------------------------- the run


def test_the_loss_is_that_of_rows_with_their_negatives(bert: Path, tmp_path: Path) -> None:
    pairs, wanted = some_pairs(40), NegativeSettings(per_pair=2, ranks=(1, 12))
    result = tuned(bert, tmp_path / "run", pairs, wanted, dev=labelled(), max_steps=1, micro_batch_size=3)
    batch = plan_run(prepared(bert, pairs, wanted, labelled())).batches(0)[0]
    rows = table(result.folder / "negatives-1.csv")
    assert [(row["anchor"], row["positive"]) for row in rows[::2]] == pairs
    columns = [[pairs[row][side] for row in batch.tolist()] for side in (0, 1)]
    columns += [[rows[2 * row + number]["negative"] for row in batch.tolist()] for number in (0, 1)]
    anchors, *others = (loaded(bert).encode(column, normalize_embeddings=True).astype(np.float64) for column in columns)
    logits = 20 * anchors @ np.concatenate(others).T
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    (line,) = log_of(result.folder, "train")
    assert line["loss"] == pytest.approx(expected, rel=1e-4)


def test_they_are_mined_again_after_every_second_epoch(
    bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sbert_ft")
    pairs, wanted = some_pairs(40), NegativeSettings(ranks=(0, 10), every_epochs=2)
    result = tuned(bert, tmp_path / "run", pairs, wanted, dev=labelled(), epochs=4)
    names = {path.name for path in result.folder.glob("*-*.csv")}
    assert names == {"negatives-1.csv", "negatives-3.csv", "suspects-1.csv", "suspects-3.csv"}
    mined = log_of(result.folder, "negatives")
    assert [(line["epoch"], line["step"]) for line in mined] == [(1, 0), (3, result.metrics["steps"] // 2)]
    first, third = ([row["negative"] for row in table(result.folder / f"negatives-{epoch}.csv")] for epoch in (1, 3))
    assert first != third and mined[0]["mean_cosine"] != mined[1]["mean_cosine"]
    plan = " ".join(result.metrics["plan"])
    assert "1 negative a pair from ranks 0 to 10 of" in plan and "every 2 epochs after it" in plan
    assert re.search(r"epoch 3: 40 negatives mined in \d+\.\d s, mean cosine", caplog.text)
    text = (result.folder / "report.md").read_text("utf-8")
    assert "## Mined negatives" in text and "by a calibration that is fitted on dev each time" in text
    page = (result.folder / "report.html").read_text("utf-8")
    assert 'id="negatives"' in page
    for line, _, _, negative, cosine, _ in mined[1]["examples"]:
        assert negative in page and f"{cosine:.4f}" in page and 1 <= line + 1 <= 40


def test_prompts_are_put_before_negatives_as_before_second_texts(bert: Path, tmp_path: Path) -> None:
    prompts = {"sentence1": "on a ", "sentence2": "the red "}
    pairs, wanted = some_pairs(40), NegativeSettings(ranks=(0, 10))
    result = tuned(bert, tmp_path / "run", pairs, wanted, dev=labelled(), prompts=prompts, max_steps=1)
    batch = plan_run(prepared(bert, pairs, wanted)).batches(0)[0].tolist()
    rows = table(result.folder / "negatives-1.csv")
    model = loaded(bert)
    columns = [("on a ", [pairs[row][0] for row in batch]), ("the red ", [pairs[row][1] for row in batch])]
    columns.append(("the red ", [rows[row]["negative"] for row in batch]))
    anchors, *others = (
        model.encode(texts, prompt=prompt, normalize_embeddings=True).astype(np.float64) for prompt, texts in columns
    )
    logits = 20 * anchors @ np.concatenate(others).T
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    (line,) = log_of(result.folder, "train")
    assert line["loss"] == pytest.approx(expected, rel=1e-4)


def test_overwriting_a_run_removes_what_was_mined_and_keeps_what_is_an_input(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, wanted = tmp_path / "run", NegativeSettings(ranks=(0, 10), every_epochs=1)
    tuned(bert, folder, some_pairs(30), wanted, dev=labelled(), epochs=2)
    (folder / "negatives-9.txt").write_text("a file of somebody else")
    tuned(bert, folder, some_pairs(30), replace(wanted, every_epochs=None), dev=labelled(), on_existing="overwrite")
    names = {path.name for path in folder.glob("negatives-*")}
    assert names == {"negatives-1.csv", "negatives-9.txt"} and not (folder / "suspects-2.csv").exists()
    config = tmp_path / "run.json"
    content = {"model": {"path": str(bert)}, "data": {"train": str(folder / "negatives-1.csv")}}
    content |= {"objective": "in_batch_negatives", "output_dir": str(folder)}  # type: ignore[dict-item]
    config.write_text(json.dumps(content))
    assert main(["train", str(config), "--overwrite", "--set", 'data.text_columns=["anchor", "positive"]']) == 2
    assert "is part of the run in" in capsys.readouterr().err and (folder / "negatives-1.csv").exists()


def test_mining_ends_when_the_run_is_to_end(bert: Path) -> None:
    run = prepared(bert, some_pairs(30), NegativeSettings(ranks=(0, 10)), labelled())
    miner = NegativeMiner(run, NegativeSettings(ranks=(0, 10)))
    for n_first in range(3):  # after the first texts, the second ones, and the pairs of dev
        asked: list[bool] = []

        def stopped(asked: list[bool] = asked, n_first: int = n_first) -> bool:
            asked.append(len(asked) >= n_first)
            return asked[-1]

        assert miner.mine(True, Ranks(), stopped) is None and len(asked) == n_first + 1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("pairs", "negatives", "expected"),
    [
        (some_pairs(10), NegativeSettings(ranks=(40, 50)), "from rank 40 on, but there are only 9 different texts"),
        (some_pairs(12), NegativeSettings(ranks=(0, 5), per_pair=2), "a batch of 6 pairs needs 18 different second"),
        ([(a, b, "a third text") for a, b in some_pairs(12)], NegativeSettings(), "of which the third is a negative"),
    ],
)
def test_pairs_that_give_no_negatives_are_refused_before_the_first_step(
    bert: Path, tmp_path: Path, pairs: Any, negatives: NegativeSettings, expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        tuned(bert, tmp_path / "run", pairs, negatives)
    assert not (tmp_path / "run").exists()


def test_a_row_that_matches_all_texts_ends_the_run_with_one_sentence(bert: Path, tmp_path: Path) -> None:
    pairs = [("the dog", second) for _, second in some_pairs(12)]
    with pytest.raises(InputError, match=r"a batch of 1 pair has no text left .* likely to match 'the dog'"):
        tuned(bert, tmp_path / "run", pairs, NegativeSettings(ranks=(0, 5)), batch_size=1)
