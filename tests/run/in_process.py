"""A worker that runs cells in this process: the fresh one that users have takes seconds to import torch."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from zigma_bench.records.store import only_writer
from zigma_bench.run.executors.executor import RunPlace
from zigma_bench.run.executors.worker_process import Job
from zigma_bench.system.device import Device


class InProcessWorker:
    """Takes the place of `WorkerProcess`: the events of a job are in a pipe when `send` returns."""

    input: int | None

    def __init__(self, device: Device, first_log: Path, *, threads: int | None) -> None:
        self.device, self.jobs, self.code = device, 0, 0
        handle, self.input = os.pipe()
        self.output = os.fdopen(handle, "rb")

    def send(self, job: Job, place: RunPlace) -> None:
        from zigma_bench.run.stages.context import StageContext, StageFailed
        from zigma_bench.run.stages.run import run_due_stages

        self.jobs += 1
        task = job.task
        task.folder.mkdir(parents=True, exist_ok=True)
        log, cache = io.StringIO(), place.results / ".cache"
        context = StageContext(task.cell, task.folder, cache, self.device, self._emit, lambda: False)
        try:
            with contextlib.redirect_stderr(log), only_writer(task.folder):
                run_due_stages(context, job.stages)
        except StageFailed:
            self.code = 1
            self.dismiss()
        else:
            self._emit({"event": "end", "retired": None})

    def _emit(self, event: dict[str, Any]) -> None:
        if event["event"] != "progress":  # the pipe holds 64 KiB
            assert self.input is not None
            os.write(self.input, json.dumps({**event, "known": True}).encode() + b"\n")

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        data = os.read(self.output.fileno(), 2**20)
        return [json.loads(line) for line in data.splitlines()], not data

    def wait(self) -> int:
        self.output.close()
        return self.code

    def dismiss(self) -> None:
        if self.input is not None:
            os.close(self.input)
            self.input = None

    def interrupt(self) -> None: ...

    def is_alive(self) -> bool:
        return False

    def kill(self) -> None:
        self.dismiss()
