"""Format the texts and numbers of a report: hidden characters become visible, numbers become readable.

A text from a data file can contain anything: terminal escapes, marks that change the direction of the text after them,
halves of surrogate pairs that no encoding accepts. Such characters are shown as escapes; all others stay unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Control characters, direction marks, zero-width characters, other line ends, halves of a surrogate pair, tags and
# noncharacters. The joiners U+200C and U+200D stay: Persian and many emoji are spelled with them.
HIDDEN: Final = re.compile(
    "["
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    r"\ud800-\udfff\U000e0000-\U000e007f"
    "]"
)
# Cannot be stored in a text file.
UNWRITABLE: Final = re.compile(r"[\x00\ud800-\udfff]")
_ZERO_WIDTH_JOINER: Final = "\u200d"


def escape_of(character: str) -> str:
    r"""Return the escape of a hidden character, such as \n, \x1b or \u202e."""
    return character.encode("unicode_escape").decode()


def visible(text: str) -> str:
    """Return the text in one line with hidden characters as escapes; the result can be encoded."""
    return HIDDEN.sub(lambda found: escape_of(found[0]), text)


def shortened(text: str, limit: int) -> str:
    """Return the text, cut with an ellipsis if it has more than `limit` characters.

    A letter with its accents or an emoji of several parts is not cut, unless it has more than about twenty characters.
    """
    if len(text) <= limit:
        return text
    end = limit - 1
    while end > max(0, limit - 20) and (_continues(text[end]) or text[end - 1] == _ZERO_WIDTH_JOINER):
        end -= 1
    return text[:end] + "…"


def _continues(character: str) -> bool:
    """Return whether the character is part of the one before it: an accent, a joiner or a colour of skin."""
    is_mark = unicodedata.category(character).startswith("M")
    return is_mark or character == _ZERO_WIDTH_JOINER or "\U0001f3fb" <= character <= "\U0001f3ff"


def inside_sentence(label: str) -> str:
    """Return a label with a lowercase first letter, unless it is a name such as Spearman or F1."""
    is_name = label.startswith(("Spearman", "Pearson", "Matthews", "ROC", "F1", "nDCG", "MRR", "MAP"))
    return label if is_name else label[:1].lower() + label[1:]


def capitalised(text: str) -> str:
    """Return the text with a capital first letter, the rest unchanged."""
    return text[:1].upper() + text[1:]


def decimals(value: float | None, *, signed: bool = False) -> str:
    """Return a value with a minus sign (U+2212), None as a dash; `signed` adds a plus.

    It has four decimals, from 100 on one, as perplexities may have.
    """
    if value is None:
        return "–"
    digits = f"{value:{'+' if signed else ''},.{4 if abs(value) < 100 else 1}f}"
    if not digits.strip("+-0.,"):
        return "0.0000"
    return digits.replace("-", "−")


def percent(share: float) -> str:
    """Return a share as "12.3 %"; only exactly 0 and 1 become 0 % and 100 %."""
    if 0 < share < 0.001:
        return "below 0.1 %"
    if 0.999 < share < 1:
        return "above 99.9 %"
    return f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return "[0.8312, 0.8690]", or an empty string if there is no interval."""
    if low is None or high is None:
        return ""
    return f"[{decimals(low, signed=signed)}, {decimals(high, signed=signed)}]"


def plain_number(value: object) -> str:
    """Return a JSON value as readable text: integers with separators, true as yes, null as not set."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if 1000 <= abs(value) < 1e15 and value == int(value):
            return f"{value:,.0f}"
        return re.sub(r"e([+-])0*", lambda found: "e" + found[1].replace("+", ""), f"{value:.6g}")
    return str(value)


def duration(seconds: float) -> str:
    """Return a time as "48.3 s", "12 min 5 s" or "3 h 7 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
