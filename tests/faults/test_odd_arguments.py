"""Odd arguments of public functions: each gives a right result or an error of the family, never another exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sbert_ft import BertClassifier, ConnectionBert, ConnectionDataset, SbertFtError, SiameseBert, TrainingSettings
from sbert_ft import fine_tune as public_fine_tune
from sbert_ft.errors import DataError, InputError

ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "NaN": lambda: float("nan"),
    "an empty text": lambda: "",
    "a text": lambda: "cat",
    "201 characters": lambda: "x" * 201,
    "bytes": lambda: b"cat",
    "a number": lambda: 3,
    "a share": lambda: 0.5,
    "True": lambda: True,
    "an empty list": list,
    "None in a list": lambda: [None],
    "NaN in a list": lambda: [float("nan")],
    "bytes in a list": lambda: [b"a"],
    "numbers in a list": lambda: [1, 2],
    "half a character": lambda: ["\ud800"],
    "a blank text in a list": lambda: [" "],
    "nested lists": lambda: [["a", "b"], ["c"]],
    "lists in lists in lists": lambda: [[["a", "b"]]],
    "a text and a pair": lambda: ["a", ("a", "b")],
    "a pair with None": lambda: [("a", None)],
    "a pair of bytes": lambda: [(b"a", b"b")],
    "three texts a row": lambda: [("a", "b", "c")],
    "an empty generator": lambda: (text for text in ()),
    "a generator of pairs": lambda: (("a", "b") for _ in range(2)),
    "an empty array": lambda: np.array([]),
    "an empty table": lambda: np.zeros((0, 2)),
    "an array without dimensions": lambda: np.array("a"),
    "an array of a pair": lambda: np.array([["a", "b"]]),
    "an array with None": lambda: np.array(["a", None], object),
    "a tensor": lambda: torch.zeros(2),
    "a set": lambda: {"a"},
    "a dict": lambda: {"a": "b"},
    "a frame": lambda: pd.DataFrame({"a": ["x"], "b": [np.nan]}),
    "a series": lambda: pd.Series(["a", pd.NA], dtype="string"),
    "an object": object,
    "a class": lambda: int,
}
ONE_STEP = TrainingSettings(max_steps=1, batch_size=4, precision="float32")
TEXTS, LABELS = ["a man", "the cat", "a cat", "the man"], ["p", "n", "p", "n"]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))


class Parts:
    """The models, and a place to write to."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        self.bert = ConnectionBert.from_pretrained(folder, "cpu", "float32")
        self.model = SiameseBert(self.bert)
        self.single, self.joined = (BertClassifier(self.bert, kind) for kind in ("single", "joined"))
        for classifier in (self.single, self.joined):
            classifier.start_head(["n", "p"])

    def fit(self, kind: Any, rows: Any, labels: Any, **options: Any) -> None:
        BertClassifier(self.bert, kind).fit(rows, labels, **{"training": ONE_STEP, **options})

    def fine_tune(self, rows: Any = None, **options: Any) -> None:
        scored = ConnectionDataset.from_pairs([(*pair, i / 3) for i, pair in enumerate(PAIRS)])
        given = {"output_dir": self.place / "run", "training": ONE_STEP, "on_existing": "overwrite", **options}
        public_fine_tune(given.pop("model", self.model), scored if rows is None else rows, **given)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Parts:
    place = tmp_path_factory.mktemp("odd")
    return Parts(tiny_bert_folder(place / "model"), place)


CALLS: dict[str, Callable[[Parts, Any], Any]] = {
    "encode": lambda p, v: p.model.encode(v),
    "encode tokens": lambda p, v: p.model.encode(v, output_value="token_embeddings"),
    "encode(prompt=)": lambda p, v: p.model.encode(["a"], prompt=v),
    "encode(prompt_name=)": lambda p, v: p.model.encode(["a"], prompt_name=v),
    "encode(batch_size=)": lambda p, v: p.model.encode(["a"], batch_size=v),
    "encode(truncate_dim=)": lambda p, v: p.model.encode(["a"], truncate_dim=v),
    "encode(precision=)": lambda p, v: p.model.encode(["a"], precision=v),
    "encode(on_truncate=)": lambda p, v: p.model.encode(["a"], on_truncate=v),
    "score": lambda p, v: p.model.score(v),
    "score of two lists": lambda p, v: p.model.score(["a", "b"], v),
    "match": lambda p, v: p.model.match(v, threshold=0.5),
    "match(threshold=)": lambda p, v: p.model.match([("a", "b")], threshold=v),
    "similarity": lambda p, v: p.model.similarity(v, v),
    "predict texts": lambda p, v: p.single.predict(v),
    "predict pairs": lambda p, v: p.joined.predict_proba(v),
    "score(X, y)": lambda p, v: p.single.score(["a", "b"], v),
    "score(X)": lambda p, v: p.single.score(v, ["p"]),
    "start_head": lambda p, v: BertClassifier(p.bert, "single").start_head(v),
    "from_pairs": lambda _, v: ConnectionDataset.from_pairs(v),
    "from_texts": lambda _, v: ConnectionDataset.from_texts(v),
    "from_pairs(labels=)": lambda _, v: ConnectionDataset.from_pairs(PAIRS, labels=v),
    "a label": lambda _, v: ConnectionDataset.from_pairs([(*pair, v) for pair in PAIRS]),
    "from_file": lambda _, v: ConnectionDataset.from_file(v),
    "from_dataframe": lambda _, v: ConnectionDataset.from_dataframe(v),
    "select": lambda _, v: ConnectionDataset.from_pairs(PAIRS).select(v),
    "split": lambda _, v: ConnectionDataset.from_pairs(PAIRS).split(v, 1),
    "matches": lambda _, v: ConnectionDataset.from_pairs([("a", "b", 0.3), ("c", "d", 0.5)]).matches(v),
    "from_pretrained": lambda _, v: ConnectionBert.from_pretrained(v),
    "from_pretrained(device=)": lambda p, v: ConnectionBert.from_pretrained(p.folder, v),
    "BertClassifier(kind=)": lambda p, v: BertClassifier(p.bert, v),
    "fit(X)": lambda p, v: p.fit("single", v, LABELS),
    "fit(X) of pairs": lambda p, v: p.fit("joined", v, LABELS),
    "fit(y)": lambda p, v: p.fit("single", TEXTS, v),
    "fit, a text": lambda p, v: p.fit("single", [v, *TEXTS[1:]], LABELS),
    "fit(dev=)": lambda p, v: p.fit("single", TEXTS, LABELS, dev=v),
    "fit(objective=)": lambda p, v: p.fit("single", TEXTS, LABELS, objective=v),
    "fine_tune(train)": lambda p, v: p.fine_tune(v if v is not None else "none.csv"),
    "fine_tune(model)": lambda p, v: p.fine_tune(model=v),
    "fine_tune(prompts=)": lambda p, v: p.fine_tune(prompts=v if v is not None else 3),
    "fine_tune(on_existing=)": lambda p, v: p.fine_tune(on_existing=v),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_odd_argument_gives_a_result_or_an_error_of_the_family(parts: Parts, call: Callable[..., Any]) -> None:
    n_refused = 0
    for name, make in ODD.items():
        try:
            call(parts, make())
        except SbertFtError as error:
            n_refused += 1
            assert str(error) and "\n\n" not in str(error), name
    assert n_refused > len(ODD) / 3  # most of them are wrong everywhere


@pytest.mark.parametrize("label", ["nan", "", "x" * 201, None, float("nan"), b"p"], ids=lambda label: str(label)[:9])
def test_a_bad_label_of_fit_is_named_with_its_position(parts: Parts, label: object) -> None:
    with pytest.raises(InputError, match="position 2"):
        parts.fit("single", TEXTS, ["p", "n", label, "n"])
    with pytest.raises((InputError, DataError), match="position 2"):
        parts.fit("single", TEXTS, LABELS, dev=(TEXTS, ["p", "n", label, "n"]))


@pytest.mark.parametrize("odd", [None, float("nan"), 3, b"cat", ["a"], "\ud800"], ids=lambda odd: ascii(odd)[:9])
def test_a_value_that_is_not_a_text_is_named_with_its_position(parts: Parts, odd: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: parts.model.encode(["a", "b", odd]),
        lambda: parts.model.score([("a", "b"), ("a", "b"), ("a", odd)]),
        lambda: parts.single.predict(["a", "b", odd]),
        lambda: parts.joined.predict([("a", "b"), ("a", "b"), ("a", odd)]),
        lambda: ConnectionDataset.from_pairs([("a", "b"), ("a", "b"), ("a", odd)]),
        lambda: parts.fit("single", [*TEXTS[:2], odd, "d"], LABELS),
    ]
    for call in calls:
        with pytest.raises((InputError, DataError), match="position 2"):
            call()


def test_lists_of_other_lengths_are_refused_with_both(parts: Parts) -> None:
    with pytest.raises(SbertFtError, match="3"):
        parts.fit("single", TEXTS, LABELS[:3])
    with pytest.raises(InputError, match=r"2 rows, but y has 1"):
        parts.single.score(["a", "b"], ["p"])
    with pytest.raises(InputError, match="2 first texts and 1 second"):
        parts.model.score(["a", "b"], ["c"])
