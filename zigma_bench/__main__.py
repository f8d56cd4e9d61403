"""The entry point of `zigma-bench` and `python -m zigma_bench`; an error becomes one paragraph and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import termios
import textwrap
from collections.abc import Iterator
from types import FrameType

from zigma_bench.errors import OutputLost, ZigmaBenchError, system_fault
from zigma_bench.escaping import visible, write_plainly
from zigma_bench.system.own_output import reserve_stdout, send_nowhere

CLICK_INTERRUPTED = 130  # Typer's exit code after a KeyboardInterrupt
INTERRUPTED = 75


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a cell failed, 2 usage, 3 can't run, 4 refused, 75 interrupted."""
    with boundary():
        if sys.argv[1:] == ["--version"]:
            from zigma_bench import __version__

            print(f"zigma-bench {__version__}")
            return
        from zigma_bench.system.device import reduce_garbage_collection
        from zigma_bench.system.interrupts import noted_interrupts

        reduce_garbage_collection()
        _handle_signals()
        with noted_interrupts() as interrupted:
            _run(interrupted)


@contextlib.contextmanager
def boundary() -> Iterator[None]:
    """A context that ends the process: an error that a person, a disk, a file or a terminal caused becomes one
    paragraph on standard error and an exit code.

    Any other exception is a bug of the program and prints its traceback.
    """
    code: int | str | None = 0
    try:
        _open_streams()
        yield
    except SystemExit as end:
        code = end.code
        if code == CLICK_INTERRUPTED:
            code = INTERRUPTED
            _complain("interrupted; the same command resumes where it stopped")
    except KeyboardInterrupt:
        code = INTERRUPTED
        _complain("interrupted; the same command resumes where it stopped")
    except Exception as error:
        code = _explain(error)
    lost = _flush()
    sys.exit(code or lost)


def _handle_signals() -> None:
    """Make SIGTERM and the closing of the terminal interrupt the program as Ctrl-C does; `nohup` still works."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Interrupt once, because the system and the shell both send SIGHUP; write nothing to a closed terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        termios.tcgetattr(2)
    except termios.error as error:
        if error.args[0] == errno.EIO:  # with another errno, standard error isn't a terminal
            send_nowhere(2)
    signal.default_int_handler(number, frame)


def _explain(error: Exception) -> int:
    """Print an error and return its exit code; a bug of the program is raised again."""
    fault = system_fault(error)
    if fault is None:
        raise error
    first, *others = fault.lines()
    _complain(f"{first}{_raised_at(error)}", *others)
    return fault.exit_code


def _open_streams() -> None:
    """Make sure that the three standard streams are open and can write any character.

    A closed descriptor is opened on the null device. Otherwise the next file that the program opens would get its
    number, and libraries would print into that file.
    """
    closed_numbers = [number for number in range(3) if not _is_open(number)]
    for number in closed_numbers:
        os.open(
            os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY
        )  # gets the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open until the process ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    closed = sys.stdout is None
    if closed:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    write_plainly(sys.stderr)
    reserve_stdout(write_plainly())
    if closed:
        raise OutputLost("standard output is closed", do="send it to a file, or to /dev/null")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _flush() -> int:
    """Flush both streams; return the exit code of a failure, or 0."""
    code = 0
    try:
        sys.stdout.flush()
    except ZigmaBenchError as error:
        _complain(str(error))
        code = error.exit_code
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    return code


def _complain(text: str, *problems: str) -> None:
    """Print a message and its problems on standard error; discard them if standard error can't be written.

    A terminal gets them wrapped between words; a file gets one line for each.
    """
    lines = [f"zigma-bench: {visible(text)}", *(f"  {visible(problem)}" for problem in problems)]
    try:
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            lines = [textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
        print("\n".join(lines), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        send_nowhere(2)


def _run(interrupted: list[int]) -> None:
    """Run the command; an exception from a plugin's code becomes BrokenPlugin, unless the user interrupted."""
    from zigma_bench.plugins.files import take_option

    sys.argv[1:] = take_option(sys.argv[1:])
    from zigma_bench.cli.app import app

    try:
        app(standalone_mode=True)
    except ZigmaBenchError:
        raise
    except BaseException as error:
        broken = None if interrupted else _plugin_error(error)
        if broken is None:
            raise
        raise broken from error


def _plugin_error(error: BaseException) -> ZigmaBenchError | None:
    """The BrokenPlugin error if a plugin's code raised the exception; else None.

    Commands also end with SystemExit. The frames of that exception itself decide, or those of the KeyboardInterrupt
    that caused it.
    """
    if (plugins := sys.modules.get("zigma_bench.plugins.discovery")) is None:
        return None
    if isinstance(error, SystemExit) and error.code == CLICK_INTERRUPTED and error.__context__ is not None:
        error = error.__context__
    broken: ZigmaBenchError | None = plugins.broken_plugin(error)
    return broken


def _raised_at(error: Exception) -> str:
    """` (raised at FILE:LINE)` if an error came from the code of a plugin; else nothing."""
    if (plugins := sys.modules.get("zigma_bench.plugins.discovery")) is None:
        return ""
    place = plugins.place_in_plugins(error)
    return f" (raised at {place})" if place else ""


if __name__ == "__main__":
    main()
