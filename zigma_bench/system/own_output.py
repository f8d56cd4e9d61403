"""Standard output takes what the program's own commands write; what plugins and libraries print goes to standard error.

So `--json` is one document, whatever a plugin, its threads, its processes or its last words (`atexit`) print.
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
WRITERS = ("click", "typer", "rich", "json", "contextlib")  # what the commands write through


def reserve_stdout(errors: str) -> None:
    """Keep standard output for the program's own commands from here on; `errors` names its handler of encoding errors.

    Where it stands for something else than file descriptor 1, as under pytest, nothing is changed.
    """
    given = sys.stdout
    if not isinstance(given, io.TextIOWrapper) or given is not sys.__stdout__ or given.fileno() != 1:
        return
    given.flush()
    own, lines = os.dup(1), os.isatty(1)
    _send_to_stderr(1)
    sys.stdout = OwnOutput(os.fdopen(own, "wb"), encoding=given.encoding, errors=errors, line_buffering=lines)


class Output(io.TextIOWrapper):
    """Standard output, whose failure is an error of its own: a full disk behind it is not that of the results."""

    def write(self, text: str) -> int:
        with self._losing():
            return super().write(text)

    def flush(self) -> None:
        with self._losing():
            super().flush()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Turn a failure to write into OutputLost, after which the output leads nowhere and nothing else complains."""
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
    """Standard output that passes on what others than the program's commands write to standard error."""

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
    """Whether the first caller outside of what the commands write through is the program's own code."""
    frame = sys._getframe(1).f_back  # none where `atexit` calls print itself
    while frame is not None and _writes(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(OURS)


def _writes(module: Any) -> bool:
    return str(module).partition(".")[0] in WRITERS


def _send_to_stderr(number: int) -> None:
    """Have a file descriptor lead to standard error, or nowhere where that is closed."""
    try:
        os.dup2(2, number)
    except OSError:
        send_nowhere(number)


def send_nowhere(number: int) -> None:
    """Have a file descriptor lead nowhere."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
