"""Every key of a tokenizer's files: tokens are those of transformers, or the folder is refused by the key's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_bert_folder
from tokenizers.implementations import ByteLevelBPETokenizer
from transformers import AutoTokenizer, RobertaConfig

from sbert_ft.errors import ModelFolderError
from sbert_ft.tokenization.tokenizer import TextTokenizer

TEXTS = ["a dog", "The cat is playing the guitar!", "[SEP] dog <mask> [MASK]", "a dog the cat " * 40, "café  DOG"]
N_TOKENS = 32

SETTINGS: list[tuple[str, object]] = [
    ("truncation_side", "left"),
    ("truncation_side", "right"),
    ("split_special_tokens", True),
    ("split_special_tokens", False),
    ("add_prefix_space", True),
    ("add_prefix_space", False),
    ("padding_side", "left"),
    ("bos_token", "a"),
    ("eos_token", "[unused of no vocabulary]"),
    ("do_lower_case", False),
    ("do_lower_case", True),
    ("strip_accents", False),
    ("tokenize_chinese_chars", False),
    ("clean_up_tokenization_spaces", True),
    ("do_basic_tokenize", False),
    ("never_split", ["dog"]),
    ("trim_offsets", False),
    ("add_bos_token", False),
    ("use_fast", False),
    ("stride", 4),
    ("max_length", 5),
    ("wordpieces_prefix", "@@"),
    ("clean_text", False),
    ("truncation_strategy", "only_first"),
]


@pytest.fixture(scope="module", params=["vocab.txt", "bert", "merges.txt", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with vocab.txt, or vocab.json and merges.txt, or the tokenizer.json that is made of either."""
    place = tmp_path_factory.mktemp("settings") / "model"
    if request.param in ("vocab.txt", "bert"):
        make_bert_folder(place)
    else:
        trained = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=special, show_progress=False)
        place.mkdir()
        trained.save_model(str(place))
        RobertaConfig(vocab_size=300).save_pretrained(place)
    if request.param in ("bert", "roberta"):
        AutoTokenizer.from_pretrained(place).save_pretrained(place)
    return place


def ids_here(folder: Path) -> list[list[int]]:
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    tokenizer = TextTokenizer.from_pretrained(folder, model_type)
    tokens = tokenizer.frame(tokenizer.tokenize(TEXTS), N_TOKENS)
    return [ids.tolist() for ids in np.split(tokens.token_ids, tokens.offsets[1:-1])]


def ids_of_transformers(folder: Path) -> list[list[int]]:
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True, max_length=N_TOKENS)["input_ids"]
    assert isinstance(ids, list)
    return ids


@pytest.mark.parametrize(("key", "value"), SETTINGS, ids=lambda value: str(value))
def test_a_setting_is_applied_as_transformers_does_or_refused(
    key: str, value: object, folder: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    file = changed / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**settings, key: value}))
    if (key, value) in (("truncation_side", "left"), ("split_special_tokens", True)):
        with pytest.raises(ModelFolderError, match=rf"{key} is '{value}', which is not applied; .* here: set it to"):
            ids_here(changed)
        assert ids_of_transformers(changed) != ids_here(folder)
    else:
        assert ids_here(changed) == ids_of_transformers(changed)


@pytest.mark.parametrize("folder", ["bert"], indirect=True)
def test_the_direction_of_truncation_in_tokenizer_json(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    file = changed / "tokenizer.json"
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "truncation": truncation}))
    assert ids_here(changed) == ids_of_transformers(changed)
    file.write_text(json.dumps({**content, "truncation": {**truncation, "direction": "Left"}}))
    with pytest.raises(ModelFolderError, match=r"direction of truncation is 'Left', which is not applied; long texts"):
        ids_here(changed)


@pytest.mark.parametrize("folder", ["roberta"], indirect=True)
@pytest.mark.parametrize("class_name", [None, "RobertaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
def test_a_blank_before_a_text_that_tokenizer_json_asks_for(
    model_type: str, class_name: str | None, folder: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    content = json.loads((changed / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    (changed / "tokenizer.json").write_text(json.dumps(content))
    (changed / "config.json").write_text(json.dumps({"model_type": model_type}))
    roles = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    settings = {f"{role}_token": token for role, token in roles.items()}
    settings |= {} if class_name is None else {"tokenizer_class": class_name}
    (changed / "tokenizer_config.json").write_text(json.dumps(settings))
    assert ids_here(changed) == ids_of_transformers(changed)
