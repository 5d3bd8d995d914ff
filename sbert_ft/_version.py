"""The version of this package, and those of the libraries that compute."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


_LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers", "safetensors", "numpy")


def library_versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that compute."""
    versions = {"sbert_ft": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
