"""Escapes untrusted text for Markdown: it is shown as it is, never read as markup, links or HTML."""

from __future__ import annotations

import re
from typing import Final

_MARKUP: Final = re.compile(r"[\\`*_\[\]#|~$]")
# Where GitHub and editors make a link without markup: a backslash before :// or . prevents it.
_BARE_LINK: Final = re.compile(r"(?<=[a-z])(?=://)|(?<=\bwww)(?=\.)", re.IGNORECASE)


def escaped_markdown(text: str) -> str:
    """Return `text`, one line, so that Markdown shows it as it is; numeric and named HTML references too."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BARE_LINK.sub(r"\\", _MARKUP.sub(r"\\\g<0>", text))
