"""The digest of a model: the same for the same vectors, another one where anything that changes them is changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sbert_ft.errors import ModelFolderError
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.model_folder.digest import digest_of_weights, model_digest
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.siamese import SiameseBert


def test_digest_is_that_of_the_weights_that_are_loaded(tmp_path: Path) -> None:
    assert digest_of_weights(tmp_path) is None
    files = {"pytorch_model.bin": b"bin", "a.safetensors": b"first", "b.safetensors": b"second"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert digest_of_weights(tmp_path) == hashlib.sha256(b"bin").hexdigest()
    index = {"weight_map": {"y": "b.safetensors", "x": "a.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert digest_of_weights(tmp_path) == hashlib.sha256(b"firstsecond").hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"x" * 3_000_000)
    assert digest_of_weights(tmp_path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_an_index_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../secret"}}))
    with pytest.raises(ModelFolderError, match="has no 'weight_map' from each tensor to a file beside it"):
        digest_of_weights(tmp_path)


def test_the_digest_of_a_model_changes_with_what_changes_vectors_and_with_nothing_else(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert_folder(tmp_path / "source"), folder)
    first = model_digest(read_folder(folder))
    (folder / "README.md").write_text("a card")
    (folder / "sbert_ft.json").write_text(json.dumps({"score_scale": [0, 5]}))
    assert model_digest(read_folder(folder)) == first
    seen = {first}
    for name, content in (
        ("tokenizer_config.json", json.dumps({"do_lower_case": False})),
        ("config.json", json.dumps({**json.loads((folder / "config.json").read_text()), "layer_norm_eps": 1e-5})),
        ("vocab.txt", (folder / "vocab.txt").read_text() + "added\n"),
    ):
        (folder / name).write_text(content)
        seen.add(model_digest(read_folder(folder)))
    (weights,) = (path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    stated = digest_of_weights(folder)
    weights.unlink()
    assert model_digest(read_folder(folder), stated) in seen  # an export served alone states its weights
    weights.write_bytes(b"others")
    seen.add(model_digest(read_folder(folder)))
    assert len(seen) == 5
    weights.unlink()
    with pytest.raises(ModelFolderError, match=r"has no weights: expected model\.safetensors"):
        model_digest(read_folder(folder))


def test_a_decision_stored_with_a_model_leaves_its_digest(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "first"), "cpu", "float32").save_pretrained(
        tmp_path / "own"
    )
    before = model_digest(read_folder(tmp_path / "own"))
    model = SiameseBert.from_pretrained(tmp_path / "own", "cpu", "float32")
    model.decision = Decision(0.5, "f1", FittedOn("dev.csv", "0" * 64, 2, 1))
    model.save_pretrained(tmp_path / "own")
    assert read_folder(tmp_path / "own").own["decision"]["threshold"] == 0.5
    assert model_digest(read_folder(tmp_path / "own")) == before
