"""`zigma-bench` and `python -m zigma_bench`: errors become one paragraph and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zigma_bench.errors import ZigmaBenchError

CLICK_INTERRUPTED = 130  # how Typer answers a KeyboardInterrupt


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a cell failed, 2 usage, 3 can't run, 4 refused, 75 interrupted."""
    if sys.argv[1:] == ["--version"]:
        from zigma_bench import __version__

        print(f"zigma-bench {__version__}")
        return
    from zigma_bench.device import calm_collector
    from zigma_bench.errors import ZigmaBenchError
    from zigma_bench.interrupts import noted_interrupts
    from zigma_bench.own_output import reserve_stdout

    calm_collector()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reserve_stdout()
    try:
        with noted_interrupts() as interrupted:
            _run(interrupted)
    except ZigmaBenchError as error:
        print(f"zigma-bench: {error}{_raised_at(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == CLICK_INTERRUPTED:
            print("zigma-bench: interrupted; the same command goes on where it stopped", file=sys.stderr)
            sys.exit(75)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(interrupted: list[int]) -> None:
    """The command; what a plugin raises in it is a BrokenPlugin, unless the user interrupted."""
    from zigma_bench.errors import ZigmaBenchError
    from zigma_bench.plugin_files import take_option

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
    if (plugins := sys.modules.get("zigma_bench.plugins")) is None:
        return None
    if isinstance(error, SystemExit) and error.code == CLICK_INTERRUPTED and error.__context__ is not None:
        error = error.__context__
    broken: ZigmaBenchError | None = plugins.broken_plugin(error)
    return broken


def _raised_at(error: Exception) -> str:
    """The line of a plugin that an error came from, if it came from one."""
    if (plugins := sys.modules.get("zigma_bench.plugins")) is None:
        return ""
    place = plugins.place_in_plugins(error)
    return f" (raised at {place})" if place else ""


if __name__ == "__main__":
    main()
