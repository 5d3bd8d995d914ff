"""Any bytes as a run's configuration, as a JSON file of a model folder, or as what a resumed run is held against."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from fuzz.inputs import name_and_content, named, only_file, scratch_folder
from sbert_ft.config.jsonc import read_json_object
from sbert_ft.config.loader import check_settings, read_run, run_from_json, run_to_json
from sbert_ft.config.schema import commented_start
from sbert_ft.encoder.spec import plan_encoder
from sbert_ft.errors import SbertFtError
from sbert_ft.files.strict_json import read_json
from sbert_ft.model_folder.classifier import ClassifierSettings
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.training.resume import checked_fingerprint, differences

INSTRUMENTED = (
    "sbert_ft.config",
    "sbert_ft.encoder.classes",
    "sbert_ft.encoder.heads",
    "sbert_ft.encoder.kinds",
    "sbert_ft.model_folder.classifier",
    "sbert_ft.model_folder.decision",
    "sbert_ft.encoder.spec",
    "sbert_ft.model_folder.layout",
    "sbert_ft.files.strict_json",
    "sbert_ft.files.strict_json",
    "sbert_ft.model_folder.metadata",
    "sbert_ft.training.resume",
)
MOST_BYTES = 4096
N_TENSORS = 40  # what the weights are taken to hold, so that no mutation asks for a thousand layers

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 99,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "id2label": {"0": "no", "1": "yes"},
}
SIZES_OF_OTHERS = {
    "distilbert": {"dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8, "max_position_embeddings": 16},
    "roberta": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 1},
    "deberta-v2": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 0},
}
DECISION = {
    "threshold": 0.5,
    "target": "precision>=0.95",
    "fitted_on": {"source": "dev.csv", "n": 20, "n_matches": 9, "sha256": "ab" * 32},
    "low": 0.4,
    "high": 0.6,
    "confidence": 0.95,
    "reached": {"precision": 0.96, "recall": 0.5, "f1": 0.6},
    "calibration": {"kind": "isotonic", "x": [0.1, 0.9], "y": [0.0, 1.0]},
    "match_from": 3.0,
    "scale": [0.0, 5.0],
    "similarity": "cosine",
}
CLASSIFIER = {
    "kind": "joined",
    "pooling": "pooler",
    "features": "uv_difference",
    "truncation": "longest_first",
    "classes": ["no", "yes"],
    "temperature": None,
    "head_dropout": 0.1,
}
FOLDER = {
    "config.json": CONFIG,
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "query: "},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
    "tokenizer_config.json": {"model_max_length": 16},
    "sbert_ft.json": {"format": 1, "score_scale": [0, 5], "decision": DECISION, "classifier": CLASSIFIER},
}
FINGERPRINT = {
    "settings": {"training": {"learning_rate": 2e-5, "seed": 42}, "objective": [{"name": "cosine", "weight": 1.0}]},
    "data": {"train": {"source": "pairs.csv", "sha256": "cd" * 32, "n": 100}},
    "model": {"weights": "ef" * 32},
    "versions": {"torch": "2.13.0"},
    "device": "cpu (2 threads)",
}
RUN = {"model": {"path": "bert/"}, "data": {"train": "pairs.csv", "dev_share": 0.1}, "output_dir": "runs/first"}
NAMES = ("run.json", *FOLDER, "fingerprint.json")


def seeds() -> dict[str, bytes]:
    """Return valid inputs by name, one of each kind of file and more where there is more than one form."""
    files = {**FOLDER, "fingerprint.json": FINGERPRINT, "run.json": RUN}
    found = {name.replace("/", "-"): named(name, json.dumps(content)) for name, content in files.items()}
    found["run-commented.json"] = named("run.json", commented_start())
    aliases = {**RUN, "lr": 3e-5, "n_epochs": 2, "warmup": 0.1, "batch_size": 8}
    found["run-aliases.json"] = named("run.json", json.dumps(aliases))
    for kind, sizes in SIZES_OF_OTHERS.items():
        content = {"model_type": kind, "vocab_size": 99, **sizes}
        found[f"config-{kind}.json"] = named("config.json", json.dumps(content))
    return found


def read(data: bytes) -> None:
    """Read the input as the product would; what it means must survive being written and read again.

    Raises:
        SbertFtError: It is refused.
    """
    name, content = name_and_content(data, NAMES)
    if name == "run.json":
        path = only_file("run.json", content)
        run = read_run(path)
        check_settings(run)
        assert run_from_json(json.loads(json.dumps(run_to_json(run), allow_nan=False)), "it") == run
        read_json_object(path)
    elif name == "fingerprint.json":
        path = only_file(name, content)
        saved, usual = checked_fingerprint(read_json(path), path), FINGERPRINT
        assert checked_fingerprint(json.loads(json.dumps(saved)), path) == saved
        assert not differences(saved, saved)
        assert (saved == usual) == (not differences(saved, usual))
    else:
        _read_model_folder(name, content)


def _read_model_folder(name: str, content: bytes) -> None:
    """Read a model folder of which one file has this content, as far as its JSON files go."""
    folder = _whole_folder()
    (folder / name).write_bytes(content)
    try:
        source = read_folder(folder)
        if name == "config.json":  # which costs most of the time, and is the same for the other files
            plan = plan_encoder(source.config, folder / name, N_TENSORS)
            assert plan.max_tokens > 0 and plan.shapes
        own = OwnSettings.of(source)
        assert OwnSettings.of(replace(source, own=json.loads(json.dumps(own.to_json(), allow_nan=False)))) == own
        if own.classifier is not None:
            settings = ClassifierSettings.from_json(own.classifier, folder / "sbert_ft.json")
            assert ClassifierSettings.from_json(json.loads(json.dumps(settings.to_json())), folder) == settings
    finally:
        (folder / name).write_text(json.dumps(FOLDER[name]))


@cache
def _whole_folder() -> Path:
    folder = scratch_folder() / "model"
    for name, content in FOLDER.items():
        only_file(f"model/{name}", json.dumps(content).encode())
    return folder


def test_one_input(data: bytes) -> bool:
    """Return whether the input was read, not refused; anything but the typed error goes on to the caller."""
    try:
        read(data)
    except SbertFtError as error:
        assert str(error).strip(), "a refusal says why"
        return False
    return True
