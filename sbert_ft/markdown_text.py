"""Texts of strangers inside Markdown: shown as they are, never read as markup, links or HTML."""

from __future__ import annotations

import re
from typing import Final

_MARKUP: Final = re.compile(r"[\\`*_\[\]#|~$]")
# Where GitHub and editors begin a link by themselves: an escape before the mark keeps the address a text.
_BARE_LINK: Final = re.compile(r"(?<=[a-z])(?=://)|(?<=\bwww)(?=\.)", re.IGNORECASE)


def escaped_markdown(text: str) -> str:
    """Return a text of one line that Markdown shows as it is; numeric and named references of HTML too."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BARE_LINK.sub(r"\\", _MARKUP.sub(r"\\\g<0>", text))
