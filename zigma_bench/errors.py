"""The errors of the program, as a tree with their exit codes.

ZigmaBenchError                 1
+- UsageError                   2   the suite, an option or a name is wrong
|  +- UnknownName               2   no such scan, backbone, dataset, metric or backend
+- NotReady                     3   the plan can't run: data, weights, plugin, geometry, folder
|  +- BrokenScan                3   an order that misses or repeats a token (scans/route.py)
|  +- Busy                      3   another process holds the lock of a folder
+- BrokenPlugin                 3   a plugin's code failed, or returned something that its hook doesn't allow
|  +- SystemFault               3   a disk, a file, memory or an encoding failed
+- ComparisonRefused            4   figures that can't share a table
|  +- NewerFormat               4   a record or table that only a later version can read
|  +- BrokenPack                4   the packed records of a run can't be read
+- CellFailed                   1   a cell stopped; the others continue
|  +- NotFinite                 1   the loss became NaN or infinite
|  +- BadImage                  1   an image of a dataset can't be decoded
+- OutputLost                   1   standard output can't be written
+- Interrupted                 75   stopped by a signal; the same command resumes the work
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence

from zigma_bench.escaping import shortened, visible

LONGEST_TEXT = 2000  # characters of a message
LONGEST_NAME = 100  # characters of a name for which the nearest known name is searched
MOST_NAMES = 8  # known names that the error for an unknown one lists


class ZigmaBenchError(Exception):
    """An error that a person can fix, printed as one paragraph.

    `what` is wrong; `where` (file, line, key or option); what was `expected`; what was `got`; the `nearest` valid
    value; what to `do` about it. `problems`: several faults at once, which a terminal shows as a list.
    """

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
        problems: Sequence[str] = (),
    ) -> None:
        self.what, self.where, self.expected, self.got = what, where, expected, got
        self.nearest, self.do, self.problems = nearest, do, tuple(problems)
        super().__init__(what)

    def __str__(self) -> str:
        """The error on one line."""
        return "; ".join([self._sentence(), *map(visible, self.problems)])

    def lines(self) -> list[str]:
        """The error as a terminal shows it: one line, then one for each of its problems."""
        return [self._sentence(), *(f"- {visible(problem)}" for problem in self.problems)]

    def _sentence(self) -> str:
        what = shortened(self.what, LONGEST_TEXT)
        text = f"{self.where}: {what}" if self.where else what
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {shortened(repr(self.got))}"
        if self.nearest is not None:
            text += f"; did you mean {self.nearest!r}?"
        return visible(text + (f"; {self.do}" if self.do else ""))

    def at(self, where: str) -> ZigmaBenchError:
        """This error, with `where` set unless it already has a place: the innermost place is the most precise."""
        self.where = self.where or where
        return self


class UsageError(ZigmaBenchError):
    """The suite, an option or an argument is wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """No object of this kind is registered with this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        known = sorted(known)
        super().__init__(
            f"no {kind} is called {shortened(repr(name))}",
            where=where,
            expected=f"one of {names_near(name, known) or '(none registered)'}",
            nearest=nearest(name, known),
        )


class NotReady(ZigmaBenchError):
    """The plan can't run: data, weights, a plugin or a backend is missing, or a geometry doesn't fit."""

    exit_code = 3


class Busy(NotReady):
    """Another process holds the lock of a folder; try again when it has finished."""


class BrokenPlugin(ZigmaBenchError):
    """A plugin's code raised an exception, or returned something that its hook doesn't allow."""

    exit_code = 3


class ComparisonRefused(ZigmaBenchError):
    """The figures were measured differently and can't share a table."""

    exit_code = 4


class NewerFormat(ComparisonRefused):
    """A later version wrote this record or table in a format that this version can't read."""


class BrokenPack(ComparisonRefused):
    """The packed records of a run can't be read. They hold many finished stages, so none of them runs again."""


class CellFailed(ZigmaBenchError):
    """One cell stopped; the others continue."""


class NotFinite(CellFailed):
    """The loss became NaN or infinite."""


class BadImage(CellFailed):
    """An image of a dataset can't be decoded."""


class Interrupted(ZigmaBenchError):
    """A signal stopped the program; the same command resumes the work."""

    exit_code = 75


class SystemFault(NotReady):
    """A disk, a file, memory or a terminal failed; a person must fix that outside the program."""


class OutputLost(ZigmaBenchError):
    """Standard output can't be written: its disk is full, or it is closed."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelt name, ignoring case, or None if none is close."""
    if len(name) > LONGEST_NAME:
        return None
    names = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), list(names), n=1, cutoff=0.6)
    return names[found[0]] if found else None


def names_near(name: str, known: Sequence[str]) -> str:
    """The known names, separated by commas; of many, those closest to `name`, and how many there are in all."""
    if len(known) <= MOST_NAMES:
        return ", ".join(known)
    short = name[:LONGEST_NAME].casefold()
    matcher = difflib.SequenceMatcher(b=short)

    def likeness(one: str) -> float:
        matcher.set_seq1(one.casefold())
        return -matcher.ratio()

    return f"{', '.join(sorted(known, key=likeness)[:MOST_NAMES])}, ... ({len(known)} in all)"


# Errors of the operating system


FAULTS = {
    errno.ENOSPC: ("there is no space left on the disk", "free some space, or choose another folder"),
    errno.EDQUOT: ("the quota of disk space is used up", "free some space, or choose another folder"),
    errno.EFBIG: ("the file would be larger than this system allows (no space for it)", "raise the limit (ulimit -f)"),
    errno.EACCES: ("permission is denied", "change its permissions, or choose another folder"),
    errno.EPERM: ("the operation is not permitted", "change its permissions, or choose another folder"),
    errno.EROFS: ("the disk is read-only", "choose another folder"),
    errno.ENOENT: ("the file or its folder is gone", "put it back, or run the same command again"),
    errno.ENOTDIR: ("this is a file, not a folder", "move it away"),
    errno.EISDIR: ("this is a folder, not a file", "move it away"),
    errno.EEXIST: ("a file or folder of this name already exists", "move it away"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "choose a shorter one"),
    errno.ELOOP: ("the symbolic links form a loop", "fix the links"),
    errno.EIO: ("the disk failed to read or write", "check the disk"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOMEM: ("there is not enough memory", "free some, or use a smaller batch"),
    errno.EAGAIN: ("the system has no room for another process", "raise the limit (ulimit -u)"),
    errno.ESTALE: ("the network disk lost the file", "mount the disk again"),
}  # fmt: skip
NO_SPACE = ("no space left on device", "os error 28", "disk quota exceeded", "file too large", "pytorchstreamwriter",
            "requested and ")  # fmt: skip  # texts of libraries that report a full disk without an errno


def system_fault(error: BaseException, where: str | None = None) -> ZigmaBenchError | None:
    """The ZigmaBenchError for an error of a disk, a file, memory or an encoding; None for any other error.

    `where` names the file if the error itself doesn't.
    """
    if isinstance(error, ZigmaBenchError):
        return error
    if isinstance(error, OSError):
        return _os_fault(error, where)
    if isinstance(error, MemoryError):
        what, do = FAULTS[errno.ENOMEM]
        return SystemFault(f"{what} ({error})" if str(error) else what, where=where, do=do)
    if isinstance(error, RecursionError):
        return SystemFault("the input is nested too deeply", where=where)
    if isinstance(error, UnicodeError):
        return SystemFault(f"the text can't be read or written in its encoding ({error})", where=where)
    if any(words in str(error).lower() for words in NO_SPACE[:-1]):
        return _fault(errno.ENOSPC, where)
    return None


def _os_fault(error: OSError, where: str | None) -> ZigmaBenchError:
    name = error.filename if error.filename2 is None else error.filename2
    place = str(name) if isinstance(name, str) else where
    if error.errno in FAULTS:
        return _fault(error.errno, place)
    if any(words in str(error).lower() for words in NO_SPACE):
        return _fault(errno.ENOSPC, place)
    return SystemFault(error.strerror or str(error) or type(error).__name__, where=place)


def _fault(number: int, where: str | None) -> SystemFault:
    what, do = FAULTS[number]
    return SystemFault(what, where=where, do=do)
