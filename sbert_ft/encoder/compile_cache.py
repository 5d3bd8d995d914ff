"""Keep compiled encoders on disk: files of native code, loaded only from a folder that nobody else can write to.

A package is loaded if it is in a folder that belongs to the user, its name is the digest of everything that it was
compiled from and for, and its content has the digest in the file beside it. Otherwise the encoder is compiled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sbert_ft.arguments import path_argument
from sbert_ft.errors import InputError, OutputError, quoted

# Number of packages that are kept; otherwise an encoder that is trained many times would fill the disk.
KEPT_PACKAGES = 8

_ENVIRONMENT = "SBERT_FT_CACHE"


def default_cache_dir() -> Path:
    """Return the folder for compiled encoders: below SBERT_FT_CACHE, or XDG_CACHE_HOME, or ~/.cache.

    Raises:
        OutputError: There is no home folder.
    """
    if named := os.environ.get(_ENVIRONMENT):
        return Path(named) / "compiled"
    # the XDG base directory specification says to ignore a relative path
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sbert_ft" / "compiled"
    except RuntimeError as error:
        raise OutputError(
            "there is no home folder for compiled code",
            f"pass cache_dir, or set the environment variable {_ENVIRONMENT}",
        ) from error


def private_folder(cache_dir: str | Path | None, model_folder: Path) -> Path:
    """Return a folder that belongs to the user and that nobody else can write to; create it if it is absent.

    `cache_dir` is None for `default_cache_dir`.

    Raises:
        InputError: The folder belongs to another user, others may write to it or replace it, or it is in the model's
            folder, in which no code to run may be kept.
        OutputError: The folder cannot be created.
    """
    folder = default_cache_dir() if cache_dir is None else path_argument(cache_dir, "cache_dir")
    name = quoted(folder, limit=400)
    try:
        folder = folder.resolve()
        # checked before the folder is created, so that a refused one leaves nothing behind
        if folder.is_relative_to(model_folder.resolve()):
            raise InputError(
                f"cache_dir {name} is in the model's folder, and no code from there may be run", "name another folder"
            )
        above = next((place for place in folder.parents if place.is_dir() and _is_open_to_others(place)), None)
        if above is not None:
            raise InputError(
                f"cache_dir {name} is in {quoted(above, limit=400)}, where others may put another folder in its place",
                "name a folder inside of one that only you can write to",
            )
        for place in reversed([folder, *folder.parents]):  # new parents are private to the user, too
            place.mkdir(mode=0o700, exist_ok=True)
        seen = folder.stat()
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a NUL in the name
        raise OutputError(f"{name}: compiled code cannot be kept there: {error}") from error
    if hasattr(os, "getuid") and (seen.st_uid != os.getuid() or seen.st_mode & 0o022):
        raise InputError(
            f"cache_dir {name} belongs to another user, or others can write to it, so code found there cannot be "
            "trusted",
            "name another folder, or make it private with chmod 700",
        )
    return folder


def _is_open_to_others(folder: Path) -> bool:
    """Return whether anybody other than the user and root could rename what is in a folder.

    A group with the user's name is taken to have no other member: some systems create such a group for each user.
    """
    if not hasattr(os, "getuid"):
        return False
    seen = folder.stat()
    if seen.st_uid not in (0, os.getuid()):
        return True
    if seen.st_mode & stat.S_ISVTX:  # as in /tmp: only the owner of a folder can rename it
        return False
    return bool(seen.st_mode & 0o002) or bool(seen.st_mode & 0o020 and not _is_private_group(seen.st_gid))


def _is_private_group(gid: int) -> bool:
    import grp  # absent on Windows
    import pwd

    try:
        return gid == 0 or grp.getgrgid(gid).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user or group without a name, as in containers
        return gid == os.getgid() == os.getuid()


@dataclass(frozen=True)
class Package:
    """The file `path` of one compiled encoder, which may be absent, with a file beside it that holds its digest."""

    path: Path

    @classmethod
    def of(cls, folder: Path, facts: dict[str, object]) -> Package:
        """Return the package in `folder` for these facts, which say what it was compiled from and for."""
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return cls(folder / f"{key}.pt2")

    def is_whole(self) -> bool:
        """Return whether the file is there, belongs to the user, and has the digest that was written with it."""
        try:
            seen = self.path.lstat()
            written = self.path.with_suffix(".sha256").read_text(encoding="ascii").strip()
            if not stat.S_ISREG(seen.st_mode) or (hasattr(os, "getuid") and seen.st_uid != os.getuid()):
                return False
            whole = _digest(self.path) == written
        except (OSError, ValueError):
            return False
        if whole:
            with suppress(OSError):
                os.utime(self.path)  # the last use decides which packages are removed first
        return whole

    def write(self, make: Callable[[Path, Path], None]) -> None:
        """Let `make` write the package to a temporary file, and move it into place when it is complete.

        `make` is called with the path to write, and an empty private folder for temporary files.

        Raises:
            OutputError: The folder cannot be written to.
        """
        try:
            # mode 0700; removed also when an error is raised
            with tempfile.TemporaryDirectory(dir=self.path.parent, prefix="compiling-") as place:
                fresh = Path(place, "encoder.pt2")
                make(fresh, Path(place))
                digest = Path(place, "digest")
                digest.write_text(_digest(fresh), encoding="ascii")
                os.replace(fresh, self.path)
                os.replace(digest, self.path.with_suffix(".sha256"))
            packages = sorted(self.path.parent.glob("?" * 64 + ".pt2"), key=lambda file: -file.stat().st_mtime)
            for old in packages[KEPT_PACKAGES:]:
                old.unlink(missing_ok=True)
                old.with_suffix(".sha256").unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{quoted(self.path.parent, limit=400)}: compiled code cannot be written: {error}"
            ) from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
