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
    """A line when a cell begins and when a stage ends, and one every LINE_SECONDS while a stage runs."""

    def __init__(self, total: int) -> None:
        self.total, self.number, self.last = total, 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None:
        self.number += 1
        self._print_line(cell, "to do: " + ", ".join(stages) if stages else "already done")

    def event(self, cell: Cell, event: dict[str, Any]) -> None:
        kind, stage = event["event"], event.get("stage", "")
        if kind == "progress":
            now = time.monotonic()
            if now - self.last > LINE_SECONDS:
                self.last = now
                total = f" of {event['total']:,}" if event["total"] else ""
                self._print_line(cell, f"{stage} {event['done']:,}{total} {event['text']}".rstrip())
        elif kind == "done":
            self._print_line(cell, f"{stage} done in {event['seconds']:.1f} s")
        elif kind == "notice":
            self._print_line(cell, event["text"])
        elif kind in ("failed", "stopped"):
            self._print_line(cell, f"{stage} {kind}: {event['text']}")

    def _print_line(self, cell: Cell, text: str) -> None:
        print(visible(f"[{self.number}/{self.total}] {cell.label}: {text}"), file=sys.stderr, flush=True)


class LiveWatcher:
    """A bar for the suite and one for the running stage."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )
        self.cells = self.progress.add_task("cells", total=total, note="")
        self.stage = self.progress.add_task("", total=None, note="", visible=False)
        self.begun = 0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.progress.update(self.cells, completed=self.begun)
        self.progress.update(self.stage, visible=False)
        self.progress.stop()

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None:
        self.progress.update(self.cells, completed=self.begun, note=visible(cell.label))
        self.begun += 1

    def event(self, cell: Cell, event: dict[str, Any]) -> None:
        kind, stage = event["event"], event.get("stage", "")
        if kind == "start":
            self.progress.reset(self.stage, description=f"  {stage}", total=None, note="", visible=True)
        elif kind == "progress":
            self.progress.update(self.stage, completed=event["done"], total=event["total"], note=visible(event["text"]))
        elif kind == "notice":
            self.progress.console.print(visible(f"{cell.label}: {event['text']}"), markup=False, highlight=False)
        elif kind in ("failed", "stopped"):
            line = visible(f"{cell.label}: {stage} {kind}: {event['text']}")
            self.progress.console.print(line, markup=False, highlight=False)


def watcher(total: int) -> LiveWatcher | PlainWatcher:
    """Live bars if standard error is a terminal, plain lines otherwise."""
    return LiveWatcher(total) if sys.stderr.isatty() else PlainWatcher(total)
