"""Folders of classifiers: stock ones of every kind, compared with other libraries, and ours with a head file."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from test_spec import SETTINGS, SIZES, sentences, tokenizer_of
from tokenizers import processors
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from sbert_ft.data.labels import class_name
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

TOLERANCE = 1e-5
KOREAN = ("중립", "함의", "모순 / 반대")
SHORT = sentences(12, seed=1)
PAIRS = [*zip(SHORT, reversed(sentences(12, seed=2)), strict=True), ("", "a word"), ("one", "")]
LONG = [(" ".join(sentences(20, seed=3)), " ".join(sentences(9, seed=4))), ("a", " ".join(sentences(30, seed=5)))]
WITH_HEAD = [kind for kind, known in KINDS.items() if known.head is not None]


def make_stock_folder(target: Path, kind: str, n_labels: int = 3, **config_extra: object) -> Path:
    """Write a small stock classifier of this kind with transformers' own classes and return its folder."""
    target.mkdir(parents=True)
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.get_vocab()
    if "[CLS]" in ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
    tokenizer.save(str(target / "tokenizer.json"))
    names = ["input_ids", *(["token_type_ids"] if kind not in ("distilbert", "mpnet") else []), "attention_mask"]
    special = ("<s>", "</s>", "<pad>", "<unk>") if "<s>" in ids else ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
    roles = dict(zip(("cls_token", "sep_token", "pad_token", "unk_token"), special, strict=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 90, "model_input_names": names}
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, **roles}), "utf-8")
    config = CONFIG_MAPPING[kind](
        **{**SIZES, "vocab_size": len(ids), **SETTINGS[kind], "num_labels": n_labels, **config_extra}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)](config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
                parameter.normal_(mean=middle, std=spread)
    model.save_pretrained(target)
    return target


def load(folder: Path, **options: Any) -> ClassifierModel:
    return ClassifierModel.from_pretrained(folder, device="cpu", precision="float32", **options)


def logits_of(model: ClassifierModel, rows: list[Any], batch_size: int = 32) -> NDArray[np.float32]:
    return np.concatenate(list(model.logits_stream(rows, batch_size, on_truncate="ignore")))


def logits_of_stock(folder: Path, rows: list[Any]) -> NDArray[np.float32]:
    """Return the logits of transformers' own model, row by row, with texts cut by its own tokenizer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = []
    for row in rows:
        # as lists: of two texts alone, transformers leaves an empty second one out
        texts = [[row]] if isinstance(row, str) else [[text] for text in row]
        with torch.inference_mode():
            found.append(model(**tokenizer(*texts, truncation=True, return_tensors="pt")).logits.numpy())
    return np.concatenate(found)


def settings_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return content


def change(folder: Path, name: str = "config.json", **values: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**settings_of(folder, name), **values}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / name).write_text(json.dumps(kept, ensure_ascii=False), "utf-8")


@pytest.fixture
def minilm(minilm_path: Path) -> ConnectionBert:
    return ConnectionBert.from_pretrained(minilm_path, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a stock classifier of three classes; tests must not change it."""
    return make_stock_folder(tmp_path_factory.mktemp("stock") / "model", "bert")


@pytest.fixture
def stock_copy(stock: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stock, tmp_path / "copy"))


# stock folders of others


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_a_stock_folder_of_each_kind_gives_transformers_logits_and_keeps_them_when_saved(
    kind: str, tmp_path: Path
) -> None:
    folder = make_stock_folder(tmp_path / "theirs", kind)
    rows: list[Any] = [*PAIRS, *LONG]
    expected = logits_of_stock(folder, rows)
    model = load(folder, kind="joined")
    np.testing.assert_allclose(logits_of(model, rows), expected, atol=TOLERANCE)
    model.save_pretrained(tmp_path / "ours")
    np.testing.assert_allclose(logits_of_stock(tmp_path / "ours", rows), expected, atol=TOLERANCE)
    again = load(tmp_path / "ours")
    assert again.kind == "joined"
    np.testing.assert_allclose(logits_of(again, rows), expected, atol=TOLERANCE)
    single = load(folder)
    assert single.kind == "single"
    np.testing.assert_allclose(logits_of(single, SHORT), logits_of_stock(folder, SHORT), atol=TOLERANCE)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_the_table_of_heads_names_what_transformers_names(kind: str, tmp_path: Path) -> None:
    folder = make_stock_folder(tmp_path / "theirs", kind)
    load(folder).save_pretrained(tmp_path / "ours")
    theirs, ours = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "ours"))
    assert set(ours) == {name for name in theirs if "position_ids" not in name}
    assert settings_of(tmp_path / "ours")["architectures"] == settings_of(folder)["architectures"]


def test_kinds_without_a_table_entry_are_refused_with_the_way_out(tmp_path: Path) -> None:
    others = [kind for kind in KINDS if kind not in WITH_HEAD]
    assert others == ["modernbert"]
    folder = make_stock_folder(tmp_path / "theirs", "modernbert")
    with pytest.raises(ModelFolderError, match=r"modernbert.*is not supported.*bert, roberta"):
        load(folder)
    bert = ConnectionBert.from_pretrained(folder, device="cpu")
    with pytest.raises(InputError, match=r"pooling 'pooler'.*modernbert.*pooling 'mean'"):
        ClassifierModel(bert, "single", pooling="pooler")
    assert ClassifierModel(bert, "single").pooling == "mean"


@pytest.mark.parametrize("n_labels", [1, 3])
def test_a_folder_of_cross_encoder_takes_pairs_and_gives_its_numbers(n_labels: int, tmp_path: Path) -> None:
    folder = make_stock_folder(tmp_path / "theirs", "bert", n_labels)
    theirs = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = load(tmp_path / "saved")
    assert (ours.kind, ours.n_outputs) == ("joined", n_labels)
    expected = np.asarray(theirs.predict(PAIRS))
    found = ours.predict(PAIRS) if n_labels == 1 else logits_of(ours, PAIRS)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_a_cross_encoder_with_a_default_prompt_is_refused(tmp_path: Path) -> None:
    folder = make_stock_folder(tmp_path / "theirs", "bert", 1)
    theirs = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    plain = theirs.predict(PAIRS)
    theirs.prompts, theirs.default_prompt_name = {"query": "find: "}, "query"
    assert not np.allclose(theirs.predict(PAIRS), plain, atol=TOLERANCE)
    theirs.save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ModelFolderError, match=r"has the default prompt 'query', which is not put before texts; set"):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    "key",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
    ids=["version 4", "version 3"],
)
def test_folders_of_older_cross_encoders_take_pairs(stock_copy: Path, key: dict[str, object]) -> None:
    change(stock_copy, **key)
    assert load(stock_copy).kind == "joined"
    assert load(stock_copy, kind="single").kind == "single"


def test_one_output_that_is_used_as_it_is_is_said_to_go_through_a_sigmoid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_stock_folder(tmp_path / "theirs", "bert", 1, problem_type="regression")
    with caplog.at_level(logging.WARNING):
        model = load(folder)
    assert "here scores are its sigmoid" in caplog.text
    expected = 1 / (1 + np.exp(-logits_of_stock(folder, SHORT)[:, 0]))
    np.testing.assert_allclose(model.predict(SHORT), expected, atol=TOLERANCE)


def test_a_folder_that_names_no_classes_has_them_by_number(stock_copy: Path) -> None:
    change(stock_copy, id2label=None, label2id=None)
    assert load(stock_copy).classes_.tolist() == ["LABEL_0", "LABEL_1", "LABEL_2"]


# ours, opened by others


@pytest.mark.parametrize("n_classes", [None, 2, 3])
def test_a_saved_joined_classifier_gives_the_same_numbers_to_everybody(
    minilm: ConnectionBert, tmp_path: Path, n_classes: int | None
) -> None:
    model = ClassifierModel(minilm, "joined", max_seq_length=64)
    model.start_head(None if n_classes is None else list(KOREAN[:n_classes]), seed=3)
    model.calibrate(0.05)
    model.save_pretrained(tmp_path / "saved")
    rows = [*PAIRS, *LONG]
    logits = logits_of(model, rows)
    assert np.abs(logits - logits.mean(0)).max() > 0.1, "rows that all look alike show nothing"
    np.testing.assert_allclose(logits_of_stock(tmp_path / "saved", rows), logits, atol=TOLERANCE)
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    ours = model.predict(rows, on_truncate="ignore") if n_classes is None else logits
    np.testing.assert_allclose(theirs.predict(rows), ours, atol=TOLERANCE)
    classify = pipeline("text-classification", str(tmp_path / "saved"), device="cpu", top_k=None)
    inputs = [{"text": first, "text_pair": second or " "} for first, second in rows]
    found = classify(inputs, truncation=True)
    if n_classes is None:
        np.testing.assert_allclose([row[0]["score"] for row in found], ours, atol=TOLERANCE)
    else:
        by_class = [{entry["label"]: entry["score"] for entry in row} for row in found]
        likely = [[row[name] for name in KOREAN[:n_classes]] for row in by_class]
        np.testing.assert_allclose(likely, model.predict_proba(rows, on_truncate="ignore"), atol=TOLERANCE)


def test_a_saved_single_classifier_gives_the_same_numbers_to_transformers(
    minilm: ConnectionBert, tmp_path: Path
) -> None:
    model = ClassifierModel(minilm, "single", max_seq_length=32)
    model.start_head(["부정", "긍정"])
    model.save_pretrained(tmp_path / "saved")
    rows = [*SHORT, LONG[0][0], "한국어 문장"]
    np.testing.assert_allclose(logits_of_stock(tmp_path / "saved", rows), logits_of(model, rows), atol=TOLERANCE)
    classify = pipeline("text-classification", str(tmp_path / "saved"), device="cpu")
    found = [entry["label"] for entry in classify(rows, truncation=True)]
    assert found == model.predict(rows, on_truncate="ignore").tolist()
    assert load(tmp_path / "saved").kind == "single"


@pytest.mark.parametrize("kind", ["towers", "joined", "single"])
def test_a_folder_with_the_head_beside_it_is_a_sentence_encoder_for_others(
    minilm: ConnectionBert, minilm_path: Path, tmp_path: Path, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = ClassifierModel(minilm, kind, pooling="mean", max_seq_length=48)
    model.start_head(list(KOREAN), seed=5)
    rows: list[Any] = SHORT if kind == "single" else PAIRS
    model.save_pretrained(tmp_path / "saved")
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    before = SentenceTransformer(str(minilm_path), device="cpu", local_files_only=True)
    np.testing.assert_allclose(theirs.encode(SHORT), before.encode(SHORT), atol=TOLERANCE)
    caplog.clear()
    ours = SiameseBert.from_pretrained(tmp_path / "saved", device="cpu", precision="float32")
    assert caplog.text == ""
    np.testing.assert_allclose(ours.encode(SHORT), before.encode(SHORT), atol=TOLERANCE)
    again = load(tmp_path / "saved")
    assert (again.kind, again.pooling, again.max_seq_length) == (kind, "mean", 48)
    np.testing.assert_array_equal(logits_of(again, rows), logits_of(model, rows))


# what is kept


@pytest.mark.parametrize("kind", ["towers", "joined", "single"])
@pytest.mark.parametrize("classes", [None, list(KOREAN), [0, 1], [1.5, 2.5, 3.0], [False, True]], ids=str)
def test_head_and_labels_survive_save_and_load(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], kind: Any, classes: list[Any] | None
) -> None:
    bert = ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), device="cpu", precision="float32")
    model = ClassifierModel(bert, kind, features="uv_difference_product", truncation="only_second", head_dropout=0.25)
    model.start_head(classes, seed=9)
    model.calibrate(2.0, 0.5)
    if classes is None:
        model.score_scale = (0.0, 5.0)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.features, again.truncation, again.head_dropout) == ("uv_difference_product", "only_second", 0.25)
    assert (again.temperature, again.score_scale) == (2.0, model.score_scale)
    assert model.head is not None and again.head is not None
    for name, parameter in model.head.named_parameters():
        torch.testing.assert_close(again.head.get_parameter(name), parameter, rtol=0, atol=0)
    rows: list[Any] = SHORT if kind == "single" else PAIRS
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    if classes is not None:
        assert again.classes_.tolist() == classes
        assert [type(label) for label in again.classes_.tolist()] == [type(label) for label in classes]
        assert again.class_names == tuple(map(class_name, classes))


def test_labels_in_korean_stand_in_the_folder_as_they_are(minilm: ConnectionBert, tmp_path: Path) -> None:
    model = ClassifierModel(minilm, "joined")
    model.start_head(list(KOREAN))
    model.save_pretrained(tmp_path / "saved")
    config = settings_of(tmp_path / "saved")
    assert config["id2label"] == {"0": "중립", "1": "함의", "2": "모순 / 반대"}
    assert config["label2id"] == {"중립": 0, "함의": 1, "모순 / 반대": 2}
    assert "함의" in (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert settings_of(tmp_path / "saved", "sbert_ft.json")["classifier"]["classes"] == list(KOREAN)


def test_a_new_head_begins_as_the_pretrained_pooler_and_random_numbers_stay_as_they_were(
    minilm: ConnectionBert,
) -> None:
    state = torch.random.get_rng_state()
    model = ClassifierModel(minilm, "joined")
    model.start_head(["a", "b"], seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.head is not None and model.head.dense is not None
    assert torch.equal(model.head.dense.weight, minilm.pooler["pooler.dense.weight"])
    first = model.head.output.weight.clone()
    model.start_head(["a", "b"], seed=1)
    assert torch.equal(model.head.output.weight, first)
    model.start_head(["a", "b"], seed=2)
    assert not torch.equal(model.head.output.weight, first)
    assert 0.015 < float(first.detach().std()) < 0.025


def test_saving_over_another_layout_leaves_no_mixture(minilm: ConnectionBert, tmp_path: Path) -> None:
    target = tmp_path / "model"
    joined, towers = ClassifierModel(minilm, "joined"), ClassifierModel(minilm, "towers")
    for model in (joined, towers):
        model.start_head(list(KOREAN))
    (tmp_path / "alone").mkdir()
    joined.save_pretrained(tmp_path / "alone" / "joined")
    towers.save_pretrained(tmp_path / "alone" / "towers")
    SiameseBert(minilm).save_pretrained(tmp_path / "alone" / "siamese")

    def names(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*")}

    target.mkdir()
    (target / "mine.txt").write_text("kept", "utf-8")
    for model, name in [
        (towers, "towers"),
        (joined, "joined"),
        (SiameseBert(minilm), "siamese"),
        (joined, "joined"),
        (towers, "towers"),
        (SiameseBert(minilm), "siamese"),
    ]:
        model.save_pretrained(target)
        assert names(target) - {"mine.txt"} == names(tmp_path / "alone" / name)
    assert (target / "mine.txt").exists()
    assert not has_classifier(target)


def test_a_sentence_encoder_saved_again_is_no_classifier(minilm: ConnectionBert, tmp_path: Path) -> None:
    model = ClassifierModel(minilm, "towers")
    model.start_head(["a", "b"])
    model.save_pretrained(tmp_path / "towers")
    assert has_classifier(tmp_path / "towers")
    SiameseBert.from_pretrained(tmp_path / "towers", device="cpu").save_pretrained(tmp_path / "encoder")
    assert "classifier" not in settings_of(tmp_path / "encoder", "sbert_ft.json")
    assert not has_classifier(tmp_path / "encoder")


def test_a_stock_classifier_opened_as_a_sentence_encoder_is_warned_of(
    stock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert has_classifier(stock)
    with caplog.at_level(logging.WARNING):
        SiameseBert.from_pretrained(stock, device="cpu")
    assert "not trained to be pooled" in caplog.text


def test_a_decision_is_kept_with_a_classifier_and_is_none_about_its_encoders_cosines(
    minilm: ConnectionBert, tmp_path: Path
) -> None:
    model = ClassifierModel(minilm, "towers")
    model.start_head([0, 1])
    model.decision = Decision(0.25, "f1", FittedOn("dev.csv", "0" * 64, 10, 5), similarity="probability")
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.decision == model.decision
    assert again.match(PAIRS).tolist() == (model.predict_proba(PAIRS)[:, 1] >= 0.25).tolist()
    assert "the probability is at least 0.2500" in (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert SiameseBert.from_pretrained(tmp_path / "saved", device="cpu").decision is None
    content = settings_of(tmp_path / "saved", "sbert_ft.json")
    for key, value, expected in [
        ("threshold", -0.5, "a number from 0 to 1"),
        ("similarity", "dot", "cosine or probability"),
    ]:
        change(tmp_path / "saved", "sbert_ft.json", decision={**content["decision"], key: value})
        with pytest.raises(ModelFolderError, match=rf"decision.{key} is '{value}', expected {expected}"):
            load(tmp_path / "saved")


# faults


def test_a_folder_without_a_head_names_how_to_make_one(
    minilm_path: Path, stock_copy: Path, tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    for folder in (minilm_path, tiny_bert_folder(tmp_path / "bert")):
        with pytest.raises(ModelFolderError, match=r"holds no classifier.*BertClassifier\(ConnectionBert.from_pre"):
            load(folder)
    weights = load_file(stock_copy / "model.safetensors")
    for name in ("classifier.bias", "bert.pooler.dense.weight", "classifier.weight"):
        save_file({key: t for key, t in weights.items() if key != name}, stock_copy / "model.safetensors")
        with pytest.raises(ModelFolderError, match=rf"{name.removeprefix('bert.')}.*missing.*never random"):
            load(stock_copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "3 x 32, but id2label names 2 classes"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "expected 0 to 2"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "'a' appears twice"),
        ({"id2label": [1, 2]}, "expected the classes' names"),
        ({"problem_type": "multi_label_classification"}, "multi-label classification is out of scope"),
        ({"classifier_dropout": 5.0}, "classifier_dropout is '5.0', expected a probability"),
        (
            {"architectures": ["GPT2ForSequenceClassification"], "model_type": "gpt2"},
            "head of model_type 'gpt2' is not",
        ),
        ({"architectures": ["BertForMaskedLM"]}, "holds no classifier: the architectures"),
    ],
)
def test_a_stock_folder_that_contradicts_itself_is_refused(
    stock_copy: Path, values: dict[str, object], message: str
) -> None:
    change(stock_copy, **values)
    with pytest.raises(ModelFolderError, match=message):
        load(stock_copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "siamese"}, "classifier.kind is 'siamese', expected one of towers, joined, single"),
        ({"pooling": "pooler"}, "classifier.pooling is 'pooler', expected mean, cls or max"),
        ({"pooling": "last"}, "classifier.pooling is 'last'"),
        ({"features": 3}, "classifier.features is '3'"),
        ({"truncation": "no"}, "classifier.truncation is 'no'"),
        ({"classes": ["a"]}, "classifier.classes is"),
        ({"classes": ["a", "a"]}, "classifier.classes is"),
        ({"classes": ["a", 1]}, "classifier.classes is"),
        ({"classes": "ab"}, "classifier.classes is"),
        ({"classes": ["a", "b", "c", "d"]}, "output.weight is 3 x 96, but 4 x 96"),
        ({"temperature": 0}, "classifier.temperature is '0', expected a number above 0"),
        ({"head_dropout": 1}, "classifier.head_dropout is '1'"),
        ({"depth": 1}, "classifier has a key 'depth'"),
    ],
)
def test_what_our_file_says_of_a_classifier_is_checked_key_by_key(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], values: dict[str, object], message: str
) -> None:
    bert = ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), device="cpu")
    model = ClassifierModel(bert, "towers")
    model.start_head(["a", "b", "c"])
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "sbert_ft.json"
    content = json.loads(file.read_text("utf-8"))
    content["classifier"].update(values)
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelFolderError, match=message):
        load(tmp_path / "saved")


def test_a_head_that_is_lost_or_cut_is_an_error(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> None:
    bert = ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), device="cpu")
    model = ClassifierModel(bert, "towers")
    model.start_head(["a", "b", "c"])
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "head.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ModelFolderError, match="incomplete or damaged"):
        load(tmp_path / "saved")
    save_file({"output.weight": torch.full((3, 96), torch.nan), "output.bias": torch.zeros(3)}, file)
    with pytest.raises(ModelFolderError, match="NaN"):
        load(tmp_path / "saved")
    file.unlink()
    with pytest.raises(ModelFolderError, match=r"has no head.safetensors"):
        load(tmp_path / "saved")


def test_classes_of_both_files_must_be_the_same(minilm: ConnectionBert, tmp_path: Path) -> None:
    model = ClassifierModel(minilm, "single")
    model.start_head(["a", "b"])
    model.save_pretrained(tmp_path / "saved")
    change(tmp_path / "saved", id2label={"0": "b", "1": "a"})
    with pytest.raises(
        ModelFolderError, match=r"id2label names the classes 'b', 'a', but sbert_ft.json names 'a', 'b'"
    ):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("towers", "whose kind is joined or single, not towers"), ("pairs", "kind is 'pairs', expected one of towers")],
)
def test_a_kind_that_a_stock_folder_cannot_be_is_refused(stock: Path, kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(stock, kind=kind)


def test_rows_of_the_wrong_kind_are_told_which_the_folder_was_taken_for(stock: Path) -> None:
    with pytest.raises(InputError, match=r"text at position 1 is .*takes single texts; .*kind='single'.*pass kind="):
        load(stock).predict(["a text", ("a", "pair")])


def test_a_head_without_the_file_that_says_what_it_is_is_refused(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), device="cpu"), "towers")
    model.start_head(["a", "b", "c"])
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "sbert_ft.json").unlink()
    with pytest.raises(ModelFolderError, match=r"has a classifier's head\.safetensors, but no sbert_ft\.json"):
        load(tmp_path / "saved")


def test_our_own_folder_that_asks_for_several_labels_a_row_is_refused(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), device="cpu"), "joined")
    model.start_head(["a", "b"])
    model.save_pretrained(tmp_path / "saved")
    change(tmp_path / "saved", problem_type="multi_label_classification")
    with pytest.raises(ModelFolderError, match="multi-label classification is out of scope"):
        load(tmp_path / "saved")
