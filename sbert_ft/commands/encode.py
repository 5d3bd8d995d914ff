"""`sbert-ft encode`: writes vectors of texts to a .npy or .parquet file, or to a folder of Parquet shards.

Texts are read, encoded and written some thousand at a time, so memory does not grow with their number. A .npy begins
with its shape, which is only known at the end: its header is padded, and written again when all rows are there. Shards
are written by `bulk.run`.
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress, checked_target
from sbert_ft.errors import DataError, InputError, OutputError, listed, quoted
from sbert_ft.files.atomic import whole_file, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.data.table import Table
    from sbert_ft.models.sentence_encoder import SentenceEncoder

    # Accepts vectors, shape (n, d).
    Append = Callable[[NDArray[np.float32]], None]

logger = logging.getLogger(__name__)

# As in `vectors.quantization`, which imports numpy; tests/commands/test_encode_folder.py compares them.
_VECTOR_TYPES = ("float32", "float16", "int8", "binary")
_OF_FOLDERS = ("vectors", "shard_size", "resume", "shard", "workers", "devices", "cluster")

_EPILOG = """\
examples:
  sbert-ft encode MODEL texts.txt -o vectors.npy
  sbert-ft encode MODEL reviews.csv --column review --id-column key -o vectors.parquet
  cut -f2 corpus.tsv | sbert-ft encode MODEL - -o vectors.npy
  sbert-ft encode MODEL corpus/ -o vectors/ --vectors int8 --workers 4
  sbert-ft encode MODEL 'corpus/*.jsonl' -o vectors/ --shard 3/64 --resume

A .npy holds float32 of shape (texts, dimensions), rows in the order of the texts. A .parquet
holds the columns id (the --id-column's, else the row's number from 0) and vector.

OUT is a folder where it ends in /, is a folder already, or INPUT is several files, a folder or a
pattern in quotes. The folder gets Parquet shards with the same columns, rows numbered over all
files, and when all shards are there manifest.json. A shard is whole or not there; --resume writes
those that are missing, and refuses another model, other settings or a changed input. Any number
of processes may write into one folder, each its own --shard i/n."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    form = "one text a line (.txt, - for standard input), .csv, .jsonl, .xlsx and others; a folder or a pattern of them"
    add("input", metavar="INPUT", nargs="+", help=form)
    form = ".npy or .parquet, replaced when complete; or a folder of shards, as with a / at its end"
    add("-o", "--output", metavar="OUT", required=True, help=form)
    add("--column", "--columns", metavar="NAME", help="the column with the texts, if it has no usual name")
    add("--id-column", metavar="NAME", help="the column whose values become the ids of a .parquet")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_compile_option(parser)
    add = parser.add_argument_group("vectors").add_argument
    add("--normalize", action="store_true", help="scale vectors to length 1")
    add("--truncate-dim", type=options.positive, metavar="N", help="keep the first N features of each vector")
    add("--prompt-name", metavar="NAME", help="put the prompt of this name, stored with MODEL, before every text")
    add = parser.add_argument_group("folders of shards").add_argument
    form = "float32 (default), float16, int8 or binary; what that costs in recall is measured on a sample and printed"
    add("--vectors", choices=_VECTOR_TYPES, help=form)
    add("--shard-size", type=options.positive, metavar="N", help="texts of a shard; default 100,000")
    add("--resume", action="store_true", default=None, help="write only the shards that are missing")
    add("--shard", type=_part, metavar="I/N", help="only the I-th of N parts, from 1/N to N/N, as one job of several")
    several = parser.add_mutually_exclusive_group().add_argument
    several(
        "--workers", type=options.positive, metavar="N", help="N processes on the CPU, each with a model of its own"
    )
    several("--devices", type=options.names, metavar="A,B", help="a process for each device: cuda:0,cuda:1")
    form = "workers on the Ray cluster of RAY_ADDRESS, or of this machine; one a GPU or CPU, or --workers"
    add("--cluster", choices=("ray",), help=form)


def run(args: argparse.Namespace) -> int:
    """Encode the texts and return the exit code."""
    if _is_folder(args):
        return _encode_to_folder(args)
    options.refuse_given(args, _OF_FOLDERS, "is for a folder of shards", "end OUT with /")
    (args.input,) = args.input
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


def _is_folder(args: argparse.Namespace) -> bool:
    """Return whether a folder of shards is to be written."""
    several = len(args.input) > 1 or any(
        os.path.isdir(name) or (glob.has_magic(name) and not os.path.exists(name)) for name in args.input
    )
    is_file = Path(args.output).suffix.lower() in (".npy", ".parquet") and not args.output.endswith("/")
    if several and is_file and not os.path.isdir(args.output):
        found = listed(args.input, 3)
        problem = (
            f"{quoted(args.output, limit=400)}: one file cannot be written from several inputs or a folder: {found}"
        )
        raise InputError(problem, "end OUT with / to write a folder of shards")
    if "-" in args.input and len(args.input) > 1:
        raise InputError("standard input (-) cannot be read with other inputs", "save it to a file first")
    return several or args.output.endswith(("/", os.sep)) or (args.output != "" and os.path.isdir(args.output))


def _encode_to_folder(args: argparse.Namespace) -> int:
    """Write the shards that are missing, and return the exit code."""
    if args.input == ["-"]:
        raise InputError("standard input cannot be read again, as a folder of shards needs", "save it to a file first")
    if importlib.util.find_spec("pyarrow") is None:
        raise OutputError("writing Parquet needs pyarrow: pip install 'sbert-ft[parquet]'")
    if args.cluster is not None and args.devices is not None:
        raise InputError("--devices is for this machine, but --cluster is given", "give --device cpu or cuda, or none")
    if args.workers is not None and args.cluster is None and args.device not in (None, "cpu"):
        raise InputError(f"--workers is for the CPU, but --device is {quoted(args.device)}", "give --devices A,B")
    if args.devices is not None and args.device is not None:
        raise InputError("--device and --devices are both given", "leave one of them out")
    from sbert_ft.bulk.inputs import TextReading
    from sbert_ft.bulk.run import ROWS_PER_SHARD, BulkPart, BulkSettings, prepare_bulk
    from sbert_ft.data.ledger import counted

    is_here = args.workers is not None and args.cluster is None
    devices: Sequence[str | None] = args.devices or (["cpu"] * args.workers if is_here else [args.device])
    number, n_parts = args.shard or (1, 1)
    settings = BulkSettings(
        TextReading(args.column, args.id_column, args.encoding, args.delimiter, args.kind),
        args.vectors or "float32",
        args.shard_size or ROWS_PER_SHARD,
        args.prompt_name,
        args.normalize,
        args.truncate_dim,
        args.batch_size,
        args.on_truncate,
    )
    part = BulkPart(number, n_parts, bool(args.resume), tuple(devices), args.cluster, args.workers)
    progress = Progress("text", quiet=args.quiet)
    job = prepare_bulk(partial(_load_on, args), args.input, args.output, settings, part)
    if (recall := job.plan.recall) is not None:
        logger.info(
            "%s: recall@%d %.4f against float32, by cosine, %s among %s of a sample",
            *(job.plan.quantizer.type, recall.k, recall.recall, counted(recall.n_queries, "query")),
            counted(recall.n_vectors, "vector"),
        )
    with progress.bar(lambda: job.n_texts) as advance:
        done = job.run(advance)
    if not job.todo:
        logger.info("nothing to do: %s of this part there -> %s", counted(done.n_there, "shard"), args.output)
        return 0
    were_there = f", {counted(done.n_there, 'shard')} there before" if done.n_there else ""
    missing = "" if done.finished else "; the folder is finished when the other parts are there"
    progress.report(Path(args.output), "", f", {counted(len(done.encoded), 'shard')}{were_there}{missing}")
    return 0


def _load_on(args: argparse.Namespace, device: str | None) -> SentenceEncoder:
    """Return the model on a device; a worker process calls it too."""
    # the width is one of the settings of the shards, not of the model
    return options.load_model(argparse.Namespace(**{**vars(args), "device": device, "truncate_dim": None}))


def _part(text: str) -> tuple[int, int]:
    """Return the numbers of a part and of all parts, of "3/64"."""
    number, _, n_parts = text.partition("/")
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in (number, n_parts)) or not (
        1 <= int(number) <= int(n_parts)
    ):
        raise argparse.ArgumentTypeError(f"expected I/N, from 1/N to N/N, found {text!r}")
    return int(number), int(n_parts)


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
    model = _load_on(args, args.device)
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
    """The same for the columns vector and id, else row numbers from 0, of a .parquet."""
    from sbert_ft.vectors.quantization import Quantizer
    from sbert_ft.vectors.shards import vector_writer

    with vector_writer(path, Quantizer("float32", dimension), ids is not None) as writer:

        def append(vectors: NDArray[np.float32]) -> None:
            n = writer.n_rows
            writer.append(range(n, n + len(vectors)) if ids is None else list(islice(ids, len(vectors))), vectors)

        yield append
