"""What can go wrong, as a tree; each leaf carries the exit code of the program.

ZigmaBenchError                 1
+- UsageError                   2   the suite, an option or a name is wrong
|  +- UnknownName               2   no such scan, backbone, dataset, metric or backend
+- NotReady                     3   the plan can't run: data, weights, plugin, geometry, folder
|  +- BrokenScan                3   an order that misses or repeats a token (scans/route.py)
|  +- Busy                      3   another process holds the lock of a folder
+- BrokenPlugin                 3   a plugin's code failed, or gave something else than its hook says
+- ComparisonRefused            4   figures that must not stand in one table
|  +- NewerFormat               4   a record or table that only a later version can read
+- CellFailed                   1   a cell stopped; the others go on
|  +- NotFinite                 1   the loss became NaN or infinite
|  +- BadImage                  1   an image of a dataset can't be decoded
+- Interrupted                 75   stopped from outside; the same command goes on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZigmaBenchError(Exception):
    """An error that a person can mend: what, where, expected, got, nearest and what to do, as one paragraph."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: object = None,
        nearest: str | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got = what, where, expected, got
        self.nearest, self.do = nearest, do
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {self.got!r}"
        if self.nearest is not None:
            text += f"; did you mean {self.nearest!r}?"
        return text + (f"; {self.do}" if self.do else "")

    def at(self, where: str) -> ZigmaBenchError:
        """The same error, told where it is (the innermost place that was named stays)."""
        self.where = self.where or where
        return self


class UsageError(ZigmaBenchError):
    """The suite, an option or an argument is wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing is registered under."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        known = sorted(known)
        super().__init__(
            f"no {kind} is called {name!r}",
            where=where,
            expected=f"one of {', '.join(known) or '(none registered)'}",
            nearest=nearest(name, known),
        )


class NotReady(ZigmaBenchError):
    """The plan can't run: data, weights, a plugin or a backend is missing, or a geometry doesn't fit."""

    exit_code = 3


class Busy(NotReady):
    """Another process is at work in a folder; waiting for it is all there is to do."""


class BrokenPlugin(ZigmaBenchError):
    """A plugin's code raised an exception, or gave something else than its hook says."""

    exit_code = 3


class ComparisonRefused(ZigmaBenchError):
    """Figures that were measured unlike and must not stand in one table."""

    exit_code = 4


class NewerFormat(ComparisonRefused):
    """A file of results has a format that this version does not know."""


class CellFailed(ZigmaBenchError):
    """One cell stopped; the others go on."""


class NotFinite(CellFailed):
    """The loss became NaN or infinite."""


class BadImage(CellFailed):
    """An image of a dataset can't be decoded."""


class Interrupted(ZigmaBenchError):
    """Stopped from outside; the same command goes on where it stopped."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelt one, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
