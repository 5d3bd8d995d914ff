"""Mining with the real MiniLM on sentences of STS-B: pairs, links, groups and hard negatives, against brute force."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from sbert_ft import NegativeRules, SiameseBert, group_texts, mine_negatives, mine_pairs
from sbert_ft.data.duplicates import text_key
from sbert_ft.errors import InputError
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.search.groups import average_linkage
from sbert_ft.search.negatives import hard_negatives
from sbert_ft.vectors.joins import join
from sbert_ft.vectors.nearest import unit_rows

CALIBRATION = Calibration("platt", slope=11.67, intercept=-6.71)
DECISION = Decision(0.6, "f1", FittedOn("dev.csv", "0" * 64, 400, 212), calibration=CALIBRATION)


@pytest.fixture(scope="module")
def model(minilm_path: Path) -> SiameseBert:
    loaded = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    loaded.decision = DECISION
    return loaded


@pytest.fixture(scope="module")
def texts(stsb_sentences: list[str]) -> list[str]:
    """Return 150 sentences, among them some that are there twice."""
    return [*stsb_sentences[:147], "a MAN is  playing a guitar.", stsb_sentences[0], "나는 기타를 친다."]


@pytest.fixture(scope="module")
def cosines(model: SiameseBert, texts: list[str]) -> np.ndarray:
    vectors = unit_rows(model.encode(texts)).astype(np.float64)
    return vectors @ vectors.T


def firsts_of(texts: list[str]) -> list[int]:
    """Return for each text the first row that has the same, but for case and spacing."""
    first: dict[int, int] = {}
    return [first.setdefault(text_key(text), row) for row, text in enumerate(texts)]


def as_dict(found: Any) -> dict[tuple[int, int], float]:
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    return dict(zip(pairs, found.scores.tolist(), strict=True))


# ---------------------------------------------------------------- pairs


def test_pairs_are_those_of_brute_force_and_repeats_go_with_their_first_text(
    model: SiameseBert, texts: list[str], cosines: np.ndarray
) -> None:
    firsts = firsts_of(texts)
    found = mine_pairs(model, texts)
    distinct = sorted(set(firsts))
    expected = {(i, j): cosines[i, j] for i, j in combinations(distinct, 2) if cosines[i, j] >= 0.6}
    repeats = {(first, row): 1.0 for row, first in enumerate(firsts) if first != row}
    assert len(repeats) >= 2 and len(expected) > 50
    assert as_dict(found) == pytest.approx(expected | repeats, abs=1e-5)
    assert found.n_found == len(found) == len(expected) + len(repeats)
    assert set(zip(found.first[found.exact].tolist(), found.second[found.exact].tolist(), strict=True)) == set(repeats)
    assert (np.diff(found.scores) <= 0).all()


def test_the_probabilities_are_added_up(model: SiameseBert, texts: list[str]) -> None:
    found = mine_pairs(model, texts)
    assert found.probabilities is not None
    by_hand = [
        0.0 if exact else 1 - 1 / (1 + np.exp(6.71 - 11.67 * s))
        for s, exact in zip(found.scores, found.exact, strict=True)
    ]
    assert found.expected_wrong == pytest.approx(sum(by_hand), abs=1e-4) and sum(by_hand) > 1


def test_the_same_pairs_as_paraphrase_mining(model: SiameseBert, texts: list[str]) -> None:
    from sentence_transformers.util import paraphrase_mining_embeddings

    distinct = [texts[row] for row in sorted(set(firsts_of(texts)))]
    for top_k in (2, 100):
        peers = paraphrase_mining_embeddings(model.encode(distinct, convert_to_tensor=True), top_k=top_k)
        expected = {(i, j): score for score, i, j in peers if score >= 0.55}
        found = mine_pairs(model, distinct, threshold=0.55, top_k=top_k)
        assert as_dict(found) == pytest.approx(expected, abs=1e-5)


def test_the_best_pairs_are_kept_and_more_is_told(model: SiameseBert, texts: list[str]) -> None:
    every, few = mine_pairs(model, texts), mine_pairs(model, texts, max_pairs=20)
    assert len(few) == 20 and few.n_found == len(every)
    np.testing.assert_array_equal(few.scores, every.scores[:20])
    assert few.probabilities is not None and len(few.probabilities) == len(few.exact) == 20


def test_k_above_the_number_of_texts_is_no_limit(model: SiameseBert, texts: list[str]) -> None:
    assert as_dict(mine_pairs(model, texts[:30], top_k=500)) == as_dict(mine_pairs(model, texts[:30]))


def test_links_are_the_best_of_each_side_and_say_where_both_agree(
    model: SiameseBert, texts: list[str], cosines: np.ndarray
) -> None:
    found = mine_pairs(model, texts[:60], texts[60:140])
    block = cosines[:60, 60:140]
    ways = [(i, int(block[i].argmax())) for i in range(60)], [(int(block[:, j].argmax()), j) for j in range(80)]
    expected = {pair for way in ways for pair in way if block[pair] >= 0.6}
    # repeated texts have as many links as rows, but argmax names the first: compare the texts
    named = {(texts[i], texts[60 + j]) for i, j in expected}
    assert {(texts[i], texts[60 + j]) for i, j in as_dict(found)} == named and len(named) > 10
    mutual = {(texts[i], texts[60 + j]) for i, j in set(ways[0]) & set(ways[1]) if block[i, j] >= 0.6}
    assert found.mutual is not None
    chosen = zip(found.first[found.mutual].tolist(), found.second[found.mutual].tolist(), strict=True)
    assert {(texts[i], texts[60 + j]) for i, j in chosen} == mutual and 0 < len(mutual) < len(named)


def test_each_row_of_a_repeated_text_gets_its_link(model: SiameseBert) -> None:
    left = ["A man plays a guitar.", "a dog", "a man  plays a GUITAR."]
    right = ["stock prices fell", "A man plays a guitar.", "A dog.", "a man plays a guitar."]
    found = mine_pairs(model, left, right)
    assert set(as_dict(found)) == {(0, 1), (2, 1), (0, 3), (1, 2)}
    exact = {pair for pair, is_exact in zip(as_dict(found), found.exact.tolist(), strict=True) if is_exact}
    assert exact == {(0, 1), (2, 1), (0, 3)}
    assert found.mutual is not None and found.mutual.all()


def test_two_prompts_are_put_before_the_two_sides(model: SiameseBert, minilm_path: Path) -> None:
    other = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    other.use_prompts("query: ", "passage: ")
    pairs = [("how do I pay?", "Payment is by card."), ("a dog", "the dog runs")]
    found = mine_pairs(other, *map(list, zip(*pairs, strict=True)), threshold=0.0, top_k=2)
    scores = other.score(pairs)
    assert [as_dict(found)[i, i] for i in range(2)] == pytest.approx(scores.tolist(), abs=1e-5)
    assert np.abs(scores - model.score(pairs)).max() > 0.01


# ---------------------------------------------------------------- groups


def test_groups_are_those_of_scipys_average_linkage(model: SiameseBert, texts: list[str], cosines: np.ndarray) -> None:
    distinct = sorted(set(firsts_of(texts)))
    some = cosines[np.ix_(distinct, distinct)]
    condensed = (1 - some)[np.triu_indices(len(distinct), 1)]
    vectors = unit_rows(model.encode([texts[row] for row in distinct]))
    for threshold in (0.3, 0.5, 0.6, 0.75):
        expected = fcluster(linkage(condensed, "average"), 1 - threshold, "distance")
        root = linked(vectors, threshold).root
        np.testing.assert_array_equal(root[:, None] == root[None], expected[:, None] == expected[None])
        assert 5 < len(set(root)) < len(root)
    group = group_texts(model, texts, threshold=0.75).group[distinct]
    np.testing.assert_array_equal(
        (group[:, None] == group[None]) & (group >= 0), (root[:, None] == root[None]) & (group >= 0)
    )


def test_the_mean_cosine_of_each_group_reaches_the_threshold_and_rows_are_in_order(
    model: SiameseBert, texts: list[str], cosines: np.ndarray
) -> None:
    groups, firsts = group_texts(model, texts), np.array(firsts_of(texts))
    for number in range(len(groups)):
        rows = np.flatnonzero((groups.group == number) & (firsts == np.arange(len(texts))))
        if len(rows) > 1:
            inside = cosines[np.ix_(rows, rows)]
            means = (inside.sum(axis=1) - 1) / (len(rows) - 1)
            assert means.mean() >= 0.6 - 1e-6
            np.testing.assert_allclose(groups.scores[rows], means, atol=1e-5)
    np.testing.assert_array_equal(groups.group, groups.group[firsts])  # a repeat is with its text
    chosen = groups.rows()
    sizes = np.bincount(groups.group[chosen])
    assert (np.diff(sizes) <= 0).all() and sizes.min() >= 2 and set(chosen) == set(np.flatnonzero(groups.group >= 0))
    for number in range(len(groups)):
        assert (np.diff(groups.scores[chosen][groups.group[chosen] == number]) <= 0).all()


def angled(*degrees: float) -> np.ndarray:
    """Return vectors in a plane, so that cosines follow from angles."""
    radians = np.radians(degrees)
    return unit_rows(np.stack([np.cos(radians), np.sin(radians)], axis=1))


def linked(vectors: np.ndarray, threshold: float) -> Any:
    first, second, scores = map(np.concatenate, zip(*join(vectors, None, lambda: threshold), strict=True))
    return average_linkage(vectors, first, second, scores, threshold)


def test_a_chain_does_not_connect_strangers() -> None:
    # each is 30 degrees from the next (cosine .866), but the ends are 90 degrees apart (cosine 0)
    chain = linked(angled(0, 30, 60, 90), 0.8)
    assert chain.root[0] == chain.root[1] and chain.root[2] == chain.root[3] and chain.root[1] != chain.root[2]
    # 0 and 20: .940; their mean with 40 is (.940 + .766) / 2 = .853
    assert len(set(linked(angled(0, 20, 40), 0.85).root)) == 1
    assert len(set(linked(angled(0, 20, 40), 0.86).root)) == 2


def test_the_chance_of_a_wrong_group_by_hand(model: SiameseBert) -> None:
    texts = ["a dog runs", "the dog is running", "A dog runs.", "stock prices fell", "A dog  runs"]
    groups = group_texts(model, texts, threshold=0.5)
    cos = {(i, j): float(model.score(texts[i], texts[j])) for i, j in combinations(range(3), 2)}
    best = max(cos, key=lambda pair: cos[pair])
    third = ({0, 1, 2} - set(best)).pop()
    mean = np.mean([score for pair, score in cos.items() if third in pair])
    right = np.prod(CALIBRATION.probability(np.array([cos[best], mean])))
    assert groups.group.tolist() == [0, 0, 0, -1, 0] and groups.exact.tolist() == [False] * 4 + [True]
    assert groups.probabilities is not None and groups.probabilities.tolist() == pytest.approx([right], abs=1e-4)
    assert groups.expected_wrong == pytest.approx(1 - right, abs=1e-4)


def test_repeats_alone_are_a_group_that_is_surely_right(model: SiameseBert) -> None:
    groups = group_texts(model, ["stock prices fell", "a dog", "A  dog", "a DOG"])
    assert groups.group.tolist() == [-1, 0, 0, 0] and groups.expected_wrong == 0
    assert groups.scores.tolist() == [0, 1, 1, 1]


# ---------------------------------------------------------------- hard negatives


@pytest.fixture(scope="module")
def matching(stsb_sentences: list[str]) -> list[tuple[str, str]]:
    """Return pairs of sentences that are all different."""
    seen: set[int] = set()
    found = []
    for first, second in zip(stsb_sentences[::2], stsb_sentences[1::2], strict=True):
        keys = {text_key(first), text_key(second)}
        if len(keys) == 2 and not keys & seen:
            found.append((first, second))
            seen |= keys
    return found[:60]


@pytest.mark.parametrize(
    ("rules", "theirs"),
    [
        (NegativeRules(3), {"num_negatives": 3, "range_max": 31}),
        (NegativeRules(2, 5, 20), {"num_negatives": 2, "range_min": 5, "range_max": 20}),
        (NegativeRules(2, margin=0.1), {"num_negatives": 2, "absolute_margin": 0.1}),
        (NegativeRules(2, 1, relative_margin=0.3), {"num_negatives": 2, "range_min": 1, "relative_margin": 0.3}),
        (NegativeRules(4, 2, 30, 0.2, 0.1), {"num_negatives": 4, "range_min": 2, "range_max": 30,
                                             "absolute_margin": 0.2, "relative_margin": 0.1, "max_score": 0.5}),
    ],
)  # fmt: skip
def test_negatives_are_those_of_mine_hard_negatives(
    model: SiameseBert, matching: list[tuple[str, str]], rules: NegativeRules, theirs: dict[str, Any]
) -> None:
    needed = "sentence-transformers' mine_hard_negatives needs datasets (pip install 'sbert-ft[bench]')"
    Dataset = pytest.importorskip("datasets", reason=needed).Dataset
    from sentence_transformers.util import mine_hard_negatives

    rows = [*matching, (matching[0][0], "a second positive of the first anchor"), (matching[0][0], matching[3][1])]
    anchors, seconds = (list(dict.fromkeys(side)) for side in zip(*rows, strict=True))
    left, right = (unit_rows(model.encode(side)) for side in (anchors, seconds))
    positives = np.array([(anchors.index(a), seconds.index(b)) for a, b in rows]).T
    highest = theirs.get("max_score")
    found = hard_negatives(
        left, right, (positives[0], positives[1]), rules, None, None if highest is None else lambda _, s: s > highest
    )
    ours = {(anchors[i], seconds[j]) for i, j in zip(found.anchors.tolist(), found.texts.tolist(), strict=True)}
    data = Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]})

    mined = mine_hard_negatives(data, model, verbose=False, **theirs)  # type: ignore[arg-type]
    assert ours == set(zip(mined["anchor"], mined["negative"], strict=True)) and len(ours) > 50


def test_no_negative_is_known_to_match_or_likely_to(model: SiameseBert, matching: list[tuple[str, str]]) -> None:
    pairs = [*matching, (matching[1][1], matching[2][1]), (matching[0][1], matching[0][0].upper())]
    known = {frozenset(map(text_key, pair)) for pair in pairs}
    mined = mine_negatives(model, pairs, [first for first, _ in matching], NegativeRules(3))
    scores = model.score([(anchor, negative) for anchor, _, negative in mined.triplets])
    for anchor, positive, negative in mined.triplets:
        assert text_key(anchor) != text_key(negative)
        assert frozenset(map(text_key, (anchor, positive))) in known
        assert frozenset(map(text_key, (anchor, negative))) not in known
    assert CALIBRATION.probability(scores).max() <= 0.5 + 1e-4 and scores.max() > 0.4
    assert len(mined.suspects) > 5
    assert all(p is not None and p > 0.5 for _, _, _, p in mined.suspects)
    suspected = [frozenset(map(text_key, (first, second))) for first, second, _, _ in mined.suspects]
    assert not known & set(suspected) and len(suspected) == len(set(suspected))
    assert [score for _, _, score, _ in mined.suspects] == sorted((s[2] for s in mined.suspects), reverse=True)


def test_both_rules_for_suspects_count(model: SiameseBert, matching: list[tuple[str, str]]) -> None:
    pairs = matching[:40]
    for options, highest in (({"threshold": 0.3}, 0.3), ({"max_probability": 0.1}, 0.3868)):
        triplets = mine_negatives(model, pairs, rules=NegativeRules(2), **options).triplets  # type: ignore[arg-type]
        scores = model.score([(anchor, negative) for anchor, _, negative in triplets])
        assert highest - 0.1 < scores.max() < highest + 1e-3


def test_anchors_without_enough_negatives_are_counted(model: SiameseBert) -> None:
    pairs = [("a dog", "the dog"), ("a cat", "the cat")]
    mined = mine_negatives(model, pairs, rules=NegativeRules(2), threshold=0.99)
    assert mined.n_short == 2
    assert mined.triplets == [("a dog", "the dog", "the cat"), ("a cat", "the cat", "the dog")]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: mine_pairs(m, []), "expected a list of texts, found none"),
        (lambda m: mine_pairs(m, "a text"), "found a single text"),
        (lambda m: mine_pairs(m, ["a", None]), "text at position 1 is 'None', expected a string"),
        (lambda m: mine_pairs(m, ["a"], []), "others: expected a list of texts"),
        (lambda m: mine_pairs(m, ["a"], top_k=0), "top_k is '0', expected a whole number"),
        (lambda m: mine_pairs(m, ["a"], max_pairs=0), "max_pairs is '0'"),
        (lambda m: mine_pairs(m, ["a"], threshold=1.5), "expected a cosine"),
        (lambda m: group_texts(m, [], threshold=0.5), "found none"),
        (lambda m: mine_negatives(m, []), "pairs: expected a list of texts, found none"),
        (lambda m: mine_negatives(m, [("a", "b")], rules=NegativeRules(1, 5)), "rank 5 on, but there are only 1"),
        (lambda m: NegativeRules(5, 0, 3), "5 negatives are asked for, but there are 3 ranks from 0 to 3"),
        (lambda m: NegativeRules(1, 3, 3), "last_rank is '3', expected a whole number of at least 4"),
        (lambda m: NegativeRules(margin=-1.0), "margin is '-1.0', expected a number from 0 to 2"),
    ],
)
def test_a_wrong_argument_is_refused(model: SiameseBert, call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(model)


def test_a_model_without_a_decision_needs_a_threshold(minilm_path: Path) -> None:
    bare = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    for call in (mine_pairs, group_texts, lambda m, t: mine_negatives(m, [("a", "b")])):
        with pytest.raises(InputError, match="the model has no stored threshold"):
            call(bare, ["a", "b"])
    with pytest.raises(InputError, match="max_probability is given, but the model has no calibration"):
        mine_negatives(bare, [("a", "b")], max_probability=0.5)
    assert mine_pairs(bare, ["a dog", "the dog"], threshold=0.1).probabilities is None
    assert group_texts(bare, ["a dog", "the dog"], threshold=0.1).expected_wrong is None
