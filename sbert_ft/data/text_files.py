"""Files of text as checked lines: what a file really is, its encoding, and every line with its number.

The general readers guess where they should refuse: they split lines at U+2028, replace bytes that they cannot read,
wait for ever on a pipe and take a zipped workbook for text. Here a line is exactly what the file holds, or a
`DataError` says which byte of which line is wrong. Memory is bounded by the longest line, and that by
`MAX_RECORD_CHARS`; only a fault costs a second reading, to find its place.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from sbert_ft.errors import DataError, quoted

MAX_RECORD_CHARS = 1 << 26  # far beyond any text; an unclosed quote would otherwise read the rest of the file
_CHUNK_BYTES = 1 << 20
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Transport forms and escapes, of which some decode to half characters (surrogates).
_NOT_FOR_FILES = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
_SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "give it the suffix .parquet"),
    (b"ARROW1\x00", "an Arrow file", "save it as Parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook or another Office file", "save the sheet as CSV (UTF-8)"),
    (b"%PDF-", "a PDF document", "extract its text first"),
)


def fault(path: Path, problem: str, line: int | None = None, unit: str = "line") -> DataError:
    """Return the error that says `problem` of this file, and of its line or row where one is given."""
    where = quoted(path, limit=400) if line is None else f"{quoted(path, limit=400)}, {unit} {line}"
    return DataError(f"{where}: {problem}")


def first_bytes(path: Path, n_bytes: int = 4096) -> bytes:
    """Return the beginning of a file, without ever waiting for a pipe or a terminal.

    Raises:
        DataError: There is no such file, it is no regular file, it cannot be opened, or it is empty.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise fault(path, "is a folder; expected a file of texts")
        if not stat.S_ISREG(mode):
            raise fault(path, "is a pipe, socket or device; expected a regular file: save the data to one first")
        with open(path, "rb") as file:
            head = file.read(n_bytes)
    except FileNotFoundError:
        if os.path.islink(path):
            raise fault(path, f"is a link to {quoted(os.readlink(path), limit=400)}, which does not exist") from None
        raise fault(path, "no such file; check the path") from None
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character in the path
        raise fault(path, f"cannot be a path: {error}") from error
    if not head:
        raise fault(path, "is empty (0 bytes); expected rows of texts")
    return head


def refuse_other_formats(path: Path, head: bytes, kind: str) -> None:
    """Look at the first bytes for a format that is not `kind`.

    Raises:
        DataError: They are those of an archive, a workbook, a web page or a Parquet file (or of none).
    """
    found, advice = "", ""
    if head.startswith(b"PK\x03\x04"):
        workbook = b"xl/" in head or b"[Content_Types].xml" in head
        found = "an Excel workbook or another Office file" if workbook else "a zip archive"
        advice = "save the sheet as CSV (UTF-8)" if workbook else "unpack it first"
    elif re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html[\s>])", head, re.IGNORECASE):
        found, advice = "a web page (HTML)", "download the file itself"
    for signature, name, remedy in _SIGNATURES:
        if head.startswith(signature) and not (name == "a Parquet file" and kind == "parquet"):
            found, advice = name, remedy
    if found:
        raise fault(path, f"expected {kind}, found {found}; {advice}")
    if kind == "parquet" and not head.startswith(b"PAR1"):
        raise fault(path, "expected Parquet, but the first bytes are not PAR1: damaged, or another format")


def find_encoding(path: Path, head: bytes, wanted: str | None) -> str:
    """Return the name of the codec for a file: the wanted one, or what its byte order mark says, or UTF-8.

    Raises:
        DataError: The wanted one is unknown or is none that files of text are written in.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if wanted is None:
        return marked or "utf-8"
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=wanted)  # unlike a look-up this refuses codecs such as zlib, too
        name = codecs.lookup(wanted).name
    except (LookupError, ValueError):
        name = ""
    if not name or name.replace("_", "-") in _NOT_FOR_FILES:
        expected = "utf-8, utf-16, cp949, euc-kr, latin-1 or another that Python knows"
        raise fault(path, f"--encoding {quoted(wanted)} is not an encoding of text files; expected {expected}")
    return "utf-8-sig" if name == "utf-8" and marked == "utf-8-sig" else wanted


def text_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    r"""Yield each line with its number from 1, line end included; nothing but \n ends a line.

    Raises:
        DataError: The file cannot be read, or bytes are not in the encoding, or a line holds a NUL character or is
            longer than any text.
    """
    number = 0
    try:
        with open(path, encoding=encoding, newline="\n") as file:
            while line := file.readline(MAX_RECORD_CHARS + 1):
                number += 1
                if len(line) > MAX_RECORD_CHARS:
                    raise fault(path, f"longer than {MAX_RECORD_CHARS:,} characters; is this a file of texts?", number)
                if "\0" in line:
                    hint = "a binary file, or UTF-16 without its mark (--encoding utf-16-le)?"
                    raise fault(path, f"holds a NUL character; {hint}", number)
                yield number, line
    except UnicodeError as error:
        raise _not_in_encoding(path, encoding) from error
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error


def without_line_end(line: str) -> str:
    r"""Return `line` without the \n or \r\n that ends it."""
    return line[:-2] if line.endswith("\r\n") else line[:-1] if line.endswith("\n") else line


def _not_in_encoding(path: Path, encoding: str) -> DataError:
    """Return the error that names the first byte that is not in `encoding`; reads the file again to find it."""
    place = _first_bad_byte(path, encoding)
    if place is None:
        return fault(path, f"is not in {encoding}; say its encoding with --encoding, such as cp949 or utf-16-le")
    offset, line, byte = place
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf-8-sig") and _first_bad_byte(path, "utf-8") is None:
        advice = "the file is in UTF-8: leave --encoding out"
    elif _holds_hangul(path):
        advice = "it can be read as Korean cp949: try --encoding cp949 (in a run's JSON data.encoding)"
    else:
        advice = "say the file's encoding, such as --encoding latin-1, or mend the line if the rest is right"
    return fault(path, f"byte 0x{byte:02x} at offset {offset:,} is not in {encoding}; {advice}", line)


def _decoded(path: Path, encoding: str) -> Iterator[tuple[int, bytes, str]]:
    """Yield (offset, bytes, their text) chunk by chunk; the last chunk has no bytes and ends the decoding."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield offset, chunk, _decode(decoder, chunk, offset)
            offset += len(chunk)
        yield offset, b"", _decode(decoder, b"", offset)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int) -> str:
    """Return the chunk's text; the place of a bad byte is raised as counted from the file's start."""
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        # Its bytes are this chunk and, before it, what the decoder had kept of a character cut by the chunk's end.
        begin = offset - (len(error.object) - len(chunk))
        readable = error.object[: error.start].decode(error.encoding, "ignore")
        raise _BadByte(begin + error.start, readable.count("\n"), error.object[error.start]) from error


class _BadByte(UnicodeError):
    """Where decoding stopped: (offset in the file, line ends in its chunk before it, the byte)."""


def _first_bad_byte(path: Path, encoding: str) -> tuple[int, int, int] | None:
    """Return (offset, line, byte) of the first byte that is not in `encoding`, None if there is none to point at."""
    line = 1
    try:
        for _, _, text in _decoded(path, encoding):
            line += text.count("\n")
    except _BadByte as error:
        offset, n_lines_before, byte = error.args
        return offset, line + n_lines_before, byte
    except (UnicodeError, OSError):  # UTF-16 without its mark has no first bad byte
        return None
    return None


def _holds_hangul(path: Path) -> bool:
    """Return whether the whole file decodes as cp949 and Hangul comes out."""
    try:  # a list, for the whole file has to be decoded
        return any([re.search("[가-힣]", text) is not None for _, _, text in _decoded(path, "cp949")])
    except (UnicodeError, OSError):
        return False
