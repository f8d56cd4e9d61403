"""A worker process, seen from its parent: it runs one cell after another and writes events as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from zigma_bench.plan import Stage
from zigma_bench.run.command import command_provenance
from zigma_bench.run.executors.executor import RunPlace
from zigma_bench.run.executors.tasks import DueCell
from zigma_bench.system.device import Device, usable_cores

MODULE = "zigma_bench.run.workers.cell"
LOG = "log.txt"
READ_BYTES = 65536
MOST_THREADS = 8  # more gain nothing for the features and distances of some thousand images


@dataclass
class Job:
    """The stages of a cell that a worker runs, and what it has reported about them.

    `reason`: why a stage failed. `known`: whether the program itself found the fault, so that a fresh process would
    find it again. `began`: when the current stage began, by time.monotonic; None
    before the first stage and between stages.
    """

    task: DueCell
    stages: tuple[Stage, ...]
    stage: Stage
    began: float | None = None
    reason: str | None = None
    known: bool = False
    busy: bool = False
    timed_out: bool = False

    @property
    def log(self) -> Path:
        """The file with the output of the worker."""
        return self.task.folder / LOG

    def note(self, event: dict[str, Any]) -> None:
        """Remember what an event says about the job."""
        kind = event["event"]
        if kind == "start":
            self.stage, self.began = event["stage"], time.monotonic()
        elif kind == "done":
            self.began = None
        elif kind == "busy":
            self.busy = True
        elif kind in ("failed", "stopped"):
            self.reason, self.known = event["text"], event.get("known", True)


class WorkerProcess:
    """A running worker of a device. `jobs`: how many jobs it has been sent."""

    def __init__(self, device: Device, first_log: Path, *, threads: int | None) -> None:
        self.device, self.jobs = device, 0
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        first_log.parent.mkdir(parents=True, exist_ok=True)
        with first_log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self._buffer = b""

    @property
    def output(self) -> IO[bytes]:
        """The stream of its events."""
        assert self.process.stdout is not None
        return self.process.stdout

    def send(self, job: Job, place: RunPlace) -> None:
        """Send a job. If the process has ended, its exit code says why."""
        job.task.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({
            "cell": job.task.cell.model_dump(mode="json"), "results": str(place.results.resolve()),
            "folder": str(job.task.folder.resolve()), "log": str(job.log.resolve()), "stages": list(job.stages),
            "device": asdict(self.device), "provenance": command_provenance(self.device, place.executor),
        })  # fmt: skip
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
        self.jobs += 1

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """The events that have arrived, and whether the process has closed its output."""
        data = os.read(self.output.fileno(), READ_BYTES)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def wait(self) -> int:
        """The exit code of a process that has closed its output."""
        self._close()
        return self.process.wait()

    def dismiss(self) -> None:
        """End an idle process: the end of its input tells it to exit."""
        self._close_input()

    def interrupt(self) -> None:
        """Ask the process to stop at the next point from which it can continue."""
        self.process.send_signal(signal.SIGTERM)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process and those that it has started, at once. After its end, its number may be another's."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _close(self) -> None:
        self._close_input()
        self.output.close()

    def _close_input(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def threads_per_worker(devices: tuple[Device, ...], slots: int) -> int | None:
    """The number of CPU threads of each worker, so that together they use each core once; None leaves it to the
    libraries: for one worker on the CPU, and if OMP_NUM_THREADS is set, which then applies to every worker.

    The libraries count the cores of the host. In a container with a quota, so many threads wait for each other.
    """
    if "OMP_NUM_THREADS" in os.environ or (slots == 1 and devices[0].type == "cpu"):
        return None
    return max(1, min(MOST_THREADS, usable_cores() // slots))
