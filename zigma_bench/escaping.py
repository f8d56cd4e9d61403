"""Escaping of text from files, names and errors, so that it can't move a cursor, end a line or start a formula.

All output is escaped: terminal, Markdown, CSV and error messages. A stream replaces characters that its encoding
can't represent.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

SHORTENED = 300  # characters of a value in a message
JOINERS = "\u200c\u200d"  # Persian words and compound emoji need them
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # the first characters of a formula in a spreadsheet
MARKUP = re.compile(r"([\\`*_\[\]<>|~])")
PLAIN = {
    "±": "+-", "·": "-", "×": "x", "→": "->", "←": "<-", "↑": "^", "↓": "v", "†": "+", "…": "...", "–": "-", "—": "-",
    "−": "-", "•": "*", "≤": "<=", "≥": ">=", "≈": "~", "∞": "inf", "✓": "v", "✗": "x", "‘": "'", "’": "'", "“": '"',
    "”": '"', "─": "-", "━": "-", "│": "|", "╴": "-", "╶": "-", "╸": "-", "╺": "-", "²": "2", "³": "3",
}  # fmt: skip
HANDLER = "zigma-bench-plain"


def visible(text: str) -> str:
    r"""The text on one line, with control and invisible characters escaped, as in `\n` and `\x1b`."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, most: int = SHORTENED) -> str:
    """The text; if it is longer than `most` characters, its start and its length."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def markdown(text: str) -> str:
    """The text escaped for Markdown: it can't end a table cell or start emphasis, a link, an image, HTML, a heading or
    a list."""
    plain = MARKUP.sub(r"\\\1", visible(text).replace("&", "&amp;").lstrip(" "))
    plain = plain.replace("://", "&#58;//").replace("www.", "www&#46;")  # GitHub links these
    return re.sub(r"^(?:([#+=-])|(\d+)([.)])(?=\s|$))", _unlisted, plain)


def _unlisted(found: re.Match[str]) -> str:
    return f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}"


def csv_cell(value: object) -> object:
    """A value for a CSV file; an apostrophe precedes text that a spreadsheet would run as a formula."""
    if not isinstance(value, str):
        return value
    plain = visible(value)
    formula = plain.lstrip()[:1] in tuple(FORMULA) or value[:1] in ("\t", "\r")
    return f"'{plain}" if plain and formula else plain


def write_plainly(stream: TextIO | None = None) -> str:
    """Make a stream replace each character that its encoding can't represent; return the error handler's name."""
    codecs.register_error(HANDLER, _stand_in)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=HANDLER)
    return HANDLER


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(map(_ascii, characters)), error.end


def _ascii(character: str) -> str:
    """ASCII for a character: one that looks similar, its letter without accents, or a question mark."""
    if character in PLAIN:
        return PLAIN[character]
    if unicodedata.category(character) == "Cs":
        return _shown(character)
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return bare if bare.isprintable() and bare else "?"
