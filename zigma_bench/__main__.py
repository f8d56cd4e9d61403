"""`zigma-bench` and `python -m zigma_bench`: errors become one paragraph and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import termios
from collections.abc import Iterator
from types import FrameType

from zigma_bench.errors import OutputLost, ZigmaBenchError, system_fault
from zigma_bench.escaping import visible, write_plainly
from zigma_bench.system.own_output import reserve_stdout, send_nowhere

CLICK_INTERRUPTED = 130  # how Typer answers a KeyboardInterrupt
INTERRUPTED = 75


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a cell failed, 2 usage, 3 can't run, 4 refused, 75 interrupted."""
    with boundary():
        if sys.argv[1:] == ["--version"]:
            from zigma_bench import __version__

            print(f"zigma-bench {__version__}")
            return
        from zigma_bench.system.device import calm_collector
        from zigma_bench.system.interrupts import noted_interrupts

        calm_collector()
        _take_signals()
        with noted_interrupts() as interrupted:
            _run(interrupted)


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
    except Exception as error:
        code = _explain(error)
    lost = _flush()
    sys.exit(code or lost)


def _take_signals() -> None:
    """Have SIGTERM and a terminal that closes interrupt the program as Ctrl-C does; `nohup` still has it go on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Interrupt once, for a shell passes on what the system has sent already; a terminal that is gone gets no more."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        termios.tcgetattr(2)
    except termios.error as error:
        if error.args[0] == errno.EIO:  # any other: standard error is no terminal
            send_nowhere(2)
    signal.default_int_handler(number, frame)


def _explain(error: Exception) -> int:
    """Write an error down and give its code; what is no error of a person or a system is raised again."""
    fault = system_fault(error)
    if fault is None:
        raise error
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
    """Write out what is left; the code of a failure, or 0."""
    code = 0
    try:
        sys.stdout.flush()
    except ZigmaBenchError as error:
        _complain(str(error))
        code = error.exit_code
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    return code


def _complain(text: str) -> None:
    """One line on standard error; nothing more can be done where that fails."""
    try:
        print(f"zigma-bench: {visible(text)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        send_nowhere(2)


def _run(interrupted: list[int]) -> None:
    """The command; what a plugin raises in it is a BrokenPlugin, unless the user interrupted."""
    from zigma_bench.plugins.files import take_option

    sys.argv[1:] = take_option(sys.argv[1:])
    from zigma_bench.cli.app import app

    try:
        app(standalone_mode=True)
    except ZigmaBenchError:
        raise
    except BaseException as error:
        broken = None if interrupted else _of_a_plugin(error)
        if broken is None:
            raise
        raise broken from error


def _of_a_plugin(error: BaseException) -> ZigmaBenchError | None:
    """The error of a plugin whose code raised an exception; None where none did.

    SystemExit is how commands end, so of one only its own frames count, or those of the KeyboardInterrupt behind it.
    """
    if (plugins := sys.modules.get("zigma_bench.plugins.discovery")) is None:
        return None
    if isinstance(error, SystemExit) and error.code == CLICK_INTERRUPTED and error.__context__ is not None:
        error = error.__context__
    broken: ZigmaBenchError | None = plugins.broken_plugin(error)
    return broken


def _raised_at(error: Exception) -> str:
    """The line of a plugin that an error came from, if it came from one."""
    if (plugins := sys.modules.get("zigma_bench.plugins.discovery")) is None:
        return ""
    place = plugins.place_in_plugins(error)
    return f" (raised at {place})" if place else ""


if __name__ == "__main__":
    main()
