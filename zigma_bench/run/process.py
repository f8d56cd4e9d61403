"""Run a job in a fresh worker process, which reads the job from standard input and writes events as JSON lines."""

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

INTERRUPTED = "interrupted; the same command continues where it stopped"


def run_job(module: str, job: Mapping[str, Any], log: Path, on_event: Callable[[dict[str, Any]], None]) -> int:
    """Run a job in a process of a module and return its exit code. Output other than events is appended to the log.

    Raises Interrupted when the user interrupts, after the process has stopped cleanly.
    """
    with log.open("ab") as log_file, _start_process(module, log_file) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # the process ended at once; its exit code says why
                process.stdin.write(
                    json.dumps(job) + "\n"
                )  # stays open, so that the worker exits when this process dies
                process.stdin.flush()
            for line in process.stdout:
                on_event(json.loads(line))
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise Interrupted(INTERRUPTED) from None


def _start_process(module: str, log: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # the order of nvidia-smi
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
    )
