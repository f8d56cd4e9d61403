"""Standard output is reserved for the program's own commands; plugins and libraries write to standard error.

With `--json`, standard output is therefore one document, even if a plugin, its threads, its subprocesses or its
`atexit` functions print something.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zigma_bench.errors import OutputLost, system_fault

OURS = str(Path(__file__).resolve().parents[1]) + os.sep
WRITERS = ("click", "typer", "rich", "json", "contextlib")  # modules through which the commands write


def reserve_stdout(errors: str) -> None:
    """Reserve standard output for the program's own commands; `errors` names the handler of its encoding errors.

    Does nothing if sys.stdout doesn't write to file descriptor 1, as in pytest.
    """
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper) or stdout is not sys.__stdout__ or stdout.fileno() != 1:
        return
    stdout.flush()
    own, lines = os.dup(1), os.isatty(1)
    _send_to_stderr(1)
    sys.stdout = OwnOutput(os.fdopen(own, "wb"), encoding=stdout.encoding, errors=errors, line_buffering=lines)


class Output(io.TextIOWrapper):
    """Standard output that raises OutputLost if it can't be written, since it may be a file on another, full disk."""

    def write(self, text: str) -> int:
        with self._raising_output_lost():
            return super().write(text)

    def flush(self) -> None:
        with self._raising_output_lost():
            super().flush()

    @contextlib.contextmanager
    def _raising_output_lost(self) -> Iterator[None]:
        """Turn a failure to write into OutputLost, and discard all later output, so that it can't fail again."""
        try:
            yield
        except BrokenPipeError:
            self._silence()
            raise OutputLost("standard output was closed before everything was written") from None
        except OSError as error:
            self._silence()
            reason = system_fault(error)
            what = reason.what if reason is not None else str(error)
            do = "the same command prints it again"
            raise OutputLost(f"standard output can't be written: {what}", do=do) from None

    def _silence(self) -> None:
        send_nowhere(self.fileno())


class OwnOutput(Output):
    """Standard output for the program's commands; text from any other code is redirected to standard error."""

    def write(self, text: str) -> int:
        if _written_by_us():
            return super().write(text)
        return len(text) if sys.stderr is None else sys.stderr.write(text)

    @property
    def buffer(self) -> Any:
        if _written_by_us():
            return super().buffer
        return io.BytesIO() if sys.stderr is None else sys.stderr.buffer


def _written_by_us() -> bool:
    """Whether the first caller outside WRITERS is the program's own code."""
    frame = sys._getframe(1).f_back  # None if `atexit` itself calls print
    while frame is not None and _is_writer(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(OURS)


def _is_writer(module: Any) -> bool:
    return str(module).partition(".")[0] in WRITERS


def _send_to_stderr(number: int) -> None:
    """Redirect a file descriptor to standard error, or to the null device if standard error is closed."""
    try:
        os.dup2(2, number)
    except OSError:
        send_nowhere(number)


def send_nowhere(number: int) -> None:
    """Redirect a file descriptor to the null device."""
    with contextlib.suppress(OSError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, number)
        os.close(null_device)
