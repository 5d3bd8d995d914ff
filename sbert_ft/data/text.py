"""Read files of text as checked lines: what a file really is, its encoding, and every line with its number.

General readers guess where they should raise an error: they split lines at U+2028, replace bytes that they cannot
read, wait forever on a pipe and read a zipped workbook as text. Here a line is exactly what is in the file, or a
`DataError` says which byte of which line is wrong. Memory is limited by the longest line, and that by
`MAX_RECORD_CHARS`. Only after an error is the file read a second time, to find its position.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sbert_ft.errors import DataError, quoted, shown

logger = logging.getLogger(__name__)
MAX_RECORD_CHARS = 1 << 26  # far more than any text; without a limit, an unclosed quote would read the rest of the file
_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_PROOF_CHARACTERS = 8
_PROOF_SYLLABLES = 3
# ASCII, Hangul with its letters, and signs: what Korean text holds that is not of another script.
_KOREAN = re.compile("[\x00-\xff\u2000-\u303f\u3131-\u318e\u3200-\u33ff가-힣\uff00-\uffef]*")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# White space, controls, and characters without a glyph: zero width ones, joiners, directions, Hangul fillers.
_INVISIBLE = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
)
_VISIBLE = re.compile(f"[^{_INVISIBLE}]")
# Transport encodings and escapes; some of them decode to half characters (surrogates).
_NOT_FOR_FILES = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
_SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh91AY&SY", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"PAR1\x15", "a Parquet file", "give it the suffix .parquet"),
    (b"ARROW1\x00", "an Arrow file", "save it as Parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook or another Office file", "save the sheet as CSV (UTF-8)"),
    (b"%PDF-", "a PDF document", "extract its text first"),
    (b"{\\rtf", "an RTF document", "save it as plain text (UTF-8)"),
    (b"<?xml", "an XML file, perhaps of a spreadsheet", "save the table as CSV (UTF-8)"),
    (b"\x93NUMPY", "a numpy array (.npy)", "write the texts to a .csv, .jsonl or .parquet"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV (UTF-8)"),
    (b"\x89HDF\r\n", "an HDF5 file", "save the table as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "save it as Parquet"),
    (b"FEA1\x00", "an old Feather file", "save it as Parquet"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"\x89PNG\r\n", "a picture (PNG)", "give a file of texts"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "give a file of texts"),
    (b"version https://git-lfs.github.com/spec/", "a git-lfs pointer", "fetch the file itself with git lfs pull"),
)
_ZIP = ("a zip archive", "unpack it first")
_IN_ZIP = (  # in a zip archive, the name of a part is before its content
    (b"xl/", "an Excel workbook", "give it the suffix .xlsx"),
    (b"word/", "a Word document", "save its text as .txt (UTF-8)"),
    (b"opendocument.spreadsheet", "an OpenDocument spreadsheet", "save the sheet as CSV (UTF-8)"),
    (b"[Content_Types].xml", "an Excel workbook or another Office file", "save the sheet as CSV (UTF-8)"),
    (b".npy", "arrays of numpy (.npz)", "write the texts to a .csv, .jsonl or .parquet"),
)


def fault(path: Path, problem: str, line: int | None = None, unit: str = "line", hint: str = "") -> DataError:
    """Return the error about a file, with the line or row where one is given."""
    position = "" if line is None else f"{unit} {line}"
    return DataError(problem, hint, where=shown(path), position=position)


def first_bytes(path: Path, n_bytes: int = 4096) -> bytes:
    """Return the beginning of a file; never waits for a pipe or a terminal.

    A `DataError` if the file does not exist, is not a regular file, cannot be opened, or is empty.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise fault(path, "is a folder; expected a file of texts")
        if not stat.S_ISREG(mode):
            raise fault(path, "is a pipe, socket or device; expected a regular file", hint="save the data to one first")
        with open(path, "rb") as file:
            head = file.read(n_bytes)
    except FileNotFoundError:
        if os.path.islink(path):
            raise fault(path, f"is a link to {quoted(os.readlink(path), limit=400)}, which does not exist") from None
        raise fault(path, "no such file", hint="check the path") from None
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character in the path
        raise fault(path, f"cannot be a path: {error}") from error
    if not head:
        raise fault(path, "is empty (0 bytes); expected rows of texts")
    return head


def refuse_other_formats(path: Path, head: bytes, kind: str) -> None:
    """Raise a `DataError` where the first bytes of a file are not those of `kind`, but of an archive or the like."""
    found, advice = "", ""
    if kind == "xlsx" and head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(b"PK\x03\x04"):
        found, advice = next(((name, remedy) for part, name, remedy in _IN_ZIP if part in head), _ZIP)
    elif re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html[\s>])", head, re.IGNORECASE):
        found, advice = "a web page (HTML)", "download the file itself"
    elif re.match(rb"\x80[\x02-\x05]", head):
        found, advice = "a pickle of Python", "write the texts to a .csv, .jsonl or .parquet"
    elif head[257:262] == b"ustar":
        found, advice = "a tar archive", "unpack it first"
    elif kind in ("csv", "tsv") and re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"([^"\\]|\\.)*"\s*:', head):
        found, advice = "JSON lines", "give it the suffix .jsonl, or --kind jsonl (data.kind)"
    for signature, name, remedy in _SIGNATURES:
        if head.startswith(signature) and not (name == "a Parquet file" and kind == "parquet"):
            found, advice = name, remedy
    if found:
        raise fault(path, f"expected {kind}, found {found}", hint=advice)
    if kind == "xlsx":
        raise fault(path, "expected xlsx, an Excel workbook, but it is not a zip archive: damaged, or another format")
    if kind == "parquet" and not head.startswith(b"PAR1"):
        raise fault(path, "expected Parquet, but the first bytes are not PAR1: damaged, or another format")


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character: only white space, controls and characters without a glyph."""
    return _VISIBLE.search(text) is None


def find_encoding(path: Path, head: bytes, wanted: str | None) -> str:
    """Return the name of the codec for a file: the wanted one, or that of its byte order mark, or UTF-8.

    A file that cannot be UTF-8 and is plain Korean in cp949 is read so, with a warning. A `DataError` if the wanted one
    is unknown or is not an encoding of text files.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if wanted is None and marked is None and _is_cp949(path):
        logger.warning(
            "%s: is not in UTF-8 and is read as cp949, which gives Korean text; if it is another, give --encoding "
            "(data.encoding)",
            shown(path),
        )
        return "cp949"
    if wanted is None:
        return marked or "utf-8"
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=wanted)  # unlike codecs.lookup, this also rejects codecs such as zlib
        name = codecs.lookup(wanted).name
    except (LookupError, ValueError):
        name = ""
    if marked is None and name and not name.startswith("utf") and _begins_as_utf_8(head):
        logger.warning(
            "%s: looks as if it were in UTF-8, but is read as %s as requested; if texts come out wrong, leave "
            "--encoding (data.encoding) out",
            *(shown(path), wanted),
        )
    if not name or name.replace("_", "-") in _NOT_FOR_FILES:
        expected = "utf-8, utf-16, cp949, euc-kr, latin-1 or another that Python knows"
        raise fault(path, f"--encoding {quoted(wanted)} is not an encoding of text files; expected {expected}")
    return "utf-8-sig" if name == "utf-8" and marked == "utf-8-sig" else wanted


def _begins_as_utf_8(head: bytes, least: int = _PROOF_CHARACTERS) -> bool:
    """Return whether the bytes are UTF-8 with enough characters beyond ASCII to rule out chance."""
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return sum(not character.isascii() for character in text) >= least


def _is_cp949(path: Path) -> bool:
    """Return whether a file is not in UTF-8 and is Korean text in cp949.

    A file of ASCII, or one whose first other characters are UTF-8, costs one quick look at its bytes. Bytes of other
    encodings decode to other scripts, or to syllables that only cp949 has and that Korean text hardly uses.
    """
    n_syllables = n_others = 0
    decoder, is_ascii = codecs.getincrementaldecoder("cp949")("strict"), True
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_HEAD_BYTES):
                if is_ascii and not chunk.isascii():
                    if b"\0" in chunk or _begins_as_utf_8(chunk, 1):
                        return False
                    is_ascii = False
                if is_ascii:
                    continue
                text = decoder.decode(chunk)
                if _KOREAN.fullmatch(text) is None:
                    return False
                n_others += sum(map(len, re.findall("[^\x00-\x7f]+", text)))
                code = "".join(re.findall("[가-힣]+", text)).encode("cp949")
                n_syllables += sum(min(pair) > 0xA0 for pair in zip(code[::2], code[1::2], strict=True))
            decoder.decode(b"", final=True)
    except (OSError, UnicodeError):
        return False
    return n_syllables >= _PROOF_SYLLABLES and n_syllables >= 0.7 * n_others


def _line_end(path: Path, encoding: str) -> str:
    """Return the character that ends lines: a carriage return if the file's beginning has one and no line feed."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if b"\r" not in head:
        return "\n"
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(head)
    except UnicodeError:  # said when the line is read
        return "\n"
    return "\r" if "\n" not in text and "\r" in text[: -1 if len(head) == _HEAD_BYTES else None] else "\n"


def text_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    r"""Yield each line with its number from 1, line end included; nothing but \n ends a line.

    Where a file has lone carriage returns in place of line feeds (an old Mac's), these end lines and are yielded as
    \n. A `DataError` where the file cannot be read, has bytes that are not in the encoding, or a line has a NUL
    character or more than `MAX_RECORD_CHARS` characters.
    """
    number = 0
    try:
        end = _line_end(path, encoding)
        with open(path, encoding=encoding, newline=end) as file:
            while line := file.readline(MAX_RECORD_CHARS + 1):
                number += 1
                if end == "\r":
                    if "\n" in line:
                        problem = "ends with a line feed, but the lines before it with a carriage return"
                        raise fault(path, problem, number, hint="save the file again with one kind of line ends")
                    line = line.removesuffix(end) + "\n" * line.endswith(end)
                if len(line) > MAX_RECORD_CHARS:
                    raise fault(path, f"longer than {MAX_RECORD_CHARS:,} characters; is this a file of texts?", number)
                if "\0" in line:
                    hint = "if it is UTF-16 without a byte order mark, give --encoding utf-16-le"
                    raise fault(path, "holds a NUL character, as binary files do", number, hint=hint)
                yield number, line
    except UnicodeError as error:
        raise _not_in_encoding(path, encoding) from error
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error


def has_lone_return(line: str) -> bool:
    """Return whether a carriage return stands within a line, where it may be the end of another."""
    return "\r" in line and "\r" in line.rstrip("\r\n")


def lone_return(path: Path, line: int) -> DataError:
    """Return the error about a line in which a carriage return may be the end of another line."""
    problem = "a lone carriage return within the line: lines must end with \\n or \\r\\n"
    return fault(path, problem, line, hint="save the file again with such line ends, or remove it")


def without_line_end(line: str) -> str:
    r"""Return `line` without the \n or \r\n that ends it."""
    return line[:-2] if line.endswith("\r\n") else line[:-1] if line.endswith("\n") else line


def _not_in_encoding(path: Path, encoding: str) -> DataError:
    """Return the error that names the first byte that is not in `encoding`; reads the file again to find it."""
    place = _trial(path, encoding).bad_byte
    said_otherwise = encoding.lower().replace("_", "-") not in ("utf-8", "utf-8-sig")
    if said_otherwise and _trial(path, "utf-8").decodes:
        advice = "the file is in UTF-8: leave --encoding out"
    elif place is None:
        advice = "give its encoding with --encoding, such as cp949 or utf-16-le"
    elif b"\0" in first_bytes(path):
        advice = "it begins with NUL bytes: if it is UTF-16 without a byte order mark, give --encoding utf-16-le"
    elif _begins_as_utf_8(first_bytes(path, _CHUNK_BYTES)[: place[0]]):
        advice = "the text before it is in UTF-8: fix the line"
    elif (korean := _trial(path, "cp949")).decodes and korean.has_hangul:
        advice = "it can be read as Korean cp949: try --encoding cp949 (in a run's JSON data.encoding)"
    else:
        advice = "give the file's encoding, such as --encoding latin-1 or johab, or fix the line if the rest is right"
    if place is None:
        return fault(path, f"is not in {encoding}", hint=advice)
    offset, line, byte = place
    return fault(path, f"byte 0x{byte:02x} at offset {offset:,} is not in {encoding}", line, hint=advice)


class _Trial(NamedTuple):
    """What came of decoding a whole file."""

    decodes: bool
    has_hangul: bool = False  # Hangul syllables
    bad_byte: tuple[int, int, int] | None = None  # offset, line and value of the first one, where there is such a byte


def _trial(path: Path, encoding: str) -> _Trial:
    """Return what comes of decoding the whole file, a chunk at a time."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset, line, has_hangul, chunk = 0, 1, False, b""
    try:
        with open(path, "rb") as file:
            while True:
                offset += len(chunk)
                chunk = file.read(_CHUNK_BYTES)
                text = decoder.decode(chunk, final=not chunk)
                if not chunk:
                    return _Trial(True, has_hangul)
                line += text.count("\n")
                has_hangul = has_hangul or re.search("[가-힣]", text) is not None
    except UnicodeDecodeError as error:
        # Its bytes are this chunk after the beginning of a character that was cut by the end of the previous chunk.
        begin = offset - (len(error.object) - len(chunk))
        readable = error.object[: error.start].decode(error.encoding, "ignore")
        place = (begin + error.start, line + readable.count("\n"), error.object[error.start])
        return _Trial(False, has_hangul, place)
    except (UnicodeError, OSError):  # UTF-16 without a byte order mark has no first bad byte
        return _Trial(False)
