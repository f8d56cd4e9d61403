"""Reads an iterator on a thread of its own, some items ahead of who takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.2  # how often a full queue's thread looks whether anybody still waits


class _End:
    """The end of the items, with the error that ended them, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, `count` at most read before they are taken; an error comes in its place among them.

    The thread starts with the first item that is asked for, and ends with the items or when nobody holds the iterator.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(count)
    gone = threading.Event()
    threading.Thread(target=_read, args=(items, waiting, gone), daemon=True).start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()


def _read(items: Iterator[T], waiting: queue.Queue[T | _End], gone: threading.Event) -> None:
    try:
        for item in items:
            if not _put(item, waiting, gone):
                return
        _put(_End(), waiting, gone)
    except BaseException as error:
        _put(_End(error), waiting, gone)


def _put(item: T | _End, waiting: queue.Queue[T | _End], gone: threading.Event) -> bool:
    """Whether an item found its place before everybody was gone."""
    while not gone.is_set():
        try:
            waiting.put(item, timeout=POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
