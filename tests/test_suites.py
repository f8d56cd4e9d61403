"""Every suite in suites/: it plans without data, and at toy scale it runs, every stage of every cell of it."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from zigma_bench.cell import Life, StageFailed, run_stage
from zigma_bench.device import find_device
from zigma_bench.runner import local
from zigma_bench.runner.prepare import prepare

SUITES = sorted((Path(__file__).resolve().parents[1] / "suites").glob("*.yaml"))
REFUSED = ("fid", "kid", "fvd", "is")  # without their weights


class Silent:
    def begin(self, *given: object) -> None: ...

    def event(self, *given: object) -> None: ...


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder for all suites, so that the features of a toy's reference are made once."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture
def in_this_process(monkeypatch):
    """Cells live in this process: a fresh one each, as tests of the runner have it, takes seconds to import torch."""

    def spawn(cell, folder, results, device, watcher, stages):
        folder.mkdir(parents=True, exist_ok=True)
        life = Life(cell, folder, results / ".cache", device, lambda event: None, lambda: False)
        try:
            with redirect_stderr(io.StringIO()):
                for stage in stages:
                    run_stage(life, stage)
        except StageFailed:
            return "failed"
        return None

    monkeypatch.setattr(local, "_spawn", spawn)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_it_runs_at_toy_scale(path, results, in_this_process):
    started = time.perf_counter()
    made = prepare(path, settings=(), only=None, smoke=True)
    made.check_ready()
    outcomes = local.run_plan(
        made, results, find_device("cpu"), Silent(), stages=("train", "sample", "quality", "efficiency")
    )
    print(f"{path.stem}: {len(outcomes)} cells, {time.perf_counter() - started:.1f} s")
    assert [outcome.reason for outcome in outcomes if outcome.status != "done"] == []
