"""Containment of plugin code: whatever it raises becomes an Exception, and only the user can interrupt the program."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Escaped(Exception):
    """A plugin raised something that isn't an Exception, such as SystemExit; `__cause__` is that exception."""


@contextmanager
def contain_plugin() -> Iterator[None]:
    """A context for calling plugin code: whatever the code raises leaves the context as an Exception.

    Raises KeyboardInterrupt if a signal interrupted the code, even if the plugin raised another exception then.
    """
    with noted_interrupts() as noted:
        try:
            yield
        except Exception:
            if noted:
                raise KeyboardInterrupt from None
            raise
        except BaseException as error:
            if noted:
                raise KeyboardInterrupt from None
            raise Escaped(words_of(error)) from error


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """A context that yields the list of the signals that raised KeyboardInterrupt inside; their handlers still run."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield noted
        return
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, functools.partial(_note, noted, handler))
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)


def words_of(error: BaseException) -> str:
    """The type and text of an exception: `SystemExit: 3`."""
    cause = error.__cause__ if isinstance(error, Escaped) and error.__cause__ is not None else error
    try:
        text = str(cause)
    except Exception as broken:  # an exception's own code may fail too
        text = f"(its text raises {type(broken).__name__})"
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _note(
    noted: list[int], handler: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None
) -> None:
    try:
        handler(number, frame)
    except KeyboardInterrupt:  # a handler that raises nothing ends the program later
        noted.append(number)
        raise
