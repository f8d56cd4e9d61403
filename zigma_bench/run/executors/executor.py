"""The interface of an executor, which decides where cells run.

An executor runs cells until the records of their due stages exist. All state is in files: an executor may die at any
time, and the next one continues from the files. So it keeps no state of its own, and its outcomes only summarize what
the files say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zigma_bench.plan import Cell, Stage
from zigma_bench.system.device import Device


class Watcher(Protocol):
    """Shows the progress of a run. All calls come from one thread."""

    def begin(self, cell: Cell, stages: Sequence[Stage]) -> None:
        """A cell begins with these due stages; without stages it was already done."""

    def event(self, cell: Cell, event: dict[str, Any]) -> None:
        """A cell reports an event: `start`, `progress`, `done`, `failed` or `stopped` of a stage, or a `notice`."""

    def end(self, cell: Cell) -> None:
        """Nothing runs for a cell any more."""


@dataclass(frozen=True)
class CellOutcome:
    """The result of a cell: `done`, `failed` (with the reason) or `skipped` (everything was done before)."""

    cell: Cell
    folder: Path
    status: str
    reason: str | None = None


@dataclass(frozen=True)
class RunPlace:
    """Where cells run and where their results are written.

    `folder`: the folder of the run in `results`. `devices`: one or more devices of the same model. `timeouts`: the
    seconds after which a stage is stopped and fails, by stage. `executor`: the name of the executor, for the records.
    """

    results: Path
    folder: Path
    devices: tuple[Device, ...]
    watcher: Watcher
    stages: Sequence[Stage]
    timeouts: Mapping[Stage, float] = field(default_factory=dict)
    executor: str = "local"

    @property
    def device(self) -> Device:
        """The first device. Its model identifies the records of all devices."""
        return self.devices[0]


class Executor(Protocol):
    """Runs cells. It is registered with `register_executors` and constructed with its options."""

    def run_cells(self, cells: Sequence[Cell], place: RunPlace) -> list[CellOutcome]:
        """Run the cells until the records of their due stages exist, and return their outcomes, in the same order.

        Raises Interrupted when asked to stop, after its processes have ended.
        """
