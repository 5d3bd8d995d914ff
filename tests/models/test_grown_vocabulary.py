"""Folders of new vocabularies and of models that get more pieces: here, in transformers, in sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import default_vocabulary, make_bert_folder
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForPreTraining, BertTokenizerFast

from sbert_ft import ConnectionBert, SiameseBert, extend_vocabulary, train_vocabulary
from sbert_ft.errors import InputError, ModelFolderError, OutputError
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.tokenization.tokenizer import TextTokenizer

KOREAN = ["정말 재미있는 영화", "재미있는 영화 영화", "Café 정말 재미있는", "정말 최고의 영화 😀 ㅋㅋㅋ"] * 3
NEW = ["glowing embers", "glowing lantern embers", "embers lantern"] * 4
OLD = ["a man plays the guitar", "the dog is running", "water!", "two women walking in the park"]


# ---------------------------------------------------------------- a new vocabulary


def test_random_weights_start_from_the_folder_of_a_vocabulary(tmp_path: Path) -> None:
    tokenizer = train_vocabulary(KOREAN, tmp_path / "start", 200, n_layers=2, hidden_size=128)
    model = ConnectionBert.from_config(tmp_path / "start", "cpu", "float32")
    config = json.loads((tmp_path / "start" / "config.json").read_text("utf-8"))
    assert config["vocab_size"] == len(tokenizer.get_vocab()) == len(model.encoder.get_input_embeddings().weight)
    sizes = [config[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")]
    assert (config["model_type"], sizes) == ("bert", [2, 128, 2, 512])
    assert not [key for key in config if key.startswith("_")]
    assert model.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert [tokenizer.get_vocab()[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cased", [False, True])
def test_transformers_splits_texts_as_the_folder_says(tmp_path: Path, cased: bool) -> None:
    ours = train_vocabulary(KOREAN, tmp_path / "start", 200, cased)
    read = TextTokenizer.from_pretrained(tmp_path / "start")
    texts = [*KOREAN, "CAFÉ café Cafe", "漢字 영화漢", "정말정말", "없는뷁", ""]
    expected = [ours.tokenize(text) for text in texts]
    assert [read.tokenize(text) for text in texts] == expected
    for theirs in (
        AutoTokenizer.from_pretrained(tmp_path / "start"),
        BertTokenizerFast.from_pretrained(tmp_path / "start"),
    ):
        assert [theirs.tokenize(text) for text in texts] == expected
    assert ("Café" in ours.get_vocab()) == cased
    assert "재미있는" in ours.get_vocab() and "é" in "".join(ours.get_vocab())


def test_decomposed_hangul_is_the_same_text(tmp_path: Path) -> None:
    import unicodedata

    decomposed = [unicodedata.normalize("NFD", text) for text in KOREAN]
    composed = train_vocabulary(KOREAN, tmp_path / "composed", 200)
    tokenizer = train_vocabulary(decomposed, tmp_path / "decomposed", 200)
    assert tokenizer.get_vocab() == composed.get_vocab()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "composed")
    assert theirs.tokenize(decomposed[0]) == composed.tokenize(KOREAN[0])


def test_the_same_texts_give_the_same_files(tmp_path: Path) -> None:
    for name in ("first", "second", "second"):  # the last one replaces what the one before wrote
        train_vocabulary(KOREAN, tmp_path / name, 150)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert first == second
    assert set(first) == {
        *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    }


@pytest.mark.parametrize("hidden_size", [63, 100, 0, 64.0])
def test_a_width_that_heads_do_not_fit_is_refused(tmp_path: Path, hidden_size: Any) -> None:
    with pytest.raises(InputError, match="hidden_size is"):
        train_vocabulary(KOREAN, tmp_path / "start", 200, hidden_size=hidden_size)
    assert not (tmp_path / "start").exists()


@pytest.mark.parametrize("there", ["model.safetensors", "notes.txt", ".hidden"])
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, there: str) -> None:
    train_vocabulary(KOREAN, tmp_path / "start", 150)
    (tmp_path / "start" / there).write_text("something else")
    before = {path.name: path.read_bytes() for path in (tmp_path / "start").iterdir()}
    with pytest.raises(OutputError, match=r"start' holds .*; expected a folder that is empty or does not exist"):
        train_vocabulary(OLD, tmp_path / "start", 150)
    assert {path.name: path.read_bytes() for path in (tmp_path / "start").iterdir()} == before


# ---------------------------------------------------------------- a model that grows


def vectors(folder: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    return np.asarray(SiameseBert.from_pretrained(folder, "cpu", "float32").encode(texts))


def words_table(folder: Path) -> torch.Tensor:
    return ConnectionBert.from_pretrained(folder, "cpu", "float32").encoder.get_input_embeddings().weight.detach()


@pytest.mark.parametrize("safetensors", [False, True])
def test_old_texts_keep_their_vectors_and_new_rows_are_means(tmp_path: Path, safetensors: bool) -> None:
    folder = make_bert_folder(tmp_path / "model", safetensors=safetensors, config_extra={"vocab_size": 400})
    done = extend_vocabulary(folder, NEW, tmp_path / "larger", 3)
    tokens = [piece.token for piece in done.pieces]
    assert sorted(tokens) == ["embers", "glowing", "lantern"]
    n_old = len(default_vocabulary())
    assert done.before.vocab_size == n_old and done.after.vocab_size == n_old + 3
    old, new = words_table(folder), words_table(tmp_path / "larger")
    assert len(new) == 400  # rows without a token are used first
    for row, piece in enumerate(done.pieces, n_old):
        assert [done.before.convert_ids_to_tokens(i) for i in piece.made_of] == done.before.tokenize(piece.token)
        torch.testing.assert_close(new[row], old[list(piece.made_of)].mean(0), rtol=0, atol=1e-7)
    others = [row for row in range(400) if not n_old <= row < n_old + 3]
    assert torch.equal(new[others], old[others])
    assert np.abs(vectors(tmp_path / "larger", OLD) - vectors(folder, OLD)).max() < 5e-6
    assert np.abs(vectors(tmp_path / "larger", NEW[:1]) - vectors(folder, NEW[:1])).max() > 1e-3
    assert not (tmp_path / "larger" / "pytorch_model.bin").exists()


def pretraining_folder(target: Path, weights: str, n_spare: int = 0) -> Path:
    """Write a small `BertForPreTraining` with its heads, and return its folder."""
    make_bert_folder(target)
    (target / "pytorch_model.bin").unlink()
    config = BertConfig.from_pretrained(target)
    config.vocab_size += n_spare
    torch.manual_seed(5)
    model = BertForPreTraining(config)
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    if weights == "safetensors":
        model.save_pretrained(target)
    else:  # with the tied layers, as older versions wrote them
        config.save_pretrained(target)
        torch.save(model.state_dict(), target / "pytorch_model.bin")
    return target


@pytest.mark.parametrize("n_spare", [0, 2])
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_the_head_of_masked_words_grows_with_the_table(tmp_path: Path, weights: str, n_spare: int) -> None:
    folder = pretraining_folder(tmp_path / "model", weights, n_spare)
    done = extend_vocabulary(folder, NEW, tmp_path / "larger", 3)
    n_old, batch = len(default_vocabulary()), torch.tensor([done.before.encode("a man [MASK] the guitar")])
    old, new = (AutoModelForMaskedLM.from_pretrained(path).eval() for path in (folder, tmp_path / "larger"))
    assert new.config.vocab_size == max(n_old + n_spare, n_old + 3)
    with torch.no_grad():
        before, after = old(batch).logits[0, 3], new(batch).logits[0, 3]
    assert (before[:n_old] - after[:n_old]).abs().max() < 5e-6
    for row, piece in enumerate(done.pieces, n_old):  # the output layer is linear, so its means are means
        assert abs(after[row] - before[list(piece.made_of)].mean()) < 5e-6
    keys = set(load_file(tmp_path / "larger" / "model.safetensors"))
    assert {"cls.predictions.bias", "cls.seq_relationship.weight", "bert.pooler.dense.weight"} <= keys


def test_a_sentence_encoder_keeps_its_settings_and_loads_in_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SiameseBert.from_pretrained(make_bert_folder(tmp_path / "bare"), "cpu", "float32", max_seq_length=32)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "onnx").mkdir()
    (tmp_path / "model" / "onnx" / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "model" / "optimizer.pt").write_bytes(b"a state")
    done = extend_vocabulary(tmp_path / "model", NEW, tmp_path / "larger", 3)
    assert done.left_out == ("onnx/", "optimizer.pt")
    assert not (tmp_path / "larger" / "onnx").exists() and not (tmp_path / "larger" / "optimizer.pt").exists()
    for name in ("modules.json", "1_Pooling/config.json", "sbert_ft.json", "sentence_bert_config.json", "README.md"):
        assert (tmp_path / "larger" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    theirs = SentenceTransformer(str(tmp_path / "larger"), device="cpu")
    assert theirs.tokenizer.tokenize("glowing embers") == ["glowing", "embers"]
    assert np.abs(theirs.encode(OLD + NEW[:3]) - vectors(tmp_path / "larger", OLD + NEW[:3])).max() < 5e-6
    assert SiameseBert.from_pretrained(tmp_path / "larger", "cpu").max_seq_length == 32


def test_the_packaged_model_grows_and_old_sentences_keep_their_vectors(
    minilm_path: Path, stsb_sentences: list[str], tmp_path: Path
) -> None:
    done = extend_vocabulary(minilm_path, stsb_sentences, tmp_path / "larger", 100)
    assert len(done.pieces) == 100 and done.before.vocab_size == 30_522
    new = {piece.token for piece in done.pieces}
    unchanged = [text for text in stsb_sentences if new.isdisjoint(done.after.tokenize(text))]
    changed = [text for text in stsb_sentences if not new.isdisjoint(done.after.tokenize(text))]
    assert len(unchanged) > 200 and len(changed) > 200
    assert np.abs(vectors(tmp_path / "larger", unchanged[:200]) - vectors(minilm_path, unchanged[:200])).max() < 5e-6
    texts = changed[:200]
    assert sum(map(len, map(done.after.tokenize, texts))) < sum(map(len, map(done.before.tokenize, texts)))


@pytest.mark.parametrize("kind", ["towers", "joined"])
def test_a_classifier_keeps_its_head(tmp_path: Path, kind: Any) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(make_bert_folder(tmp_path / "bare"), "cpu", "float32"), kind)
    model.start_head(["no", "yes"])
    model.save_pretrained(tmp_path / "model")
    extend_vocabulary(tmp_path / "model", NEW, tmp_path / "larger", 3)
    pairs = [("a dog runs", "a man"), ("water", "the park")]
    before, after = (
        ClassifierModel.from_pretrained(tmp_path / name, "cpu", "float32").predict_proba(pairs)
        for name in ("model", "larger")
    )
    assert np.abs(before - after).max() < 5e-6


def test_an_inner_folder_of_old_sentence_transformers_is_kept(tmp_path: Path) -> None:
    make_bert_folder(tmp_path / "model" / "0_BERT")
    modules = [{"idx": 0, "name": "0", "path": "0_BERT", "type": "sentence_transformers.models.BERT"}]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "model" / "0_BERT" / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 40, "do_lower_case": True})
    )
    extend_vocabulary(tmp_path / "model", NEW, tmp_path / "larger", 3)
    assert not (tmp_path / "larger" / "config.json").exists()
    assert (tmp_path / "larger" / "0_BERT" / "model.safetensors").exists()
    assert np.abs(vectors(tmp_path / "larger", OLD) - vectors(tmp_path / "model", OLD)).max() < 5e-6


def test_weights_of_half_precision_become_float32(tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model", safetensors=True, config_extra={"dtype": "float16"})
    halves = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    extend_vocabulary(folder, NEW, tmp_path / "larger", 3)
    assert json.loads((tmp_path / "larger" / "config.json").read_text())["dtype"] == "float32"
    assert {tensor.dtype for tensor in load_file(tmp_path / "larger" / "model.safetensors").values()} == {torch.float32}
    assert np.abs(vectors(tmp_path / "larger", OLD) - vectors(folder, OLD)).max() < 5e-6


def test_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model", config_extra={"vocab_size": len(default_vocabulary()) + 1})
    (folder / "added_tokens.json").write_text(json.dumps({"<url>": len(default_vocabulary())}))
    done = extend_vocabulary(folder, NEW, tmp_path / "larger", 3)
    text = "embers <url> glowing"
    expected = done.after.encode(text)
    assert done.after.get_vocab()["<url>"] == len(default_vocabulary())
    assert TextTokenizer.from_pretrained(tmp_path / "larger").encode(text) == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "larger").encode(text) == expected


def test_unknown_words_become_known_and_none_is_new(tmp_path: Path) -> None:
    done = extend_vocabulary(make_bert_folder(tmp_path / "model"), KOREAN, tmp_path / "larger", 200)
    count = [tokenizer.count_unknown(tokenizer.tokenize(KOREAN + OLD)) for tokenizer in (done.before, done.after)]
    assert count[0] > 30 and count[1] == 0


def of_bpe(folder: Path) -> str:
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.save(str(folder / "tokenizer.json"))
    return "tokenizer.json' is of a tokenizer of the kind BPE, expected WordPiece, which alone can be extended"


def with_a_strange_tensor(folder: Path) -> str:
    n_rows = len(default_vocabulary())
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "mystery.weight": torch.zeros(n_rows, 4)}, folder / "pytorch_model.bin")
    return f"the tensor 'mystery.weight' has {n_rows} rows, as many as the table of words"


def without_weights(folder: Path) -> str:
    (folder / "pytorch_model.bin").unlink()
    return "holds no weights that can be read"


def of_another_vocabulary(folder: Path) -> str:
    with (folder / "vocab.txt").open("a") as file:
        file.write("one\ntoo-many\n" + "more\n")
    return "the vocabulary has"


@pytest.mark.parametrize("spoil", [of_bpe, with_a_strange_tensor, without_weights, of_another_vocabulary])
def test_a_model_that_cannot_grow_is_refused_before_texts_are_read(
    tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    folder = make_bert_folder(tmp_path / "model")
    expected = spoil(folder)

    class Unread:
        def __iter__(self) -> Any:
            raise AssertionError("the texts were read")

    with pytest.raises(ModelFolderError) as refused:
        extend_vocabulary(folder, Unread(), tmp_path / "larger", 3)
    assert expected in str(refused.value)
    assert not (tmp_path / "larger").exists()


def test_the_model_s_own_folder_is_never_written_to(tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model")
    before = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(OutputError, match=r"holds .config\.json., .pytorch_model\.bin., .vocab\.txt.; expected"):
        extend_vocabulary(folder, NEW, folder, 3)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in before.iterdir()}
