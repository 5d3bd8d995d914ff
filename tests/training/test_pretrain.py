"""Pre-training from a user's view: raw texts in, a better language model out; killed, resumed, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, default_vocabulary, make_bert_folder
from test_resume import (
    AFTER_CHECKPOINT,
    BEFORE_CHECKPOINT,
    Bench,
    assert_same_run,
    changed,
    folder_in_memory,
    folder_of,
    kill_until_finished,
    log_of,
    newest_step,
    strike,
    texts,
    tree,
)
from transformers import BertForMaskedLM, BertForPreTraining
from warm import WarmProcess

from sbert_ft import EvaluationSettings, SiameseBert, TrainingSettings
from sbert_ft import pretrain as public_pretrain
from sbert_ft.cli import main
from sbert_ft.config.loader import read_run
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import (
    ConfigError,
    DataError,
    InputError,
    RunFolderError,
    SbertFtError,
    TrainingError,
)
from sbert_ft.evaluation.language_evaluator import EvaluationTexts, language_metrics, sums_of_sequences
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import tokenize_corpus
from sbert_ft.tokenization.masking import Masker
from sbert_ft.training.fine_tune import fine_tune, load_run
from sbert_ft.training.pretrain import pretrain
from sbert_ft.training.run_log import read_log

FEW = EvaluationSettings(bootstrap_samples=20)
QUICK = TrainingSettings(max_steps=3, batch_size=8, learning_rate=1e-3, precision="float32", warmup_steps=0)
KIND = {"model.kind": "masked_lm"}  # what the command pretrain sets
STEP = ("sbert_ft.training.loop", "backward_masked")
EVALUATION = ("sbert_ft.evaluation.language_evaluator", "sums_of_sequences")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("base") / "model", safetensors=True)


@pytest.fixture
def model(folder: Path) -> MaskedLanguageModel:
    return load(folder)


@pytest.fixture(scope="module")
def sentences(shared_data: Path) -> list[str]:
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        return list(dict.fromkeys(row[side] for row in csv.DictReader(file) for side in ("sentence1", "sentence2")))


def load(folder: Path, **options: Any) -> MaskedLanguageModel:
    return MaskedLanguageModel.from_pretrained(folder, "cpu", "float32", **options)


def weights(model: MaskedLanguageModel) -> dict[str, torch.Tensor]:
    """Return copies of all weights, encoder and heads."""
    return {name: tensor.clone() for name, tensor in model.trained.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def lines(n: int, seed: int = 0) -> list[str]:
    return texts(random.Random(seed), n)


def documents(n: int, seed: int = 0) -> list[str]:
    """Return documents of 2 to 5 lines, each ended by an empty one."""
    draw, rest, found = random.Random(seed), lines(n, seed), list[str]()
    while rest:
        n_lines = draw.randint(2, 5)
        found += [*rest[:n_lines], ""]
        rest = rest[n_lines:]
    return found


def write_lines(path: Path, found: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    return path


# ---------------------------------------------------------------- what goes in


def test_lists_files_folders_and_corpora_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    found = lines(40)
    path = write_lines(tmp_path / "texts.txt", found)
    in_parts = tmp_path / "parts"
    in_parts.mkdir()
    write_lines(in_parts / "a.txt", found[:15])
    write_lines(in_parts / "b.txt", found[15:])
    (in_parts / "notes.md").write_text("no text of the corpus")
    given: dict[str, Any] = {
        "list": found,
        "generator": (line for line in found),
        "series": pd.Series(found),
        "path": path,
        "text": str(path),
        "folder": in_parts,
        "corpus": TextCorpus(path),
    }
    tuned = []
    for name, train in given.items():
        model = load(folder)
        result = public_pretrain(model, train, output_dir=tmp_path / name, training=QUICK, evaluation=FEW)
        assert (result.metrics["steps"], result.was_finished, result.metrics["objective"]) == (3, False, ["mlm"])
        tuned.append(weights(model))
        assert not model.training and not model.bert.encoder.training
    assert all(are_equal(tuned[0], other) for other in tuned[1:])
    base = weights(load(folder))
    assert all(not torch.equal(tuned[0][name], base[name]) for name in base if name.endswith("weight"))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "bert"}, InputError, "model is of type str, expected a MaskedLanguageModel"),
        ({"train": None}, InputError, "train is None"),
        ({"train": 3}, InputError, "the texts are of type int, expected a file, a folder"),
        ({"train": pd.DataFrame({"text": ["a", "b"]})}, InputError, r"of type DataFrame.*frame\['text'\]"),
        ({"train": ["a", 3]}, InputError, r"text at position 1 is '3' \(int\)"),
        ({"train": ["a", "\ud800"]}, InputError, "text at position 1 is .* that UTF-8 can encode"),
        ({"train": []}, DataError, "'<texts>' holds no text"),
        ({"train": ["", " \u200b"]}, DataError, "holds no text"),
        ({"train": "no such file.txt"}, DataError, "no such file"),
        ({"train": "a\0b.txt"}, DataError, "cannot be a path"),
        ({"train": "a" * 5000}, DataError, "cannot be read: File name too long"),
        ({"dev": ["a", None]}, InputError, "text at position 1"),
        ({"mask_share": 0.0}, ConfigError, "mask_share"),
        ({"mask_share": 1.5}, ConfigError, "mask_share"),
        ({"training": {"epochs": 1}}, ConfigError, "expected TrainingSettings, found dict"),
        ({"training": replace(QUICK, metric="spearman")}, ConfigError, "training.metric"),
        ({"training": replace(QUICK, metric="loss")}, SbertFtError, "data.dev"),
        ({"on_existing": "append"}, InputError, "expected one of error, resume, overwrite"),
        ({"train": ["кот спит", "собака"]}, InputError, r"100\.0 % of the training texts' tokens are unknown"),
        ({"train": ["\ufffd", "\ufffd\ufffd"]}, InputError, "no text of '<texts>' has a token of this vocabulary"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    model: MaskedLanguageModel, tmp_path: Path, changes: dict[str, Any], error: type[SbertFtError], said: str
) -> None:
    before = weights(model)
    arguments: dict[str, Any] = {"model": model, "train": lines(8), "output_dir": tmp_path / "run", "training": QUICK}
    with pytest.raises(error, match=said) as raised:
        pretrain(**{**arguments, **changes})
    assert "\n" not in str(raised.value) or error is ConfigError
    assert not (tmp_path / "run").exists()
    assert are_equal(weights(model), before)


def test_each_kind_of_model_has_its_function(model: MaskedLanguageModel, folder: Path, tmp_path: Path) -> None:
    siamese: Any = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with pytest.raises(InputError, match="SiameseBert, expected a MaskedLanguageModel"):
        pretrain(siamese, lines(8), output_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"sbert_ft\.pretrain is for a MaskedLanguageModel"):
        fine_tune(model, [("a", "b", 1.0)], output_dir=tmp_path / "run")  # type: ignore[arg-type]


# ---------------------------------------------------------------- what it learns


def test_loss_falls_and_masked_accuracy_rises_beyond_its_interval_on_real_texts(
    folder: Path, sentences: list[str], tmp_path: Path
) -> None:
    model = load(folder)
    settings = TrainingSettings(epochs=2, batch_size=48, learning_rate=4e-3, precision="float32", logging_steps=10)
    train, dev = sentences[:2000], sentences[4000:4300]
    result = pretrain(model, train, dev, output_dir=tmp_path / "run", training=settings, evaluation=FEW)
    of_dev = result.metrics["splits"]["dev"]
    before, after, difference = of_dev["before"], of_dev["after"], of_dev["difference"]
    assert difference["masked_accuracy"]["low"] > 0.02 and difference["loss"]["high"] < -0.5
    assert after["masked_accuracy"]["low"] > before["masked_accuracy"]["high"]
    assert after["perplexity"]["value"] == pytest.approx(np.exp(after["loss"]["value"]), rel=1e-6)
    log = read_log(result.folder / "metrics.jsonl")
    best = min((line for line in log if line["kind"] == "eval"), key=lambda line: line["metrics"]["loss"])
    assert result.metrics["best"] == {"step": best["step"], "metric": "loss", "value": best["metrics"]["loss"]}
    assert after["loss"]["value"] == pytest.approx(best["metrics"]["loss"], rel=1e-6)
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert np.mean(losses[-2:]) < losses[0] - 0.5
    # the saved model is the trained one, also elsewhere, and its scores are those of the result
    saved = load(result.model_dir)
    assert are_equal(weights(saved), weights(model))
    rows = tokenize_corpus(TextCorpus.from_texts(dev), saved.tokenizer, saved.max_seq_length)
    scored = sums_of_sequences(saved, EvaluationTexts("dev", "", "", rows, Masker(saved.tokenizer), settings.seed))
    assert scored is not None
    assert language_metrics(scored).scores["loss"].value == pytest.approx(after["loss"]["value"], rel=1e-6)
    stock, info = BertForMaskedLM.from_pretrained(result.model_dir, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"] and torch.equal(
        stock.cls.predictions.transform.dense.weight, model.head.stock.cls.predictions.transform.dense.weight
    )


def test_next_sentences_are_learned_with_the_heads_of_bert_for_pre_training(folder: Path, tmp_path: Path) -> None:
    # documents of one subject each, so that a segment of another one shows
    words = ("dog cat bird horse", "guitar piano music street", "red blue green white")
    draw, found = random.Random(0), list[str]()
    for i in range(400):
        of_subject = words[i % 3].split()
        found += [*(" ".join(draw.choices(of_subject, k=4)) for _ in range(draw.randint(2, 4))), ""]
    model = load(folder, next_sentence=True)
    base = weights(model)
    settings = TrainingSettings(epochs=11, batch_size=16, learning_rate=3e-3, precision="float32")
    n = found.index("", int(0.8 * len(found))) + 1
    result = pretrain(model, found[:n], found[n:], output_dir=tmp_path / "run", training=settings, evaluation=FEW)
    assert result.metrics["objective"] == ["mlm", "nsp"]
    log = [line for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
    assert len(log) > 2 and all(line["loss"] == pytest.approx(line["loss_mlm"] + line["loss_nsp"]) for line in log)
    assert log[-1]["loss_nsp"] < log[0]["loss_nsp"]
    of_dev = result.metrics["splits"]["dev"]
    # of the segments from elsewhere, a third are of the same subject: no more than 83 % can be told
    assert of_dev["after"]["next_sentence_accuracy"]["value"] > 0.65
    assert of_dev["before"]["next_sentence_accuracy"]["value"] < 0.6
    tuned = weights(model)
    assert all(not torch.equal(tuned[name], base[name]) for name in base if name.endswith("weight"))
    stock, info = BertForPreTraining.from_pretrained(result.model_dir, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(stock.cls.seq_relationship.weight, model.head.stock.cls.seq_relationship.weight)
    assert torch.equal(stock.bert.pooler.dense.weight, model.bert.pooler["pooler.dense.weight"])


def test_whole_words_and_the_share_reach_the_loop(folder: Path, tmp_path: Path) -> None:
    found = {}
    for name, options in (("tokens", {}), ("words", {"whole_words": True}), ("half", {"mask_share": 0.5})):
        model = load(folder)
        spelled = [f"{line} xylophones zebras" for line in lines(40)]  # words of several pieces
        result = pretrain(model, spelled, output_dir=tmp_path / name, training=QUICK, evaluation=FEW, **options)
        found[name] = weights(model)
        said = json.loads((result.folder / "config.json").read_text())["objective"][0]
        assert said["whole_words"] == (name == "words") and said["mask_share"] == (0.5 if name == "half" else 0.15)
    assert not are_equal(found["tokens"], found["words"]) and not are_equal(found["tokens"], found["half"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_float32_weights_as_well(folder: Path, tmp_path: Path, precision: Any) -> None:
    losses = {}
    for name in ("float32", precision):
        model = load(folder, next_sentence=True)
        settings = replace(QUICK, precision=name, epochs=20, max_steps=25, learning_rate=3e-3, logging_steps=5)
        result = pretrain(model, documents(60), output_dir=tmp_path / name, training=settings, evaluation=FEW)
        assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}
        log = [line["loss"] for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
        losses[name] = np.array([log[0], log[-1]])
    assert losses["float32"][1] < losses["float32"][0] - 0.5
    assert 0 < np.abs(losses[precision] - losses["float32"]).max() < 0.2


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_batches_without_a_masked_token_change_nothing_and_stop_nothing(
    folder: Path, tmp_path: Path, precision: Any
) -> None:
    model = load(folder)
    settings = replace(QUICK, max_steps=12, batch_size=1, precision=precision, logging_steps=1)
    result = pretrain(model, ["dog", "cat", "water"] * 6, output_dir=tmp_path / "run", training=settings)
    log = [line for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
    empty = [line["loss"] == 0 and line["grad_norm"] == 0 for line in log]
    assert len(log) == 12 and 0 < sum(empty) < 12
    assert all(bool(tensor.isfinite().all()) for tensor in weights(model).values())


def test_frozen_weights_stay_and_the_rest_learns(tmp_path: Path) -> None:
    config = write_config(tmp_path, tmp_path / "run", model={"freeze_embeddings": True, "freeze_layers": 1})
    base = weights(load(make_bert_folder(tmp_path / "model", safetensors=True)))
    assert main(["pretrain", str(config), "--quiet"]) == 0
    tuned = weights(load(tmp_path / "run" / "model"))
    frozen = {name for name in base if "embeddings." in name or ".layer.0." in name}
    assert len(frozen) == 5 + 16 and all(torch.equal(base[name], tuned[name]) for name in frozen)
    assert not [name for name in base.keys() - frozen if "weight" in name and torch.equal(base[name], tuned[name])]


def test_a_seed_fixes_the_result_and_the_callers_generators_stay(folder: Path, tmp_path: Path) -> None:
    tuned = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(tuned))
        before = torch.get_rng_state()
        model = load(folder)
        pretrain(model, lines(40), output_dir=tmp_path / name, training=replace(QUICK, seed=seed), evaluation=FEW)
        assert torch.equal(torch.get_rng_state(), before)
        tuned.append(weights(model))
    assert are_equal(tuned[0], tuned[1]) and not are_equal(tuned[0], tuned[2])


# ---------------------------------------------------------------- what fails


@pytest.mark.parametrize("next_sentence", [False, True])
def test_a_loss_that_is_no_number_names_the_lines_and_leaves_the_model_as_it_was(
    next_sentence: bool, folder: Path, tmp_path: Path
) -> None:
    model = load(folder, next_sentence=next_sentence)
    with torch.no_grad():  # only one text is so long that it reads this position
        model.bert.encoder.get_parameter("embeddings.position_embeddings.weight")[50] = float("nan")
    before = weights(model)
    found = documents(60)
    place = found.index("", 60) - 1
    found[place] = "dog " * 60
    settings = replace(QUICK, max_steps=None, epochs=8, batch_size=2)
    with pytest.raises(
        TrainingError, match=r"the loss is nan in step \d+ \(lines \d+, \d+ of the training data"
    ) as raised:
        pretrain(model, found, output_dir=tmp_path / "run", training=settings, evaluation=FEW)
    step = int(str(raised.value).split("in step ")[1].split()[0])
    assert step > 1  # so there were weights to put back
    named = str(raised.value).split("(lines ")[1].split(" of the training data")[0].split(", ")
    assert str(place) in named or next_sentence  # the long text may stand for another document
    after = weights(model)
    assert all(torch.equal(after[name].nan_to_num(9.0), before[name].nan_to_num(9.0)) for name in before)
    assert not model.training


def test_a_finished_run_is_refused_overwritten_or_resumed(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_dir": tmp_path / "run", "training": QUICK, "evaluation": FEW}
    model = load(folder, next_sentence=True)
    pretrain(model, documents(40), **options)
    base = load(folder, next_sentence=True)
    with pytest.raises(RunFolderError):
        pretrain(base, documents(40), **options)
    result = pretrain(base, documents(40), on_existing="resume", **options)
    assert result.was_finished and are_equal(weights(base), weights(model))
    base = load(folder, next_sentence=True)
    with pytest.raises(RunFolderError, match=r"data\.train\.sha256 was '\w{12}…', is"):
        pretrain(base, documents(40, seed=1), on_existing="resume", **options)
    shorter = {**options, "training": replace(QUICK, max_steps=2)}
    assert pretrain(base, documents(40), on_existing="overwrite", **shorter).metrics["steps"] == 2


LOW_MEMORY = """
import logging, resource, sys
import torch
from sbert_ft import EvaluationSettings, MaskedLanguageModel, TrainingSettings, pretrain
from sbert_ft.encoder.dropout import dropout_set_to
from sbert_ft.errors import ResourceError

MIB = 2**20
warned = []

class Limiter(logging.Handler):
    # memory is scarce in the training alone: the tokenizer's own code would end the process
    spare = None
    def emit(self, record):
        said = record.getMessage()
        if said.startswith("memory foreseen") and self.spare is not None:
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + self.spare
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        if "was not evaluated" in said:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if "out of memory" in said:
            warned.append(said)

limiter = Limiter()
logger = logging.getLogger("sbert_ft")
logger.setLevel(logging.INFO)
logger.addHandler(limiter)

def tune(name, spare, text="the dog and the red cat was here"):
    limiter.spare = spare
    model = MaskedLanguageModel.from_pretrained(sys.argv[1], "cpu", "float32")
    settings = TrainingSettings(
        max_steps=2, batch_size=64, micro_batch_size=64, learning_rate=1e-3, warmup_steps=0, precision="float32"
    )
    with dropout_set_to(model, 0.0):
        pretrain(model, [f"{text} {i}" for i in range(64)], output_dir=f"{sys.argv[2]}-{name}", training=settings)
    return model.trained.state_dict()

torch.set_num_threads(1)
expected = tune("whole", None)
assert not warned, warned
found = tune("halved", 60 * MIB)
assert warned and all("the batch stays the same" in said for said in warned), warned
apart = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
assert float(apart.mean()) < 1e-6, float(apart.mean())
print("halved", len(warned))
try:
    tune("refused", 50 * MIB, "dog " * 1000)
except ResourceError as error:
    assert "one row of at most 2048 tokens a text does not fit into the memory of cpu" in str(error), error
    print("refused")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
"""


def test_out_of_memory_halves_the_forward_and_keeps_the_batch(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is measured and limited by Linux's /proc and RLIMIT_AS")
    folder = make_bert_folder(
        tmp_path / "model", hidden_size=64, layers=1, intermediate=8192, max_positions=2048, safetensors=True
    )
    environment = os.environ | {
        # what the allocator keeps for later would blur the limit
        **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "1000000"),
        **{"MALLOC_ARENA_MAX": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)},
    }
    command = [sys.executable, "-c", LOW_MEMORY, str(folder), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "halved" in done.stdout and "refused" in done.stdout, done.stdout + done.stderr


# ---------------------------------------------------------------- the command


def write_config(place: Path, output_dir: Path, **sections: Any) -> Path:
    """Write a configuration of a few quick steps beside its texts."""
    content: dict[str, Any] = {
        "model": {"path": str(place / "model"), **sections.pop("model", {})},
        "data": sections.pop("data", {"train": str(place / "train.txt")}),
        "training": {"max_steps": 3, "batch_size": 8, "device": "cpu", "precision": "float32"},
        "evaluation": {"bootstrap_samples": 20},
        "output_dir": str(output_dir),
        **sections,
    }
    if not (place / "train.txt").exists():
        write_lines(place / "train.txt", lines(40))
    path = place / "run.json"
    path.write_text(json.dumps(content))
    return path


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    return code, said.out + said.err


def test_the_command_trains_from_random_weights_and_from_a_folder(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "vocab.txt"):
        shutil.copy(folder / name, base)
    data = {"train": str(tmp_path / "train.txt"), "dev_share": 0.2}
    config = write_config(tmp_path, tmp_path / "random", model={"path": str(base), "init": "random"}, data=data)
    code, said = command(capfd, "pretrain", config)
    assert code == 0 and "perplexity" in said and "masked" in said, said
    assert "heads that are not there" not in said  # everything is random, as it was asked for
    went_on = write_config(tmp_path, tmp_path / "more", model={"path": str(tmp_path / "random" / "model")}, data=data)
    code, said = command(capfd, "pretrain", went_on)
    assert code == 0 and "heads that are not there" not in said
    before, after = (
        json.loads((tmp_path / name / "metrics.json").read_text())["splits"]["dev"] for name in ("random", "more")
    )
    assert after["before"]["loss"]["value"] == pytest.approx(before["after"]["loss"]["value"], rel=1e-5)
    code, said = command(capfd, "pretrain", went_on, "--resume")
    assert code == 0 and "was finished; nothing was changed" in said
    # the folder is where fine-tuning starts
    assert np.isfinite(
        SiameseBert.from_pretrained(tmp_path / "more" / "model", "cpu", "float32").encode(["a dog"])
    ).all()


def test_a_share_for_dev_has_no_text_of_train(folder: Path, tmp_path: Path) -> None:
    found = [*lines(200), *lines(100)]  # half of them are there twice
    write_lines(tmp_path / "train.txt", found)
    data = {"train": str(tmp_path / "train.txt"), "dev_share": 0.3}
    run = load_run(read_run(write_config(tmp_path, tmp_path / "run", model={"path": str(folder)}, data=data), (), KIND))
    assert run.data.dev is not None
    train, dev = ([text.text for text in part.texts()] for part in (run.data.train, run.data.dev))
    assert sorted([*train, *dev]) == sorted(found) and not set(train) & set(dev)
    assert 40 < len(dev) < 140


def test_a_share_for_dev_is_one_of_documents_for_next_sentences(folder: Path, tmp_path: Path) -> None:
    found = documents(300)
    write_lines(tmp_path / "train.txt", found)
    data = {"train": str(tmp_path / "train.txt"), "dev_share": 0.3}
    config = write_config(tmp_path, tmp_path / "run", model={"path": str(folder)}, data=data, objective=["mlm", "nsp"])
    run = load_run(read_run(config, (), KIND))
    assert run.data.dev is not None
    of_part = [{text.document for text in part.texts()} for part in (run.data.train, run.data.dev)]
    assert not of_part[0] & of_part[1] and len(of_part[0] | of_part[1]) == found.count("")
    assert 0.1 < len(of_part[1]) / found.count("") < 0.5


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("train.txt", b"", "is empty (0 bytes)"),
    "blank": ("train.txt", b"\n \n\n", "holds no text"),
    "NUL": ("train.txt", b"the dog\nthe \0 cat\n", "line 2: holds a NUL character"),
    "surrogate": ("train.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2"),
    "no UTF-8": ("train.txt", b"the dog\n\xff\xfe\xff\n", "train.txt"),
    "not texts": ("train.jsonl", b'{"text": 3}\n', "expected a text, found int '3'"),
    "no JSON": ("train.jsonl", b'{"text": \n', "line 1"),
    "other columns": ("train.csv", b"x,y\n1,2\n", "data.text_columns"),
    "zip": ("train.txt", b"PK\x03\x04rest", "zip archive"),
    "unknown": ("train.txt", "кот спит\n".encode() * 20, "tokens are unknown to the vocabulary"),
}


@pytest.mark.parametrize("what", BAD)
def test_texts_that_cannot_be_used_are_one_sentence_and_exit_code_2(
    what: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, content, expected = BAD[what]
    (tmp_path / name).write_bytes(content)
    for data in ({}, {"dev_share": 0.3}) if what != "unknown" else ({},):
        config = write_config(
            tmp_path, tmp_path / "run", model={"path": str(folder)}, data={"train": str(tmp_path / name), **data}
        )
        code, said = command(capfd, "pretrain", config, "--quiet")
        assert code == 2 and expected in said, said
        assert said.count("error:") == 1 and not (tmp_path / "run").exists()


def test_what_cannot_be_is_refused_by_name(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = write_lines(tmp_path / "alone.txt", ["one text", "", "and another", ""])
    masks = make_bert_folder(tmp_path / "masks", vocab=[w for w in default_vocabulary() if w != "[MASK]"])
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"objective": ["mlm", "nsp"], "data": {"train": str(alone)}}, "next-sentence prediction needs two or more"),
        ({"model": {"path": str(masks)}}, "has no mask token"),
        ({"data": {"train": str(nothing)}}, "a folder without files of texts"),
        ({"objective": "nsp"}, "expected mlm, or mlm and nsp"),
        ({"objective": "cosine"}, "cosine trains a sentence encoder, but model.kind is masked_lm"),
        ({"objective": {"name": "mlm", "mask_share": 2}}, "mask_share"),
        ({"model": {"path": str(folder), "max_seq_length": 2}}, "model.max_seq_length: expected a whole number"),
        (
            {"model": {"path": str(folder), "max_seq_length": 4}, "objective": ["mlm", "nsp"]},
            "max_seq_length is '4', expected",
        ),
        ({"data": {"train": str(alone), "label_column": "score"}}, "data.label_column"),
    ]
    for sections, expected in cases:
        config = write_config(tmp_path, tmp_path / "run", **{"model": {"path": str(folder)}, **sections})
        code, said = command(capfd, "pretrain", config, "--quiet")
        assert code == 2 and expected in said, (sections, said)
        assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser can become another")
def test_a_folder_that_may_not_be_read_is_one_sentence() -> None:
    place = Path(tempfile.mkdtemp())
    try:
        write_lines(place / "train.txt", ["a text"])
        os.seteuid(65534)
        for path in (place, place / "train.txt", place / "deeper" / "train.txt"):
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                TextCorpus(path)
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


# ---------------------------------------------------------------- killed and resumed

SCENARIOS: dict[str, dict[str, Any]] = {
    "mlm": {
        "model": {"kind": "masked_lm"},
        "objective": {"name": "mlm", "whole_words": True},
        "training": {"epochs": 6, "batch_size": 4, "accumulation_steps": 2, "eval_steps": 7, "save_steps": 3},
    },
    "nsp": {
        "model": {"kind": "masked_lm", "init": "random", "max_seq_length": 24},
        "data": {"train": "documents.txt", "dev": "dev-documents.txt"},
        "objective": ["mlm", {"name": "nsp", "weight": 0.5}],
        "training": {"epochs": 4, "batch_size": 4, "micro_batch_size": 3, "eval_steps": 4, "save_steps": 3},
    },
    "float16": {
        "model": {"kind": "masked_lm"},
        "training": {"epochs": 2, "batch_size": 8, "precision": "float16", "save_steps": 2},
    },
    # most batches have no masked token
    "words": {
        "model": {"kind": "masked_lm"},
        "data": {"train": "words.txt", "dev": None},
        "training": {"epochs": 1, "batch_size": 1, "save_steps": 3},
    },
}


@pytest.fixture(scope="module")
def bench(warm: WarmProcess) -> Iterator[Bench]:
    with folder_in_memory() as place:
        make_bert_folder(place / "model", hidden_size=16, intermediate=32, safetensors=True)
        write_lines(place / "train.txt", lines(64, seed=1))
        write_lines(place / "dev.txt", lines(20, seed=2))
        write_lines(place / "documents.txt", documents(150, seed=3))
        write_lines(place / "dev-documents.txt", documents(30, seed=4))
        write_lines(place / "words.txt", ["dog", "cat", "water", "music"] * 6)
        named = {
            name: {**said, "data": {"train": "train.txt", "dev": "dev.txt", **said.get("data", {})}}
            for name, said in SCENARIOS.items()
        }
        yield Bench(warm, place, named)


@pytest.mark.parametrize("scenario", ["mlm", "nsp"])
def test_killed_at_random_moments_it_ends_as_the_unbroken_run(bench: Bench, scenario: str) -> None:
    unbroken = bench.unbroken(scenario)
    n_steps = json.loads((unbroken / "metrics.json").read_text())["steps"]
    config = bench.config(scenario)
    begun = kill_until_finished(bench, config, 5, per_attempt=n_steps // 5 + 3, seed=11)
    assert len(set(begun)) > 2
    if not (folder_of(config) / "metrics.json").exists():
        ended = bench.resume(config)
        assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), unbroken)


@pytest.mark.parametrize(
    ("scenario", "where", "nth", "step", "number"),
    [
        ("mlm", STEP, 11, 6, signal.SIGTERM),
        ("mlm", EVALUATION, 3, 14, signal.SIGINT),
        ("nsp", STEP, 9, 9, signal.SIGTERM),
        ("float16", STEP, 5, 5, signal.SIGINT),
        ("words", STEP, 1, 1, signal.SIGTERM),
        ("words", STEP, 8, 8, signal.SIGTERM),
    ],
)
def test_a_signal_finishes_the_step_and_the_run_goes_on_to_the_bit(
    bench: Bench, scenario: str, where: tuple[str, str], nth: int, step: int, number: int
) -> None:
    config = bench.config(scenario)
    ended = bench.train(config, strike=strike(where, nth, number))
    assert ended.code == 128 + number and "Traceback" not in ended.said, ended.said
    assert f"after step {step}; continue with --resume" in ended.said
    assert newest_step(folder_of(config)) == step and not (folder_of(config) / "model").exists()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken(scenario))


@pytest.mark.parametrize(("where", "nth"), [(BEFORE_CHECKPOINT, 2), (AFTER_CHECKPOINT, 2)])
def test_killed_around_a_checkpoint_it_ends_as_the_unbroken_run(bench: Bench, where: tuple[str, str], nth: int) -> None:
    config = bench.config("nsp")
    assert bench.train(config, strike=strike(where, nth, signal.SIGKILL)).code == -signal.SIGKILL
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken("nsp"))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"train": "dev.txt"}}, "data.train.sha256 was '"),
        ({"data": {"dev": "train.txt"}}, "data.dev.sha256 was '"),
        (
            {"objective": {"name": "mlm", "whole_words": True, "mask_share": 0.3}},
            "objective.0.mask_share was null, is 0.3",
        ),
        ({"objective": {"name": "mlm"}}, "objective.0.whole_words was true, is false"),
        ({"training": {"seed": 8}}, "training.seed was 7, is 8"),
    ],
    ids=str,
)
def test_resumed_with_other_texts_or_settings_it_is_refused_by_name(
    bench: Bench, sections: dict[str, Any], said: str
) -> None:
    config = bench.copy_of(stopped_after(bench, "mlm", 6))
    sections = {
        name: {k: str(bench.place / v) if name == "data" else v for k, v in section.items()}
        for name, section in sections.items()
    }
    if "objective" in sections:
        content = json.loads(config.read_text())
        config.write_text(json.dumps({**content, "objective": sections.pop("objective")}))
    config = changed(config, **sections)
    before = tree(folder_of(config))
    ended = bench.resume(config)
    assert ended.code == 2 and said in ended.said and "Traceback" not in ended.said, ended.said
    assert tree(folder_of(config)) == before


_STOPPED: dict[tuple[int, str], Path] = {}


def stopped_after(bench: Bench, scenario: str, step: int) -> Path:
    """Return the configuration of a run that SIGTERM has ended after a step; it is made once for each bench."""
    key = (id(bench), scenario)
    if key not in _STOPPED:
        config = bench.config(scenario)
        n_batches = SCENARIOS[scenario]["training"].get("accumulation_steps", 1)
        ended = bench.train(config, strike=strike(STEP, n_batches * step, signal.SIGTERM))
        assert ended.code == 143, ended.said
        _STOPPED[key] = config
    return _STOPPED[key]


def test_a_full_disk_stops_the_run_with_one_sentence_and_it_goes_on(bench: Bench) -> None:
    config = bench.config("mlm")
    ended = bench.train(config, strike=strike(BEFORE_CHECKPOINT, 2, file_bytes=20_000))
    assert ended.code == 2 and "Traceback" not in ended.said and "File too large" in ended.said, ended.said
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("mlm"))


def test_every_epoch_masks_other_tokens(bench: Bench) -> None:
    log = [line["loss"] for line in log_of(bench.unbroken("words")) if line["kind"] == "train"]
    assert len(log) == 24 and 0 < sum(loss == 0 for loss in log) < 24
