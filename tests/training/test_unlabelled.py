"""Objectives on single texts without labels: simcse and tsdae, from texts to a tuned model."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from test_spec import make_encoder_folder, sentences
from torch import Tensor

from sbert_ft import (
    ConnectionDataset,
    EvaluationSettings,
    ObjectiveSettings,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.cli import main
from sbert_ft.config.settings import DataSettings, ModelSettings, Reading, RunSettings
from sbert_ft.encoder.dropout import dropout_set_to
from sbert_ft.errors import InputError, SbertFtError
from sbert_ft.files.strict_json import parse_json
from sbert_ft.model_folder.tensor_files import safetensors_header
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training.checkpoints import checkpoint_file, read_checkpoint
from sbert_ft.training.fine_tune import as_dataset, load_run
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.objectives import Objective
from sbert_ft.training.plan import plan_run
from sbert_ft.training.run_log import read_log
from sbert_ft.training.text_decoder import TextDecoder, delete_words

FEW = EvaluationSettings(bootstrap_samples=20)
QUICK = TrainingSettings(max_steps=3, batch_size=8, learning_rate=1e-3, precision="float32", warmup_steps=0)
TEXTS = [f"{text} {i}" for i, text in enumerate(sentences(40, 3))]
# For a loss that float32 computes with logarithms and exponentials.
LOSS_TOLERANCE = 1e-5
# Relative to the largest gradient of the parameter, or to a thousandth of the largest of all if that is more.
GRADIENT_TOLERANCE = 1e-4
# Parts and the whole differ by rounding; relative to the largest gradient of all.
PARTS_TOLERANCE = 1e-5
# bfloat16 keeps eight bits.
BFLOAT16_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of ten pairs with scores, of whose twenty texts two repeat others."""
    texts = [f"{text} {i}" for i, text in enumerate(sentences(18, 8))]
    texts += [texts[0].upper(), texts[1]]
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        scores = np.linspace(0, 5, 10).tolist()
        csv.writer(file).writerows(
            [("sentence1", "sentence2", "score"), *zip(texts[::2], texts[1::2], scores, strict=True)]
        )
    return path


def framed(model: SiameseBert, texts: list[str]) -> TextTokens:
    return model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_seq_length)


def texts_of(dataset: ConnectionDataset) -> list[str]:
    return [row.texts[0] for row in dataset]


def weights(model: SiameseBert) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.bert.encoder.state_dict().items()}


# the texts


def test_rows_of_any_form_give_their_different_texts(pairs: Path, tmp_path: Path) -> None:
    named = ConnectionDataset(pairs)
    every = [text for row in named for text in row.texts]
    expected = every[:18]
    (tmp_path / "texts.txt").write_text("\n".join(every[:5]) + "\n\n" + "\n".join(every[5:]) + "\n", encoding="utf-8")
    for given in (every, named, pd.read_csv(pairs), list(named.pairs())):
        assert texts_of(as_dataset(given).as_single_texts()) == expected
    for path in (pairs, tmp_path / "texts.txt"):
        settings = run_settings(path, pairs, "simcse", tmp_path, model="")
        found = load_rows(settings)
        assert texts_of(found) == expected and found.labels is None
        ledger = found.ledger
        assert (ledger.n_kept, ledger.count("duplicate"), ledger.n_rows) == (18, 2, 20 + ledger.count("empty"))
        assert ledger.count("empty") == (path.suffix == ".txt")
    assert "2 texts repeating an earlier one (ignoring case and spacing) left out: lines 20, 21" in str(ledger.findings)


def run_settings(train: Path, dev: Path | None, objective: str, place: Path, model: str | Path) -> RunSettings:
    data = DataSettings(str(train), None if dev is None else str(dev))
    parts = (ObjectiveSettings(objective),)
    return RunSettings(ModelSettings(str(model)), data, str(place / "run"), parts, training=QUICK, evaluation=FEW)


def load_rows(settings: RunSettings) -> ConnectionDataset:
    from sbert_ft.training import fine_tune

    return fine_tune.load_rows(replace(settings, data=replace(settings.data, dev=None))).train


def test_the_account_of_a_data_set_counts_each_text_of_a_row() -> None:
    rows = [("a dog", "a cat", 1.0), ("", "water", 0.0), ("A dog", "red", 0.5)]
    dataset = ConnectionDataset(rows, Reading(on_bad_row="skip"))
    found = dataset.as_single_texts()
    assert texts_of(found) == ["a dog", "a cat", "red"] and found.lines.tolist() == [0, 0, 2]
    ledger = found.ledger
    assert (ledger.n_rows, ledger.n_kept, ledger.count("empty"), ledger.count("duplicate")) == (6, 3, 2, 1)
    assert "each of a row's 2 texts is a row, without labels" in ledger.notes


# simcse


def test_a_list_of_texts_is_enough(model: SiameseBert, tmp_path: Path) -> None:
    before = weights(model)
    result = fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective="simcse", training=QUICK, evaluation=FEW)
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(model).items())
    assert (result.metrics["steps"], result.metrics["best"], result.metrics["splits"]) == (3, None, {})
    assert result.metrics["plan"][1] == "40 texts, objective simcse (scale 20)"
    assert result.metrics["plan"][2].startswith("tokens a text: ")
    page = (result.folder / "report.md").read_text(encoding="utf-8")
    assert "8 per batch" in page and "texts per second" in page and "pairs per second" not in page


def test_two_vectors_of_a_text_differ_by_dropout_and_no_batch_holds_a_text_twice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, *TEXTS]), encoding="utf-8")
    plan = plan_run(load_run(run_settings(tmp_path / "texts.txt", None, "simcse", tmp_path, folder)))
    model = plan.run.model
    batch = plan.batches(0)[0]
    tokens = plan.tokens.pack_rows(batch)
    assert len(tokens) == 2 * len(batch)
    model.train()
    with torch.no_grad():
        first, second = model(model.bert.pack(tokens, plan.layout)).split(len(batch))
        model.eval()
        still, same = model(model.bert.pack(tokens, plan.layout)).split(len(batch))
    assert (first - second).norm(dim=1).min() > 1e-3
    assert (still - same).norm(dim=1).max() < 1e-5
    assert all(len(set(rows.tolist())) == len(rows) for rows in plan.batches(0)) and len(plan.tokens) == 40


def test_an_encoder_without_dropout_is_refused_before_training(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model", config_extra=still), "cpu", "float32")
    with pytest.raises(InputError, match=r"simcse compares two vectors of a text .* set model.dropout, such as 0.1"):
        fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective="simcse", training=QUICK)
    assert not (tmp_path / "run").exists()


def test_dev_pairs_choose_the_step_though_train_has_other_columns(folder: Path, pairs: Path, tmp_path: Path) -> None:
    pd.DataFrame({"body": TEXTS, "score": range(40), "class": "x"}).to_csv(tmp_path / "raw.csv", index=False)
    settings = run_settings(tmp_path / "raw.csv", pairs, "simcse", tmp_path, folder)
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps(
            {
                "model": {"path": str(folder)},
                "data": {"train": settings.data.train, "dev": settings.data.dev, "text_columns": ["body"]},
                "objective": "simcse",
                "training": {"max_steps": 4, "batch_size": 8, "eval_steps": 2},
                "evaluation": {"bootstrap_samples": 20},
                "output_dir": str(tmp_path / "run"),
            }
        )
    )
    assert main(["--quiet", "train", str(config)]) == 0
    metrics = parse_json((tmp_path / "run" / "metrics.json").read_bytes(), "metrics")
    assert metrics["best"]["metric"] == "spearman" and metrics["splits"]["dev"]["n"] == 10
    assert [line["step"] for line in read_log(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "eval"] == [2, 4]


def test_simcse_learns_from_the_texts_of_real_pairs(minilm_path: Path, shared_data: Path, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cpu")
    texts = ConnectionDataset(shared_data / "stsb" / "dev.csv").as_single_texts()
    texts = texts.select(np.arange(320))
    training = TrainingSettings(max_steps=20, batch_size=16, learning_rate=5e-5, logging_steps=5)
    result = fine_tune(model, texts, output_dir=tmp_path / "run", objective="simcse", training=training)
    losses = [line["loss"] for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[-1] < losses[0]


# tsdae: deleting words


def numbered(*words: int) -> tuple[TextTokens, np.ndarray[Any, Any]]:
    """Return a text of words of so many tokens each, between two special tokens, and which token ids begin a word."""
    ids = [0, *(10 * i + j for i, n in enumerate(words, 1) for j in range(n)), 0]
    begins = np.arange(1000) % 10 == 0
    return TextTokens(np.array(ids, np.int32), np.array([0, len(ids)])), begins


def test_whole_words_are_deleted_and_special_tokens_stay() -> None:
    text, begins = numbered(1, 3, 2, 1, 4)
    seen = set()
    for seed in range(40):
        found = delete_words(text, begins, (1, 1), 0.5, np.random.default_rng(seed)).token_ids.tolist()
        assert found[0] == found[-1] == 0
        kept = [token // 10 for token in found[1:-1]]
        assert all(kept.count(word) == (1, 3, 2, 1, 4)[word - 1] for word in kept) and kept == sorted(kept)
        seen.add(len(set(kept)))
    assert seen >= {1, 2, 3, 4}


def test_the_share_of_deleted_words_is_that_asked_for_and_one_word_stays() -> None:
    texts = TextTokens(
        np.tile(np.array([0, *range(10, 210, 10), 0], np.int32), 2000), np.arange(0, 22 * 2000 + 1, 22, dtype=np.int64)
    )
    found = delete_words(texts, numbered(1)[1], (1, 1), 0.6, np.random.default_rng(5))
    share = 1 - (found.lengths - 2).sum() / 40_000
    assert abs(share - 0.6) < 4 * (0.6 * 0.4 / 40_000) ** 0.5  # four standard errors
    text, begins = numbered(2)
    assert delete_words(text, begins, (1, 1), 0.999, np.random.default_rng(0)).token_ids.tolist() == [0, 10, 11, 0]
    empty = TextTokens(np.array([0, 0], np.int32), np.array([0, 2]))
    assert delete_words(empty, begins, (1, 1), 0.5, np.random.default_rng(0)).token_ids.tolist() == [0, 0]


def test_damage_follows_from_the_seed_and_the_step(model: SiameseBert) -> None:
    decoder, other = TextDecoder(model, 0.6, 1), TextDecoder(model, 0.6, 2)
    tokens = framed(model, TEXTS)

    def damaged(by: TextDecoder, *place: int) -> list[int]:
        texts, whole = by.damage(tokens, *place)
        assert whole[whole != model.tokenizer.padding_id].tolist() == tokens.token_ids.tolist()
        return texts.token_ids.tolist()

    assert damaged(decoder, 3, 0) == damaged(decoder, 3, 0)
    assert len({tuple(damaged(by, *place)) for by in (decoder, other) for place in ((3, 0), (4, 0), (3, 1))}) == 6


def test_a_prompt_is_never_deleted(model: SiameseBert) -> None:
    model.use_prompts("the dog runs: ", "the dog runs: ")
    decoder = TextDecoder(model, 0.9, 1)
    prompt = model.tokenizer.tokenize(["the dog runs: "]).token_ids.tolist()
    texts = framed(model, ["the dog runs: " + text for text in TEXTS])
    found, _ = decoder.damage(texts, 0)
    assert found.lengths.sum() < texts.lengths.sum()
    for begin in found.offsets[:-1]:
        assert found.token_ids[begin + 1 : begin + 1 + len(prompt)].tolist() == prompt


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_every_kind_of_vocabulary_shows_where_words_begin(kind: str, tmp_path: Path) -> None:
    tokenizer = SiameseBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32").tokenizer
    for text in ("walking dogs playing", "x walking", "unbelievable"):
        tokens = tokenizer.tokenize([text])
        begins = tokenizer.begins_word[tokens.token_ids]
        begins[0] = True  # as `delete_words` takes the first token of a text
        words = np.split(tokens.token_ids, np.flatnonzero(begins)[1:])
        pieces = [[tokenizer.backend.id_to_token(token) for token in word] for word in words]
        assert ["".join(word).replace("##", "").strip("Ġ▁") for word in pieces] == text.split()


# tsdae: the decoder


def test_loss_and_gradient_equal_those_of_sentence_transformers(minilm_path: Path, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32").eval()
    decoder = TextDecoder(model, 0.6, 7)
    texts = ["A plane is taking off.", "A man is playing a large flute in an unbelievably crowded park.", "Water"]
    damaged, whole = decoder.damage(framed(model, texts), 0)
    loss = backward(model, Objective([ObjectiveSettings("tsdae")], decoder=decoder), damaged, whole, 3, WHOLE)

    model.save_pretrained(tmp_path / "saved")
    reference = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    theirs = DenoisingAutoEncoderLoss(reference, tie_encoder_decoder=True).eval()
    parameters = dict(theirs.decoder.named_parameters())
    with torch.no_grad():  # those with random values
        for name, parameter in decoder.own.items():
            parameters[name.replace("/", ".")].copy_(parameter)
    mask = torch.arange(int(damaged.lengths.max())) < torch.from_numpy(damaged.lengths)[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.from_numpy(damaged.token_ids).long()
    expected = theirs([{"input_ids": ids, "attention_mask": mask.long()}, {"input_ids": whole}], None)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE)
    ours = {f"bert.{name}": p.grad for name, p in model.bert.encoder.named_parameters()}
    ours |= {name.replace("/", "."): p.grad for name, p in decoder.own.items()}
    assert ours.keys() == parameters.keys()
    floor = max(float(p.grad.abs().max()) for p in parameters.values()) / 1000
    for name, parameter in parameters.items():
        limit = GRADIENT_TOLERANCE * max(float(parameter.grad.abs().max()), floor)
        torch.testing.assert_close(ours[name], parameter.grad, rtol=0, atol=limit)


WHOLE = BackwardSettings(micro_rows=64)


def gradient_of(model: SiameseBert, decoder: TextDecoder, settings: BackwardSettings) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch and its gradient, of the encoder and of the decoder, as one vector."""
    damaged, whole = decoder.damage(framed(model, TEXTS[:7]), 0)
    objective = Objective([ObjectiveSettings("tsdae")], decoder=decoder)
    with dropout_set_to(model, 0.0), dropout_set_to(decoder.network, 0.0):
        model.train()
        loss = backward(model, objective, damaged, whole, 7, settings)
    parameters = [*model.bert.encoder.parameters(), *decoder.own.values()]
    flat = torch.cat([p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return loss, flat


def test_parts_of_a_batch_give_the_gradient_of_the_whole(model: SiameseBert) -> None:
    decoder = TextDecoder(model, 0.6, 7)
    loss, whole = gradient_of(model, decoder, WHOLE)
    for micro_rows in (1, 3):
        found, parts = gradient_of(model, decoder, BackwardSettings(micro_rows))
        assert found.item() == pytest.approx(loss.item(), rel=LOSS_TOLERANCE)
        assert float((parts - whole).abs().max() / whole.abs().max()) < PARTS_TOLERANCE


def test_a_copy_in_half_precision_adds_its_gradient_to_that_of_the_decoder(model: SiameseBert) -> None:
    decoder = TextDecoder(model, 0.6, 7)
    loss, exact = gradient_of(model, decoder, WHOLE)
    with model.bert.trained_in(torch.bfloat16):
        assert model.bert.trained_copy is not None
        for micro_rows in (64, 3):
            found, half = gradient_of(model, decoder, BackwardSettings(micro_rows, torch.bfloat16))
            assert found.dtype == torch.float32
            assert found.item() == pytest.approx(loss.item(), rel=BFLOAT16_TOLERANCE)
            assert float((half - exact).norm() / exact.norm()) < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "electra"])
def test_other_kinds_have_a_decoder_on_their_weights(kind: str, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32")
    training = TrainingSettings(max_steps=2, batch_size=8, precision="float32")
    before = weights(model)
    fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective="tsdae", training=training)
    assert all(not torch.equal(before[name], its) for name, its in weights(model).items() if "weight" in name)


@pytest.mark.parametrize("kind", ["distilbert", "albert", "mpnet", "modernbert", "deberta-v2"])
def test_a_kind_without_a_decoder_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32")
    with pytest.raises(InputError, match=f"tsdae needs a decoder, which transformers does not have for {kind} encode"):
        fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective="tsdae", training=QUICK)
    assert not (tmp_path / "run").exists()


def test_the_decoder_is_trained_and_in_checkpoints_but_not_in_the_model(model: SiameseBert, tmp_path: Path) -> None:
    names = set(model.bert.encoder.state_dict())
    training = TrainingSettings(
        epochs=2, batch_size=8, learning_rate=3e-3, precision="float32", save_steps=5, logging_steps=5
    )
    objective = ObjectiveSettings("tsdae", deletion=0.4)
    result = fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective=objective, training=training)
    assert result.metrics["plan"][1] == "40 texts, objective tsdae (deletion 0.4)"
    losses = [line["loss"] for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    in_model = {name for name in safetensors_header(result.model_dir / "model.safetensors") if "pooler" not in name}
    assert in_model == {name for name in names if "position_ids" not in name}
    saved = [
        read_checkpoint(checkpoint_file(result.folder / "checkpoints", step)).read_tensors("weights")
        for step in (5, 10)
    ]
    own = [name for name in saved[0] if name.startswith("decoder.")]
    assert own and not any("word_embeddings" in name for name in own)
    assert all(not torch.equal(saved[0][name], saved[1][name]) for name in own if name.endswith("weight"))


def test_a_run_that_fails_leaves_the_model_as_it_was(model: SiameseBert, tmp_path: Path) -> None:
    before, parameters = weights(model), list(map(id, model.parameters()))
    training = TrainingSettings(max_steps=4, batch_size=8, learning_rate=1.0, precision="float32", max_grad_norm=0)
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(SbertFtError):
        fine_tune(model, TEXTS, output_dir=tmp_path / "run", objective="tsdae", training=training)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items())
    assert list(map(id, model.parameters())) == parameters


def test_the_head_of_the_folder_is_where_the_decoders_head_starts(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import BertConfig, BertForMaskedLM

    folder = tiny_bert_folder(tmp_path / "model")
    stock = BertForMaskedLM(BertConfig.from_pretrained(folder))
    (folder / "pytorch_model.bin").unlink()
    torch.save(stock.state_dict(), folder / "pytorch_model.bin")
    decoder = TextDecoder(SiameseBert.from_pretrained(folder, "cpu", "float32"), 0.6, 1)
    expected = {name: tensor for name, tensor in stock.cls.predictions.transform.named_parameters()}
    found = dict(decoder.network.cls.predictions.transform.named_parameters())
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in found)


# what does not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": ["simcse", "cosine"]}, "objective: simcse is used alone, found 2 objectives: simcse and cosine"),
        ({"objective": ["tsdae", "simcse"]}, "objective: tsdae is used alone, found 2 objectives: tsdae and simcse"),
        ({"model": {"kind": "joined"}}, "objective: simcse trains a sentence encoder, but model.kind is joined"),
        (
            {"data": {"dev_share": 0.1}},
            "data.dev_share: found 0.1, but objective simcse trains on texts without l",
        ),
        ({"objective": {"name": "simcse", "deletion": 0.5}}, "objective.deletion: is an option of tsdae"),
        ({"model": {"dropout": 0}}, "simcse compares two vectors of a text"),
        ({"data": {"prompts": {"text": "query: "}}}, "data.prompts names columns, but the rows of"),
        ({"objective": "cosine"}, "has one text per line, expected rows of pairs; give a .csv, .tsv, .jsonl or .parq"),
        ({"data": {"dev": "texts.txt"}}, "has one text per line, expected rows of pairs"),
        ({"data": {"text_columns": ["text"]}}, "has one text per line, so there is no column 'text'"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    content: dict[str, Any] = {"model": {"path": str(folder)}, "data": {"train": str(tmp_path / "texts.txt")}}
    content |= {"objective": "simcse", "output_dir": str(tmp_path / "run")}
    for key, value in changes.items():
        content[key] = {**content[key], **value} if key in ("model", "data") else value
    if "dev" in content["data"]:
        content["data"]["dev"] = str(tmp_path / content["data"]["dev"])
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert main(["--quiet", "train", str(tmp_path / "run.json")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_texts_for_an_objective_on_pairs_are_refused_with_what_would_fit(model: SiameseBert, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learn from the texts alone with simcse and tsdae, train a classifier of"):
        fine_tune(model, TEXTS, output_dir=tmp_path / "run", training=QUICK)


def test_a_dry_run_shows_the_texts_and_the_damaged_batch(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    shown = {}
    with caplog.at_level(logging.INFO):
        for objective in ("simcse", "tsdae"):
            content = {"model": {"path": str(folder)}, "data": {"train": str(tmp_path / "texts.txt")}}
            (tmp_path / "run.json").write_text(
                json.dumps({**content, "objective": objective, "output_dir": str(tmp_path / "run")})
            )
            assert main(["train", "--dry-run", str(tmp_path / "run.json")]) == 0
            shown[objective] = capsys.readouterr().out
    tokens = {name: int(out.partition("first batch: 16 rows, ")[2].partition(" ")[0]) for name, out in shown.items()}
    assert 0 < tokens["tsdae"] < tokens["simcse"] / 2  # two views of whole texts, or one of a text with most words gone
    assert "40 texts, objective tsdae (deletion 0.6)" in shown["tsdae"]
