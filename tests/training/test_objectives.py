"""Objectives: examples computed by hand, parity with sentence-transformers, and checks of settings and data."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from sbert_ft.config.loader import check_settings
from sbert_ft.config.objectives import OBJECTIVES, ObjectiveSettings
from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings
from sbert_ft.errors import ConfigError, InputError
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.objectives import Objective, check_fits, fitting_objectives

# For a loss that float32 computes with logarithms and exponentials.
LOSS_TOLERANCE = 1e-5
# Relative to the largest gradient of the parameter. One that is zero but for rounding, such as that of a key's bias,
# is compared with a thousandth of the largest of all.
GRADIENT_TOLERANCE = 1e-4

# Near each other across rows too, so that no loss is nearly 0.
ANCHORS = ["A man is playing a guitar.", "A man plays the piano.", "A woman plays a guitar.", "Two men are playing."]
POSITIVES = ["A man plays an instrument.", "He is playing.", "A guitar is played, by a woman.", "Men play music."]
NEGATIVES = ["A man sold his guitar.", "A man tunes the piano, but plays nothing.", "A woman plays chess.", "Two men."]


OF_ENCODERS = [name for name, kind in OBJECTIVES.items() if not kind.of_classifier and not kind.of_language]
OF_CLASSIFIERS = [name for name, kind in OBJECTIVES.items() if kind.of_classifier]
OF_TEACHERS = [name for name, kind in OBJECTIVES.items() if kind.teacher != "never"]
# tsdae needs a model's decoder: `test_unlabelled.py`; mlm and nsp masked tokens: `test_masked_gradients.py`
WITHOUT_DECODER = [name for name, kind in OBJECTIVES.items() if not kind.decodes and not kind.of_language]


def objective(name: str, **settings: float) -> Objective:
    head = (lambda columns: torch.cat(columns, dim=-1)[:, :3]) if name in OF_CLASSIFIERS else None
    return Objective([ObjectiveSettings(name, **settings)], head)


def rows(*vectors: tuple[float, float]) -> Tensor:
    return torch.tensor(vectors, dtype=torch.float32, requires_grad=True)


@dataclass(frozen=True)
class Data:
    """The part of a data set that is checked against an objective."""

    n_texts: int
    label_kind: str
    labels: NDArray[np.float64] | None = None
    class_names: tuple[str, ...] = ()


ONE_TEXT = Data(1, "classes", np.array([0.0, 1, 0, 1]), ("bad", "good"))
NO_LABELS = Data(2, "none")
TRIPLETS = Data(3, "none")
BINARY = Data(2, "binary", np.array([0.0, 1, 1, 0]))
MATCHING = Data(2, "binary", np.ones(4))
SCORES = Data(2, "score", np.array([0.0, 2.5, 5]))
CLASSES = Data(2, "classes", np.array([0.0, 1, 2]), ("entailment", "neutral", "contradiction"))
SCORED_TRIPLETS = Data(3, "score", np.array([1.0, 2]))


# examples computed by hand: cosines to (1, 0) are the first coordinates

ONES = ((1.0, 0.0),)


def test_cosine_is_the_mean_squared_error_of_the_cosine() -> None:
    left, right = rows((1, 0), (1, 0)), rows((2, 0), (0, 3))
    loss = objective("cosine").losses([left, right], torch.tensor([1.0, 0.5]))
    assert loss.item() == pytest.approx((0 + 0.5**2) / 2)


def test_cosent_counts_each_pair_of_rows_in_the_wrong_order() -> None:
    left, right = rows(*ONES * 3), rows((0.6, 0.8), (0.8, 0.6), (0.8, -0.6))
    loss = objective("cosent").losses([left, right], torch.tensor([1.0, 0.5, 0.5]))
    # each of the two rows of label 0.5 against the one of 1; the two are not compared
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(20 * (0.8 - 0.6))))
    loss = objective("cosent", scale=5).losses([left, right], torch.tensor([1.0, 0.5, 0.5]))
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(5 * (0.8 - 0.6))))


def test_angle_compares_halves_of_the_vectors() -> None:
    left, right = rows(*ONES * 2), rows((0.6, 0.8), (1, 0))
    loss = objective("angle", scale=5).losses([left, right], torch.tensor([1.0, 0.0]))
    # of (1, 0) and (.6, .8): the cosine .6, and 0 * .6 - 1 * .8 for the sine
    assert loss.item() == pytest.approx(math.log(1 + math.exp(5 * (1 - abs(0.6 - 0.8)))))


def test_contrastive_pulls_matches_and_pushes_others_to_the_margin() -> None:
    left, right = rows(*ONES * 3), rows((0.6, 0.8), (0.8, 0.6), (0, 1))
    loss = objective("contrastive").losses([left, right], torch.tensor([1.0, 0, 0]))
    assert loss.item() == pytest.approx((0.5 * 0.4**2 + 0.5 * (0.5 - 0.2) ** 2 + 0) / 3)
    loss = objective("contrastive", margin=0.3).losses([left, right], torch.tensor([1.0, 0, 0]))
    assert loss.item() == pytest.approx((0.5 * 0.4**2 + 0.5 * (0.3 - 0.2) ** 2 + 0) / 3)


def test_online_contrastive_sums_the_hard_rows() -> None:
    left, right = rows(*ONES * 4), rows((0.6, 0.8), (0.96, 0.28), (0.8, 0.6), (0, 1))
    loss = objective("online_contrastive").losses([left, right], torch.tensor([1.0, 1, 0, 0]))
    # distances of matches .4 .04, of others .2 1: hard are .4 (over .2) and .2 (under .4)
    assert loss.item() == pytest.approx(0.4**2 + (0.5 - 0.2) ** 2, rel=1e-5)


def test_in_batch_negatives_finds_each_second_text_among_all() -> None:
    columns = [rows((1, 0), (0, 1)), rows((1, 0), (0.6, 0.8))]
    forward = (math.log(math.exp(1) + math.exp(0.6)) - 1 + math.log(math.exp(0) + math.exp(0.8)) - 0.8) / 2
    backward = (math.log(math.exp(1) + math.exp(0)) - 1 + math.log(math.exp(0.6) + math.exp(0.8)) - 0.8) / 2
    assert objective("in_batch_negatives", scale=1).losses(columns, None).item() == pytest.approx(forward)
    symmetric = objective("in_batch_negatives", scale=1, symmetric=True)
    assert symmetric.losses(columns, None).item() == pytest.approx((forward + backward) / 2)
    assert symmetric.losses(columns, torch.ones(2)).item() == pytest.approx((forward + backward) / 2)


def test_simcse_finds_the_second_vector_of_each_text_among_all() -> None:
    views = [rows((1, 0), (0, 1)), rows((1, 0), (0.6, 0.8))]
    expected = (math.log(math.exp(1) + math.exp(0.6)) - 1 + math.log(math.exp(0) + math.exp(0.8)) - 0.8) / 2
    assert objective("simcse", scale=1).losses(views, None).item() == pytest.approx(expected)
    with pytest.raises(InputError, match="simcse was given 1 columns of texts without labels, but simcse takes one"):
        objective("simcse").losses(views[:1], None)


def test_in_batch_negatives_takes_third_texts_as_further_negatives() -> None:
    columns = [rows((1, 0), (0, 1)), rows((1, 0), (0, 1)), rows((-1, 0), (0.6, 0.8))]
    first = math.log(math.exp(1) + math.exp(0) + math.exp(-1) + math.exp(0.6)) - 1
    second = math.log(math.exp(0) + math.exp(1) + math.exp(0) + math.exp(0.8)) - 1
    loss = objective("in_batch_negatives", scale=1).losses(columns, None)
    assert loss.item() == pytest.approx((first + second) / 2)


def test_triplet_wants_the_third_text_farther_by_the_margin() -> None:
    columns = [rows((0, 0), (0, 0)), rows((3, 4), (0, 1)), rows((0, 1), (6, 8))]
    assert objective("triplet").losses(columns, None).item() == pytest.approx(((5 - 1 + 5) + 0) / 2)
    assert objective("triplet", margin=0).losses(columns, None).item() == pytest.approx((5 - 1) / 2)


def test_losses_are_added_by_weight() -> None:
    columns, labels = [rows(*ONES * 2), rows((0.6, 0.8), (0.8, 0.6))], torch.tensor([1.0, 0.0])
    both = Objective([ObjectiveSettings("cosine", weight=2), ObjectiveSettings("cosent", weight=0.5)])
    expected = [2 * (0.4**2 + 0.8**2) / 2, 0.5 * math.log(1 + math.exp(20 * 0.2))]
    assert both.losses(columns, labels).tolist() == pytest.approx(expected)
    assert (both.coupled, both.distinct_texts) == (True, False)
    assert both.describe() == "2 * cosine + 0.5 * cosent (scale 20)"


# numbers: float32, and never NaN


def test_losses_are_float32_under_autocast_and_from_half_precision() -> None:
    columns = [torch.randn(6, 8).bfloat16() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective("in_batch_negatives").losses(columns, None)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        objective("in_batch_negatives").losses([c.float() for c in columns], None).item()
    )


@pytest.mark.parametrize("name", ["cosent", "angle"])
@pytest.mark.parametrize("labels", [[0.4], [1, 1, 1]], ids=["one row", "equal labels"])
def test_without_an_ordered_pair_the_loss_and_its_gradient_are_zero(name: str, labels: list[float]) -> None:
    columns = [torch.randn(len(labels), 6, requires_grad=True) for _ in range(2)]
    loss = objective(name).losses(columns, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(column.grad, torch.zeros_like(column)) for column in columns)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [1], [0], [1, 0]])
def test_online_contrastive_is_finite_where_a_side_is_empty(labels: list[float]) -> None:
    columns = [torch.randn(len(labels), 6, requires_grad=True) for _ in range(2)]
    loss = objective("online_contrastive").losses(columns, torch.tensor(labels).float())
    loss.backward()
    assert loss.isfinite() and all(column.grad.isfinite().all() for column in columns)


@pytest.mark.parametrize("name", WITHOUT_DECODER)
def test_equal_texts_give_finite_gradients(name: str) -> None:
    kind = OBJECTIVES[name]
    vectors = torch.tensor([[1.0, 2, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]])
    columns = [vectors.clone().requires_grad_() for _ in range(kind.rows.n_texts[-1] * kind.n_views)]
    labels = None if "none" in kind.rows.label_kinds else torch.tensor([1.0, 0, 1])
    taught = torch.ones(3, len(columns), 4) if kind.teacher != "never" else None
    loss = objective(name).losses(columns, labels, taught=taught)
    loss.backward()
    assert loss.isfinite() and all(column.grad.isfinite().all() for column in columns)


# parity with sentence-transformers


def reference_loss(name: str, model: SentenceTransformer) -> nn.Module:
    """Return the library's own loss, with its own defaults."""
    return {
        "cosine": lambda: losses.CosineSimilarityLoss(model),
        "cosent": lambda: losses.CoSENTLoss(model),
        "angle": lambda: losses.AnglELoss(model),
        "contrastive": lambda: losses.ContrastiveLoss(model),
        "online_contrastive": lambda: losses.OnlineContrastiveLoss(model),
        "in_batch_negatives": lambda: losses.MultipleNegativesRankingLoss(model),
        "symmetric": lambda: losses.MultipleNegativesRankingLoss(
            model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
        ),
        "triplet": lambda: losses.TripletLoss(model),
        "simcse": lambda: losses.MultipleNegativesRankingLoss(model),
    }[name]()


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, "cpu", "float32").eval()


@pytest.fixture(scope="module")
def reference(minilm_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_path), device="cpu", local_files_only=True).eval()


@pytest.mark.parametrize(
    ("name", "n_texts", "labels"),
    [
        ("cosine", 2, [0.8, 1.0, 0.25, 0.6]),
        ("cosent", 2, [0.8, 1.0, 0.25, 0.8]),
        ("angle", 2, [0.8, 1.0, 0.25, 0.8]),
        ("contrastive", 2, [1.0, 0, 1, 0]),
        ("online_contrastive", 2, [0.0, 1, 0, 1]),
        ("in_batch_negatives", 2, None),
        ("in_batch_negatives", 3, None),
        ("symmetric", 2, None),
        ("symmetric", 3, None),
        ("triplet", 3, None),
        ("simcse", 1, None),
    ],
)
def test_loss_and_gradient_equal_those_of_sentence_transformers(
    minilm: SiameseBert,
    reference: SentenceTransformer,
    name: str,
    n_texts: int,
    labels: list[float] | None,
) -> None:
    columns = [ANCHORS, POSITIVES, NEGATIVES][:n_texts] * (2 if name == "simcse" else 1)
    reference.zero_grad()
    features = [reference.preprocess(column) for column in columns]
    expected = reference_loss(name, reference)(features, torch.tensor(labels or [1.0] * 4))
    expected.backward()

    own = objective("in_batch_negatives", symmetric=True) if name == "symmetric" else objective(name)
    minilm.zero_grad()
    texts = [text for column in columns for text in column]
    tokens = minilm.tokenizer.frame(minilm.tokenizer.tokenize(texts), minilm.max_seq_length)
    targets = None if labels is None else torch.tensor(labels)
    loss = backward(minilm, own, tokens, targets, 4, BackwardSettings(micro_rows=4))

    assert loss.item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE)
    theirs = dict(reference[0].model.named_parameters())
    pairs = [(p.grad, theirs[name].grad) for name, p in minilm.bert.encoder.named_parameters()]
    floor = max(float(grad.abs().max()) for _, grad in pairs) / 1000
    assert floor > 0
    for grad, their_grad in pairs:
        limit = GRADIENT_TOLERANCE * max(float(their_grad.abs().max()), floor)
        torch.testing.assert_close(grad, their_grad, rtol=0, atol=limit)


def test_the_defaults_of_the_table_are_those_of_sentence_transformers() -> None:
    of_scales = {"margin_mse": {"scale": 1.0}, "guided_in_batch_negatives": {"scale": 100.0, "margin": 0.0}}
    assert {name: OBJECTIVES[name].defaults for name in OF_TEACHERS} == {"mse": {}, **of_scales}  # the library's own
    for name in (name for name in OF_ENCODERS if name in WITHOUT_DECODER and name not in OF_TEACHERS):
        kind = OBJECTIVES[name]
        loss = reference_loss(name, None)  # type: ignore[arg-type]
        theirs = {
            "scale": getattr(loss, "scale", None),
            "margin": getattr(loss, "margin", getattr(loss, "triplet_margin", None)),
        }
        ours = {"scale": None, "margin": None, **kind.defaults}
        ours.pop("symmetric", None)
        assert ours == theirs, name


def test_building_warns_of_nothing_and_importing_costs_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in WITHOUT_DECODER:
            objective(name)
    code = "import sys, sbert_ft.training.objectives; sys.exit('sentence_transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# settings


def test_every_setting_left_out_is_filled_with_its_default() -> None:
    assert objective("cosent").describe() == "cosent (scale 20)"
    assert objective("triplet").describe() == "triplet (margin 5)"
    assert objective("in_batch_negatives").describe() == "in_batch_negatives (scale 20)"
    assert objective("cosine").describe() == "cosine"
    assert objective("in_batch_negatives", symmetric=True, scale=30).describe() == (
        "in_batch_negatives (scale 30, symmetric)"
    )


def test_only_objectives_with_negatives_from_the_batch_want_distinct_texts() -> None:
    of_negatives = ["in_batch_negatives", "simcse", "guided_in_batch_negatives"]
    assert [name for name, kind in OBJECTIVES.items() if kind.distinct_texts] == of_negatives
    independent = ["cosine", "contrastive", "triplet", "tsdae", "mse", "margin_mse"]
    independent += ["softmax", "binary_cross_entropy", "mlm", "nsp"]
    assert [name for name, kind in OBJECTIVES.items() if not kind.coupled] == independent


def checked(*parts: ObjectiveSettings) -> RunSettings:
    return check_settings(RunSettings(ModelSettings("model"), DataSettings("train.csv"), "run", objective=parts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mae"}, "objective.name: expected one of cosine, cosent"),
        ({"name": "mse"}, "teacher.path: is missing; objective mse learns from the vectors of a sentence encoder"),
        (
            {"name": "cosine", "scale": 2},
            "scale: is an option of cosent, angle, in_batch_negatives, simcse, margin_mse,",
        ),
        (
            {"name": "cosine", "matryoshka_dims": (8, 16)},
            "objective.matryoshka_dims: expected different numbers, the largest first, found [8, 16]",
        ),
        (
            {"name": "cosine", "matryoshka_dims": (16, 8), "matryoshka_weights": (1.0,)},
            "objective.matryoshka_weights: expected a weight for each of matryoshka_dims, found 1 for 2 numbers in",
        ),
        (
            {"name": "cosine", "matryoshka_weights": (1.0,)},
            "objective.matryoshka_weights: expected a weight for each of matryoshka_dims, found 1 for 0 numbers in",
        ),
        (
            {"name": "cosine", "matryoshka_dims": (16, 0)},
            "objective.matryoshka_dims: expected an array of 1 to 32 whole numbers of at least 1, or null, found [16, ",
        ),
        (
            {"name": "tsdae", "matryoshka_dims": (16, 8)},
            "objective.matryoshka_dims: is an option of cosine, cosent, angle, contrastive",
        ),
        ({"name": "simcse", "deletion": 0.5}, "objective.deletion: is an option of tsdae; found 0.5 for simcse"),
        (
            {"name": "tsdae", "deletion": 1},
            "objective.deletion: expected a number above 0 and below 1, or null, found 1",
        ),
        ({"name": "cosine", "symmetric": True}, "objective.symmetric: is an option of in_batch_negatives"),
        ({"name": "cosine", "class_weight": "balanced"}, "objective.class_weight: is an option of softmax"),
        ({"name": "cosent", "scale": 0}, "objective.scale: expected a number above 0, or null, found 0"),
        ({"name": "cosent", "scale": math.nan}, "objective.scale: expected a number above 0, or null, found"),
        ({"name": "triplet", "margin": -1}, "objective.margin: expected a number of at least 0, or null, found -1"),
        ({"name": "cosine", "weight": math.inf}, "objective.weight: expected a number above 0, found"),
        ({"name": "cosine", "weight": True}, "objective.weight: expected a number above 0, found true"),
    ],
)
def test_settings_that_an_objective_cannot_take_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(ObjectiveSettings(**settings))
    assert message in str(caught.value).replace("objective.0", "objective")


def test_all_faults_of_the_settings_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(ObjectiveSettings("cosine", scale=2, margin=1), ObjectiveSettings("mae", weight=-1))
    parts = ("objective.0.scale", "objective.0.margin", "objective.1.name", "objective.1.weight")
    assert all(part in str(caught.value) for part in parts)
    with pytest.raises(ConfigError, match="array of 1 to"):
        checked()


def test_objectives_that_no_row_fits_are_not_added() -> None:
    with pytest.raises(InputError, match=r"no row fits all of them: cosine takes two texts .* triplet takes three"):
        check_fits([ObjectiveSettings("cosine"), ObjectiveSettings("triplet")], SCORES)
    both = Objective([ObjectiveSettings("in_batch_negatives"), ObjectiveSettings("triplet")])
    assert (both.n_texts, both.label_kinds) == ((3,), ("none",))


def test_a_loss_refuses_columns_that_it_does_not_take() -> None:
    with pytest.raises(InputError, match="cosine was given 2 columns of texts without labels, but cosine takes two"):
        objective("cosine").losses([rows((1, 0)), rows((1, 0))], None)
    with pytest.raises(InputError, match="triplet was given 2 columns"):
        objective("triplet").losses([rows((1, 0)), rows((1, 0))], None)


# objectives and data


@pytest.mark.parametrize(
    ("data", "fitting"),
    [
        (NO_LABELS, ("in_batch_negatives",)),
        (TRIPLETS, ("in_batch_negatives", "triplet")),
        (BINARY, ("cosine", "cosent", "angle", "contrastive", "online_contrastive")),
        (MATCHING, ("in_batch_negatives",)),
        (SCORES, ("cosine", "cosent", "angle")),
        (CLASSES, ()),
        (SCORED_TRIPLETS, ("margin_mse",)),
    ],
)
def test_what_fits_is_accepted_and_the_rest_is_refused(data: Data, fitting: tuple[str, ...]) -> None:
    assert fitting_objectives(data) == fitting
    for name in (name for name in OF_ENCODERS if name not in OF_TEACHERS or name in fitting):
        if name in fitting:
            check_fits([ObjectiveSettings(name)], data)
        else:
            with pytest.raises(InputError, match=f"^objective {name} "):
                check_fits([ObjectiveSettings(name)], data)


@pytest.mark.parametrize(
    ("data", "fitting"),
    [
        (ONE_TEXT, ("softmax",)),
        (CLASSES, ("softmax",)),
        (SCORES, ("binary_cross_entropy",)),
        (BINARY, ("binary_cross_entropy",)),
        (NO_LABELS, ()),
        (TRIPLETS, ()),
    ],
)
def test_what_fits_a_classifier_is_accepted_and_the_rest_is_refused(data: Data, fitting: tuple[str, ...]) -> None:
    assert fitting_objectives(data, of_classifier=True) == fitting
    for name in OF_CLASSIFIERS:
        if name in fitting:
            check_fits([ObjectiveSettings(name)], data)
        else:
            with pytest.raises(InputError, match=f"^objective {name} "):
                check_fits([ObjectiveSettings(name)], data)


def test_rows_of_one_class_teach_a_classifier_nothing() -> None:
    with pytest.raises(
        InputError, match=r"all 3 training rows are of the class 'good', .* two classes; add rows of another class"
    ):
        check_fits([ObjectiveSettings("softmax")], Data(1, "classes", np.ones(3), ("bad", "good")))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "triplet",
            SCORES,
            "objective triplet takes three texts without labels, but a row of this data has two texts and a score; "
            "objectives that fit this data: cosine, cosent and angle",
        ),
        (
            "cosine",
            NO_LABELS,
            "objective cosine takes two texts and a score or a label 0 or 1, but a row of this data has two texts and "
            "no label; objectives that fit this data: in_batch_negatives (a column of scores or labels is named with "
            "data.label_column)",
        ),
        (
            "in_batch_negatives",
            BINARY,
            "objective in_batch_negatives takes rows known to match, but 2 of 4 labels are 0: keep only the matching "
            'rows with data.label_values, such as {"1": 1}; objectives that fit this data: cosine, cosent, angle, '
            "contrastive and online_contrastive",
        ),
        (
            "cosent",
            MATCHING,
            "objective cosent learns from which of two rows has the higher label, but all 4 labels are 1; objectives "
            "that fit this data: in_batch_negatives",
        ),
        (
            "contrastive",
            CLASSES,
            "objective contrastive takes two texts and a label 0 or 1, but a row of this data has two texts and a "
            "class name; train a classifier with model.kind joined or towers, or for a sentence encoder say with "
            "data.label_values which of 'entailment', 'neutral', 'contradiction' means 1 and which 0 (the rows with "
            "other labels are left out)",
        ),
        (
            "cosine",
            ONE_TEXT,
            "objective cosine takes two texts and a score or a label 0 or 1, but a row of this data has one text and a "
            "class name; train a classifier of single texts with model.kind single, or name two columns with "
            "data.text_columns",
        ),
        (
            "softmax",
            BINARY,
            "objective softmax takes one or two texts and a class, but a row of this data has two texts and a label 0 "
            "or 1; read every distinct number as a class with data.label_kind classes "
            "(Reading(label_kind='classes')), or use binary_cross_entropy for scores",
        ),
        (
            "softmax",
            NO_LABELS,
            "objective softmax takes one or two texts and a class, but a row of this data has two texts and no label; "
            "name the column of labels with data.label_column",
        ),
        (
            "triplet",
            SCORED_TRIPLETS,
            "objective triplet takes three texts without labels, but a row of this data has three texts and a score; "
            "objectives that fit this data: margin_mse",
        ),
    ],
)
def test_a_mismatch_says_what_the_data_has_and_what_fits(name: str, data: Data, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fits([ObjectiveSettings(name)], data)
    assert str(caught.value) == message


def test_each_of_added_objectives_is_checked_against_the_data() -> None:
    both = [ObjectiveSettings("contrastive"), ObjectiveSettings("cosent")]
    check_fits(both, BINARY)
    with pytest.raises(InputError, match="objective cosent learns from which of two rows"):
        check_fits(both, MATCHING)


@pytest.mark.parametrize("name", ["cosine", "contrastive", "online_contrastive", "binary_cross_entropy"])
def test_labels_that_are_all_equal_are_refused(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"^objective {name} needs two or more different labels, but there is only 1 \(4 rows\); "
    ):
        check_fits([ObjectiveSettings(name)], MATCHING)
    check_fits([ObjectiveSettings(name)], BINARY)


def test_equal_labels_may_be_added_to_in_batch_negatives() -> None:
    check_fits([ObjectiveSettings("in_batch_negatives"), ObjectiveSettings("cosine", weight=0.1)], MATCHING)


@pytest.mark.parametrize(
    ("name", "n_rows", "n_texts", "labels", "expected"),
    [
        ("in_batch_negatives", 1, 2, None, False),
        ("in_batch_negatives", 1, 3, None, True),  # the third text is a negative of its own
        ("in_batch_negatives", 2, 2, [1, 1], True),
        ("cosent", 2, 2, [1, 1], False),
        ("cosent", 2, 2, [1, 0], True),
        ("online_contrastive", 1, 2, [1], False),
        ("online_contrastive", 2, 2, [1, 1], True),
        ("cosine", 1, 2, [0.5], True),
    ],
)
def test_a_batch_that_can_teach_has_a_loss_that_depends_on_the_vectors(
    name: str, n_rows: int, n_texts: int, labels: list[float] | None, expected: bool
) -> None:
    known = None if labels is None else np.array(labels, np.float64)
    assert objective(name).can_learn_from(n_rows, n_texts, known) == expected
    columns = [torch.randn(n_rows, 8, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in range(3)]
    loss = objective(name).losses(columns[:n_texts], None if labels is None else torch.tensor(labels))
    loss.backward()
    assert bool((columns[0].grad != 0).any()) == expected
