"""Load the images of each training step ahead of time.

Worker processes load images that must be decoded; a thread pins images that are already in memory. A batch depends only
on (seed, step), so it is the same for any number of workers and after a restart. On a GPU, batches wait in pinned
memory so that the copy is asynchronous.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset

from zigma_bench.data.images import Images, has_order, needs_workers
from zigma_bench.errors import CellFailed, NotReady, ZigmaBenchError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Train
from zigma_bench.system.device import usable_cores
from zigma_bench.training.batch_plan import BatchPlan, StepImages

MOST_WORKERS = 16
AHEAD_BYTES = 2**30  # limit for all prefetched pixels together; each worker prefetches at least one batch
AHEAD = 4  # at most this many prefetched batches per worker


class Feed:
    """Loads the images of one step after another, and counts the seconds that the training waits for them.

    A context manager: the workers end when it exits, or when this process dies. Raises CellFailed if a worker dies
    early.
    """

    def __init__(self, batch_plan: BatchPlan, recipe: Train, *, start: int, stop: int | None, on_gpu: bool) -> None:
        self.batch_plan, self.on_gpu = batch_plan, on_gpu
        self.workers = workers_of(recipe, batch_plan.images)
        self.waited = 0.0
        self.steps = range(start, 2**62 if stop is None else max(start, stop))
        self.ahead: Any = None  # the iterator of a DataLoader
        self.first: Any = None
        self.thread: ThreadPoolExecutor | None = None  # on a GPU without workers: pins the images of the next steps
        self.queue: deque[tuple[int, Future[StepImages]]] = deque()
        self.most = 0  # batches in the queue, besides the current step's

    def __enter__(self) -> Self:
        if self.workers and len(self.steps):
            self.ahead = iter(_make_loader(self.batch_plan, self.steps, self.workers, self.on_gpu))
            try:
                with _worker_death_as_cell_failed():
                    self.first = _receive_batch(self.ahead)  # starting the workers must not count as training time
            except BaseException:
                self._close()
                raise
        elif self.on_gpu:
            self.thread, self.most = (
                ThreadPoolExecutor(1, thread_name_prefix="images"),
                _prefetched_batches(self.batch_plan, 1),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _worker_death_as_cell_failed():
            try:
                if error is not None:
                    raise error
            finally:
                self._close()

    def _close(self) -> None:
        """End the workers. Errors of workers that are shut down are ignored, because all needed batches have arrived.

        Without the shutdown, torch would raise for a dead worker again whenever any child process ends.
        """
        if self.thread is not None:
            self.thread.shutdown(wait=True, cancel_futures=True)
        if self.ahead is not None:
            try:
                self.ahead._shutdown_workers()
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
        self.ahead = self.first = self.thread = None
        self.queue.clear()

    def __call__(self, step: int) -> StepImages:
        """The images of a step. Steps must be requested in order."""
        begun = time.perf_counter()
        if self.ahead is not None:
            images = self._next(step)
        else:
            images = self._pinned(step) if self.on_gpu else self.batch_plan.take(step)
        self.waited += time.perf_counter() - begun
        return images

    def _pinned(self, step: int) -> StepImages:
        """A batch that the thread loaded and pinned during the previous steps."""
        assert self.thread is not None, "a Feed is a context manager"
        if self.queue and self.queue[0][0] != step:
            self.queue.clear()
        begin = self.queue[-1][0] + 1 if self.queue else step
        for number in range(begin, min(step + self.most + 1, self.steps.stop)):
            self.queue.append((number, self.thread.submit(self._pin, number)))
        return self.queue.popleft()[1].result()

    def _pin(self, step: int) -> StepImages:
        return self.batch_plan.take(step).pin_memory()

    def _next(self, step: int) -> StepImages:
        assert self.ahead is not None
        number, images = self.first or _receive_batch(self.ahead)
        self.first = None
        if isinstance(images, Exception):
            raise images
        assert number == step, (number, step)
        return images  # type: ignore[no-any-return]


def workers_of(recipe: Train, images: Images) -> int:
    """The number of worker processes: 0 for images in memory, at most 1 for a stream.

    Random crops decode an image again at each use, so they also need workers.
    """
    if recipe.random_crop is None and not needs_workers(images):
        return 0
    workers = min(MOST_WORKERS, max(1, usable_cores() - 1)) if recipe.workers == "auto" else recipe.workers
    return min(1, workers) if has_order(images) else workers


def _make_loader(batch_plan: BatchPlan, steps: Sequence[int], workers: int, on_gpu: bool) -> DataLoader[Any]:
    """A DataLoader over steps. It prefetches fewer batches if they are large."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the suite chose the number
        return DataLoader(
            _PickledPlan(_pickle_plan(batch_plan)),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=_prefetched_batches(batch_plan, workers),
            pin_memory=on_gpu,
            collate_fn=_unchanged,
            worker_init_fn=_end_with_parent,
            multiprocessing_context="spawn",  # a fork would inherit the CUDA context and the threads
            generator=torch.Generator(),  # leaves the default generator to the network's random numbers
        )


def _prefetched_batches(batch_plan: BatchPlan, workers: int) -> int:
    """How many batches each worker prefetches at most."""
    return max(1, min(AHEAD, AHEAD_BYTES // (batch_plan.example_pixels(1).nbytes * batch_plan.batch * workers)))


class _PickledPlan(Dataset[Any]):
    """A batch plan in a worker process: item `step` is the batch of that step, or the error that loading it raised."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled
        self.batch_plan: BatchPlan | None = None

    def __getitem__(self, step: int) -> tuple[int, StepImages | ZigmaBenchError]:
        if self.batch_plan is None:
            catalogue()  # makes the modules of plugins importable
            self.batch_plan = pickle.loads(self.pickled)
        assert self.batch_plan is not None
        try:
            return step, self.batch_plan.take(step)
        except ZigmaBenchError as error:
            return step, error


def _pickle_plan(batch_plan: BatchPlan) -> bytes:
    try:
        return pickle.dumps(batch_plan)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotReady(
            f"these images can't be sent to a worker process ({error})", got=type(batch_plan.images).__name__,
            do="define their class at the top level of a module, or set train.workers to 0",
        ) from None  # fmt: skip


def _unchanged(batch: Any) -> Any:
    return batch


def _end_with_parent(number: int) -> None:
    """Make this worker exit at once when the training process dies, and when it is asked to end.

    It skips Python's shutdown, which would abort the process if a thread is inside PyTorch handing over a batch.
    """
    Finalize(None, os._exit, args=(0,), exitpriority=-100)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _receive_batch(ahead: Iterator[Any]) -> Any:
    """The next batch of a DataLoader. torch fetches its memory from the worker over a socket.

    Errors of images arrive as items, so an OSError here comes from the socket: the worker is dead.
    """
    try:
        return next(ahead)
    except (EOFError, OSError) as error:
        raise _lost_worker(f"{type(error).__name__} while its batch was fetched") from error


@contextlib.contextmanager
def _worker_death_as_cell_failed() -> Iterator[None]:
    """Turn torch's error about a dead DataLoader worker into CellFailed."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _lost_worker(str(error).splitlines()[0]) from error


def _lost_worker(reason: str) -> CellFailed:
    return CellFailed(
        f"a worker process that loads images was killed: {reason}",
        where="train.workers",
        do="lower train.workers or train.batch, or give the machine more memory or shared memory (/dev/shm)",
    )
