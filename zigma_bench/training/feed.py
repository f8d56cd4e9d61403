"""The images of each step, taken ahead of it: by processes where taking is work, by a thread where they lie in memory.

What a step takes depends on (seed, step) alone, so any number of processes gives the same batches, before a restart and
after it. For a card the pixels wait in pinned memory, so that the host goes on while they are copied.
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

from zigma_bench.data.images import Images, decodes, has_order
from zigma_bench.errors import CellFailed, NotReady, ZigmaBenchError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Train
from zigma_bench.system.device import cores
from zigma_bench.training.job import Job, Taken

MOST_WORKERS = 16
AHEAD_BYTES = 2**30  # of pixels that may wait, where one batch a process is less
AHEAD = 4  # batches a process has ready at most


class Feed:
    """Gives the images of one step after another, and counts the seconds that were waited for them.

    Used as a context: its processes end with it, or when this process is gone. One that ends before is a CellFailed.
    """

    def __init__(self, job: Job, recipe: Train, *, start: int, stop: int | None, card: bool) -> None:
        self.job, self.card = job, card
        self.workers = workers_of(recipe, job.images)
        self.waited = 0.0
        self.steps = range(start, 2**62 if stop is None else max(start, stop))
        self.ahead: Any = None  # the iterator of a DataLoader
        self.first: Any = None
        self.thread: ThreadPoolExecutor | None = None  # on a card without processes: pins the next steps' images
        self.queue: deque[tuple[int, Future[Taken]]] = deque()
        self.most = 0  # of that queue, beside the step's own

    def __enter__(self) -> Self:
        if self.workers and len(self.steps):
            self.ahead = iter(_loader(self.job, self.steps, self.workers, self.card))
            try:
                with _losses_told():
                    self.first = _received(self.ahead)  # the processes have begun, which is not the network's time
            except BaseException:
                self._close()
                raise
        elif self.card:
            self.thread, self.most = ThreadPoolExecutor(1, thread_name_prefix="images"), _ahead(self.job, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _losses_told():
            try:
                if error is not None:
                    raise error
            finally:
                self._close()

    def _close(self) -> None:
        """End the processes; torch watches them, and would raise for a lost one again whenever any process ends.

        How one ends that is told to end says nothing of what was taken.
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

    def __call__(self, step: int) -> Taken:
        """The images of a step; they come in the order of the steps alone."""
        begun = time.perf_counter()
        taken = self._next(step) if self.ahead is not None else self._pinned(step) if self.card else self.job.take(step)
        self.waited += time.perf_counter() - begun
        return taken

    def _pinned(self, step: int) -> Taken:
        """Taken and pinned by the thread while the steps before are computed."""
        assert self.thread is not None, "a feed is used as a context"
        if self.queue and self.queue[0][0] != step:
            self.queue.clear()
        begin = self.queue[-1][0] + 1 if self.queue else step
        for number in range(begin, min(step + self.most + 1, self.steps.stop)):
            self.queue.append((number, self.thread.submit(self._pin, number)))
        return self.queue.popleft()[1].result()

    def _pin(self, step: int) -> Taken:
        return self.job.take(step).pin_memory()

    def _next(self, step: int) -> Taken:
        assert self.ahead is not None
        number, taken = self.first or _received(self.ahead)
        self.first = None
        if isinstance(taken, Exception):
            raise taken
        assert number == step, (number, step)
        return taken  # type: ignore[no-any-return]


def workers_of(recipe: Train, images: Images) -> int:
    """How many processes take the images: none where they lie in memory, one alone where they are a stream.

    What is cut anew at each use is decoded at each use.
    """
    if recipe.random_crop is None and not decodes(images):
        return 0
    workers = min(MOST_WORKERS, max(1, cores() - 1)) if recipe.workers == "auto" else recipe.workers
    return min(1, workers) if has_order(images) else workers


def _loader(job: Job, steps: Sequence[int], workers: int, card: bool) -> DataLoader[Any]:
    """Processes that take the images of steps; few batches wait where they are large."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the suite said how many
        return DataLoader(
            _Sent(_pickled(job)),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=_ahead(job, workers),
            pin_memory=card,
            collate_fn=_unchanged,
            worker_init_fn=_end_with_parent,
            multiprocessing_context="spawn",  # a fork would take the card's context and the threads along
            generator=torch.Generator(),  # not the default one, which the network draws from
        )


def _ahead(job: Job, takers: int) -> int:
    """How many batches each of these takers has ready at most."""
    return max(1, min(AHEAD, AHEAD_BYTES // (job.like(1).nbytes * job.batch * takers)))


class _Sent(Dataset[Any]):
    """A job as its process gets it: step by step, an error in the place of what could not be taken."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled
        self.job: Job | None = None

    def __getitem__(self, step: int) -> tuple[int, Taken | ZigmaBenchError]:
        if self.job is None:
            catalogue()  # a plugin's modules can be imported from now on
            self.job = pickle.loads(self.pickled)
        assert self.job is not None
        try:
            return step, self.job.take(step)
        except ZigmaBenchError as error:
            return step, error


def _pickled(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotReady(
            f"these images can't be sent to a process ({error})", got=type(job.images).__name__,
            do="make their class one of a module, or set train.workers to 0",
        ) from None  # fmt: skip


def _unchanged(taken: Any) -> Any:
    return taken


def _end_with_parent(number: int) -> None:
    """Have this process end at once when the one that trains is gone, and when it is told to end.

    A thread that hands a batch over may then be inside PyTorch, where Python's orderly end would abort the process.
    """
    Finalize(None, os._exit, args=(0,), exitpriority=-100)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _received(ahead: Iterator[Any]) -> Any:
    """The next batch of a DataLoader; torch fetches its memory from the process that took it, over a socket.

    Errors of images come as its answer, so that another one of files is of this socket.
    """
    try:
        return next(ahead)
    except (EOFError, OSError) as error:
        raise _lost(f"{type(error).__name__} while its batch was fetched") from error


@contextlib.contextmanager
def _losses_told() -> Iterator[None]:
    """CellFailed where torch says that a process of a DataLoader is gone."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _lost(str(error).splitlines()[0]) from error


def _lost(told: str) -> CellFailed:
    return CellFailed(
        f"a process that takes images was ended from outside: {told}",
        where="train.workers",
        do="lower train.workers or train.batch, or give the machine more memory or shared memory (/dev/shm)",
    )
