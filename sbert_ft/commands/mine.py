"""`sbert-ft mine`: pairs or groups of texts that say the same, links between two files, and hard negatives to train on.

Texts are held in memory, as are their vectors. The result is written when all is compared.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress, checked_target
from sbert_ft.errors import DataError, InputError, OutputError, shown
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    from sbert_ft.data.formats import NewColumn, Values
    from sbert_ft.models.sentence_encoder import SentenceEncoder
    from sbert_ft.models.unit_vectors import Encoding

logger = logging.getLogger(__name__)

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_FOR_TRAINING = ("negatives", "ranks", "margin", "relative_margin", "max_probability", "suspects", "columns")

_EPILOG = """\
examples:
  sbert-ft mine MODEL tickets.csv -o pairs.csv
  sbert-ft mine MODEL tickets.csv --id-column key --groups -o groups.csv
  sbert-ft mine MODEL tickets.csv --against faq.csv -o links.csv
  sbert-ft mine MODEL pairs.csv --for-training --ranks 10,50 --negatives 2 -o triplets.csv

Columns of OUT (.csv, .tsv, .jsonl, .parquet):
  pairs     id_1, text_1, id_2, text_2, score, probability, exact; best first
  --against the same and mutual: whether each is the other's best match
  --groups  group, id, text, score, exact, probability; largest group first, in each the text
            nearest to the others first; score is the mean cosine with them, probability how
            likely all texts of the group belong together
  --for-training  anchor, positive, negative
An exact pair is equal but for case and spacing. Probabilities are there if MODEL has a
calibration."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("input", metavar="INPUT", help="a file of texts; with --for-training of pairs that match, or of texts")
    add("-o", "--output", metavar="OUT", required=True, help="the result; replaced when complete")
    add("--column", metavar="NAME", help="the column with the texts, if it has no usual name")
    add("--id-column", metavar="NAME", help="the column with the ids; default: row numbers from 0")
    add("--against", metavar="FILE", help="link INPUT's texts to those of this file; with --for-training: more texts")
    add("--against-column", metavar="NAME", help="its column with the texts, if not that of INPUT; default: --column")
    add("--against-id-column", metavar="NAME", help="its column with the ids; default: --id-column")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--groups", action="store_true", help="groups of texts instead of pairs")
    add("--for-training", action="store_true", help="hard negatives for the pairs of INPUT, as triplets for train")
    add = parser.add_argument_group("which pairs").add_argument
    cosine = options.number_within(-1.0, 1.0, "a cosine")
    add("--threshold", type=cosine, metavar="X", help="the lowest cosine of a pair; default: MODEL's")
    add(
        "--top-k", type=options.positive, metavar="K", help="only pairs that are among the K best of one of their texts"
    )
    add("--max-pairs", type=options.positive, metavar="N", help="keep the best N pairs; default 1,000,000")
    add = parser.add_argument_group("hard negatives (--for-training)").add_argument
    share = options.number_within(0.0, 1.0, "a share")
    add("--columns", type=options.names, metavar="A,B", help="the two columns with the pairs, if without usual names")
    add("--negatives", type=options.positive, metavar="N", help="negatives for each anchor; default 1")
    add("--ranks", type=_ranks, metavar="A,B", help="skip the A nearest texts, look as far as the B-th")
    add("--margin", type=options.number_within(0.0, 2.0, "a margin"), metavar="X", help="below the positive's cosine")
    add("--relative-margin", type=share, metavar="X", help="the same as a share of the positive's cosine")
    add(
        "--max-probability",
        type=options.number_within(0.0, 1.0, "a probability"),
        metavar="P",
        help="texts that match the anchor with a higher probability are suspects, not negatives; default 0.5",
    )
    add("--suspects", metavar="FILE", help="for texts that may match; default: suspects.csv beside OUT")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_truncate_dim_option(parser)
    options.add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Mine the file and return the exit code."""
    _refuse_together(args)
    target = _target(args, args.output)
    if args.for_training:
        _mine_for_training(args, target)
    elif args.groups:
        _mine_groups(args, target)
    else:
        _mine_pairs(args, target)
    return 0


def _target(args: argparse.Namespace, output: str) -> Path:
    """Return the path of a result; an `OutputError` if it is one of the files that are read, or cannot be written."""
    if args.against is not None:
        checked_target(output, _SUFFIXES, Path(args.against))
    return checked_target(output, _SUFFIXES, Path(args.input))


def _refuse_together(args: argparse.Namespace) -> None:
    if not args.for_training:
        options.refuse_given(args, _FOR_TRAINING, "is for --for-training")
    if args.against is None:
        options.refuse_given(args, ("against_column", "against_id_column"), "is for the file of --against")
    if args.groups:
        options.refuse_given(args, ("against", "top_k", "max_pairs"), "has no place beside --groups")
    if args.for_training:
        options.refuse_given(args, ("top_k", "max_pairs", "id_column"), "has no place beside --for-training")
        if args.column is not None and args.columns is not None:
            raise InputError(
                "--column and --columns are both given", "give --columns A,B for pairs, --column for texts"
            )


@dataclass
class _Texts:
    """The ids and texts of a file."""

    name: str
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def _read(args: argparse.Namespace, path: str, column: str | None, id_column: str | None) -> _Texts:
    """Return the texts of a file from these columns; None for the usual ones.

    Raises:
        DataError: It holds no text, an id is there twice, or it cannot be read.
    """
    from sbert_ft.data.text_rows import TextRows

    rows = TextRows(options.open_given_table(args, path), column, id_column)
    found, seen = _Texts(path), set[str]()
    for row in rows:
        if rows.has_ids:
            if row.id in seen:
                raise rows.repeated(row)
            seen.add(str(row.id))
        found.ids.append(str(row.id))
        found.texts.append(row.text)
    if not found.texts:
        raise DataError("holds no text", "give a file with texts", where=shown(Path(path)))
    return found


def _read_against(args: argparse.Namespace) -> _Texts:
    """Return the texts of --against; errors as in `_read`."""
    return _read(args, args.against, args.against_column or args.column, args.against_id_column or args.id_column)


def _load(args: argparse.Namespace) -> SentenceEncoder:
    """Return the model; refuse one that cannot tell which texts belong together."""
    model = options.load_model(args)
    decision = model.decision
    if args.threshold is None and decision is None:
        raise InputError(
            f"{shown(Path(args.model))} has no stored threshold from which on two texts belong together",
            "give one with --threshold, or store one with fit_threshold on labelled pairs",
        )
    if args.threshold is None and decision is not None:
        logger.info("a pair: a score of at least %s", decision.describe())
    if decision is None or decision.calibration is None:
        logger.warning(
            "the model has no calibration from score to probability, so the result has no probabilities; store one "
            "with fit_threshold on labelled pairs"
        )
    return model


class _Encoded(ExitStack):
    """Shows a bar while `n` texts are encoded, and another one while they are compared."""

    def __init__(self, args: argparse.Namespace, n: int) -> None:
        super().__init__()
        from sbert_ft.models.unit_vectors import Encoding

        self.progress = Progress("different text", quiet=args.quiet)
        self._compared = Progress("compared text", quiet=args.quiet)
        self._count, self._advance = n, self.enter_context(self.progress.bar(lambda: n))
        self._compare: Callable[[int], None] | None = None
        self.encoding: Encoding = Encoding(args.batch_size, args.on_truncate, self._advance)

    def on_compared(self, n: int) -> None:
        """Show that so many texts more were compared with all others."""
        if self._compare is None:
            self._compare = self.enter_context(self._compared.bar(lambda: self._count))
        self._compare(n)


def _mine_pairs(args: argparse.Namespace, target: Path) -> None:
    from sbert_ft.data.formats import NewColumn
    from sbert_ft.data.ledger import counted
    from sbert_ft.search.mine import MAX_PAIRS, mine_pairs

    left = _read(args, args.input, args.column, args.id_column)
    right = left if args.against is None else _read_against(args)
    with whole_file(target) as temporary:
        model = _load(args)
        with _Encoded(args, len(left.texts) + (0 if right is left else len(right.texts))) as encoded:
            pairs = mine_pairs(
                model,
                left.texts,
                None if right is left else right.texts,
                threshold=args.threshold,
                top_k=args.top_k,
                max_pairs=args.max_pairs or MAX_PAIRS,
                encoding=encoded.encoding,
                on_compared=encoded.on_compared,
            )
        columns = [NewColumn(name, "text") for name in ("id_1", "text_1", "id_2", "text_2")] + [NewColumn("score")]
        values = [pairs.scores.tolist()]
        if pairs.probabilities is not None:
            columns.append(NewColumn("probability"))
            values.append(pairs.probabilities.tolist())
        columns.append(NewColumn("exact", "bool"))
        values.append(pairs.exact.tolist())
        if pairs.mutual is not None:
            columns.append(NewColumn("mutual", "bool"))
            values.append(pairs.mutual.tolist())
        rows = (
            (left.ids[i], left.texts[i], right.ids[j], right.texts[j], *others)
            for i, j, *others in zip(pairs.first.tolist(), pairs.second.tolist(), *values, strict=True)
        )
        _write(temporary, args.output, columns, rows)
    wrong, n_exact = pairs.expected_wrong, int(pairs.exact.sum())
    found = f", {counted(len(pairs), 'pair')} ({n_exact:,} exact){_about(wrong)}"
    if pairs.mutual is not None:
        alone = [
            len(side.texts) - len(set(rows.tolist())) for side, rows in ((left, pairs.first), (right, pairs.second))
        ]
        found += f", without a match: {alone[0]:,} of {args.input}, {alone[1]:,} of {args.against}"
    encoded.progress.report(Path(args.output), args.input, found)
    if len(pairs) == (args.max_pairs or MAX_PAIRS) < pairs.n_found:
        logger.warning(
            "these are the best %s of at least %s pairs: raise --max-pairs or --threshold, or take --top-k or --groups",
            f"{len(pairs):,}",
            f"{pairs.n_found:,}",
        )


def _mine_groups(args: argparse.Namespace, target: Path) -> None:
    from sbert_ft.data.formats import NewColumn
    from sbert_ft.data.ledger import counted
    from sbert_ft.search.groups import group_texts

    file = _read(args, args.input, args.column, args.id_column)
    with whole_file(target) as temporary:
        model = _load(args)
        with _Encoded(args, len(file.texts)) as encoded:
            groups = group_texts(
                model,
                file.texts,
                threshold=args.threshold,
                encoding=encoded.encoding,
                on_compared=encoded.on_compared,
            )
        columns = [NewColumn(name, "text") for name in ("group", "id", "text")]
        columns += [NewColumn("score"), NewColumn("exact", "bool")]
        likely: list[tuple[float, ...]] = [()] * len(groups)
        if groups.probabilities is not None:
            columns.append(NewColumn("probability"))
            likely = [(value,) for value in groups.probabilities.tolist()]
        chosen = groups.rows()
        rows = (
            (str(group), file.ids[row], file.texts[row], score, exact, *likely[group])
            for row, group, score, exact in zip(
                chosen.tolist(),
                groups.group[chosen].tolist(),
                groups.scores[chosen].tolist(),
                groups.exact[chosen].tolist(),
                strict=True,
            )
        )
        _write(temporary, args.output, columns, rows)
    alone = f"{counted(len(file.texts) - len(chosen), 'text')} in none"
    found = f", {counted(len(groups), 'group')}{_about(groups.expected_wrong)}, {alone}"
    encoded.progress.report(Path(args.output), args.input, found)


def _mine_for_training(args: argparse.Namespace, target: Path) -> None:
    from sbert_ft.data.formats import NewColumn
    from sbert_ft.data.ledger import counted
    from sbert_ft.search.negatives import NegativeRules, mine_negatives

    suspects_name = args.suspects or str(Path(args.output).with_name("suspects.csv"))
    suspects = _target(args, suspects_name)
    if suspects == target:
        raise OutputError(f"{shown(target)}: is the file for the suspects", "write to another, or name it --suspects")
    first, last = args.ranks or (0, None)
    rules = NegativeRules(args.negatives or 1, first, last, args.margin, args.relative_margin)
    pairs, texts = _read_matching(args)
    more = [] if args.against is None else _read_against(args).texts
    with whole_file(target) as temporary, whole_file(suspects) as temporary_suspects:
        model = _load(args)
        with _Encoded(args, len(texts) or 2 * len(pairs) + len(more)) as encoded:
            if texts:
                pairs = _pairs_of_texts(args, model, texts, encoded.encoding)
                more = [*texts, *more]
            mined = mine_negatives(
                model,
                pairs,
                more,
                rules,
                threshold=args.threshold,
                max_probability=args.max_probability,
                encoding=encoded.encoding,
            )
        columns = [NewColumn(name, "text") for name in ("anchor", "positive", "negative")]
        _write(temporary, args.output, columns, iter(mined.triplets))
        columns = [NewColumn("text_1", "text"), NewColumn("text_2", "text"), NewColumn("score")]
        if model.decision is not None and model.decision.calibration is not None:
            columns.append(NewColumn("probability"))
        rows = (tuple(value for value in suspect if value is not None) for suspect in mined.suspects)
        _write(temporary_suspects, suspects_name, columns, rows)
    found = f", {counted(len(mined.triplets), 'triplet')} from {counted(len(pairs), 'pair')}"
    found += f", {counted(len(mined.suspects), 'suspect')} in {suspects_name}"
    encoded.progress.report(Path(args.output), args.input, found)
    if mined.n_short:
        logger.warning(
            "%s have fewer negatives than were asked for: widen --ranks, lower --margin or raise --max-probability",
            counted(mined.n_short, "anchor"),
        )


def _read_matching(args: argparse.Namespace) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pairs of INPUT that match; or its texts, where it holds single ones."""
    from sbert_ft.config.settings import Reading
    from sbert_ft.data.dataset import ConnectionDataset

    table = options.open_given_table(args, args.input)
    args_of_columns = argparse.Namespace(column=args.column, columns=args.columns)
    if len(options.columns_of_texts(table, args_of_columns)) == 1:
        return [], _read(args, args.input, args.column, None).texts
    columns = None if args.columns is None else tuple(args.columns)
    reading = Reading(text_columns=columns, encoding=args.encoding, delimiter=args.delimiter, kind=args.kind)
    dataset = ConnectionDataset.from_file(args.input, reading)
    matches = dataset.matches()
    pairs = list(dataset.pairs())
    if matches is not None:
        pairs = [pair for pair, match in zip(pairs, matches.tolist(), strict=True) if match]
    if not pairs:
        hint = "give pairs that match: without a label, with label 1, or with a score in the upper half of the scale"
        raise DataError("no pair matches by its label", hint, where=shown(Path(args.input)))
    return pairs, []


def _pairs_of_texts(
    args: argparse.Namespace, model: SentenceEncoder, texts: Sequence[str], encoding: Encoding
) -> list[tuple[str, str]]:
    """Return the pairs that the model itself takes for matches, with a warning."""
    from sbert_ft.search.mine import mine_pairs

    found = mine_pairs(model, texts, threshold=args.threshold, top_k=1, encoding=encoding)
    if not len(found):
        raise InputError("no two texts reach the threshold, so there are no positives", "give pairs that match")
    logger.warning(
        "the positives are the model's own matches: about %.0f of %d are wrong", found.expected_wrong or 0, len(found)
    )
    return [(texts[i], texts[j]) for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)]


def _write(temporary: Path, output: str, columns: Sequence[NewColumn], rows: Iterator[Values]) -> None:
    """Write the rows in the format of the suffix of `output`, which may be a link to a file with another one."""
    from sbert_ft.config.file_kinds import KIND_OF_SUFFIX
    from sbert_ft.data.new_table import write_rows

    write_rows(temporary, KIND_OF_SUFFIX[Path(output).suffix.lower()], columns, rows)


def _about(wrong: float | None) -> str:
    return "" if wrong is None else f", about {wrong:,.0f} wrong"


def _ranks(text: str) -> tuple[int, int]:
    """Return the two ranks of an option "10,50"."""
    parts = text.split(",")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        first, last = map(int, parts)
        if first < last:
            return first, last
    raise argparse.ArgumentTypeError(f"expected two ranks with the lower one first, such as 10,50, found {text!r}")
