"""The worker process as its parent sees it: it is started at the first job, killed when it hangs, and started again
after a fault."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import IO, Any

from zigma_bench.system.device import Device

WORKER = "zigma_bench.bench.fastest.worker"
GRACE_SECONDS = 5.0  # beyond the time of a job, which the worker itself keeps between two calls
ENDING_SECONDS = 10.0
STARTING_SECONDS = 60.0  # for importing PyTorch and starting the device


class WorkerProcess:
    """Answers jobs in a process of its own. `with` ends the process."""

    def __init__(self, device: Device, limit_bytes: int | None, command: tuple[str, ...] | None = None) -> None:
        self.device, self.limit_bytes = device, limit_bytes
        self.command = command or (sys.executable, "-m", WORKER)
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._log: IO[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._log is not None:
            self._log.close()

    def ask(self, cell: dict[str, Any], seconds: float, most: float) -> dict[str, Any]:
        """The answer to a job that may take `seconds`. `most`: the seconds until this returns, whatever happens.

        A hang or the death of the process is an answer of the kind `fault`.
        """
        starting = self.process is None
        process = self._started()
        assert process.stdin is not None
        job = {"cell": cell, "device": asdict(self.device), "limit_bytes": self.limit_bytes, "seconds": seconds}
        with contextlib.suppress(BrokenPipeError):  # the process has ended; reading says how
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        patience = seconds + GRACE_SECONDS + (STARTING_SECONDS if starting else 0)
        line = self._read_line(min(patience, most))
        if line is None:
            self.stop()
            kind = "late" if most < patience else "fault"
            words = "not measured in time" if kind == "late" else f"no answer within {patience:.0f} s: it was killed"
            return {"kind": kind, "why_not": words}
        if not line:
            return {"kind": "fault", "why_not": self._death()}
        answer: dict[str, Any] = json.loads(line)
        if answer.get("ends"):
            self.stop()
        return answer

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # compilers that it started too
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a kernel that hangs may keep it for a while
            self.process.wait(ENDING_SECONDS)
        self.process, self._rest = None, b""

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, started if necessary."""
        if self.process is None:
            self._log = self._log or tempfile.TemporaryFile()  # noqa: SIM115 - __exit__ closes it
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
            self.process = subprocess.Popen(self.command, **pipes, env=environment, start_new_session=True)
            self.starts += 1
        return self.process

    def _read_line(self, seconds: float) -> bytes | None:
        """The next line of the process: empty if it has ended, None after `seconds` without a line."""
        assert self.process is not None and self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self.process.stdout.fileno(), 2**16)
                if not chunk:
                    return b""
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self) -> str:
        """How the process ended, and the last line that it printed."""
        assert self.process is not None
        code = self.process.wait()
        self.stop()
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        last = self._last_line()
        return f"its process {ended}{f': {last}' if last else ''}"

    def _last_line(self) -> str:
        assert self._log is not None
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4096))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
