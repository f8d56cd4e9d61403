"""The progress of a run on standard error: live bars on a terminal, elsewhere a plain line for each event."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from zigma_bench.escaping import visible
from zigma_bench.plan import Cell, Stage

LINE_SECONDS = 15.0  # how often a running stage prints a plain line


class PlainWatcher:
    """A line when a cell begins and when a stage ends, and one every LINE_SECONDS while a stage of a cell runs."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.numbers = dict[str, int]()  # of the cells, in the order in which they began
        self.last = dict[str, float]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None:
        self._print_line(cell, "to do: " + ", ".join(stages) if stages else "already done")

    def event(self, cell: Cell, event: dict[str, Any]) -> None:
        kind, stage = event["event"], event.get("stage", "")
        if kind == "progress":
            now = time.monotonic()
            if now - self.last.get(cell.label, 0.0) > LINE_SECONDS:
                self.last[cell.label] = now
                total = f" of {event['total']:,}" if event["total"] else ""
                self._print_line(cell, f"{stage} {event['done']:,}{total} {event['text']}".rstrip())
        elif kind == "done":
            self._print_line(cell, f"{stage} done in {event['seconds']:.1f} s")
        elif kind == "notice":
            self._print_line(cell, event["text"])
        elif kind in ("failed", "stopped"):
            self._print_line(cell, f"{stage} {kind}: {event['text']}")

    def end(self, cell: Cell) -> None:
        self.last.pop(cell.label, None)

    def _print_line(self, cell: Cell, text: str) -> None:
        number = self.numbers.setdefault(cell.label, len(self.numbers) + 1)
        print(visible(f"[{number}/{self.total}] {cell.label}: {text}"), file=sys.stderr, flush=True)


class LiveWatcher:
    """A bar for the suite and one for each cell that runs."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )
        self.cells = self.progress.add_task("cells", total=total, note="")
        self.running = dict[str, TaskID]()  # by the label of the cell

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.running.values():
            self.progress.update(task, visible=False)
        self.progress.stop()

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None:
        self.progress.update(self.cells, note=visible(cell.label) if not stages else "")

    def event(self, cell: Cell, event: dict[str, Any]) -> None:
        kind, stage = event["event"], event.get("stage", "")
        if kind == "start":
            self._hide(cell)
            self.running[cell.label] = self.progress.add_task(f"  {stage}", total=None, note=visible(cell.label))
        elif kind == "progress" and cell.label in self.running:
            note = visible(" ".join(filter(None, (cell.label, event["text"]))))
            self.progress.update(self.running[cell.label], completed=event["done"], total=event["total"], note=note)
        elif kind == "notice":
            self.progress.console.print(visible(f"{cell.label}: {event['text']}"), markup=False, highlight=False)
        elif kind in ("failed", "stopped"):
            line = visible(f"{cell.label}: {stage} {kind}: {event['text']}")
            self.progress.console.print(line, markup=False, highlight=False)

    def end(self, cell: Cell) -> None:
        self._hide(cell)
        self.progress.advance(self.cells)

    def _hide(self, cell: Cell) -> None:
        """Remove the bar of a cell."""
        if cell.label in self.running:
            self.progress.remove_task(self.running.pop(cell.label))


def watcher(total: int) -> LiveWatcher | PlainWatcher:
    """Live bars if standard error is a terminal, plain lines otherwise."""
    return LiveWatcher(total) if sys.stderr.isatty() else PlainWatcher(total)
