"""Code of a plugin is contained: whatever it raises is an error, and only the user's own interrupt ends the program."""

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
    """Stands for what a plugin raised that is no Exception, such as SystemExit; that is its `__cause__`."""


@contextmanager
def contained() -> Iterator[None]:
    """Inside, a plugin's code runs: what it raises comes out as an Exception.

    Raises KeyboardInterrupt where an interrupt was delivered, whatever the plugin made of it.
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
    """Inside, the signals that raise KeyboardInterrupt are noted as they are delivered; what they do is as before."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no other thread gets signals
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
    """An exception as its type and its text: `SystemExit: 3`."""
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
    except KeyboardInterrupt:  # a handler that raises nothing has the program end later
        noted.append(number)
        raise
