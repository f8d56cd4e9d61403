"""Find the largest batch whose training step fits in memory: double until it doesn't fit, and bisect if asked to.

Every trial is a fresh process that runs the actual training step with its optimizer and EMA. The result doesn't change
the suite: a run uses the batch of the suite file.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zigma_bench.errors import CellFailed, UsageError
from zigma_bench.plan import Cell, Plan
from zigma_bench.system.device import Device

MOST = 2**20
SHARE_OF_A_GPU = 0.95  # the rest is headroom for memory outside PyTorch's allocator
KILLED = (signal.SIGKILL, signal.SIGABRT)  # from the system, and from C++ when an allocation fails


@dataclass(frozen=True)
class BatchTrial:
    """The trial of one batch size: whether it fits, its peak memory in bytes, and the reason if it doesn't fit."""

    batch: int
    fits: bool
    peak_bytes: int | None
    reason: str | None


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that fits (0 if even one image doesn't), and all trials in order."""

    label: str
    batch: int
    limit_bytes: int
    trials: tuple[BatchTrial, ...]

    @property
    def peak_bytes(self) -> int | None:
        return next((trial.peak_bytes for trial in self.trials if trial.batch == self.batch), None)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "peak_bytes": self.peak_bytes}


def distinct_shapes(plan: Plan) -> list[Cell]:
    """The distinct cells, with a batch of 1. Cells that differ only in seed, batch or images of one shape are equal."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.role == "cell":
            one = cell.model_copy(update={"train": cell.train.model_copy(update={"batch": 1})})
            same = {"seed": 0, "order_digests": (), "train_images": None, "train_seconds": None}
            same |= {"data": None, "data_fingerprint": "", "latents": None}
            found.setdefault(one.model_copy(update=same).identity("train", device_model=""), one)
    return list(found.values())


def limit_of(device: Device, gibibytes: float | None) -> int:
    """The memory limit in bytes: that of the option, else most of a GPU's memory. A CPU has no default."""
    if gibibytes is not None:
        return int(gibibytes * 2**30)
    if device.type == "cpu":
        raise UsageError("on a CPU, find-batch needs a memory limit", where="--memory", expected="gibibytes, such as 4")
    code = f"import torch; print(torch.cuda.get_device_properties({device.name!r}).total_memory)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        raise CellFailed(f"the GPU's memory can't be read: {done.stderr.strip().splitlines()[-1]}", where=device.name)
    return int(SHARE_OF_A_GPU * int(done.stdout))


def find_batch(
    cell: Cell, device: Device, limit_bytes: int, on_progress: Callable[[str], None], *, exact: bool = False
) -> LargestBatch:
    """Find the largest batch of one cell: the largest power of two, or with `exact` the largest of all.

    `on_progress(text)` reports each trial.
    """

    def fits(batch: int) -> BatchTrial:
        trial = run_trial(cell, batch, device, limit_bytes)
        on_progress(f"{_name(cell)}: batch {batch:,} {'fits' if trial.fits else f'does not fit: {trial.reason}'}")
        return trial

    trials = search_batch(fits, exact=exact)
    batch = max((trial.batch for trial in trials if trial.fits), default=0)
    return LargestBatch(_name(cell), batch, limit_bytes, tuple(trials))


def search_batch(attempt: Callable[[int], BatchTrial], *, exact: bool = False) -> Sequence[BatchTrial]:
    """Double the batch, and with `exact` bisect between the last two.

    The trials include the largest batch that fits, at most MOST, and the next larger power of two, or with `exact` the
    next larger batch.
    """
    trials = [attempt(1)]
    while trials[-1].fits and trials[-1].batch < MOST:
        trials.append(attempt(2 * trials[-1].batch))
    above = trials[-1].batch
    if trials[-1].fits or above == 1 or not exact:
        return trials
    below = above // 2
    while above - below > 1:
        trials.append(attempt((above + below) // 2))
        below, above = (trials[-1].batch, above) if trials[-1].fits else (below, trials[-1].batch)
    return trials


def run_trial(cell: Cell, batch: int, device: Device, limit_bytes: int) -> BatchTrial:
    """Try one batch in a fresh process. CellFailed if it fails for a reason other than memory."""
    tried = cell.model_copy(update={"train": cell.train.model_copy(update={"batch": batch})})
    job = {"cell": tried.model_dump(mode="json"), "device": asdict(device), "limit_bytes": limit_bytes}
    command = [sys.executable, "-m", "zigma_bench.run.workers.batch"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    if done.returncode == 0:
        return BatchTrial(batch, **json.loads(done.stdout))
    if -done.returncode in KILLED:
        return BatchTrial(batch, False, None, f"its process was killed by {signal.Signals(-done.returncode).name}")
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"code {done.returncode}"
    last = (done.stderr.strip().splitlines() or [f"its process ended with {ended} and without output"])[-1]
    raise CellFailed(f"a training step of {batch:,} images fails: {last}", where=_name(cell))


def _name(cell: Cell) -> str:
    return " · ".join(filter(None, (cell.backbone_label, cell.scan_label, cell.backend, f"{cell.tokens} tokens")))
