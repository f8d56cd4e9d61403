"""The worker process of `fastest`: it times one case after another, and ends if a fault made the device unusable.

Each line on standard input is a job: the cell, its device, the memory limit in bytes or None, and the seconds that it
may take. The answer is one JSON line on standard output: what was measured, or `why_not` with its `kind` (one of KINDS)
and whether this process `ends`. When standard input ends, the parent has died, and this process exits too.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from zigma_bench.bench.fastest.measure import CaseTimer
from zigma_bench.errors import Interrupted, ZigmaBenchError
from zigma_bench.plan import Cell
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.system.device import Device, reduce_garbage_collection
from zigma_bench.system.interrupts import contain_plugin

KINDS = ("refused", "memory", "late", "fault")


def main() -> int:
    """Answer jobs until standard input ends or a job faults; return the exit code."""
    reduce_garbage_collection()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output that libraries print goes to standard error
    timer: CaseTimer | None = None
    for job in _jobs():
        device = Device(**job["device"])
        timer = timer or CaseTimer(device, job["limit_bytes"])
        answer = _answer(timer, Cell.model_validate_json(json.dumps(job["cell"])), time.monotonic() + job["seconds"])
        answers.write(json.dumps(answer) + "\n")
        if answer.get("ends"):
            return 1
    return 0


def _answer(timer: CaseTimer, cell: Cell, deadline: float) -> dict[str, Any]:
    """What was measured, or why nothing was."""
    from zigma_bench.efficiency.timing import out_of_memory

    try:
        with contain_plugin():
            return timer.time(cell, lambda: time.monotonic() > deadline)
    except Interrupted:
        return {"kind": "late", "why_not": "not measured in time"}
    except Exception as error:  # a plugin or a kernel may raise anything
        if out_of_memory(error):
            timer.forget()
            ends = error.__cause__ is not None  # raised during the capture of a graph
            return {"kind": "memory", "why_not": timer.memory_reason(error), "ends": ends}
        if not isinstance(error, ZigmaBenchError):
            traceback.print_exc()
            timer.forget()
        ends = not timer.is_usable()
        return {"kind": "fault" if ends else "refused", "why_not": reason_of(error), "ends": ends}


def _jobs() -> Iterator[dict[str, Any]]:
    """The jobs on standard input. A thread reads them, and ends the process when standard input ends."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    stream = os.fdopen(os.dup(0), "r")
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for libraries that read it

    def read() -> None:
        for line in stream:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


if __name__ == "__main__":
    sys.exit(main())
