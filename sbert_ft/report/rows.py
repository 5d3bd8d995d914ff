"""The sections on rows of the data files: what was found in them, and the worst pairs or mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sbert_ft.data.ledger import Ledger, counted
from sbert_ft.report.blocks import Block, Cell, Grid, Heading, Items, Paragraph, Section, TextRow, Texts, fact
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import decimals, plain_number


def ledger_section(report: Report) -> Section:
    """Return the section with the accounts of the data files."""
    blocks: list[Block] = []
    for name, ledger in report.ledgers.items():
        kept = fact("Rows", f"{ledger.n_rows:,} in the file, {ledger.n_kept:,} kept")
        if report.is_language:
            kept = fact("Texts", f"{ledger.n_kept:,}")
        facts = (
            fact("File", ledger.source),
            fact("Read as", ledger.format),
            fact("sha256", ledger.sha256),
            kept,
        )
        blocks += [Heading(name), Grid("", (), facts), _findings(ledger)]
        blocks += [Items(ledger.notes)] if ledger.notes else []
    return Section("ledger", "Data files", blocks or [Paragraph("No data file was recorded.")])


def _findings(ledger: Ledger) -> Block:
    """Return the table of what was found in a file's rows, or a sentence that there is nothing."""
    rows = []
    for found in ledger.findings:
        lines = ", ".join(map(str, found.first)) + (" …" if found.first and found.count > len(found.first) else "")
        name = Cell(found.kind.replace("_", " "), found.sentence)
        rows.append((name, Cell(f"{found.count:,}"), Cell("left out" if found.dropped else "kept"), Cell(lines)))
    if not rows:
        return Paragraph("Nothing unusual was found in its rows.")
    return Grid("Findings", ("Finding", "Rows", "Status", "First lines"), rows, "numbers found")


def worst_section(report: Report) -> Section:
    """Return the section with the worst pairs, or with a classifier's most confident mistakes."""
    word, rows = report.row_word, list[TextRow]()
    if report.is_classifier:
        names = ("True class", "Predicted", "Probability", "Of the true class")
        for found in report.mistakes:
            shares = decimals(found.probability), decimals(found.gold_probability)
            rows.append(TextRow(found.split, found.line, found.texts, (found.gold, found.predicted, *shares)))
        texts = _by_split(word, names, 2, rows)
        return Section("worst", "Most confident mistakes", [Paragraph(_mistakes_note(report)), *texts])
    heading = f"Worst {word}s"
    if not report.worst:
        return Section("worst", heading, [Paragraph(f"No {word}s were scored, so there are no worst {word}s.")])
    compared = any(pair.before is not None for pair in report.worst)
    for pair in report.worst:
        before = (decimals(pair.before),) if compared else ()
        values = (plain_number(pair.gold), *before, decimals(pair.after), decimals(pair.error, signed=True))
        rows.append(TextRow(pair.split, pair.line, (pair.text1, pair.text2)[: 1 if word == "text" else 2], values))
    names = ("Gold", *(("Before",) if compared else ()), "After", "Error")
    return Section("worst", heading, [Paragraph(_worst_note(report)), *_by_split(word, names, 0, rows)])


def queries_section(report: Report) -> Section:
    """Return the section with the worst queries of a search."""
    heading, queries = "Worst queries", report.worst_queries
    if not queries:
        return Section("queries", heading, [Paragraph("Every query has a relevant text in the first place.")])
    note = (
        "Each row has a query, the best-ranked of its relevant texts with its ranks and cosine, and the best-ranked "
        "text that is not relevant with its cosine. The largest drop of the reciprocal rank is first, then the lowest "
        "reciprocal rank. A text without a judgement counts as not relevant: some of these may be good answers. The "
        "file worst_queries.csv has them with full texts."
    )
    compared = any(query.before is not None for query in queries)
    rows = []
    for query in queries:
        ranks = (*((query.before,) if compared else ()), query.after)
        values = (*map(plain_number, ranks), decimals(query.right_score), decimals(query.wrong_score))
        rows.append(TextRow("retrieval", query.line, (query.query, query.right, query.wrong), values))
    names = (*(("Rank before",) if compared else ()), "Rank after", "Cosine", "Not relevant")
    caption = counted(len(rows), "query")
    return Section("queries", heading, [Paragraph(note), Texts(caption, names, 0, rows, "query")])


def _by_split(word: str, names: tuple[str, ...], n_words: int, rows: Sequence[TextRow]) -> Iterator[Texts]:
    """Yield a table of texts for each split."""
    for name in dict.fromkeys(row.split for row in rows):
        own = [row for row in rows if row.split == name]
        yield Texts(f"{name}: {counted(len(own), word)}", names, n_words, own)


def _worst_note(report: Report) -> str:
    """Return sentences that define the error of a pair and the scales of the scores."""
    scale = next((split.scale for split in report.splits if split.scale is not None), None)
    if scale is not None:
        rows = f"{report.row_word}s"
        how = f"Error: the share of {rows} that score lower than this one, minus the share with a lower gold score."
    else:
        how = (
            "Error: for a match, minus the share of non-matches that score higher; for a non-match, the share of "
            "matches that score lower."
        )
    above = "the model finds the texts too similar" if report.row_word == "pair" else "the score is too high"
    parts = [f"{how} Above zero, {above}."]
    if report.score_word == "score" and scale is not None:
        gold = f"Gold is on the file's scale, {scale[0]:g} to {scale[1]:g}"
        parts.append(f"{gold}; after is the model's output, 0 to 1.")
    if before_is := next((of.before_is for of in report.results if of.before_is), None):
        parts.append(f"Before is {before_is}.")
    return " ".join([*parts, "The file worst_pairs.csv has them with full texts."])


def _mistakes_note(report: Report) -> str:
    """Return sentences that say which rows the list of mistakes has, or why there is none."""
    word, mistakes = report.row_word, report.mistakes
    if not report.classes:
        return f"No {word}s were evaluated, so there are no mistakes to show."
    if not mistakes:
        names = " and ".join(split.name for split in report.classes)
        return f"Every {word} of {names} is classified correctly."
    split = next(split for split in report.classes if split.name == mistakes[0].split)
    n_wrong = int((split.predicted != split.gold).sum())
    wrong = f"{n_wrong:,} of {counted(len(split.gold), word)} of {split.name} are classified wrongly."
    how = "Shown are the mistakes with the highest predicted probability, highest first."
    return f"{wrong} {how} The file mistakes.csv has them with full texts."
