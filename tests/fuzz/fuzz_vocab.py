"""Any bytes as vocab.txt, or as another file of a tokenizer."""

from __future__ import annotations

import json
import shutil
import string

from piece_models import CONTROL, NORMAL, UNKNOWN, model_bytes

from fuzz.inputs import name_and_content, named, only_file, scratch_folder
from sbert_ft.errors import SbertFtError
from sbert_ft.tokenization.tokenizer import TextTokenizer

INSTRUMENTED = (
    "sbert_ft.files.strict_json",
    "sbert_ft.tokenization.text_tokens",
    "sbert_ft.tokenization.tokenizer",
    "sbert_ft.tokenization.loading",
    "sbert_ft.tokenization.sentencepiece_model",
    "sbert_ft.tokenization.vocabulary",
)
MOST_BYTES = 4096
MOST_IDS = 100_000  # writing a vocabulary takes as long as its highest id; a model's has a row of weights for each
TEXTS = ["a cat sat", "", "가나 다 naïve ＡＢ 中文 \u200b\u0301 e\u0301", "unknown", "a" * 150, "[SEP] [CLS]"]

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *string.ascii_lowercase,
    "cat",
    "sat",
    "##s",
    "##at",
    "가",
    "나",
]
VOCAB = "".join(f"{token}\n" for token in TOKENS)
TEMPLATE = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
WORDPIECE = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": i,
            "content": TOKENS[i],
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in range(5)
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [TEMPLATE[0], {"Sequence": {"id": "A", "type_id": 0}}, TEMPLATE[1]],
        "pair": [
            *(TEMPLATE[0], {"Sequence": {"id": "A", "type_id": 0}}, TEMPLATE[1]),
            *({"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}),
        ],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
        },
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: i for i, token in enumerate(TOKENS[:12] + TOKENS[-6:])},
    },
}
ROBERTA_VOCAB = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcst", "at"])}
UNIGRAM = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True}
    | {"add_prefix_space": True},
    "model": {
        "type": "Unigram",
        "unk_id": 2,
        "byte_fallback": False,
        "vocab": [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["<pad>", 0.0], ["▁", -1.0], ["a", -2.0], ["cat", -3.0]],
    },
}
SETTINGS = {"do_lower_case": True, "strip_accents": None, "unk_token": "[UNK]", "pad_token": {"content": "[PAD]"}}
NAMES = (
    *("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    "spiece.model",
)
PIECES = [("[UNK]", 0.0, UNKNOWN), *((token, 0.0, CONTROL) for token in ("[PAD]", "[CLS]", "[SEP]"))]
PIECES += [(token, -float(i), NORMAL) for i, token in enumerate(("▁", "▁a", "cat", "a", "t", "가", "나"), 1)]
# What stands beside each, so that it is read: a folder with tokenizer.json would not be asked for its vocab.txt.
BESIDE = {
    "vocab.txt": {},
    "tokenizer.json": {"tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer"})},
    "tokenizer_config.json": {"tokenizer.json": json.dumps(WORDPIECE)},
    "special_tokens_map.json": {"vocab.txt": VOCAB},
    "vocab.json": {"merges.txt": "#version: 0.2\na t\n"},
    "merges.txt": {"vocab.json": json.dumps(ROBERTA_VOCAB)},
    "spiece.model": {},
}


def seeds() -> dict[str, bytes]:
    """Return valid inputs by name, one of each kind of file and more where there is more than one form."""
    tokenizers = {"wordpiece": WORDPIECE, "unigram": UNIGRAM}
    return {
        "vocab": named("vocab.txt", VOCAB),
        "vocab-crlf": named("vocab.txt", "\ufeff" + VOCAB.replace("\n", "\r\n")),
        "vocab-cased": named("vocab.txt", VOCAB + "Cat\n##é\n하\u2028\n"),
        **{name: named("tokenizer.json", json.dumps(content)) for name, content in tokenizers.items()},
        "settings": named("tokenizer_config.json", json.dumps(SETTINGS)),
        "map": named("special_tokens_map.json", json.dumps({"unk_token": "[UNK]", "sep_token": {"content": "[SEP]"}})),
        "bpe-vocab": named("vocab.json", json.dumps(ROBERTA_VOCAB)),
        **{
            f"pieces-{kind}": named("spiece.model", model_bytes(PIECES, {3: kind}, {1: b"identity"})) for kind in (1, 2)
        },
        "bpe-merges": named("merges.txt", "#version: 0.2\na t\n"),
    }


def read(data: bytes) -> None:
    """Read the tokenizer, use it, save it and read it again, which must give the same ids.

    Raises:
        SbertFtError: The folder is refused.
    """
    name, content = name_and_content(data, NAMES)
    folder, saved = scratch_folder() / "tokenizer", scratch_folder() / "saved"
    shutil.rmtree(folder, ignore_errors=True)
    for other, text in BESIDE[name].items():
        only_file(f"tokenizer/{other}", text.encode())
    only_file(f"tokenizer/{name}", content)
    model_type = "roberta" if name in ("vocab.json", "merges.txt") else "bert"
    tokenizer = TextTokenizer.from_pretrained(folder, model_type)
    bodies = tokenizer.tokenize(TEXTS)
    assert len(bodies) == len(TEXTS)
    assert int(bodies.token_ids.min(initial=0)) >= 0 and int(bodies.token_ids.max(initial=0)) < tokenizer.vocab_size
    framed = tokenizer.frame(bodies, tokenizer.n_special + 4)
    assert int(framed.lengths.max()) <= tokenizer.n_special + 4
    tokenizer.join(bodies, bodies, tokenizer.n_pair_special + 4)
    if tokenizer.vocab_size > MOST_IDS:
        return
    shutil.rmtree(saved, ignore_errors=True)
    saved.mkdir()
    tokenizer.save_pretrained(saved, 16)
    again = TextTokenizer.from_pretrained(saved, model_type)
    assert again.specials == tokenizer.specials
    assert (again.padding_id, again.unknown_id) == (tokenizer.padding_id, tokenizer.unknown_id)
    assert again.tokenize(TEXTS).token_ids.tolist() == bodies.token_ids.tolist()


def test_one_input(data: bytes) -> bool:
    """Return whether the input was read, not refused; anything but the typed error goes on to the caller."""
    try:
        read(data)
    except SbertFtError as error:
        assert str(error).strip(), "a refusal says why"
        return False
    return True
