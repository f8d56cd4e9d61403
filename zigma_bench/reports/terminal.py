"""Print a report on a terminal. Control characters in its text are escaped. In a file, lines are as wide as the
tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment

from zigma_bench.escaping import visible
from zigma_bench.reports import differences
from zigma_bench.reports.render import differences_to_rich, study_to_rich, table_footer, to_rich
from zigma_bench.reports.study import study_of
from zigma_bench.reports.table import Table


class InertConsole(Console):
    """A console that escapes control characters in text (`escaping.visible`)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with escaped text."""
        for segment in super().render(renderable, options):
            yield (
                segment if segment.control else segment._replace(text="\n".join(map(visible, segment.text.split("\n"))))
            )


def print_wide(shown: RenderableType) -> None:
    """Print without cutting lines. Outside a terminal, the width is that of the table."""
    _console_for(shown).print(shown)


def to_terminal(tables: Sequence[Table]) -> str:
    """The tables of each suite, the differences to its baseline, the tests that it declares, and its footer."""
    parts = []
    for table in tables:
        parts.append(_text(to_rich(table)))
        if differences.has_differences(table):
            parts.append(_text(differences_to_rich(table)))
        if (study := study_of(table)) is not None:
            parts.append(_text(study_to_rich(table, study)))
        parts += [f"{visible(line)}\n" for line in table_footer(table)]
    return "".join(parts)


def _text(shown: RenderableType) -> str:
    """The text that `print_wide` would print."""
    console = _console_for(shown)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def _console_for(shown: RenderableType) -> Console:
    if sys.stdout.isatty():
        return InertConsole()
    wide = Console(width=1000)
    return InertConsole(width=max(80, Measurement.get(wide, wide.options, shown).maximum))
