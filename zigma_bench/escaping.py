"""Text from files, names and errors made inert: no sign of it can move a cursor, end a line or start a formula.

Every output goes through here: terminal, Markdown, CSV and messages of errors. Streams
write a stand-in for a sign that their encoding lacks.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

SHORTENED = 300  # signs of a value in a message
JOINERS = "\u200c\u200d"  # Persian words and compound emoji need them
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # what a spreadsheet takes for the start of a formula
MARKUP = re.compile(r"([\\`*_\[\]<>|~])")
PLAIN = {
    "±": "+-", "·": "-", "×": "x", "→": "->", "←": "<-", "↑": "^", "↓": "v", "†": "+", "…": "...", "–": "-", "—": "-",
    "−": "-", "•": "*", "≤": "<=", "≥": ">=", "≈": "~", "∞": "inf", "✓": "v", "✗": "x", "‘": "'", "’": "'", "“": '"',
    "”": '"', "─": "-", "━": "-", "│": "|", "╴": "-", "╶": "-", "╸": "-", "╺": "-", "²": "2", "³": "3",
}  # fmt: skip
HANDLER = "zigma-bench-plain"


def visible(text: str) -> str:
    r"""The text on one line: `\n` and `\x1b` stand for signs that would act on a terminal or that can't be seen."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(sign: str) -> str:
    if unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or sign in JOINERS:
        return sign
    return sign.encode("unicode_escape").decode("ascii")


def shortened(text: str, most: int = SHORTENED) -> str:
    """The text, or its start with the number of its signs where it is long."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def markdown(text: str) -> str:
    """Text that ends no cell of a table and begins no emphasis, link, image, HTML, heading or list."""
    plain = MARKUP.sub(r"\\\1", visible(text).replace("&", "&amp;").lstrip(" "))
    plain = plain.replace("://", "&#58;//").replace("www.", "www&#46;")  # which GitHub turns into links
    return re.sub(r"^(?:([#+=-])|(\d+)([.)])(?=\s|$))", _unlisted, plain)


def _unlisted(found: re.Match[str]) -> str:
    return f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}"


def csv_cell(value: object) -> object:
    """A value of a CSV file; text that a spreadsheet would run as a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    plain = visible(value)
    formula = plain.lstrip()[:1] in tuple(FORMULA) or value[:1] in ("\t", "\r")
    return f"'{plain}" if plain and formula else plain


def write_plainly(stream: TextIO | None = None) -> str:
    """Have a stream write a stand-in for each sign that its encoding lacks; gives the name of the handler of errors."""
    codecs.register_error(HANDLER, _stand_in)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=HANDLER)
    return HANDLER


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_plain_sign, signs)), error.end


def _plain_sign(sign: str) -> str:
    """ASCII for a sign: what looks like it, its letter without accents, or a question mark."""
    if sign in PLAIN:
        return PLAIN[sign]
    if unicodedata.category(sign) == "Cs":
        return _shown(sign)
    bare = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode("ascii")
    return bare if bare.isprintable() and bare else "?"
