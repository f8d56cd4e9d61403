"""A fresh process of this program, which takes a job on standard input and answers with a line of JSON an event."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zigma_bench.errors import Interrupted

INTERRUPTED = "interrupted; the same command goes on where it stopped"


def run_job(module: str, job: Mapping[str, Any], log: Path, heard: Callable[[dict[str, Any]], None]) -> int:
    """Run a job in a process of a module and give its exit code; what it prints beside its events is added to the log.

    Raises Interrupted when a person interrupts, once the process has put away what it was at.
    """
    with log.open("ab") as written, _start(module, written) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at once; its code is what counts
                process.stdin.write(json.dumps(job) + "\n")  # left open: the process ends itself when this one is gone
                process.stdin.flush()
            for line in process.stdout:
                heard(json.loads(line))
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise Interrupted(INTERRUPTED) from None


def _start(module: str, log: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
    )
