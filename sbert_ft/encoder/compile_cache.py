"""Where compiled encoders are kept on disk: files of native code, trusted only where nobody else can have written them.

A package is loaded if it lies in a folder of the user's own, is named after everything that it was compiled from and
for, and has the digest written down beside it. Whatever else is found there is compiled anew.
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

# Packages kept; an encoder that is tuned again and again would fill the disk otherwise.
KEPT_PACKAGES = 8

_ENVIRONMENT = "SBERT_FT_CACHE"


def default_cache_dir() -> Path:
    """Return the folder for compiled encoders: below SBERT_FT_CACHE, or XDG_CACHE_HOME, or ~/.cache.

    Raises:
        OutputError: There is no home folder to look in.
    """
    if named := os.environ.get(_ENVIRONMENT):
        return Path(named) / "compiled"
    # a relative path is to be ignored, says the XDG base directory specification
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sbert_ft" / "compiled"
    except RuntimeError as error:
        raise OutputError(f"there is no home folder for compiled code: say cache_dir, or set {_ENVIRONMENT}") from error


def private_folder(cache_dir: str | Path | None, model_folder: Path) -> Path:
    """Return a folder that belongs to the user and that nobody else can write to, made where it is absent.

    Args:
        cache_dir: The folder; None for `default_cache_dir`.
        model_folder: Where the model came from, which is no place for code that is run.

    Raises:
        InputError: The folder is another's, or others may write to it or put another in its place, or it lies in the
            model's folder.
        OutputError: It cannot be made.
    """
    folder = default_cache_dir() if cache_dir is None else path_argument(cache_dir, "cache_dir")
    name = quoted(folder, limit=400)
    try:
        folder = folder.resolve()
        # before it is made, so that what is refused leaves nothing behind
        if folder.is_relative_to(model_folder.resolve()):
            raise InputError(
                f"cache_dir {name} lies in the model's folder: code kept there would be trusted", "name another"
            )
        above = next((place for place in folder.parents if place.is_dir() and _is_open_to_others(place)), None)
        if above is not None:
            raise InputError(
                f"cache_dir {name} lies in {quoted(above, limit=400)}, where others may put another folder in its "
                "place: name one in a folder that is yours alone"
            )
        for place in reversed([folder, *folder.parents]):  # the parents, too, are the user's alone
            place.mkdir(mode=0o700, exist_ok=True)
        seen = folder.stat()
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # the last is a NUL in the name
        raise OutputError(f"{name}: compiled code cannot be kept there: {error}") from error
    if hasattr(os, "getuid") and (seen.st_uid != os.getuid() or seen.st_mode & 0o022):
        raise InputError(
            f"cache_dir {name} is not yours alone to write to, so code found there could be anybody's: name another "
            "folder, or make it private with chmod 700"
        )
    return folder


def _is_open_to_others(folder: Path) -> bool:
    """Return whether somebody else than the user and root could rename what is in a folder.

    The group that bears the user's name has no other member, by the custom of the systems that make one for each user.
    """
    if not hasattr(os, "getuid"):
        return False
    seen = folder.stat()
    if seen.st_uid not in (0, os.getuid()):
        return True
    if seen.st_mode & stat.S_ISVTX:  # as in /tmp: only its owner renames a folder
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
    """The file of one compiled encoder, and its digest beside it.

    Attributes:
        path: The package; it may be absent.
    """

    path: Path

    @classmethod
    def of(cls, folder: Path, facts: dict[str, object]) -> Package:
        """Return the package in `folder` that was compiled from and for all these facts."""
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return cls(folder / f"{key}.pt2")

    @property
    def _digest_path(self) -> Path:
        return self.path.with_suffix(".sha256")

    def is_whole(self) -> bool:
        """Return whether the file is there, the user's own, and as it was written."""
        try:
            seen = self.path.lstat()
            written = self._digest_path.read_text(encoding="ascii").strip()
            if not stat.S_ISREG(seen.st_mode) or (hasattr(os, "getuid") and seen.st_uid != os.getuid()):
                return False
            whole = _digest(self.path) == written
        except (OSError, ValueError):
            return False
        if whole:
            with suppress(OSError):
                os.utime(self.path)  # used just now: the last to be removed
        return whole

    def write(self, make: Callable[[Path, Path], None]) -> None:
        """Let `make` write the package, and put it in place when it is whole.

        Args:
            make: Takes the file to write, and an empty private folder for whatever it needs on the way.

        Raises:
            OutputError: The folder cannot be written to.
        """
        try:
            # mode 0700, removed whatever happens
            with tempfile.TemporaryDirectory(dir=self.path.parent, prefix="compiling-") as place:
                fresh = Path(place, "encoder.pt2")
                make(fresh, Path(place))
                digest = Path(place, "digest")
                digest.write_text(_digest(fresh), encoding="ascii")
                os.replace(fresh, self.path)
                os.replace(digest, self._digest_path)
            self._remove_oldest()
        except OSError as error:
            raise OutputError(
                f"{quoted(self.path.parent, limit=400)}: compiled code cannot be written: {error}"
            ) from error

    def _remove_oldest(self) -> None:
        packages = sorted(self.path.parent.glob("?" * 64 + ".pt2"), key=lambda file: -file.stat().st_mtime)
        for old in packages[KEPT_PACKAGES:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".sha256").unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
