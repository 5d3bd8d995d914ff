"""The pairs and texts in examples/data: their number, variety and separation are as their README says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import pytest

from sbert_ft.data.table import open_table

DATA = Path(__file__).resolve().parents[2] / "examples" / "data"
SPLITS = ("train", "dev", "test")
COLUMNS = ("sentence1", "sentence2", "score", "domain", "language")
DOMAINS = {
    *("cooking", "travel", "payments", "customer service", "health", "home repair", "sport"),
    *("weather", "school", "software", "family", "public transport", "shopping", "housing"),
}
CLASSES = {
    "nli": ("entailment", "neutral", "contradiction"),
    "reviews_ko": ("positive", "negative"),
}
LABELS = CLASSES["reviews_ko"]
each_split = pytest.mark.parametrize("name", SPLITS)
each_with_classes = pytest.mark.parametrize("kind", CLASSES)


@dataclass(frozen=True)
class Pair:
    texts: tuple[str, str]
    score: float
    domain: str
    language: str


def read_pairs(name: str) -> list[Pair]:
    table = open_table(DATA / f"{name}.csv")
    assert table.format.columns == COLUMNS
    assert table.text_columns(None, 2) == (0, 1)  # found by their names
    rows = [[str(value) for value in row.values] for row in table]
    return [Pair((first, second), float(score), domain, language) for first, second, score, domain, language in rows]


def read_matches() -> list[tuple[str, ...]]:
    table = open_table(DATA / "matches.csv")
    assert table.format.columns == ("text_a", "text_b")
    return list(table.texts(table.text_columns(None, 2)))


def read_classes(kind: str, split: str) -> list[tuple[str, ...]]:
    """Return the rows of a file with classes: its text or texts, then the label."""
    table = open_table(DATA / f"{kind}_{split}.csv")
    texts = ("premise", "hypothesis") if kind == "nli" else ("document",)
    assert table.format.columns == (*texts, "label")
    return [tuple(str(value) for value in row.values) for row in table]


def folded(text: str) -> str:
    """Return a text without case and punctuation, so that two spellings of one text count as one."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def texts_of(name: str) -> set[str]:
    pairs = read_matches() if name == "matches" else [pair.texts for pair in read_pairs(name)]
    return {folded(text) for pair in pairs for text in pair}


def has_hangul(text: str) -> bool:
    return re.search("[가-힣]", text) is not None


ALL_FILES = [*SPLITS, "matches", *(f"{kind}_{split}" for kind in (*CLASSES, "questions") for split in SPLITS)]


def test_the_readme_knows_every_file() -> None:
    assert sorted(path.stem for path in DATA.glob("*.csv")) == sorted(ALL_FILES)
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}.csv` | " in readme for name in ALL_FILES)


@pytest.mark.parametrize("name", ALL_FILES)
def test_files_are_utf8_with_plain_line_ends(name: str) -> None:
    content = (DATA / f"{name}.csv").read_bytes()
    assert content.endswith(b"\n") and content.decode("utf-8")
    assert b"\r" not in content and not content.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("name", [*SPLITS, "matches", *(f"nli_{split}" for split in SPLITS)])
def test_files_are_quoted_csv(name: str) -> None:
    content = (DATA / f"{name}.csv").read_bytes()
    table_format = open_table(DATA / f"{name}.csv").format
    assert (table_format.kind, table_format.delimiter, table_format.quoting) == ("csv", ",", True)
    assert b'"' in content  # some cells hold a comma, so quoting is put to use


def test_sizes_are_those_of_the_readme() -> None:
    sizes = {name: len(read_pairs(name)) for name in SPLITS} | {"matches": len(read_matches())}
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for name, size in sizes.items():
        assert f"| `{name}.csv` | {size} |" in readme
    assert 380 <= sizes["train"] <= 440
    assert 140 <= sizes["dev"] + sizes["test"] <= 160
    assert sizes["matches"] >= 120


@each_split
def test_scores_are_half_steps_and_spread_over_the_scale(name: str) -> None:
    scores = [pair.score for pair in read_pairs(name)]
    assert all(0 <= score <= 5 and (2 * score).is_integer() for score in scores)
    bands = Counter(int(score) for score in scores)
    assert set(bands) == set(range(6))
    assert min(bands.values()) >= 0.1 * len(scores)


@each_split
def test_a_quarter_of_the_pairs_is_korean_on_both_sides(name: str) -> None:
    pairs = read_pairs(name)
    assert {pair.language for pair in pairs} == {"en", "ko"}
    for pair in pairs:
        assert [has_hangul(text) for text in pair.texts] == [pair.language == "ko"] * 2
    assert 0.2 <= sum(pair.language == "ko" for pair in pairs) / len(pairs) <= 0.3


@each_split
def test_every_domain_is_in_every_split(name: str) -> None:
    domains = Counter(pair.domain for pair in read_pairs(name))
    assert set(domains) == DOMAINS
    assert max(domains.values()) <= 2 * min(domains.values())


def test_no_text_is_in_two_files() -> None:
    names = (*SPLITS, "matches")
    texts = {name: texts_of(name) for name in names}
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not texts[name] & texts[other], (name, other)


def test_no_pair_comes_twice_in_either_order() -> None:
    pairs = [pair for name in SPLITS for pair in read_pairs(name)]
    assert len({frozenset(map(folded, pair.texts)) for pair in pairs}) == len(pairs)
    assert all(folded(pair.texts[0]) != folded(pair.texts[1]) for pair in pairs)


def test_matches_hold_no_text_twice() -> None:
    matches = read_matches()
    assert len(texts_of("matches")) == 2 * len(matches)
    assert all(has_hangul(first) == has_hangul(second) for first, second in matches)


def test_texts_are_of_two_to_thirty_words() -> None:
    texts = [text for name in SPLITS for pair in read_pairs(name) for text in pair.texts]
    texts += [text for match in read_matches() for text in match]
    assert all(2 <= len(text.split()) <= 30 for text in texts)
    assert all(text == text.strip() and "  " not in text for text in texts)


@each_split
def test_shared_words_alone_do_not_give_the_score(name: str) -> None:
    overlaps = []
    for pair in read_pairs(name):
        first, second = (set(folded(text).split()) for text in pair.texts)
        overlaps.append((len(first & second) / len(first | second), pair.score))
    n = len(overlaps)
    assert sum(overlap >= 0.5 and score <= 2.5 for overlap, score in overlaps) >= n / 20
    assert sum(overlap <= 0.2 and score >= 4 for overlap, score in overlaps) >= n / 20


# ---------------------------------------------------------------- questions to a help desk


def read_questions(split: str) -> list[tuple[str, str, str, str]]:
    table = open_table(DATA / f"questions_{split}.csv")
    assert table.format.columns == ("sentence1", "sentence2", "label", "language")
    rows = [tuple(map(str, row.values)) for row in table]
    return [(first, second, label, language) for first, second, label, language in rows]


@each_split
def test_pairs_of_questions_are_as_many_as_the_readme_says_and_half_of_them_korean(name: str) -> None:
    rows = read_questions(name)
    n_matches, n_korean = (sum(row[place] == value for row in rows) for place, value in ((2, "1"), (3, "ko")))
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert f"| `questions_{name}.csv` | {len(rows)} | {n_korean} | {n_matches} match |" in readme
    assert {row[2] for row in rows} == {"0", "1"}
    for *texts, _, language in rows:
        assert [has_hangul(text) for text in texts] == [language == "ko"] * 2
    assert 0.45 <= n_korean / len(rows) <= 0.55
    assert len({frozenset(map(folded, row[:2])) for row in rows}) == len(rows)
    assert all(2 <= len(text.split()) <= 30 and text == text.strip() for row in rows for text in row[:2])


def test_no_question_is_in_two_files_or_pairs_with_itself() -> None:
    texts = {split: {folded(text) for row in read_questions(split) for text in row[:2]} for split in SPLITS}
    assert {split: len(found) for split, found in texts.items()} == {"train": 240, "dev": 160, "test": 160}
    assert len(set().union(*texts.values(), *map(texts_of, (*SPLITS, "matches")))) == 560 + len(
        set().union(*map(texts_of, (*SPLITS, "matches")))
    )


@each_split
def test_matches_of_questions_close_to_a_group_of_one_answer(name: str) -> None:
    groups: dict[str, set[str]] = {}
    rows = read_questions(name)
    for first, second, label, _ in rows:
        if label == "1":
            groups.setdefault(first, {first}).add(second)
            groups[first] |= groups.get(second, {second})
            groups |= dict.fromkeys(groups[first], groups[first])
    assert {len(group) for group in groups.values()} == {3 if name == "train" else 2}
    assert all(first not in groups[second] for first, second, label, _ in rows if label == "0")


# ---------------------------------------------------------------- with classes


@each_with_classes
def test_classes_are_as_frequent_as_each_other_and_as_the_readme_says(kind: str) -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for split, n in (("train", 300), ("dev", 60), ("test", 60)):
        rows, classes = read_classes(kind, split), CLASSES[kind]
        assert f"| `{kind}_{split}.csv` | {len(rows)} |" in readme and len(rows) == n
        assert Counter(row[-1] for row in rows) == {label: n // len(classes) for label in classes}


@each_with_classes
def test_no_text_with_a_class_is_in_two_files_and_no_row_comes_twice(kind: str) -> None:
    rows = {split: read_classes(kind, split) for split in SPLITS}
    texts = {split: {folded(text) for row in found for text in row[:-1]} for split, found in rows.items()}
    assert not texts["train"] & texts["dev"] and not texts["train"] & texts["test"] and not texts["dev"] & texts["test"]
    judged = [tuple(map(folded, row[:-1])) for found in rows.values() for row in found]
    assert len({*judged}) == len(judged)
    scored = {text for name in (*SPLITS, "matches") for text in texts_of(name)}
    assert not scored & set().union(*texts.values())


@each_with_classes
def test_texts_with_classes_are_of_two_to_thirty_words(kind: str) -> None:
    for text in (text for split in SPLITS for row in read_classes(kind, split) for text in row[:-1]):
        assert 2 <= len(text.split()) <= 30 and text == text.strip() and "  " not in text
        assert has_hangul(text) == (kind == "reviews_ko")
        assert "{" not in text and (text[0].isupper() or kind == "reviews_ko")


@each_split
def test_every_premise_has_one_hypothesis_of_each_class(name: str) -> None:
    labels: dict[str, list[str]] = {}
    hypotheses = set()
    for premise, hypothesis, label in read_classes("nli", name):
        labels.setdefault(premise, []).append(label)
        hypotheses.add(hypothesis)
        assert premise != hypothesis
    assert all(sorted(found) == sorted(CLASSES["nli"]) for found in labels.values())
    assert len(labels) == len(hypotheses) / 3 == (100 if name == "train" else 20)


@each_split
def test_in_a_quarter_of_the_reviews_praise_and_blame_stand_together(name: str) -> None:
    said = {label: "".join(text for text, of in read_classes("reviews_ko", "train") if of == label) for label in LABELS}
    turned = []
    for text, label in read_classes("reviews_ko", name):
        opened = re.sub("^.*?(봤|갔|골랐|걱정했)는데 ", "", text)
        turn = re.search(r"(\S+)(지만|는데) ", opened)
        if turn and normalize("NFD", turn[1]).endswith("\u11bb"):  # the final consonant of a past tense
            (other,) = {*LABELS} - {label}
            turned.append((label, turn[1] in said[other]))
    assert 0.2 <= len(turned) / len(read_classes("reviews_ko", name)) <= 0.35
    assert Counter(label for label, _ in turned).keys() == {*LABELS}
    assert sum(is_of_other for _, is_of_other in turned) >= 0.9 * len(turned)  # what stands first, before the turn
