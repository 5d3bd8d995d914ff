"""`sbert-ft encode`: writes vectors of the texts in a file or standard input to a .npy or .parquet file.

Texts are read, encoded and written some thousand at a time, so memory does not grow with their number. A .npy begins
with its shape, which is only known at the end: its header is padded, and written again when all rows are there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress, checked_target
from sbert_ft.errors import DataError, InputError, quoted
from sbert_ft.files.atomic import whole_file, writing

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from numpy.typing import NDArray

    from sbert_ft.data.table import Table

    # Accepts vectors, shape (n, d).
    Append = Callable[[NDArray[np.float32]], None]

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft encode MODEL texts.txt -o vectors.npy
  sbert-ft encode MODEL reviews.csv --column review --id-column key -o vectors.parquet
  cut -f2 corpus.tsv | sbert-ft encode MODEL - -o vectors.npy

A .npy holds float32 of shape (texts, dimensions), rows in the order of the texts. A .parquet
holds the columns id (the --id-column's, else the row's number from 0) and vector."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("input", metavar="INPUT", help="one text a line (.txt, - for standard input), .csv, .jsonl, .xlsx and others")
    add("-o", "--output", metavar="OUT", required=True, help=".npy or .parquet; replaced when complete")
    add("--column", metavar="NAME", help="the column with the texts, if it has no usual name")
    add("--id-column", metavar="NAME", help="the column whose values become the ids of a .parquet")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_compile_option(parser)
    add = parser.add_argument_group("vectors").add_argument
    add("--normalize", action="store_true", help="scale vectors to length 1")
    add("--truncate-dim", type=options.positive, metavar="N", help="keep the first N features of each vector")
    add("--prompt-name", metavar="NAME", help="put the prompt of this name, stored with MODEL, before every text")


def run(args: argparse.Namespace) -> int:
    """Encode the texts and return the exit code."""
    from_stdin = args.input == "-"
    target = checked_target(args.output, (".npy", ".parquet"), None if from_stdin else Path(args.input))
    is_npy = Path(args.output).suffix.lower() == ".npy"
    if args.id_column is not None and is_npy:
        raise InputError("--id-column has no place in a .npy, which holds only vectors", "write to a .parquet")
    source = _standard_input(args) if from_stdin else _file(args)
    with whole_file(target) as temporary:
        progress = _encode(args, source, temporary, is_npy=is_npy)
    progress.report(Path(args.output), source.name)
    return 0


@dataclass(frozen=True)
class TextSource:
    """Texts to encode.

    Attributes:
        name: Their file or stream, for messages.
        texts: The texts.
        ids: The id of each text; None if no column gives them.
        count: Returns the number of texts, or None if it cannot be known.
    """

    name: str
    texts: Iterator[str]
    ids: Iterator[str] | None
    count: Callable[[], int | None]


def _encode(args: argparse.Namespace, source: TextSource, path: Path, *, is_npy: bool) -> Progress:
    """Write the vectors of all texts to `path` and return the progress, with their number."""
    model = options.load_model(args)
    from sbert_ft.model_folder.layout import architecture_of_classifier

    if architecture_of_classifier(model.bert.source.config) is not None:
        logger.info("to get the classes of the texts, use sbert-ft predict")  # loading has warned of the rest

    progress = Progress("text", quiet=args.quiet)
    dimension = args.truncate_dim or model.get_embedding_dimension()
    vectors_of_windows = model.encode_stream(
        source.texts,
        prompt_name=args.prompt_name,
        batch_size=args.batch_size,
        normalize_embeddings=args.normalize,
        truncate_dim=args.truncate_dim,
        on_truncate=args.on_truncate,
        device="cpu",
    )
    writer = npy_writer(path, dimension) if is_npy else parquet_writer(path, dimension, source.ids)
    with writer as append, progress.bar(source.count) as advance:
        for vectors in vectors_of_windows:
            append(model.bert.operations.to_numpy(vectors))
            advance(len(vectors))
        if source.ids is not None and next(source.ids, None) is not None:
            raise DataError(f"{source.name}: there are more ids than texts: did the file change meanwhile?")
    return progress


def _file(args: argparse.Namespace) -> TextSource:
    """Return the texts of a file; missing columns are an error at once, before texts are read."""
    table = options.open_given_table(args, args.input)
    column = table.text_columns(None if args.column is None else [args.column], 1)
    texts = (text for (text,) in table.texts(column, may_be_empty=True))
    # The file is read twice in parallel, because ids need not be texts.
    ids = None if args.id_column is None else _ids(table, table.column_index(args.id_column))
    return TextSource(quoted(args.input, limit=400), texts, ids, table.count_rows)


def _ids(table: Table, column: int) -> Iterator[str]:
    """Yield each row's id as a text; a whole number becomes its digits."""
    for row in table:
        value = row.values[column]
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            name = quoted(table.format.columns[column])
            found = "none" if value is None or not isinstance(value, (str, int, float)) else quoted(value, limit=40)
            problem = f"column {name}: expected an id (a text or a whole number), found {found}"
            raise DataError(f"{quoted(table.path, limit=400)}, {table.unit} {row.line}: {problem}")
        yield str(value)


def _standard_input(args: argparse.Namespace) -> TextSource:
    """Return the lines of standard input; refuse options for files, and a codec in which a newline is not one byte."""
    file_options = ["column", "id_column", "delimiter", *(["kind"] if args.kind != "lines" else [])]
    why = "is for files; standard input is read as one text per line: save it to a file first"
    options.refuse_given(args, file_options, why)
    codec, is_simple = args.encoding or "utf-8", False
    with suppress(LookupError, ValueError):
        is_simple = "\n".encode(codec) == b"\n"
    if not is_simple:
        problem = "cannot be that of standard input; expected utf-8, cp949, euc-kr, latin-1 or the like"
        raise InputError(f"--encoding {quoted(codec)} {problem}, or save the text to a file")
    return TextSource("standard input", _lines_of_stdin(codec), None, lambda: None)


def _lines_of_stdin(codec: str) -> Iterator[str]:
    if sys.stdin is None:
        raise InputError("standard input is closed", "give a file or a pipe")
    for number, line in enumerate(sys.stdin.buffer, start=1):
        body = line.removesuffix(b"\n").removesuffix(b"\r")
        if b"\r" in body.rstrip(b"\r"):
            problem = "holds a lone carriage return: lines must end with \\n or \\r\\n"
            raise DataError(f"standard input, line {number}: {problem}")
        try:
            text = (body.removeprefix(b"\xef\xbb\xbf") if number == 1 else body).decode(codec)
        except ValueError as error:
            problem = f"is not in {codec} ({error}); give its encoding with --encoding"
            raise DataError(f"standard input, line {number}: {problem}") from None
        if not text or "\0" in text:
            problem = "holds a NUL character; is this text?" if text else "empty text; write a text there"
            raise DataError(f"standard input, line {number}: {problem} or take the line out")
        yield text


@contextmanager
def npy_writer(path: Path, dimension: int) -> Iterator[Append]:
    """Context with a function that appends vectors to a .npy of shape (n, `dimension`), float32, little-endian."""
    import numpy as np
    from numpy.lib import format as npy

    n_rows = 0

    def write_header() -> None:
        file.seek(0)
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n_rows, dimension)})

    def append(vectors: NDArray[np.float32]) -> None:
        nonlocal n_rows
        with writing(path):
            file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        n_rows += len(vectors)

    with writing(path):
        file = open(path, "wb")  # noqa: SIM115 (an error on closing must not hide why writing failed)
    try:
        with writing(path):
            # numpy pads the header for the longest number of rows, so the last header is as long as the first.
            write_header()
        begin = file.tell()
        yield append
        with writing(path):
            write_header()
            assert file.tell() == begin
            file.flush()
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def parquet_writer(path: Path, dimension: int, ids: Iterator[str] | None) -> Iterator[Append]:
    """The same for a row group of vectors, as lists of fixed size, and ids, else row numbers from 0, of a .parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_rows = 0
    item = pa.field("element", pa.float32(), nullable=False)
    schema = pa.schema(
        [
            pa.field("id", pa.int64() if ids is None else pa.string(), nullable=False),
            pa.field("vector", pa.list_(item, dimension), nullable=False),
        ]
    )

    def append(vectors: NDArray[np.float32]) -> None:
        nonlocal n_rows
        ids_of_rows = range(n_rows, n_rows + len(vectors)) if ids is None else islice(ids, len(vectors))
        column: pyarrow.Array = pa.array(list(ids_of_rows), schema.types[0])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.types[1])
        with writing(path):
            writer.write_batch(pa.RecordBatch.from_arrays([column, lists], schema=schema))
        n_rows += len(vectors)

    with writing(path):
        # Numbers and ids hardly repeat, so a dictionary would only cost time.
        writer = pq.ParquetWriter(path, schema, use_dictionary=False)
    try:
        yield append
        with writing(path):
            writer.close()
    finally:
        with suppress(OSError):  # closed already, or another error is being raised
            writer.close()
