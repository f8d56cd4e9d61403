"""Read an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.2  # how often the thread, while the queue is full, checks whether the consumer is gone


class _End:
    """The end of the items, with the error that ended them, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, read up to `count` items ahead; an error is raised at its place among the items.

    The thread starts when the first item is requested, and ends with the items or when the iterator is deleted.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(count)
    gone = threading.Event()
    threading.Thread(target=_read_items, args=(items, waiting, gone), daemon=True).start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()


def _read_items(items: Iterator[T], waiting: queue.Queue[T | _End], gone: threading.Event) -> None:
    try:
        for item in items:
            if not _put_item(item, waiting, gone):
                return
        _put_item(_End(), waiting, gone)
    except BaseException as error:
        _put_item(_End(error), waiting, gone)


def _put_item(item: T | _End, waiting: queue.Queue[T | _End], gone: threading.Event) -> bool:
    """Put an item into the queue; False if the consumer is gone."""
    while not gone.is_set():
        try:
            waiting.put(item, timeout=POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
