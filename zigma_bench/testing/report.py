"""What a check of a plugin found: a line for each thing that was looked at."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plugins.places import code_place_of
from zigma_bench.system.interrupts import contain_plugin, words_of


class CheckFailed(AssertionError):
    """A check that does not hold; the text is what was got."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    expected: str
    got: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}; got {self.got}"


@dataclass(frozen=True)
class Report:
    """All checks of one registered name."""

    kind: str
    name: str
    owner: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def require(self) -> Report:
        """The report itself; AssertionError with all that does not hold."""
        failed = [str(check) for check in self.checks if not check.ok]
        if failed:
            raise AssertionError(f"{self.kind} {self.name!r} of {self.owner}: " + "\n".join(failed))
        return self


@dataclass(frozen=True)
class CheckStep:
    """A check to be made: `look()` gives what was got, or raises. Where an `essential` one fails, it is the last."""

    what: str
    expected: str
    look: Callable[[], str]
    essential: bool = False


def run_checks(steps: Sequence[CheckStep]) -> tuple[Check, ...]:
    """Make the checks in order."""
    checks = []
    for step in steps:
        try:
            with contain_plugin():
                check = Check(step.what, step.expected, step.look(), True)
        except Exception as error:  # a plugin may raise anything
            check = Check(step.what, step.expected, describe_error(error), False)
        checks.append(check)
        if step.essential and not check.ok:
            break
    return tuple(checks)


def describe_error(error: Exception) -> str:
    """An exception as a line: what it says, and where in the plugin's code it was raised."""
    if isinstance(error, CheckFailed):
        return str(error)
    text = str(error) if isinstance(error, ZigmaBenchError) else words_of(error)
    place = code_place_of(error)
    if place is None and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}"
    return f"{text} ({place})"
