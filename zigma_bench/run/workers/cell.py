"""The worker process of one cell: it reads a job, runs the stages that are due, and writes events.

The parent sends a job as one line on standard input (the cell, its folder, the stages to bring up to date, the device).
It reads one JSON line per event from standard output; all other output goes to the log of the cell. Standard input
stays open: when it ends, the parent has died, and this process exits too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from zigma_bench.errors import Busy, Interrupted, NotReady, system_fault
from zigma_bench.plan import Cell
from zigma_bench.records.store import only_writer
from zigma_bench.run.stages.context import StageContext, StageFailed
from zigma_bench.run.stages.run import run_due_stages
from zigma_bench.system.device import Device, reduce_garbage_collection
from zigma_bench.system.notices import send_notices_to


def main() -> int:
    """Run the due stages of the job on standard input, and return the exit code. A busy folder becomes an event."""
    job, cell, events = take_job()
    folder, cache = Path(job["folder"]), Path(job["results"]) / ".cache"
    flag = stop_flag()
    device = Device(**job["device"])
    context = StageContext(
        cell, folder, cache, device, lambda event: send_event(events, event), flag, job["provenance"]
    )
    send_notices_to(lambda text: send_event(events, {"event": "notice", "text": text}))
    try:
        take_device(device)
        with only_writer(folder):
            run_due_stages(context, job["stages"])
    except StageFailed:
        return 1
    except Busy as error:
        send_event(events, {"event": "busy", "text": str(error)})
    except Exception as error:
        if (fault := system_fault(error)) is None:
            raise
        send_event(events, {"event": "stopped", "text": str(fault)})
        return fault.exit_code
    return 0


def take_job() -> tuple[dict[str, Any], Cell, TextIO]:
    """Read the job from the first line of standard input, and return it with its cell and the stream for events.

    From this call on, the process exits when its parent dies.
    """
    reduce_garbage_collection()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(os.dup(0),), daemon=True).start()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - exit() closes it, which would wait forever for the thread that reads it
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output that libraries print goes to the log
    return job, Cell.model_validate_json(json.dumps(job["cell"])), events


def stop_flag() -> Callable[[], bool]:
    """A function that returns True after a request to stop. A second request ends the process at once."""
    signals: list[int] = []

    def handle(number: int, frame: object) -> None:
        if signals:
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


def _end_with_parent(parent: int) -> None:
    while os.read(parent, 4096):
        pass
    os._exit(Interrupted.exit_code)


def send_event(events: TextIO, event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent has died, and this process is about to exit
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main())
