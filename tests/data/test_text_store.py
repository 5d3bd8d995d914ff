"""Distinct texts as flat bytes: texts are read back as they were added, each stored once, in memory or in a file."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbert_ft.data.text_store import TextStore, TextStoreBuilder
from sbert_ft.errors import InputError, OutputError

IN_MEMORY = 1 << 20
IN_FILE = 1  # every text goes to the file at once
ODD_TEXTS = [
    "",
    " ",
    "a",
    "가나다",
    "\uac01",
    "\u1100\u1161\u11a8",
    "👩‍👩‍👧",
    "a\0b",
    "\ufeff",
    "\n",
    "\U0010ffff",
    "x" * 9999,
]


def stored(texts: list[str], folder: Path | None = None, memory_bytes: int = IN_MEMORY) -> TextStore:
    builder = TextStoreBuilder(folder, memory_bytes=memory_bytes)
    for text in texts:
        builder.add(text)
    return builder.finish()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=40), st.integers(1, 50))
def test_equal_texts_get_one_number_and_come_back_in_the_order_of_the_first(
    texts: list[str], memory_bytes: int
) -> None:
    builder = TextStoreBuilder(memory_bytes=memory_bytes)
    numbers = [builder.add(text) for text in texts]
    assert len(builder) == len(set(texts))
    store = builder.finish()
    distinct = list(dict.fromkeys(texts))
    assert [distinct[number] for number in numbers] == texts
    assert list(store) == distinct == store.slice(0, len(store))
    assert len(store) == len(distinct)


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, IN_FILE, 5])
def test_texts_of_every_kind_come_back_exactly(memory_bytes: int) -> None:
    store = stored(ODD_TEXTS, memory_bytes=memory_bytes)
    assert [store[np.int64(i)] for i in range(len(store))] == ODD_TEXTS


def test_texts_of_one_hash_are_kept_apart() -> None:
    class Colliding(str):
        """A text with the same hash as all others of its class."""

        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    builder = TextStoreBuilder()
    texts = [Colliding(f"text {i}") for i in range(20)]
    assert [builder.add(text) for text in [*texts, *texts]] == [*range(20), *range(20)]
    assert list(builder.finish()) == texts


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, IN_FILE])
def test_a_slice_is_that_of_a_list(memory_bytes: int) -> None:
    texts = [f"text {i} é" for i in range(10)]
    store = stored(texts, memory_bytes=memory_bytes)
    for start, stop in [(0, 10), (3, 7), (3, 3), (7, 3), (8, 99), (99, 100), (-3, 10)]:
        assert store.slice(start, stop) == texts[start:stop]


@pytest.mark.parametrize("index", [3, -1, 100])
def test_a_number_that_no_text_has_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"text {index} of 3"):
        stored(["a", "b", "c"])[index]


def test_a_store_without_texts_is_empty() -> None:
    store = TextStoreBuilder().finish()
    assert (len(store), list(store), store.slice(0, 5)) == (0, [], [])


def test_the_digest_follows_from_the_texts_and_their_order_alone(tmp_path: Path) -> None:
    digest = stored(["ab", "c"]).sha256
    assert len(digest) == 64
    assert digest == stored(["ab", "c", "ab"], tmp_path, IN_FILE).sha256
    others = [stored(texts).sha256 for texts in (["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""], [])]
    assert len({digest, *others}) == 6


@pytest.mark.skipif(os.name != "posix", reason="an open file has a name there")
def test_the_file_of_many_texts_has_no_name(tmp_path: Path) -> None:
    store = stored([f"text {i}" for i in range(1000)], tmp_path, IN_FILE)
    assert store[999] == "text 999"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_bytes", [IN_MEMORY, IN_FILE])
def test_a_store_can_be_copied_to_another_process(memory_bytes: int) -> None:
    store = stored(ODD_TEXTS, memory_bytes=memory_bytes)
    for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert list(other) == ODD_TEXTS
        assert other.sha256 == store.sha256


def test_a_lone_surrogate_is_refused_with_its_place() -> None:
    builder = TextStoreBuilder()
    with pytest.raises(InputError, match=r"lone surrogate '\\ud800' at character 2"):
        builder.add("ab\ud800c")
    assert builder.add("next") == 0


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere'.*cannot be written there: No such file"):
        stored(["text"], tmp_path / "nowhere", IN_FILE)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system cannot limit the size of a file")
def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    import resource

    builder = TextStoreBuilder(tmp_path, memory_bytes=1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError) as error:
            for i in range(10_000):
                builder.add(f"text number {i}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(error.value)
    assert "cannot be written there: File too large; free some space" in str(error.value)
    assert list(tmp_path.iterdir()) == []
