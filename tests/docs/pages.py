"""The code blocks of Markdown pages, and the folder in which they run.

A page is run from top to bottom, as its reader would type it:

- a block with a title (```` ```yaml title="mine.yaml" ````) is a file of that name;
- each line of an `sh` block is a command;
- other `python` blocks are run, and other `yaml` blocks are parts of a suite, which must fit the schema;
- `text` blocks show output.

The comment `<!-- not run: REASON -->` before an `sh` block, for a command that needs a GPU, the network or days, has
only its options checked.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"sh", "yaml", "python", "toml", "text", "json"}
_FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^>]+) -->\n+ *)?```(?P<language>\w*)(?P<words>[^\n]*)\n"
    r"(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of a page: its language, its file name if it has one, and why it isn't run, if it isn't."""

    language: str
    title: str | None
    not_run: str | None
    text: str

    def commands(self) -> Iterator[list[str]]:
        """The commands of an `sh` block, as words; a backslash joins lines."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def documents() -> list[Path]:
    """Every page of the site, and the README."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(page: Path) -> list[CodeBlock]:
    """The fenced blocks of a page, in order."""
    blocks = []
    for found in _FENCE.finditer(page.read_text()):
        title = re.search(r'title="([^"]+)"', found["words"])
        text = textwrap.dedent(found["text"])
        blocks.append(CodeBlock(found["language"], title and title[1], found["reason"], text))
    return blocks
