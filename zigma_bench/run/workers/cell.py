"""The process of one cell: a job comes in, events go out, and the stages that are due are done.

The parent hands over a job in a line of standard input (the cell, its folder, the stages to bring up to date, the
device) and
reads one JSON line an event from standard output; all other output goes to the cell's log. Standard input stays open:
its end means that the parent is gone, and the cell ends too.
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
from zigma_bench.system.device import Device, calm_collector
from zigma_bench.system.notices import send_notices_to


def main() -> int:
    """Do what is due of the job on standard input; the exit code says how it ended, and an event what was busy."""
    job, cell, events = take_job()
    folder, cache = Path(job["folder"]), Path(job["results"]) / ".cache"
    flag = stop_flag()
    device = Device(**job["device"])
    life = StageContext(cell, folder, cache, device, lambda event: send(events, event), flag)
    send_notices_to(lambda text: send(events, {"event": "notice", "text": text}))
    try:
        take_device(device)
        with only_writer(folder):
            run_due_stages(life, job["stages"])
    except StageFailed:
        return 1
    except Busy as error:
        send(events, {"event": "busy", "text": str(error)})
    except Exception as error:
        if (fault := system_fault(error)) is None:
            raise
        send(events, {"event": "stopped", "text": str(fault)})
        return fault.exit_code
    return 0


def take_job() -> tuple[dict[str, Any], Cell, TextIO]:
    """The job in the first line of standard input, its cell, and where events go; from here on this process ends with
    its parent."""
    calm_collector()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(os.dup(0),), daemon=True).start()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - exit() closes it, which waits for ever for a thread that reads it
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    return job, Cell.model_validate_json(json.dumps(job["cell"])), events


def stop_flag() -> Callable[[], bool]:
    """True once the process was asked to stop; a second request ends it at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            os._exit(Interrupted.exit_code)
        asked.append(number)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return lambda: bool(asked)


def take_device(device: Device) -> None:
    """Make a card the current one, or say that torch can't see it."""
    if device.type == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise NotReady("torch sees no NVIDIA card", got=device.card, do="install torch for CUDA, or take cpu")
        torch.cuda.set_device(device.name)


def _end_with_parent(parent: int) -> None:
    while os.read(parent, 4096):
        pass
    os._exit(Interrupted.exit_code)


def send(events: TextIO, event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and this process ends with it
        events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main())
