"""The images of each step: the same from any number of processes and after any restart, and no process remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zigma_bench.data.images import ArrayImages, Subset, needs_workers
from zigma_bench.data.sources.options import GaussianRandomFieldOptions
from zigma_bench.data.sources.random_field import load
from zigma_bench.errors import BadImage, CellFailed, NotReady
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Train
from zigma_bench.training import batch_plan as module
from zigma_bench.training.batch_plan import BatchPlan, StepImages
from zigma_bench.training.feed import AHEAD, Feed, workers_of

ROOT = Path(__file__).resolve().parents[2]
FIELDS = load(GaussianRandomFieldOptions(slope=1.0, resolution=8, count=2_000_000, validation=1)).train  # 128 MB: drawn
JOB = BatchPlan(FIELDS, batch=5, seed=3, labelled=False)


def fed(workers: int, start: int = 0, stop: int = 6, job: BatchPlan = JOB) -> list[torch.Tensor]:
    with Feed(job, Train(batch=5, workers=workers), start=start, stop=stop, on_gpu=False) as feed:
        assert feed.workers == workers
        return [feed(step).pixels for step in range(start, stop)]


def test_any_number_of_processes_gives_the_same_batches() -> None:
    assert needs_workers(FIELDS)
    none = fed(0)
    assert len({batch.numpy().tobytes() for batch in none}) == 6
    for workers in (1, 2):
        for batch, other in zip(none, fed(workers), strict=True):
            assert torch.equal(batch, other)
    for batch, other in zip(none[4:], fed(1, start=4), strict=True):
        assert torch.equal(batch, other)


def test_images_in_memory_need_no_process() -> None:
    images = ArrayImages(np.zeros((4, 1, 2, 2), np.uint8))
    assert workers_of(Train(workers=7), images) == workers_of(Train(), Subset(images, np.arange(2))) == 0
    assert workers_of(Train(workers=7), FIELDS) == 7 == workers_of(Train(workers=7), Subset(FIELDS, np.arange(9)))
    assert 1 <= workers_of(Train(), FIELDS) <= 16


BAD = """
import os, signal
from dataclasses import dataclass
import numpy as np
import zigma_bench
from zigma_bench.errors import BadImage
from zigma_bench.data.images import Splits
from zigma_bench.plugins.registry import DataFacts, DatasetFacts

@dataclass(frozen=True)
class Bad:
    "Images of which one can't be decoded, or that end their process."
    deadly: bool = False
    decodes: bool = True
    def __len__(self):
        return 10
    def take(self, indices):
        if self.deadly and len(indices) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if 7 in indices:
            raise BadImage("the image can't be decoded", where="row 7", do="mend it")
        return np.zeros((len(indices), 1, 2, 2), np.uint8)

@zigma_bench.hookimpl
def register_datasets(register):
    register("bad", "bad_images:Bad", options=Bad, facts=DatasetFacts(describe=None))
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of a plugin's file, which no process could import without loading the plugins."""
    (tmp_path / "bad_images.py").write_text(BAD)
    monkeypatch.setenv("ZIGMA_BENCH_PLUGIN_FOLDER", str(tmp_path))
    catalogue.cache_clear()
    catalogue()
    yield sys.modules["bad_images"].Bad
    del sys.modules["bad_images"]
    catalogue.cache_clear()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_as_it_would_be_without_processes(workers: int, bad: Any) -> None:
    with pytest.raises(BadImage) as caught:
        fed(workers, stop=2, job=BatchPlan(bad(), 5, 0, labelled=False))
    assert str(caught.value) == "row 7: the image can't be decoded; mend it"


def test_a_process_that_dies_is_a_clear_error(bad: Any) -> None:
    with pytest.raises(
        CellFailed, match=r"train\.workers: a worker process that loads images was killed.*lower train.workers"
    ):
        fed(1, job=BatchPlan(bad(deadly=True), 5, 0, labelled=False))


def test_a_process_that_is_killed_in_the_middle_is_a_clear_error() -> None:
    def killed() -> None:
        with Feed(JOB, Train(batch=5, workers=1), start=0, stop=10_000, on_gpu=False) as feed:
            for step in range(10_000):
                feed(step)
                if step == 3:
                    os.kill(feed.ahead._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]

    with pytest.raises(CellFailed, match="worker process that loads images was killed"):
        killed()


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError("reset by peer"), FileNotFoundError("no socket")])
def test_a_process_that_is_killed_while_its_batch_is_fetched_is_one_too(error: Exception) -> None:
    def cut() -> Iterator[Any]:
        raise error
        yield

    def killed() -> None:
        with Feed(JOB, Train(batch=5, workers=0), start=0, stop=2, on_gpu=False) as feed:
            feed.ahead = cut()  # type: ignore[assignment]
            try:
                feed(0)
            finally:
                feed.ahead = None

    with pytest.raises(CellFailed, match=rf"worker process that loads images was killed: .*{type(error).__name__}"):
        killed()


def test_an_error_of_the_training_itself_is_not_taken_for_one() -> None:
    def train() -> None:
        with Feed(JOB, Train(batch=5, workers=0), start=0, stop=2, on_gpu=False) as feed:
            feed(0)
            raise EOFError("a file of somebody's own")

    with pytest.raises(EOFError, match="somebody's own"):
        train()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[StepImages]:
    """Records what would be pinned, in order, without a GPU."""
    found: list[StepImages] = []

    def pin(self: StepImages) -> StepImages:
        found.append(self)
        return self

    monkeypatch.setattr(StepImages, "pin_memory", pin)
    return found


def test_for_a_gpu_a_thread_pins_the_next_steps_and_no_more(pinned: list[StepImages]) -> None:
    with Feed(JOB, Train(batch=5, workers=0), start=3, stop=20, on_gpu=True) as feed:
        for step in range(3, 20):
            taken = feed(step)
            assert torch.equal(taken.pixels, JOB.take(step).pixels) and any(taken is one for one in pinned)
            assert len(pinned) <= step - 3 + 1 + AHEAD
    assert len(pinned) == 17 and feed.thread is None


@pytest.mark.usefixtures("pinned")
def test_a_training_that_ends_early_ends_the_thread() -> None:
    with Feed(JOB, Train(batch=5, workers=0), start=0, stop=None, on_gpu=True) as feed:
        feed(0)
    assert feed.thread is None and not feed.queue


@pytest.mark.usefixtures("pinned")
def test_an_error_in_that_thread_is_raised_at_its_step(bad: Any) -> None:
    def train() -> None:
        with Feed(
            BatchPlan(bad(), 5, 0, labelled=False), Train(batch=5, workers=0), start=0, stop=2, on_gpu=True
        ) as feed:
            feed(0)
            feed(1)

    with pytest.raises(BadImage, match="row 7"):
        train()


def test_a_worker_that_aborts_during_shutdown_is_ignored() -> None:
    told = []
    with Feed(JOB, Train(batch=5, workers=1), start=0, stop=100, on_gpu=False) as feed:
        feed(0)
        end = feed.ahead._shutdown_workers

        def shutdown() -> None:
            end()
            if not told:
                told.append(True)
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Aborted.")

        feed.ahead._shutdown_workers = shutdown
    assert told


class Slow(ArrayImages):
    decodes = True

    def take(self, indices: Any) -> Any:
        time.sleep(0.05)
        return super().take(indices)


def test_images_that_do_not_pickle_are_refused() -> None:
    class Local(Slow):
        pass

    with pytest.raises(NotReady, match=r"can't be sent to a worker process.*set train.workers to 0"):
        fed(1, job=BatchPlan(Local(np.zeros((9, 1, 2, 2), np.uint8)), 5, 0, labelled=False))


def test_the_wait_for_slow_images_is_counted() -> None:
    job = BatchPlan(Slow(np.zeros((9, 1, 2, 2), np.uint8)), 5, 0, labelled=False)
    with Feed(job, Train(workers=0), start=0, stop=4, on_gpu=False) as feed:
        for step in range(4):
            feed(step)
        assert 0.2 <= feed.waited < 1.0


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module.epoch_order.cache_clear()
    for step in range(20):
        module.batch_indices(50, 10, 0, step)
    assert module.epoch_order.cache_info().misses == 4


ORPHANS = """
from zigma_bench.data.sources.options import GaussianRandomFieldOptions
from zigma_bench.data.sources.random_field import load
from zigma_bench.suite import Train
from zigma_bench.training.feed import Feed
from zigma_bench.training.batch_plan import BatchPlan

if __name__ == "__main__":
    images = load(GaussianRandomFieldOptions(slope=1.0, resolution=8, count=2_000_000, validation=1)).train
    with Feed(BatchPlan(images, 5, 0, labelled=False), Train(workers=2), start=0, stop=10**6, on_gpu=False) as feed:
        print(*[process.pid for process in feed.ahead._workers], flush=True)
        for step in range(10**6):
            feed(step)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_processes_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        run.kill()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


LARGE = """
from zigma_bench.data.sources.options import GaussianRandomFieldOptions
from zigma_bench.data.sources.random_field import load
from zigma_bench.suite import Train
from zigma_bench.training.feed import Feed
from zigma_bench.training.batch_plan import BatchPlan

if __name__ == "__main__":
    images = load(GaussianRandomFieldOptions(slope=1.0, resolution=512, count=10_000, validation=1)).train
    plan = BatchPlan(images, 64, 0, labelled=False)
    with Feed(plan, Train(batch=64, workers=1), start=0, stop=None, on_gpu=False) as feed:
        feed(0)
"""


def test_a_process_that_hands_over_a_large_batch_ends_quietly(tmp_path: Path) -> None:
    """The worker is asked to end while one of its threads is inside PyTorch. Python's own shutdown would abort
    there."""
    (tmp_path / "main.py").write_text(LARGE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and "terminate" not in done.stderr and "Abort" not in done.stderr, done.stderr
