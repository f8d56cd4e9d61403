"""`zigma-bench` and `python -m zigma_bench`: errors become one paragraph and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from zigma_bench.errors import NotReady, OutputLost, ZigmaBenchError, system_fault
from zigma_bench.escaping import visible, write_plainly

CLICK_INTERRUPTED = 130  # how Typer answers a KeyboardInterrupt
INTERRUPTED = 75


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a cell failed, 2 usage, 3 can't run, 4 refused, 75 interrupted."""
    with boundary():
        if sys.argv[1:] == ["--version"]:
            from zigma_bench import __version__

            print(f"zigma-bench {__version__}")
            return
        from zigma_bench.device import calm_collector

        calm_collector()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from zigma_bench.plugin_files import take_option

        sys.argv[1:] = take_option(sys.argv[1:])
        from zigma_bench.cli.app import app

        app(standalone_mode=True)


@contextlib.contextmanager
def boundary() -> Iterator[None]:
    """Turn what a person, a disk, a file or a terminal causes inside into one sentence on standard error and its code.

    Any other exception is a fault of the program and leaves its traceback.
    """
    code: int | str | None = 0
    try:
        _open_streams()
        yield
    except SystemExit as end:
        code = end.code
        if code == CLICK_INTERRUPTED:
            code = INTERRUPTED
            _complain("interrupted; the same command goes on where it stopped")
    except KeyboardInterrupt:
        code = INTERRUPTED
        _complain("interrupted; the same command goes on where it stopped")
    except BrokenPipeError:
        code = _give_up_output()
    except Exception as error:
        code = _explain(error)
    if (lost := _flush_output()) is not None:
        _complain(str(lost))
        code = code or lost.exit_code
    sys.exit(code)


def _explain(error: Exception) -> int:
    """Write an error down and give its code; what is no error of a person or a system is raised again."""
    fault = system_fault(error)
    if fault is None:
        raise error
    if isinstance(error, OSError) and error.filename is None and _flush_fails():
        fault = _lost(error)
    _complain(f"{fault}{_raised_at(error)}")
    return fault.exit_code


def _open_streams() -> None:
    """Make sure that the three standard streams are there and take any sign.

    A closed descriptor is opened on nothing, or the next file would take its number and get what libraries print.
    """
    lacking = [number for number in range(3) if not _is_open(number)]
    for number in lacking:
        os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest free number
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    closed = sys.stdout is None
    if closed:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    write_plainly(sys.stdout)
    write_plainly(sys.stderr)
    if closed:
        raise OutputLost("standard output is closed", do="send it to a file, or to /dev/null")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _flush_fails() -> bool:
    """Whether standard output holds text that it can't get rid of."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _flush_output() -> ZigmaBenchError | None:
    """Write out what is left; the error that this comes to, after which nothing more is tried."""
    lost: ZigmaBenchError | None = None
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        lost = OutputLost("standard output was closed before everything was written")
    except (OSError, ValueError) as error:
        _give_up_output()
        lost = _lost(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    return lost


def _lost(error: Exception) -> ZigmaBenchError:
    reason = system_fault(error)
    what = reason.what if isinstance(reason, NotReady) else str(error)
    return OutputLost(f"standard output can't be written: {what}", do="the same command prints it again")


def _give_up_output() -> int:
    """Send standard output nowhere, so that nothing complains at the end of the process."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return OutputLost.exit_code


def _complain(text: str) -> None:
    """One line on standard error; nothing more can be done where that fails."""
    try:
        print(f"zigma-bench: {visible(text)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _raised_at(error: Exception) -> str:
    """The line of a plugin that an error came from, if it came from one."""
    if (plugins := sys.modules.get("zigma_bench.plugins")) is None:
        return ""
    place = plugins.place_in_plugins(error)
    return f" (raised at {place})" if place else ""


if __name__ == "__main__":
    main()
