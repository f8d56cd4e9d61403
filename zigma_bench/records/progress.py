"""The progress of the cell that a process works on, in a file that other processes read.

    RESULTS/<suite>/<run>/<cell>/.progress

The worker that holds the lock of the folder writes it when a stage starts, and then at most once per WRITE_SECONDS. It
is removed together with the owner file (`store.only_writer`). A reader that finds no lock ignores the file, because its
process was killed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused
from zigma_bench.records.store import OWNER, PROGRESS, write_atomic
from zigma_bench.system.json_files import parse_json, read_text

WRITE_SECONDS = 1.0
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class StageProgress:
    """How far a running stage is: `done` of `total` (None if the stage can't say), `text` as the stage reports it.

    `resumed`: what was done already at the stage's first report. `started` and `updated` are seconds since 1970;
    `device` is the device's name.
    """

    stage: str
    device: str
    started: float
    updated: float
    done: int | float = 0
    total: int | float | None = None
    text: str = ""
    resumed: int | float = 0

    @property
    def projected_seconds(self) -> float | None:
        """How long the whole stage takes at the pace so far; None before LEAST_SHARE of it has been done at it."""
        done = self.done - self.resumed
        if not self.total or done < LEAST_SHARE * self.total:
            return None
        return (self.updated - self.started) * self.total / done


class ProgressFile:
    """Writes the progress of a cell's stages, from the events that its worker sends."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self._started = self._written = 0.0
        self._resumed: float | None = None

    def note(self, event: Mapping[str, Any]) -> None:
        """Take an event of a stage: `start` is written at once, `progress` if the last writing is long enough ago."""
        now = time.time()
        if event["event"] == "start":
            self._started, self._resumed = now, None
            self._write(StageProgress(event["stage"], self.device, now, now))
        elif event["event"] == "progress":
            self._resumed = event["done"] if self._resumed is None else self._resumed
            if now - self._written >= WRITE_SECONDS:
                amount = (event["done"], event["total"], event["text"], self._resumed)
                self._write(StageProgress(event["stage"], self.device, self._started, now, *amount))

    def _write(self, progress: StageProgress) -> None:
        """Write the file. Without the lock of the folder there is nothing to write, and no such file may stay behind.

        An error of the disk doesn't stop the stage: the stage's own files meet the same error.
        """
        self._written = progress.updated
        with contextlib.suppress(OSError):
            if (self.folder / OWNER).exists():
                write_atomic(self.folder / PROGRESS, json.dumps(asdict(progress)), lasting=False)


def read_progress(folder: Path) -> StageProgress | None:
    """The progress in the folder of a cell, or None if there is none or it isn't one that this version writes."""
    try:
        data = parse_json(read_text(folder / PROGRESS))
        found = StageProgress(**data)
    except (FileNotFoundError, ComparisonRefused, ValueError, TypeError):
        return None
    numbers = (found.started, found.updated, found.done, found.resumed, 0 if found.total is None else found.total)
    texts = (found.stage, found.device, found.text)
    whole = all(type(one) in (int, float) for one in numbers) and all(isinstance(one, str) for one in texts)
    return found if whole else None
