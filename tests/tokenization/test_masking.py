"""Masked tokens: the shares of Devlin et al. 2019, whole words of several tokenizers, and selection by sequence."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import default_vocabulary
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sbert_ft.errors import InputError
from sbert_ft.tokenization.masking import MASKED_SHARE, RANDOM_SHARE, MaskedTokens, Masker
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

SIGMAS = 5.0  # one false alarm in two million draws


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(minilm_path)


@pytest.fixture(scope="module")
def korean(ko_vocab: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(ko_vocab)


@pytest.fixture(scope="module")
def reviews(shared_data: Path) -> list[str]:
    """Return 3,000 Korean reviews."""
    with (shared_data / "nsmc" / "train.txt").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["document"] for row in itertools.islice(rows, 3000)]


@pytest.fixture(scope="module")
def sentences(shared_data: Path) -> list[str]:
    """Return 11,498 English sentences, and some with characters that MiniLM's vocabulary does not have."""
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        found = [row[side] for row in csv.DictReader(file) for side in ("sentence1", "sentence2")]
    return [*found, *["🜚 the 🜛 dog 🜚"] * 500]


def framed(tokenizer: TextTokenizer, texts: list[str], max_tokens: int = 128) -> TextTokens:
    return tokenizer.frame(tokenizer.tokenize(texts), max_tokens)


def masked_in(tokens: TextTokens, masker: Masker, seed: int = 0) -> MaskedTokens:
    return masker.mask(tokens, np.random.default_rng(seed))


def is_near(count: int, n: int, share: float) -> bool:
    """Return whether a count of `n` independent draws with this share is within five standard deviations."""
    return abs(count - n * share) <= SIGMAS * math.sqrt(n * share * (1 - share))


# ---------------------------------------------------------------- shares


def test_of_real_texts_fifteen_percent_are_chosen_and_masked_replaced_and_kept_as_in_bert(
    minilm: TextTokenizer, sentences: list[str]
) -> None:
    tokens, masker = framed(minilm, sentences), Masker(minilm)
    masked = masked_in(tokens, masker)
    of_text = ~masker.is_special[tokens.token_ids]
    n = int(of_text.sum())
    assert n > 100_000
    # a count is rounded up or down at random; with a rest of r its variance is r (1 - r)
    sizes = np.add.reduceat(of_text, tokens.offsets[:-1]) * 0.15
    rest = sizes - np.floor(sizes)
    assert abs(len(masked.places) - 0.15 * n) <= SIGMAS * math.sqrt(float((rest * (1 - rest)).sum()))
    per_text = np.bincount(masked.owners, minlength=len(tokens))
    assert ((per_text == np.floor(sizes)) | (per_text == np.floor(sizes) + 1)).all()

    before, after = tokens.token_ids[masked.places], masked.tokens.token_ids[masked.places]
    assert (masked.labels == before).all() and masked.labels.dtype == np.int64
    n_chosen = len(masked.places)
    n_masked = int((after == minilm.mask_id).sum())
    n_kept = int((after == before).sum())
    n_random = n_chosen - n_masked - n_kept
    assert is_near(n_masked, n_chosen, MASKED_SHARE)
    # a random token is the one that stood there once in 30,517 draws, far less than the bound
    assert is_near(n_random, n_chosen, RANDOM_SHARE)
    assert is_near(n_kept, n_chosen, 1 - MASKED_SHARE - RANDOM_SHARE)
    drawn = after[(after != minilm.mask_id) & (after != before)]
    assert not masker.is_special[drawn].any()
    assert len(np.unique(drawn)) > 0.9 * len(drawn)  # from the whole vocabulary, not from a few of its tokens
    assert drawn.min() < 2000 and drawn.max() > 28_000

    others = np.ones(len(tokens.token_ids), bool)
    others[masked.places] = False
    assert (masked.tokens.token_ids[others] == tokens.token_ids[others]).all()
    assert (masked.tokens.offsets == tokens.offsets).all()
    assert (np.diff(masked.places) > 0).all()


def test_every_place_of_a_text_is_chosen_as_often(minilm: TextTokenizer) -> None:
    text = "the man plays a guitar in the park with two dogs"
    tokens = framed(minilm, [text] * 4000)
    masked = masked_in(tokens, Masker(minilm))
    length = int(tokens.lengths[0])
    counts = np.bincount(masked.places % length, minlength=length)
    assert counts[0] == counts[-1] == 0
    assert all(is_near(int(count), 4000, 0.15) for count in counts[1:-1])


def test_special_padding_and_unknown_tokens_are_never_chosen(minilm: TextTokenizer, sentences: list[str]) -> None:
    texts = [*sentences[-500:], *(f"[PAD] dog [MASK] [SEP] cat [CLS] {i}" for i in range(500))]
    tokens = framed(minilm, texts)
    special = {minilm.unknown_id, minilm.padding_id, minilm.mask_id, *minilm.specials.before, *minilm.specials.after}
    assert special <= set(tokens.token_ids.tolist())
    for whole_words in (False, True):
        for share in (0.15, 1.0):
            masked = masked_in(tokens, Masker(minilm, share, whole_words))
            assert len(masked.labels) and not special & set(masked.labels.tolist())
            if share == 1:
                is_special = np.isin(tokens.token_ids, list(special))
                assert (masked.places == np.flatnonzero(~is_special)).all()


def test_texts_of_one_token_and_of_none(minilm: TextTokenizer) -> None:
    masker = Masker(minilm)
    tokens = framed(minilm, ["dog"] * 20_000)
    assert is_near(len(masked_in(tokens, masker).places), 20_000, 0.15)
    for whole_words in (False, True):
        masker = Masker(minilm, 0.15, whole_words)
        for texts in (["", "dog", ""], ["", ""], []):
            masked = masked_in(framed(minilm, texts), masker)
            assert len(masked) == len(texts) and len(masked.places) == len(masked.labels) <= 1
        # without special tokens around it, a text may have no token at all
        bare = TextTokens(np.array([7592, 2088], np.int32), np.array([0, 0, 1, 1, 2, 2], np.int64))
        every = masked_in(bare, Masker(minilm, 1.0, whole_words))
        assert every.places.tolist() == [0, 1] and every.owners.tolist() == [1, 3]


# ---------------------------------------------------------------- what is drawn


def test_the_same_generator_draws_the_same_and_another_step_other_tokens(
    minilm: TextTokenizer, sentences: list[str]
) -> None:
    tokens, masker = framed(minilm, sentences[:500]), Masker(minilm)
    ids = tokens.token_ids.copy()
    first, again, other = (masker.mask(tokens, np.random.default_rng([7, step, 0])) for step in (3, 3, 4))
    assert (tokens.token_ids == ids).all()  # the texts stay as they were
    assert (first.places == again.places).all() and (first.tokens.token_ids == again.tokens.token_ids).all()
    n_both = len(np.intersect1d(first.places, other.places))
    assert is_near(n_both, len(first.places), 0.15)


# ---------------------------------------------------------------- whole words


def trained(target: Path, backend: Tokenizer, trainer: object, texts: list[str], model_type: str) -> TextTokenizer:
    backend.train_from_iterator(texts, trainer)
    first, last = ("<s>", "</s>") if backend.token_to_id("<s>") is not None else ("[CLS]", "[SEP]")
    ids = [(token, backend.token_to_id(token)) for token in (first, last)]
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)
    target.mkdir()
    backend.save(str(target / "tokenizer.json"))
    return TextTokenizer.from_pretrained(target, model_type)


def byte_level(target: Path, texts: list[str]) -> TextTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, **options)
    return trained(target, backend, trainer, texts, "roberta")


def pieces(target: Path, texts: list[str]) -> TextTokenizer:
    """Return a tokenizer as those of SentencePiece; its vocabulary has the letter Ġ, as that of XLM-RoBERTa."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    options = {"initial_alphabet": ["Ġ"], "show_progress": False}
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token="<unk>", **options)
    return trained(target, backend, trainer, texts, "xlm-roberta")


def wordpiece_of_many_scripts(target: Path, texts: list[str]) -> TextTokenizer:
    """Return WordPiece whose vocabulary has the letter Ġ and the sign ▁, as that of multilingual BERT."""
    target.mkdir()
    words = [*default_vocabulary(), "Ġ", "▁", "##Ġ"]
    (target / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return TextTokenizer.from_pretrained(target)


def words_of(tokenizer: TextTokenizer, text: str, by_space: bool) -> list[int | None]:
    """Return the word of each token of a framed text, by the library or by spaces; None for special ones."""
    encoding = tokenizer.backend.encode(text)
    if not by_space:
        return list(encoding.word_ids)
    found: list[int | None] = []
    for (_, end), is_special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        found.append(None if is_special else text[:end].count(" "))
    return found


def check_words(tokenizer: TextTokenizer, texts: list[str], by_space: bool, share: float = 0.15) -> None:
    """Check that of each word all known tokens are chosen or none, and that the share is one of words."""
    tokens, masker = framed(tokenizer, texts, 10_000), Masker(tokenizer, share, whole_words=True)
    masked = masked_in(tokens, masker)
    chosen = np.zeros(len(tokens.token_ids), bool)
    chosen[masked.places] = True
    n_words = n_chosen = n_long = 0
    spread = 0.0
    for row, text in enumerate(texts):
        begin, end = tokens.offsets[row : row + 2]
        words: dict[int, list[bool]] = {}
        for word, is_chosen, token in zip(
            words_of(tokenizer, text, by_space), chosen[begin:end], tokens.token_ids[begin:end], strict=True
        ):
            if word is not None and token != tokenizer.unknown_id:
                words.setdefault(word, []).append(bool(is_chosen))
            else:
                assert not is_chosen
        assert all(len(set(of_word)) == 1 for of_word in words.values()), text
        n_words += len(words)
        here = sum(of_word[0] for of_word in words.values())
        assert math.floor(share * len(words)) <= here <= math.floor(share * len(words)) + 1
        n_chosen += here
        n_long += sum(of_word[0] and len(of_word) > 1 for of_word in words.values())
        rest = share * len(words) % 1
        spread += rest * (1 - rest)
    assert n_long > 50  # words of several pieces were among them
    assert abs(n_chosen - share * n_words) <= SIGMAS * math.sqrt(spread) + 1


def test_all_pieces_of_a_chosen_english_word_are_chosen(minilm: TextTokenizer, sentences: list[str]) -> None:
    check_words(minilm, sentences[:2000], by_space=False)


def test_all_pieces_of_a_chosen_eojeol_are_chosen(korean: TextTokenizer, reviews: list[str]) -> None:
    check_words(korean, reviews[:2000], by_space=False)


@pytest.mark.parametrize("make", [byte_level, pieces])
def test_all_pieces_of_a_chosen_word_are_chosen_where_its_first_is_marked(
    make: Callable[[Path, list[str]], TextTokenizer], sentences: list[str], reviews: list[str], tmp_path: Path
) -> None:
    texts = [" ".join(text.split()) for text in (*sentences[:1000], *reviews[:1000])]
    texts += ["in MarsaxlokkĠ u raĠel Ġdid maġĠenb aĠa"] * 100
    check_words(make(tmp_path / "model", texts), texts, by_space=True)


def test_a_letter_that_marks_words_elsewhere_does_not_in_wordpiece(tmp_path: Path) -> None:
    tokenizer = wordpiece_of_many_scripts(tmp_path / "model", [])
    texts = [f"the dog {word} walking in the park with xylophones" for word in ("cats", "birds", "q1", "z2w")] * 100
    check_words(tokenizer, texts, by_space=False)
    ids = tokenizer.backend.get_vocab()
    assert tokenizer.begins_word[[ids["the"], ids["Ġ"], ids["▁"]]].all() and not tokenizer.begins_word[ids["##s"]]


def test_a_block_that_begins_within_a_word_is_masked_like_any_other(minilm: TextTokenizer) -> None:
    bodies = minilm.tokenize(["electroencephalographically"])
    assert bodies.lengths[0] > 4
    rest = TextTokens(bodies.token_ids[2:], offsets_of(bodies.lengths - 2))
    masked = masked_in(minilm.frame(rest, 64), Masker(minilm, 1.0, whole_words=True))
    assert masked.labels.tolist() == rest.token_ids.tolist()


# ---------------------------------------------------------------- sequences


def selected_slowly(masked: MaskedTokens, rows: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Return token ids, places and labels of these sequences, one after another."""
    ids: list[int] = []
    places: list[int] = []
    labels: list[int] = []
    for row in rows:
        begin, end = masked.tokens.offsets[row : row + 2].tolist()
        here = [i for i, place in enumerate(masked.places.tolist()) if begin <= place < end]
        places += [len(ids) + int(masked.places[i]) - begin for i in here]
        labels += [int(masked.labels[i]) for i in here]
        ids += masked.tokens.token_ids[begin:end].tolist()
    return ids, places, labels


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5, 3, 1], [2, 2, 2, 0, 2], [1], [4, 1, 4], [], [0, 0]], ids=str)
def test_any_sequences_are_selected_in_any_order(minilm: TextTokenizer, rows: list[int]) -> None:
    texts = ["the dog runs in the park", "", "a cat", "water", "", "the man plays a guitar with two women"]
    masked = masked_in(framed(minilm, texts), Masker(minilm, 0.4), seed=3)
    assert {1, 4}.isdisjoint(masked.owners.tolist()) and len(masked.places) > 4
    second = np.array([0, 1, 0, 1, 1, 0])
    both = MaskedTokens(masked.tokens, masked.places, masked.labels, second)
    chosen: NDArray[np.int64] = np.array(rows, np.int64)
    found = both.select(chosen)
    ids, places, labels = selected_slowly(masked, rows)
    assert (found.tokens.token_ids.tolist(), found.places.tolist(), found.labels.tolist()) == (ids, places, labels)
    assert found.second is not None and found.second.tolist() == second[chosen].tolist() and len(found) == len(rows)
    assert masked.select(chosen).second is None


# ---------------------------------------------------------------- vocabularies that cannot be masked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog"], "has no mask token"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "has only special tokens"),
    ],
)
def test_a_vocabulary_that_nothing_can_be_masked_with_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    with pytest.raises(InputError, match=said):
        Masker(TextTokenizer.from_pretrained(tmp_path))


def test_whole_words_are_refused_at_once_where_no_token_shows_where_they_begin(tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer = trained(tmp_path / "model", backend, trainer, ["the dog runs in the park"] * 20, "bert")
    with pytest.raises(InputError, match="does not show where a word begins"):
        Masker(tokenizer, whole_words=True)
    assert Masker(tokenizer).mask_id == 4
