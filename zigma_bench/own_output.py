"""Standard output takes what the program's own commands write; what plugins and libraries print goes to standard error.

So `--json` is one document, whatever a plugin, its threads, its processes or its last words (`atexit`) print.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

OURS = str(Path(__file__).resolve().parent) + os.sep
WRITERS = ("click", "typer", "rich", "json", "contextlib")  # what the commands write through


def reserve_stdout() -> None:
    """Keep standard output for the program's own commands from here on.

    Where it is closed, or stands for something else than file descriptor 1, as under pytest, nothing is changed.
    """
    given = sys.stdout
    if not isinstance(given, io.TextIOWrapper) or id(given) != id(sys.__stdout__) or given.fileno() != 1:
        return
    given.flush()
    own = os.dup(1)
    _send_to_stderr(1)
    sys.stdout = OwnOutput(
        os.fdopen(own, "wb"), encoding=given.encoding, errors=given.errors, line_buffering=os.isatty(own)
    )


class OwnOutput(io.TextIOWrapper):
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
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
