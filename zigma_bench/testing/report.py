"""Run the checks of a plugin, and collect the results in a report."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plugins.places import code_place_of
from zigma_bench.system.interrupts import contain_plugin, words_of


class CheckFailed(AssertionError):
    """A check failed. The text says what was found instead of the expected."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    what: str
    expected: str
    got: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}; got {self.got}"


@dataclass(frozen=True)
class Report:
    """The results of all checks of one registered object."""

    kind: str
    name: str
    owner: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def require(self) -> Report:
        """Return the report; AssertionError with all failed checks."""
        failed = [str(check) for check in self.checks if not check.ok]
        if failed:
            raise AssertionError(f"{self.kind} {self.name!r} of {self.owner}: " + "\n".join(failed))
        return self


@dataclass(frozen=True)
class CheckStep:
    """A check to run. `run()` returns what it found, or raises. If an `essential` check fails, the rest is skipped."""

    what: str
    expected: str
    run: Callable[[], str]
    essential: bool = False


def run_checks(steps: Sequence[CheckStep]) -> tuple[Check, ...]:
    """Run the checks in order."""
    checks = []
    for step in steps:
        try:
            with contain_plugin():
                check = Check(step.what, step.expected, step.run(), True)
        except Exception as error:  # a plugin may raise anything
            check = Check(step.what, step.expected, describe_error(error), False)
        checks.append(check)
        if step.essential and not check.ok:
            break
    return tuple(checks)


def describe_error(error: Exception) -> str:
    """The text of an exception, and the place in the plugin's code where it was raised."""
    if isinstance(error, CheckFailed):
        return str(error)
    text = str(error) if isinstance(error, ZigmaBenchError) else words_of(error)
    place = code_place_of(error)
    if place is None and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}"
    return f"{text} ({place})"
