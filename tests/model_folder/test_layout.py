"""Model folders: every layout is read correctly, and modules that are not supported are refused by name."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sbert_ft.encoder.attention import ProbeResult
from sbert_ft.errors import InputError, ModelFolderError, SbertFtError
from sbert_ft.model_folder.layout import ModelFolder, find_folder, read_folder
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.siamese import SiameseBert

TEXTS = ["A man plays a guitar.", "two DOGS running", "", "a long text about a house and a park and a game " * 3]
TRANSFORMER, POOLING, NORMALIZE = (f"sentence_transformers.models.{n}" for n in ("Transformer", "Pooling", "Normalize"))
NEW_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
NEW_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
NEW_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def write(path: Path, content: object) -> None:
    """Write JSON; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_modules(folder: Path, *modules: tuple[str, str]) -> None:
    """Write a modules.json of (path, type)."""
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    write(folder / "modules.json", entries)


def as_sentence_transformer(folder: Path, pooling: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Turn a bare folder into one of sentence-transformers, with this pooling and config_sentence_transformers.json."""
    write_modules(folder, ("", TRANSFORMER), ("1_Pooling", POOLING))
    write(folder / "1_Pooling" / "config.json", MEAN if pooling is None else pooling)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", settings)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def bare(tmp_path: Path, original: Path) -> Path:
    """Return the folder of a bare trio that the test may change."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def load(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, device="cpu", precision="float32")


def assert_as_sentence_transformers(folder: Path, **options: Any) -> SiameseBert:
    """Compare our vectors with those of sentence-transformers from the same folder, and return our model."""
    model = load(folder)
    reference = SentenceTransformer(str(folder), device="cpu")
    expected = reference.encode(TEXTS, **options)
    vectors = model.encode(TEXTS, on_truncate="ignore", **options)
    np.testing.assert_allclose(vectors, expected, atol=5e-6, rtol=0)
    return model


# layouts


def test_a_bare_trio_is_read_with_mean_pooling(bare: Path) -> None:
    folder = read_folder(bare)
    assert (folder.layout, folder.pooling, folder.normalize) == ("transformers", "mean", False)
    assert (folder.max_seq_length, folder.similarity, folder.own) == (None, "cosine", {})
    assert load(bare).max_seq_length == 64
    write(bare / "tokenizer_config.json", {"do_lower_case": True})  # sentence-transformers does not read it from vocab
    assert_as_sentence_transformers(bare)


def test_the_layout_up_to_5_3_is_read(bare: Path) -> None:
    folder = as_sentence_transformer(bare)
    assert assert_as_sentence_transformers(folder).max_seq_length == 40
    read = read_folder(folder)
    assert (read.layout, read.pooling, read.max_seq_length) == ("sentence-transformers", "mean", 40)


def test_the_layout_with_the_encoder_in_a_folder_of_its_own_is_read(tmp_path: Path, original: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(original, folder / "0_Transformer")
    write(folder / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    write_modules(folder, ("0_Transformer", TRANSFORMER), ("1_Pooling", POOLING), ("2_Normalize", NORMALIZE))
    write(folder / "1_Pooling" / "config.json", MEAN)
    (folder / "2_Normalize").mkdir()
    model = assert_as_sentence_transformers(folder)
    assert (model.max_seq_length, model.normalize) == (16, True)
    assert read_folder(folder).encoder_path == folder / "0_Transformer"


def test_the_layout_of_6_2_is_read(bare: Path) -> None:
    write_modules(bare, ("", NEW_TRANSFORMER), ("1_Pooling", NEW_POOLING), ("2_Normalize", NEW_NORMALIZE))
    write(
        bare / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}
    )
    write(bare / "2_Normalize" / "config.json", {})
    write(
        bare / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    )
    write(
        bare / "tokenizer_config.json",
        {"do_lower_case": True, "model_max_length": 24, "tokenizer_class": "BertTokenizer"},
    )
    read = read_folder(bare)
    assert (read.pooling, read.normalize, read.max_seq_length) == ("max", True, 24)
    assert_as_sentence_transformers(bare)


def test_the_real_minilm_is_read(minilm_path: Path) -> None:
    read = read_folder(minilm_path)
    assert (read.layout, read.pooling, read.normalize) == ("sentence-transformers", "mean", True)
    assert (read.max_seq_length, read.lower_case_first, read.similarity) == (256, False, "cosine")


def test_the_length_of_a_bare_folder_is_that_of_its_tokenizer(bare: Path) -> None:
    write(bare / "tokenizer_config.json", {"model_max_length": 12})
    assert load(bare).max_seq_length == 12
    write(bare / "tokenizer_config.json", {"model_max_length": int(1e30)})
    assert load(bare).max_seq_length == 64


def test_a_length_beyond_the_positions_is_held_to_them(bare: Path) -> None:
    as_sentence_transformer(bare)
    write(bare / "sentence_bert_config.json", {"max_seq_length": 512})
    assert load(bare).max_seq_length == 64


@pytest.mark.parametrize("length", [0, -1, 2, True, "128", 12.5, [128]], ids=repr)
def test_a_length_that_is_none_is_refused(bare: Path, length: object) -> None:
    as_sentence_transformer(bare)
    write(bare / "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(ModelFolderError, match="max_seq_length"):
        read_folder(bare)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta"])
def test_the_settings_of_old_kinds_are_found(bare: Path, name: str) -> None:
    as_sentence_transformer(bare)
    (bare / "sentence_bert_config.json").unlink()
    write(bare / f"sentence_{name}_config.json", {"max_seq_length": 20})
    assert read_folder(bare).max_seq_length == 20


def test_lower_casing_in_the_old_settings_is_done(bare: Path) -> None:
    write(bare / "tokenizer_config.json", {"do_lower_case": False, "strip_accents": False})
    as_sentence_transformer(bare)
    cased = load(bare).encode(["TWO DOGS"])
    write(bare / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": True})
    model = assert_as_sentence_transformers(bare)
    assert np.abs(model.encode(["TWO DOGS"]) - cased).max() > 0.01
    np.testing.assert_array_equal(model.encode(["TWO DOGS"]), load(bare).encode(["two dogs"]))


def test_links_to_files_and_folders_are_followed(tmp_path: Path, bare: Path) -> None:
    as_sentence_transformer(bare)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in bare.iterdir():
        (linked / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(linked)
    np.testing.assert_array_equal(load(tmp_path / "link").encode(TEXTS), load(bare).encode(TEXTS))


# pooling


@pytest.mark.parametrize(("flag", "pooling"), [("cls_token", "cls"), ("max_tokens", "max"), ("mean_tokens", "mean")])
def test_a_pooling_by_booleans_is_applied(bare: Path, flag: str, pooling: str) -> None:
    flags = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens")}
    as_sentence_transformer(bare, {"word_embedding_dimension": 32, **flags, f"pooling_mode_{flag}": True})
    assert read_folder(bare).pooling == pooling
    assert_as_sentence_transformers(bare)


@pytest.mark.parametrize("word", ["cls", "max", "mean"])
def test_a_pooling_by_a_word_is_applied(bare: Path, word: str) -> None:
    as_sentence_transformer(bare, {"embedding_dimension": 32, "pooling_mode": word})
    assert read_folder(bare).pooling == word
    assert_as_sentence_transformers(bare)


def test_no_pooling_named_is_the_mean(bare: Path) -> None:
    as_sentence_transformer(bare, {"word_embedding_dimension": 32})
    assert_as_sentence_transformers(bare)
    as_sentence_transformer(bare, {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False})
    assert read_folder(bare).pooling == "mean"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling_mode_cls_token"),
        ({"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens"),
        ({"pooling_mode_lasttoken": True}, "pooling_mode_lasttoken"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "pooling_mode_mean_sqrt_len_tokens"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["mean", "max"]}, "'max'"),
        ({"pooling_mode": ""}, "pooling"),
        ({"pooling_mode": None}, "pooling"),
        ({"pooling_mode": {"mean": 1}}, "pooling"),
        ({"pooling_mode_cls_token": "true"}, "pooling_mode_cls_token"),
        ({"pooling_mode_cls_token": 1}, "pooling_mode_cls_token"),
    ],
    ids=str,
)
def test_another_pooling_is_refused_by_name(bare: Path, settings: dict[str, Any], named: str) -> None:
    as_sentence_transformer(bare, settings)
    with pytest.raises(ModelFolderError) as caught:
        load(bare)
    assert named in str(caught.value) and "1_Pooling" in str(caught.value)


def test_a_missing_pooling_folder_is_named(bare: Path) -> None:
    as_sentence_transformer(bare)
    shutil.rmtree(bare / "1_Pooling")
    with pytest.raises(ModelFolderError, match=r"1_Pooling.*missing"):
        read_folder(bare)


# modules


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.Dense",
        "sentence_transformers.models.CLIPModel",
        "sentence_transformers.models.WordEmbeddings",
        "my_package.my_module.MyPooling",
        "os.system",
        "builtins.eval",
        "antigravity.fly",
        "Transformer",
        "",
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_foreign_module_is_refused_by_name_and_never_imported(bare: Path, kind: str, place: int) -> None:
    modules = [("", TRANSFORMER), ("1_Pooling", POOLING)]
    modules.insert(place, ("2_Foreign", kind))
    as_sentence_transformer(bare)
    (bare / "my_package").mkdir()
    (bare / "my_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (bare / "my_package" / "my_module.py").write_text("raise SystemExit('imported')")
    write_modules(bare, *modules)
    with pytest.raises(ModelFolderError) as caught:
        load(bare)
    assert f"'{kind}'" in str(caught.value) and "modules.json" in str(caught.value)
    assert not {"my_package", "antigravity"} & set(sys.modules)


@pytest.mark.parametrize(
    "path", ["..", "../other", "1_Pooling/../../x", "/etc", "a\\b", "C:\\x", "1\0", "~/../.."], ids=repr
)
def test_a_path_that_leaves_the_folder_is_refused(bare: Path, path: str) -> None:
    as_sentence_transformer(bare)
    for modules in [((path, TRANSFORMER), ("1_Pooling", POOLING)), (("", TRANSFORMER), (path, POOLING))]:
        write_modules(bare, *modules)
        with pytest.raises(ModelFolderError, match="leaves the folder"):
            load(bare)


@pytest.mark.parametrize(
    "kinds",
    [
        [POOLING, TRANSFORMER],
        [POOLING],
        [TRANSFORMER, NORMALIZE, POOLING],
        [NORMALIZE, TRANSFORMER],
        [TRANSFORMER, TRANSFORMER],
        [TRANSFORMER, POOLING, POOLING],
        [],
    ],
)
def test_modules_in_another_order_are_refused(bare: Path, kinds: list[str]) -> None:
    as_sentence_transformer(bare)
    write_modules(bare, *(("" if kind == TRANSFORMER else f"{i}_Module", kind) for i, kind in enumerate(kinds)))
    with pytest.raises(ModelFolderError, match=r"modules\.json"):
        load(bare)


@pytest.mark.parametrize(
    "content",
    [{}, ["Transformer"], [{"type": TRANSFORMER}], [{"path": ""}], [{"type": 3, "path": ""}], [None], 3, "x"],
    ids=str,
)
def test_a_modules_file_that_is_none_is_refused(bare: Path, content: object) -> None:
    write(bare / "modules.json", content)
    with pytest.raises(ModelFolderError, match=r"modules\.json"):
        load(bare)


def test_an_encoder_folder_that_is_not_there_is_named(bare: Path) -> None:
    write_modules(bare, ("0_Transformer", TRANSFORMER), ("1_Pooling", POOLING))
    with pytest.raises(ModelFolderError, match=r"0_Transformer.*config\.json"):
        load(bare)
    (bare / "0_Transformer").write_text("a file")
    with pytest.raises(ModelFolderError, match=r"0_Transformer.*config\.json"):
        load(bare)


# prompts and similarity


def test_a_prompt_is_put_before_every_text_as_in_sentence_transformers(bare: Path) -> None:
    prompts = {"query": "who is ", "none": "", "document": "a book: "}
    as_sentence_transformer(bare, prompts=prompts, default_prompt_name="query")
    model = assert_as_sentence_transformers(bare)
    assert (model.prompts, model.default_prompt_name) == (prompts, "query")
    assert_as_sentence_transformers(bare, prompt_name="document")
    assert_as_sentence_transformers(bare, prompt_name="none")
    assert_as_sentence_transformers(bare, prompt="now: ")
    np.testing.assert_array_equal(model.encode(["a man"]), load(bare).encode(["who is a man"], prompt_name="none"))
    assert np.abs(model.encode(["a man"]) - model.encode(["a man"], prompt="")).max() > 1e-3


def test_prompts_without_a_default_change_nothing(bare: Path) -> None:
    plain = load(bare).encode(TEXTS, on_truncate="ignore")
    as_sentence_transformer(bare, prompts={"query": "who is "}, default_prompt_name=None)
    (bare / "sentence_bert_config.json").unlink()
    np.testing.assert_array_equal(load(bare).encode(TEXTS, on_truncate="ignore"), plain)


def test_an_unknown_prompt_name_is_refused_with_the_known_ones(bare: Path) -> None:
    as_sentence_transformer(bare, prompts={"query": "q", "document": "d"})
    with pytest.raises(InputError, match="'passage', but the model's prompts are: query, document"):
        load(bare).encode("a", prompt_name="passage")


@pytest.mark.parametrize("default", ["passage", "", 3, ["query"], {"query": 1}, True], ids=repr)
def test_an_unknown_default_prompt_is_refused(bare: Path, default: object) -> None:
    as_sentence_transformer(bare, prompts={"query": "q"}, default_prompt_name=default)
    with pytest.raises(ModelFolderError, match="default_prompt_name"):
        load(bare)


@pytest.mark.parametrize("prompts", [["q"], {"query": 3}, {"query": None}, "q"], ids=repr)
def test_prompts_that_are_none_are_refused(bare: Path, prompts: object) -> None:
    as_sentence_transformer(bare, prompts=prompts)
    with pytest.raises(ModelFolderError, match=r"prompts are .* expected texts by name"):
        load(bare)


@pytest.mark.parametrize("flag", ["pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"])
@pytest.mark.parametrize("layouts", [("rows",), ("runs",), ("padded",)])
def test_pooling_without_the_prompts_tokens_is_that_of_sentence_transformers(
    bare: Path, tmp_path: Path, flag: str, layouts: tuple[Any, ...]
) -> None:
    pooling = {"word_embedding_dimension": 32, flag: True, "include_prompt": False}
    as_sentence_transformer(bare, pooling, prompts={"query": "a man and a dog: ", "none": ""})
    theirs = SentenceTransformer(str(bare), device="cpu", local_files_only=True)
    model = load(bare)
    model.bert.probe = ProbeResult(layouts, {})
    model.save_pretrained(tmp_path / "saved")
    for ours in (model, load(tmp_path / "saved")):
        for options in ({"prompt_name": "query"}, {"prompt": "two "}, {"prompt_name": "none"}, {}):
            expected = theirs.encode(TEXTS, **options)
            np.testing.assert_allclose(ours.encode(TEXTS, **options), expected, atol=5e-6, rtol=0)
            found = [all_of["sentence_embedding"] for all_of in ours.encode(TEXTS, output_value=None, **options)]
            np.testing.assert_allclose(np.stack(found), expected, atol=5e-6, rtol=0)
    assert np.abs(model.encode(TEXTS, prompt_name="query") - model.encode(TEXTS)).max() > 0.01


def test_a_text_of_which_only_the_prompt_is_left_has_the_vector_of_sentence_transformers(bare: Path) -> None:
    as_sentence_transformer(bare, {**MEAN, "include_prompt": False}, prompts={})
    model = SiameseBert.from_pretrained(bare, "cpu", "float32", max_seq_length=4)
    theirs = SentenceTransformer(str(bare), device="cpu", local_files_only=True)
    theirs.max_seq_length = 4
    for prompt in ("a man", "a man and", "a man and a dog"):  # the last ones fill all four tokens
        expected = theirs.encode(TEXTS, prompt=prompt)
        np.testing.assert_allclose(model.encode(TEXTS, prompt=prompt), expected, atol=5e-6, rtol=0)


def test_the_first_window_alone_is_pooled_without_the_prompt(bare: Path) -> None:
    as_sentence_transformer(bare, {**MEAN, "include_prompt": False}, prompts={})
    model = load(bare)
    text = "a long text about a house and a park and a game"
    whole = model.encode(text, prompt="two dogs ", on_truncate="chunk")
    np.testing.assert_allclose(whole, model.encode(text, prompt="two dogs "), atol=5e-6, rtol=0)
    assert np.isfinite(model.encode(text * 9, prompt="two dogs ", on_truncate="chunk")).all()


def test_an_include_prompt_that_is_neither_true_nor_false_is_refused(bare: Path) -> None:
    as_sentence_transformer(bare, {**MEAN, "include_prompt": "no"})
    with pytest.raises(ModelFolderError, match="include_prompt is 'no', expected true or false"):
        load(bare)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan", None])
def test_vectors_are_compared_as_the_folder_says(bare: Path, name: str | None) -> None:
    as_sentence_transformer(bare, similarity_fn_name=name)
    model, reference = load(bare), SentenceTransformer(str(bare), device="cpu")
    assert model.similarity_fn_name == (name or "cosine")
    a, b = model.encode(["a man", "two dogs", "music"]), model.encode(["a man", "a cat", "street"])
    np.testing.assert_allclose(model.similarity(a, b), reference.similarity(a, b), atol=2e-5, rtol=1e-6)
    np.testing.assert_allclose(
        model.similarity_pairwise(a, b), reference.similarity_pairwise(a, b), atol=2e-5, rtol=1e-6
    )


@pytest.mark.parametrize("name", ["jaccard", "COSINE", 3, ["cosine"], True], ids=repr)
def test_an_unknown_similarity_is_refused(bare: Path, name: object) -> None:
    as_sentence_transformer(bare, similarity_fn_name=name)
    with pytest.raises(ModelFolderError, match=r"similarity_fn_name.*expected one of cosine, dot"):
        load(bare)


# folders that are none, and odd ones


@pytest.mark.parametrize(
    "name",
    ["sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased", "no/such/folder", "x" * 300, "nul\0name", ""],
)
def test_a_name_that_is_no_folder_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFolderError) as caught:
        SiameseBert.from_pretrained(name)
    assert "\0" not in str(caught.value)


def test_a_name_of_the_hub_is_told_that_nothing_is_looked_up() -> None:
    with pytest.raises(ModelFolderError, match="Hugging Face Hub are not looked up, download the model first"):
        find_folder("klue/bert-base")


def test_a_file_a_dangling_link_and_a_loop_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, word in [("file", "a file"), ("dangling", "a dangling link"), ("loop", "loop")]:
        with pytest.raises(ModelFolderError, match=word):
            SiameseBert.from_pretrained(tmp_path / name)


def test_an_empty_folder_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no config\.json: expected.*pytorch_model\.bin.*found nothing"):
        load(tmp_path)


@pytest.mark.parametrize("inner", ["", "0_Transformer", "0_BERT"])
def test_settings_are_used_though_modules_json_is_missing_and_it_is_said(
    inner: str, tmp_path: Path, original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(original, folder / inner)
    as_sentence_transformer(folder, {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    write_modules(folder, (inner, TRANSFORMER), ("1_Pooling", POOLING), ("2_Normalize", NORMALIZE))
    (folder / "2_Normalize").mkdir()
    if inner:
        (folder / "sentence_bert_config.json").rename(folder / inner / "sentence_bert_config.json")
    expected = assert_as_sentence_transformers(folder).encode(TEXTS, on_truncate="ignore")
    (folder / "modules.json").unlink()
    caplog.clear()
    model = load(folder)
    assert (model.pooling, model.max_seq_length, model.normalize) == ("cls", 40, True)
    np.testing.assert_array_equal(model.encode(TEXTS, on_truncate="ignore"), expected)
    assert "no modules.json" in caplog.text and "cls pooling, vectors of length 1, max_seq_length 40" in caplog.text
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved").encode(TEXTS, on_truncate="ignore"), expected)


def test_the_inner_folder_of_a_model_names_the_whole_one(
    tmp_path: Path, original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(original, tmp_path / "model" / "0_BERT")
    as_sentence_transformer(tmp_path / "model")
    load(tmp_path / "model" / "0_BERT")
    assert f"are not used; give its folder, '{tmp_path / 'model'}'" in caplog.text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["snapshots/0123/config.json", "refs/main"], "in the cache of the Hugging Face Hub: give '.*snapshots/0123'"),
        (["adapter_config.json", "adapter_model.safetensors"], r"an adapter \(PEFT\): merge it"),
        (["model.ckpt"], "a checkpoint of PyTorch Lightning: save its encoder with save_pretrained"),
        (["model.ckpt.index"], r"weights of TensorFlow: convert it .*from_tf=True"),
        (["model-q4.gguf"], "weights of GGUF: give the folder of the model that it was made from"),
        (["step-00000003.safetensors"], "checkpoints of sbert-ft: give the folder 'model' of their run"),
        (["optimizer.pt", "rng_state.pth"], "the state of a training: give a checkpoint that has model.safetensors"),
        (["model.safetensors", "optimizer.pt"], r"found 'model.safetensors', 'optimizer.pt'$"),
        (["mine/config.json", "other/config.json"], "give one of the folders in it that have one: '.*mine', '.*other'"),
    ],
)
def test_a_folder_without_config_json_is_called_what_it_is(files: list[str], said: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}", "utf-8")
    with pytest.raises(ModelFolderError, match=said):
        load(tmp_path)


def test_a_run_is_told_to_give_its_model(tmp_path: Path) -> None:
    for name in ("config.json", "fingerprint.json"):
        write(tmp_path / name, {"output_dir": "runs/first"})
    with pytest.raises(ModelFolderError, match=r"only a run of sbert-ft.*give its folder 'model', written when"):
        load(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    with pytest.raises(ModelFolderError, match="its folder 'model' holds weights; give that one"):
        load(tmp_path)


def test_the_encoder_of_setfit_is_used_and_its_pickle_never_opened(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load(bare).encode(TEXTS)
    (bare / "model_head.pkl").write_bytes(b"cos\nabort\n(tR.")
    np.testing.assert_array_equal(load(bare).encode(TEXTS), expected)
    assert "is a model of SetFit: its classifier, model_head.pkl, is a pickle, which is never opened" in caplog.text
    with pytest.raises(ModelFolderError, match=r"the head of SetFit, is a pickle, which is never opened.*call fit"):
        ClassifierModel.from_pretrained(bare, "cpu")


def test_a_checkpoint_of_a_trainer_is_loaded_as_a_model(bare: Path) -> None:
    expected = load(bare).encode(TEXTS)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (bare / name).write_bytes(b"cos\nabort\n(tR.")
    np.testing.assert_array_equal(load(bare).encode(TEXTS), expected)


@pytest.mark.parametrize("missing", ["config.json", "pytorch_model.bin", "vocab.txt"])
def test_a_missing_file_is_named_with_what_lies_there(bare: Path, missing: str) -> None:
    (bare / missing).unlink()
    with pytest.raises(ModelFolderError) as caught:
        load(bare)
    there = next(name for name in ("config.json", "vocab.txt") if name != missing)
    assert missing in str(caught.value) and there in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["modules.json", "config.json", "sentence_bert_config.json", "config_sentence_transformers.json", "sbert_ft.json"],
)
@pytest.mark.parametrize("fault", ["dangling", "broken", "list", "folder", "empty"])
def test_a_settings_file_that_cannot_be_read_is_never_passed_over(bare: Path, name: str, fault: str) -> None:
    as_sentence_transformer(bare)
    place = bare / name
    place.unlink(missing_ok=True)
    if fault == "dangling":
        place.symlink_to(bare / "nowhere")
    elif fault == "folder":
        place.mkdir()
    else:
        content = {"broken": "{", "list": "{}" if name == "modules.json" else "[]", "empty": ""}[fault]
        place.write_text(content)
    with pytest.raises(ModelFolderError, match=name.replace(".", r"\.")):
        load(bare)


@pytest.mark.parametrize(
    "name", ["with blank", "한글 폴더", 'quote\'d "name"', "$HOME", "`ls`", "-dash", "a;b", "%s{0}", "é" * 60]
)
def test_odd_names_of_folders_work(tmp_path: Path, original: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(original, folder)
    model = load(folder)
    model.save_pretrained(tmp_path / (name + " saved"))
    np.testing.assert_array_equal(load(tmp_path / (name + " saved")).encode(TEXTS[:2]), model.encode(TEXTS[:2]))


def test_python_files_in_a_folder_are_never_imported(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_sentence_transformer(bare)
    names = ("modeling_bert", "tokenization_bert", "custom_st", "numpy", "json", "configuration_bert")
    for name in names:
        (bare / f"{name}.py").write_text("raise SystemExit('a file of the model folder was imported')")
    config = json.loads((bare / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_bert.Evil", "AutoConfig": "configuration_bert.Evil"}
    write(bare / "config.json", config)
    write(bare / "tokenizer_config.json", {"do_lower_case": True, "auto_map": {"AutoTokenizer": ["x.Y", None]}})
    monkeypatch.chdir(bare.parent)
    before = list(sys.path)
    assert load(bare).encode("a man").shape == (32,)
    assert sys.path == before
    assert not {"modeling_bert", "tokenization_bert", "custom_st", "configuration_bert"} & set(sys.modules)


def test_our_own_file_may_be_missing_and_is_kept_on_save(tmp_path: Path, bare: Path) -> None:
    as_sentence_transformer(bare)
    assert read_folder(bare).own == {}
    own = {"threshold": 0.625, "calibration": {"a": 1.5, "b": [0.25]}, "score_scale": [0.0, 5.0], "문": "값"}
    write(bare / "sbert_ft.json", own)
    load(bare).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "sbert_ft.json").read_text(encoding="utf-8"))
    assert saved == {**own, "format": 1}
    (tmp_path / "saved" / "sbert_ft.json").unlink()
    assert load(tmp_path / "saved").encode("a man").shape == (32,)


def test_what_a_folder_says_is_frozen(bare: Path) -> None:
    folder = read_folder(bare)
    assert isinstance(folder, ModelFolder)
    with pytest.raises(AttributeError):
        folder.pooling = "cls"  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["config.json", "vocab.txt", "pytorch_model.bin", "modules.json", "1_Pooling/config.json"]
)
def test_any_bytes_in_any_file_give_a_model_or_our_error(bare: Path, name: str) -> None:
    as_sentence_transformer(bare)
    good = (bare / name).read_bytes()
    generator = np.random.default_rng(7)
    for trial in range(6):
        bad = bytearray(good)
        if trial % 3 == 0:
            del bad[int(generator.integers(len(bad))) :]
        elif trial % 3 == 1:
            for place in generator.integers(len(bad), size=1 + trial):
                bad[place] = int(generator.integers(256))
        else:
            begin = int(generator.integers(len(bad)))
            bad[begin:begin] = generator.bytes(20)
        (bare / name).write_bytes(bytes(bad))
        try:
            vectors = load(bare).encode(TEXTS[:2])
        except SbertFtError:
            continue
        assert vectors.shape == (2, 32)


def test_the_home_of_an_unknown_user_is_refused_as_any_other_folder_that_is_not_there() -> None:
    with pytest.raises(ModelFolderError, match="no-such-user"):
        read_folder("~no-such-user/model")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask', which is not applied; only the token"),
        ({"module_output_name": "pooled"}, "module_output_name is 'pooled', which is not applied; only token vectors"),
        ({"query_length": 32}, "query_length is '32', which is not applied; queries and documents have one length"),
        ({"document_length": 0}, "document_length is '0', which is not applied"),
        ({"query_expansion": {"token": "[MASK]"}}, "query_expansion is"),
        ({"tokenizer_args": {"do_lower_case": False}}, "tokenizer_args sets 'do_lower_case', which is not applied"),
        ({"processor_kwargs": {"truncation_side": "left"}}, "from this file; write it into tokenizer_config.json"),
        ({"processing_kwargs": {"text": {"max_length": 9}}}, "processing_kwargs sets 'text'"),
        ({"config_args": {"hidden_act": "relu"}}, "config_args sets 'hidden_act'"),
        ({"model_args": ["fp16"]}, "model_args is '['fp16']', expected options by name"),
        (
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "modality_config has '{'method': 'forward', 'method_output_name': 'pooler_output'}' for texts, expected",
        ),
        ({"modality_config": "text"}, "modality_config has 'text' for texts, expected"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)
def test_settings_that_are_not_applied_are_refused(bare: Path, settings: dict[str, object], said: str) -> None:
    as_sentence_transformer(bare)
    write(bare / "sentence_bert_config.json", {"max_seq_length": 16, **settings})
    with pytest.raises(ModelFolderError, match=re.escape(said)):
        read_folder(bare)


def test_settings_of_loading_change_nothing(bare: Path) -> None:
    as_sentence_transformer(bare)
    loading = {"model_args": {"trust_remote_code": True, "torch_dtype": "float32"}, "tokenizer_args": {}}
    modalities = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}, "message": {"a": 1}}
    settings = {"max_seq_length": 16, **loading, "modality_config": modalities, "query_length": None}
    write(bare / "sentence_bert_config.json", settings)
    assert load(bare).max_seq_length == 16
