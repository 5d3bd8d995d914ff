"""`sbert-ft vocab`: a WordPiece vocabulary from raw texts, or new pieces for the vocabulary of a model."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress, aligned
from sbert_ft.errors import quoted, shown

if TYPE_CHECKING:
    from sbert_ft.data.corpus import TextCorpus
    from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

_SIZE: Final = 30_000
_N_ADDED: Final = 2_000
_LAYERS: Final = 12
_HIDDEN_SIZE: Final = 768
_EACH: Final = 100  # one text in so many is held out
_MOST_HELD_OUT: Final = 10_000
_N_SHOWN: Final = 10

_EPILOG = """\
examples:
  sbert-ft vocab reviews.txt -o start --size 8000 --layers 4 --hidden 256
  sbert-ft vocab texts/ more.csv -o start --cased --compare other-model/
  sbert-ft vocab --extend MODEL texts/ -o larger --add 2000

TEXTS are files with one text a line or tables (.txt, .csv, .tsv, .jsonl, .parquet), or folders of
such files. FOLDER gets vocab.txt, tokenizer.json and the config.json of a BERT without weights,
from which pre-training starts. The special tokens [PAD] [UNK] [CLS] [SEP] [MASK] have the ids 0
to 4. Hangul and accents stay as they are.

With --extend, FOLDER gets the whole model: its weights with a row for each new piece, which is the
mean of the rows of the pieces that stood in its place. Train it on; a stored threshold has to be
fitted again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("texts", metavar="TEXTS", nargs="+", help="files or folders of texts")
    add("-o", "--output", metavar="FOLDER", required=True, help="where to write; empty or new")
    held_out = "evaluate on every 100th text, at most N of them, which are not trained on; default 10,000, 0 for none"
    add("--held-out", type=_count, default=_MOST_HELD_OUT, metavar="N", help=held_out)
    group = parser.add_argument_group("a new vocabulary")
    add = group.add_argument
    add("--size", type=options.positive, metavar="N", help="tokens, special ones included; default 30000")
    add("--cased", action="store_const", const=True, help="keep capital letters; default: lower-case")
    add("--layers", type=options.positive, metavar="N", help="layers of the BERT in config.json; default 12")
    add("--hidden", type=options.positive, metavar="N", help="its width, a multiple of 64; default 768")
    add("--compare", metavar="MODEL", help="show beside it the vocabulary of a model's folder or a vocab.txt")
    group = parser.add_argument_group("more pieces for a model")
    add = group.add_argument
    add("--extend", metavar="MODEL", help="folder of a model with a WordPiece vocabulary")
    add("--add", type=options.positive, metavar="N", help="how many pieces to add at most; default 2000")
    columns = "the columns with the texts, if without usual names; the texts of each are texts of their own"
    parser.add_argument("--columns", "--column", type=options.names, metavar="A[,B]", help=columns)
    options.add_reading_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train or extend the vocabulary, print how it splits held-out texts, and return the exit code."""
    if args.extend is None:
        options.refuse_given(args, ("add",), "is for a model's vocabulary", "name the model with --extend MODEL")
        return _train(args)
    new = ("size", "cased", "layers", "hidden", "compare")
    options.refuse_given(args, new, "is for a new vocabulary", "leave it or --extend out")
    return _extend(args)


def _train(args: argparse.Namespace) -> int:
    from sbert_ft.models.vocabulary import train_vocabulary

    other = None if args.compare is None else _tokenizer_at(args.compare)
    texts = _TrainingTexts(args)
    size, target = args.size or _SIZE, Path(args.output)
    shape = args.layers or _LAYERS, args.hidden or _HIDDEN_SIZE
    tokenizer = train_vocabulary(texts, args.output, size, bool(args.cased), *shape)
    columns = [(_name(target), tokenizer), *([] if other is None else [(_name(Path(args.compare)), other)])]
    _report(texts, columns)
    if (n_pieces := len(tokenizer.get_vocab())) < size:
        print(f"the texts give {n_pieces:,} pieces, fewer than {size:,}")
    print(f"wrote {shown(target)}: vocab.txt, tokenizer.json, config.json (BERT, layers {shape[0]}, width {shape[1]})")
    return 0


def _extend(args: argparse.Namespace) -> int:
    from sbert_ft.models.vocabulary import extend_vocabulary

    texts = _TrainingTexts(args)
    n_pieces, target = args.add or _N_ADDED, Path(args.output)
    done = extend_vocabulary(args.extend, texts, args.output, n_pieces)
    _report(texts, [("before", done.before), ("after", done.after)])
    named = " ".join(piece.token for piece in done.pieces[:_N_SHOWN])
    n_added = len(done.pieces)
    fewer = "" if n_added == n_pieces else f", fewer than {n_pieces:,}: no other saves tokens"
    print(f"added {n_added:,} pieces{fewer}" + (f"; first {named}" if named else ""))
    if done.left_out:
        print(f"not copied, made from the old weights or no part of the model: {', '.join(map(quoted, done.left_out))}")
    print(f"wrote {shown(target)}")
    return 0


class _TrainingTexts:
    """The texts of files and folders, without those that are held out; read anew each time.

    Attributes:
        n_texts: Texts of the last reading, those held out among them.
        n_characters: Their characters.
        held_out: The texts that are not trained on.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Open the files; a `DataError` as in `TextCorpus`."""
        from sbert_ft.config.settings import Reading
        from sbert_ft.data.corpus import TextCorpus

        columns = None if args.columns is None else tuple(args.columns)
        reading = Reading(text_columns=columns, encoding=args.encoding, delimiter=args.delimiter, kind=args.kind)
        self._corpora: list[TextCorpus] = [TextCorpus(path, reading) for path in args.texts]
        self._most, self._quiet = args.held_out, args.quiet
        self.n_texts = self.n_characters = 0
        self.held_out: list[str] = []

    def __iter__(self) -> Iterator[str]:
        self.n_texts = self.n_characters = 0
        self.held_out = []
        with Progress("text", quiet=self._quiet).bar(lambda: None) as advance:
            for corpus in self._corpora:
                for text in corpus.texts():
                    self.n_texts += 1
                    self.n_characters += len(text.text)
                    advance(1)
                    if self.n_texts % _EACH == 0 and len(self.held_out) < self._most:
                        self.held_out.append(text.text)
                    else:
                        yield text.text

    def findings(self) -> list[str]:
        """Return a sentence for each finding in a file or folder, such as rows without a text."""
        return [f"{shown(Path(c.source))}: {finding.sentence}" for c in self._corpora for finding in c.ledger.findings]


def _report(texts: _TrainingTexts, columns: Sequence[tuple[str, TextTokenizer]]) -> None:
    """Print what was read, and how each tokenizer splits the held-out texts."""
    from sbert_ft.tokenization.wordpiece import TextFigures

    n_held_out = len(texts.held_out)
    for finding in texts.findings():
        logger.info("%s", finding)
    print(f"{texts.n_texts:,} texts, {texts.n_characters:,} characters; {n_held_out:,} texts held out")
    if not n_held_out:
        return
    heads = ("", "pieces", "words with [UNK]", "tokens a text", "tokens a word")
    cells = [(name, *TextFigures.of(tokenizer, texts.held_out).cells()) for name, tokenizer in columns]
    print("\n".join(aligned(list(zip(heads, *cells, strict=True)), right_from=1)))


def _tokenizer_at(path: str) -> TextTokenizer:
    """Return the tokenizer of a model's folder, of a folder with only tokenizer files, or of a vocab.txt."""
    from sbert_ft.model_folder.layout import find_folder, read_folder
    from sbert_ft.models.folder_tokenizer import read_tokenizer_of
    from sbert_ft.tokenization.tokenizer import TextTokenizer
    from sbert_ft.tokenization.vocabulary import casing_of_vocabulary, read_vocab
    from sbert_ft.tokenization.wordpiece import bert_tokenizer

    if os.path.isfile(path):
        vocab, _ = read_vocab(Path(path))
        return bert_tokenizer(Path(path), vocab, casing_of_vocabulary(vocab))
    folder = find_folder(path)
    if any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return read_tokenizer_of(read_folder(folder), None)
    return TextTokenizer.from_pretrained(folder)


def _name(path: Path) -> str:
    """Return a short name of a vocabulary's folder or file for the head of a column."""
    return quoted(os.path.basename(os.path.abspath(path)), limit=30)[1:-1]


def _count(text: str) -> int:
    """Return an option's whole number of at least 0."""
    return 0 if text == "0" else options.positive(text)
