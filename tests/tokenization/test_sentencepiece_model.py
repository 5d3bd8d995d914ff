"""SentencePiece models beside or without vocab.txt: the ids of SentencePiece itself, here and after saving."""

from __future__ import annotations

import csv
import json
import random
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import make_bert_folder
from piece_models import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, model_bytes
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from sbert_ft import SiameseBert
from sbert_ft.errors import ModelFolderError
from sbert_ft.tokenization.sentencepiece_model import read_piece_model
from sbert_ft.tokenization.tokenizer import TextTokenizer

KOBERT_FILE = "tokenizer_78b3253a26.model"
BERTS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
ODD_TEXTS = [
    *(
        "",
        " ",
        "  a  b ",
        "\t한\n국",
        "한▁국 ▁",
        "ＡＢＣ　ｄ",
        "～～ ㅋㅋㅋ^^;;",
        "☃☃ ☃",
        "e\u0301 ½ ﬁ",
        "\u200b\ufeffa",
    ),
    *("❤️ 1️⃣ 👨‍👩‍👧", "\r\n가", "김치\u3000찌개", "樂 \uf914", "㈜삼성 ㎏", "ㅎㅏㄴ ㄴㅏ", "a\x00b\x07c"),
    *(unicodedata.normalize("NFD", "한국 영화가 재미있다"), "x" * 300),
]


def words(*texts: str) -> list[tuple[str, float, int]]:
    return [(text, -float(i), NORMAL) for i, text in enumerate(texts, 1)]


def controls(*texts: str) -> list[tuple[str, float, int]]:
    return [(text, 0.0, UNKNOWN if text.lower() in ("[unk]", "<unk>") else CONTROL) for text in texts]


BERT_PIECES = [*controls(*BERTS), *words("▁한국", "▁", "사람", "한", "국", "▁The", "s", "<s>")]


def folder_with(target: Path, files: Mapping[str, bytes | str | dict[str, Any]]) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = json.dumps(content) if isinstance(content, dict) else content
        (target / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return target


def tokens_of(tokenizer: TextTokenizer, text: str, pair: str | None = None) -> list[str]:
    encoding = tokenizer.backend.encode(text, pair)
    return list(encoding.tokens)


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "spm.model", KOBERT_FILE, "kobert.spiece"])
def test_a_model_file_alone_is_a_bert_tokenizer_with_the_ids_of_the_file(tmp_path: Path, name: str) -> None:
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "m", {name: model_bytes(BERT_PIECES)}))
    assert tokens_of(tokenizer, "한국 사람") == ["[CLS]", "▁한국", "▁", "사람", "[SEP]"]
    assert tokenizer.backend.encode("한국", "사람").type_ids == [0, 0, 0, 1, 1, 1]
    assert tokenizer.backend.encode("한국 뷁").ids == [2, 5, 6, 0, 3]
    assert (tokenizer.padding_id, tokenizer.unknown_id, tokenizer.vocab_size) == (1, 0, len(BERT_PIECES))
    assert [file.name for file in tokenizer.files] == [name]


@pytest.mark.parametrize(
    "settings",
    [{}, {"tokenizer_class": "KoBertTokenizer"}, {"tokenizer_class": "BertTokenizer"}, {"do_lower_case": False}],
)
def test_kobert_takes_its_ids_from_vocab_txt(tmp_path: Path, settings: dict[str, Any]) -> None:
    by_vocab = ["[PAD]", "[UNK]", "사람", "국", "▁", "[CLS]", "한", "[SEP]", "▁한국", "s", "▁The", "[MASK]", "<s>"]
    files: dict[str, Any] = {
        "vocab.txt": "\n".join([*by_vocab, "▁only", "[unused1]"]),
        KOBERT_FILE: model_bytes(BERT_PIECES),
    }
    files |= {"tokenizer_config.json": settings} if settings else {}
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "m", files))
    assert tokenizer.backend.encode("한국 사람 뷁").ids == [5, 8, 4, 2, 4, 1, 7]
    assert tokenizer.backend.encode("한국", "사람").type_ids == [0, 0, 0, 1, 1, 1]
    assert (tokenizer.padding_id, tokenizer.unknown_id, tokenizer.vocab_size) == (0, 1, 15)
    assert tokenizer.unknown_id in tokenizer.backend.encode("only").ids, "the model file never makes this piece"


def test_the_rules_of_a_kind_of_encoder_are_kept(tmp_path: Path) -> None:
    pieces = [*controls("<unk>", "<s>", "</s>"), *words("▁a", "▁", "b")]
    for model_type, name, class_name in (
        ("xlm-roberta", "sentencepiece.bpe.model", None),
        ("roberta", "tokenizer.model", "XLMRobertaTokenizerFast"),
        ("bert", "sentencepiece.bpe.model", None),
    ):
        folder = folder_with(tmp_path / model_type, {name: model_bytes(pieces)})
        tokenizer = TextTokenizer.from_pretrained(folder, model_type, config_class=class_name)
        assert tokenizer.backend.encode("ab c", "a").ids == [0, 4, 6, 5, 3, 2, 2, 4, 2]
        assert tokenizer.backend.encode("a", "a").type_ids == [0] * 6
        assert tokens_of(tokenizer, "a<mask>") == ["<s>", "▁a", "<mask>", "</s>"]
        assert (tokenizer.padding_id, tokenizer.unknown_id, tokenizer.vocab_size) == (1, 3, 8)
    folder = folder_with(tmp_path / "camembert", {"sentencepiece.bpe.model": model_bytes(pieces)})
    tokenizer = TextTokenizer.from_pretrained(folder, "camembert")
    assert tokenizer.backend.encode("ab c").ids == [5, 7, 9, 8, 3, 6]


def test_albert_replaces_quotes_and_takes_its_casing_from_the_vocabulary(tmp_path: Path) -> None:
    special = controls("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
    letters = words("▁", *'abcdefghijklmnopqrstuvwxyz"')
    uncased = folder_with(tmp_path / "uncased", {"spiece.model": model_bytes([*special, *letters])})
    tokenizer = TextTokenizer.from_pretrained(uncased, "albert")
    assert tokens_of(tokenizer, "É ''B") == ["[CLS]", "▁", "e", "▁", '"', "b", "[SEP]"]
    cased = folder_with(tmp_path / "cased", {"spiece.model": model_bytes([*special, *letters, *words("▁É", "B")])})
    assert tokens_of(TextTokenizer.from_pretrained(cased, "albert"), "É B") == ["[CLS]", "▁É", "▁", "B", "[SEP]"]
    folder_with(cased, {"tokenizer_config.json": {"do_lower_case": True, "keep_accents": False}})
    assert tokens_of(TextTokenizer.from_pretrained(cased, "albert"), "É B") == ["[CLS]", "▁", "e", "▁", "b", "[SEP]"]


def test_tokens_that_sentencepiece_never_makes_are_not_found_in_texts(tmp_path: Path) -> None:
    pieces = [*controls(*BERTS, "</s>"), ("ab", 0.0, UNUSED), *words("▁", "a", "b", "<", "/", "s", ">")]
    files = {"spiece.model": model_bytes(pieces), "special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "m", files), n_rows=20)
    assert tokens_of(tokenizer, "ab</s>") == ["[CLS]", "▁", "a", "b", "<", "/", "s", ">", "[SEP]"]
    assert tokenizer.backend.encode("<x>").ids == [2, len(pieces), 3], "an added token has the next id"
    own = [*controls(*BERTS), ("<me>", 0.0, USER_DEFINED), *words("▁", "a")]
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "own", {"spiece.model": model_bytes(own)}))
    assert "<me>" in tokens_of(tokenizer, "a<me>a")


def test_bytes_stand_for_unknown_characters_where_the_file_says_so(tmp_path: Path) -> None:
    pieces = [*controls(*BERTS), *((f"<0x{i:02X}>", 0.0, 6) for i in range(256)), *words("▁", "a")]
    folder = folder_with(tmp_path / "m", {"spiece.model": model_bytes(pieces, {35: 1})})
    tokenizer = TextTokenizer.from_pretrained(folder)
    assert tokens_of(tokenizer, "a가") == ["[CLS]", "▁", "a", "<0xEA>", "<0xB0>", "<0x80>", "[SEP]"]
    assert tokenizer.backend.decode(tokenizer.backend.encode("a가").ids) == "a가"


PLAIN = model_bytes(BERT_PIECES)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"spiece.model": b"\x0a\x0e\x0a\x05[UNK]\x15"}, r"spiece\.model.* is not a SentencePiece model, or is incomp"),
        ({"spiece.model": PLAIN[:-9]}, "is not a SentencePiece model, or is incomplete"),
        ({"spiece.model": b"\x0d\x01"}, "is not a SentencePiece model, or is incomplete"),
        ({"spiece.model": b"\x08" + b"\xff" * 11}, "is not a SentencePiece model, or is incomplete"),
        ({"spiece.model": b""}, "is empty"),
        ({"spiece.model": model_bytes(BERT_PIECES, {3: 3})}, "is of type word or char, expected unigram or bpe"),
        ({"spiece.model": model_bytes(BERT_PIECES, {24: 1})}, "marks spaces in another way"),
        ({"spiece.model": model_bytes(BERT_PIECES[1:])}, "lacks pieces, or the one for unknown characters"),
        ({"spiece.model": model_bytes([*BERT_PIECES, *words("한")])}, "has a piece twice"),
        ({"spiece.model": model_bytes([*BERT_PIECES, ("x", float("nan"), NORMAL)])}, "a score that is no number"),
        ({"spiece.model": model_bytes([*BERT_PIECES, *words("x" * 257)])}, "a piece of more than 256 characters"),
        ({"spiece.model": model_bytes([*controls("[UNK]", "[PAD]", "[CLS]"), *words("a")])}, r"has no '\[SEP\]'"),
        ({"spiece.model": model_bytes(BERT_PIECES, {}, {2: b"\xff" * 40})}, "SentencePiece model that the tokenizers"),
        ({"spiece.model": PLAIN, "tokenizer_config.json": {"split_by_punct": True}}, "split_by_punct .*not supported"),
        ({"spiece.model": PLAIN, "tokenizer_config.json": {"keep_accents": "no"}}, "keep_accents is 'no'"),
        (
            {"spiece.model": PLAIN, "tokenizer_config.json": {"tokenizer_class": "MyTokenizer"}},
            "'MyTokenizer', which is",
        ),
        ({"a.model": PLAIN, "b.model": PLAIN}, "several SentencePiece models: 'a.model', 'b.model'"),
        (
            {"vocab.txt": "[UNK]\n[PAD]\n[CLS]\n[SEP]\n▁한국\n▁a\n▁b"},
            r"there is no model file of it.*tokenizer_78b3253a26\.model",
        ),
        ({"vocab.txt": "[UNK]\n[PAD]\n[CLS]\n[SEP]\n▁한국\n▁b", KOBERT_FILE: PLAIN}, "lacks 7 of the pieces of tokeni"),
        (
            {"vocab.txt": "\n".join([*BERTS, "a"]), "tokenizer_config.json": {"tokenizer_class": "KoBertTokenizer"}},
            "there is no model file",
        ),
        ({"vocab.txt": "\n".join([p for p, _, _ in BERT_PIECES] + ["한"]), KOBERT_FILE: PLAIN}, "has a token twice"),
    ],
)
def test_what_is_no_tokenizer_is_refused_with_its_file(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFolderError, match=said):
        TextTokenizer.from_pretrained(folder_with(tmp_path / "m", files), n_rows=100)


def test_a_model_of_far_more_pieces_than_rows_is_refused_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x00" * 2000)
    with pytest.raises(ModelFolderError, match="more than 1,224 pieces"):
        read_piece_model(tmp_path / "spiece.model", n_rows=100)


@pytest.mark.parametrize("text", ["x" * 10**6, " " * 10**6, "한" + " " * 10**6 + "국", "한국 " * 250_000])
@pytest.mark.parametrize("kind", [1, 2])
def test_a_million_characters_take_seconds(tmp_path: Path, text: str, kind: int) -> None:
    files = {"spiece.model": model_bytes(BERT_PIECES, {3: kind})}
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "m", files))
    begin = time.monotonic()
    tokenizer.tokenize([text])
    assert time.monotonic() - begin < 10


# The ids of SentencePiece itself, on real texts


@pytest.fixture(scope="module")
def lines(shared_data: Path) -> dict[str, list[str]]:
    """Return 10,000 reviews of NSMC and as many sentences of KorSTS as there are in train and dev."""
    with (shared_data / "nsmc" / "train.txt").open(encoding="utf-8", newline="") as file:
        reviews = [row["document"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    found = {"train": reviews[10_000:14_000], "nsmc": reviews[:10_000], "korsts": []}
    for part in ("train", "dev"):
        with (shared_data / "korsts" / f"{part}.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        found["korsts"] += [row[side] for row in rows for side in ("sentence1", "sentence2")]
    found["train"] += found["korsts"][:2_000]
    found["korsts"] = found["korsts"][2_000:12_000]
    return found


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def trained(
    request: pytest.FixtureRequest, lines: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a small model file as KoBERT's, trained by SentencePiece."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    file = tmp_path_factory.mktemp("sentencepiece") / request.param
    options = {"unk_piece": "[UNK]", "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    options |= {"unk_id": 0, "pad_id": 1, "bos_id": 2, "eos_id": 3, "control_symbols": ["[MASK]"], "num_threads": 1}
    options |= {"vocab_size": 3000, "model_type": request.param, "minloglevel": 2}
    trainer.train(sentence_iterator=iter(lines["train"]), model_prefix=str(file), **options)
    return file.with_suffix(".model")


@pytest.fixture(scope="module")
def kobert(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small folder as KoBERT is published: the ids of vocab.txt are not those of the model file."""
    pieces = [text for text, _, _ in read_piece_model(trained).pieces]
    random.Random(0).shuffle(pieces)
    folder = make_bert_folder(tmp_path_factory.mktemp("kobert") / "model", vocab=pieces)
    (folder / KOBERT_FILE).write_bytes(trained.read_bytes())
    return folder


def test_ids_are_those_of_sentencepiece_itself(trained: Path, lines: dict[str, list[str]]) -> None:
    reference = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(trained))
    tokenizer = TextTokenizer.from_pretrained(trained.parent)
    for texts in (lines["nsmc"], lines["korsts"], ODD_TEXTS):
        ours = [encoding.ids for encoding in tokenizer.backend.encode_batch(texts, add_special_tokens=False)]
        theirs = reference.encode(texts)
        differing = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other]
        # in a run of one character the likeliest segmentation is not unique: the same pieces in another order
        assert all(sorted(mine) == sorted(other) for mine, other in differing)
        assert len(differing) <= (0 if trained.stem == "bpe" else len(texts) // 500)


def test_kobert_as_published_has_the_pieces_of_sentencepiece_under_the_ids_of_vocab_txt(
    kobert: Path, lines: dict[str, list[str]]
) -> None:
    reference = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(kobert / KOBERT_FILE))
    ids = {token: i for i, token in enumerate((kobert / "vocab.txt").read_text("utf-8").splitlines())}
    tokenizer = TextTokenizer.from_pretrained(kobert)
    texts = lines["nsmc"][:3000] + lines["korsts"][:3000]
    bodies = tokenizer.tokenize(texts)
    unknown = tokenizer.unknown_id
    theirs = [ids.get(piece, unknown) for text in reference.encode(texts, out_type=str) for piece in text]
    assert sorted(bodies.token_ids.tolist()) == sorted(theirs)
    equal = sum(a == b for a, b in zip(bodies.token_ids.tolist(), theirs, strict=True))
    assert equal >= 0.999 * len(theirs)
    assert 0 < tokenizer.count_unknown(bodies) < 0.01 * len(theirs)
    assert tokenizer.specials.before == (ids["[CLS]"],) and tokenizer.specials.after == (ids["[SEP]"],)
    assert tokenizer.pair_specials.types == (0, 0, 0, 1, 1)


def test_a_saved_kobert_gives_everybody_the_same_ids_and_vectors(
    kobert: Path, lines: dict[str, list[str]], tmp_path: Path
) -> None:
    model = SiameseBert.from_pretrained(kobert, "cpu", "float32")
    model.save_pretrained(tmp_path / "saved")
    texts = [*lines["nsmc"][:500], *lines["korsts"][:500], *ODD_TEXTS]
    expected = [encoding.ids for encoding in model.tokenizer.backend.encode_batch(texts)]
    again = TextTokenizer.from_pretrained(tmp_path / "saved")
    assert [encoding.ids for encoding in again.backend.encode_batch(texts)] == expected
    of_transformers = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert of_transformers(texts)["input_ids"] == expected
    assert of_transformers("가", "나")["token_type_ids"] == model.tokenizer.backend.encode("가", "나").type_ids
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts[:20])
    assert abs(theirs - model.encode(texts[:20])).max() < 5e-6


def test_a_tokenizer_json_of_pieces_reads_decomposed_hangul_as_composed(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(folder_with(tmp_path / "m", {"spiece.model": PLAIN}))
    content = json.loads(tokenizer.backend.to_str())
    content["normalizer"] = None
    folder = folder_with(tmp_path / "json", {"tokenizer.json": content})
    again = TextTokenizer.from_pretrained(folder)
    composed = tokens_of(again, "한국 사람")
    assert composed == ["[CLS]", "▁한국", "▁", "사람", "[SEP]"]
    assert tokens_of(again, unicodedata.normalize("NFD", "한국 사람")) == composed


def test_a_vocabulary_larger_than_the_embedding_table_names_the_model_file(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    folder = tiny_bert_folder(tmp_path / "model", vocab=["x"] * 9)
    (folder / "vocab.txt").unlink()
    (folder / "spiece.model").write_bytes(PLAIN)
    with pytest.raises(ModelFolderError, match=r"spiece\.model.*13 tokens.*embedding table 9 rows"):
        SiameseBert.from_pretrained(folder)
