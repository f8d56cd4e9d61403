"""The worker process of cells: it reads jobs, runs the stages that are due, and writes events.

The parent sends each job as one line on standard input (the cell, its folder and log, the stages to bring up to date,
the device). It reads one JSON line per event from standard output; all other output goes to the log of the cell. The
event `end` says that the job is done and that the process can take another one, unless it names a reason why not. After
a failure the process exits. When standard input ends, the parent has died, and this process exits too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from zigma_bench.errors import Busy, Interrupted, NotReady, system_fault
from zigma_bench.plan import Cell
from zigma_bench.records.store import only_writer
from zigma_bench.run.stages.context import StageContext, StageFailed
from zigma_bench.run.stages.run import run_due_stages
from zigma_bench.run.workers.warm import WarmProcess
from zigma_bench.system.device import Device, reduce_garbage_collection
from zigma_bench.system.notices import send_notices_to


def main() -> int:
    """Run the jobs on standard input, and return the exit code: 0, or that of the first job that failed."""
    channel = JobChannel()
    flag = stop_flag(channel)
    warm = WarmProcess()
    send_notices_to(lambda text: channel.send({"event": "notice", "text": text}))
    while (job := channel.next_job()) is not None:
        code = _run_job(job, channel, flag, warm)
        if code != 0:
            return code
        retired = warm.why_retire()
        channel.send({"event": "end", "retired": retired})
        if retired is not None:
            print(f"this process ends: {retired}", file=sys.stderr)
            return 0
    return 0


def _run_job(job: dict[str, Any], channel: JobChannel, flag: Callable[[], bool], warm: WarmProcess) -> int:
    """Run the due stages of one job, and return its exit code. A busy folder becomes an event."""
    folder, cache, device = Path(job["folder"]), Path(job["results"]) / ".cache", Device(**job["device"])
    cell = Cell.model_validate_json(json.dumps(job["cell"]))
    context = StageContext(cell, folder, cache, device, channel.send, flag, job["provenance"])
    try:
        take_device(device)
        warm.begin_cell(cell, device)
        with only_writer(folder):
            run_due_stages(context, job["stages"])
    except StageFailed:
        return 1
    except Busy as error:
        channel.send({"event": "busy", "text": str(error)})
    except Exception as error:
        if (fault := system_fault(error)) is None:
            raise
        channel.send({"event": "stopped", "text": str(fault)})
        return fault.exit_code
    return 0


class JobChannel:
    """The jobs of the parent on standard input, and the events for it on standard output.

    From its construction on, the process exits when its parent dies.
    """

    def __init__(self) -> None:
        reduce_garbage_collection()
        self.is_working = False
        self._jobs = queue.SimpleQueue[dict[str, Any] | None]()
        threading.Thread(target=self._read_jobs, args=(os.dup(0),), daemon=True).start()
        sys.stdin = open(os.devnull)  # noqa: SIM115 - exit() closes it, which would wait for the thread that reads it
        self._events: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # output that libraries print goes to the log

    def next_job(self) -> dict[str, Any] | None:
        """Wait for the next job, and send the output of this process to its log; None if the parent sends no more."""
        self.is_working = False
        job = self._jobs.get()
        self.is_working = job is not None
        if job is not None and "log" in job:
            handle = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(handle)
        return job

    def send(self, event: dict[str, Any]) -> None:
        """Send an event to the parent."""
        with contextlib.suppress(BrokenPipeError):  # the parent has died, and this process is about to exit
            self._events.write(json.dumps(event) + "\n")

    def _read_jobs(self, handle: int) -> None:
        with os.fdopen(handle) as jobs:
            for line in jobs:
                self._jobs.put(json.loads(line))
        self._jobs.put(None)
        while True:  # the parent ends its input only when this process is idle, or by its death
            if self.is_working:
                os._exit(Interrupted.exit_code)
            time.sleep(0.05)


def stop_flag(channel: JobChannel) -> Callable[[], bool]:
    """A function that returns True after a request to stop. A request without a job ends the process at once.

    Further requests change nothing: a scheduler sends one to every process of a job, and the parent sends its own. The
    parent kills a process that takes too long to stop.
    """
    signals: list[int] = []

    def handle(number: int, frame: object) -> None:
        if not channel.is_working:
            os._exit(Interrupted.exit_code)
        signals.append(number)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return lambda: bool(signals)


def take_device(device: Device) -> None:
    """Make a GPU the current device. NotReady if torch can't see it."""
    if device.type == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise NotReady(
                "torch sees no NVIDIA GPU", got=device.model_name, do="install torch for CUDA, or use --device cpu"
            )
        torch.cuda.set_device(device.name)


if __name__ == "__main__":
    sys.exit(main())
