"""What can go wrong, as a tree; each leaf carries the exit code of the program.

ZigmaBenchError                 1
+- UsageError                   2   the suite, an option or a name is wrong
|  +- UnknownName               2   no such scan, backbone, dataset, metric or backend
+- NotReady                     3   the plan can't run: data, weights, plugin, geometry, folder
|  +- BrokenScan                3   an order that misses or repeats a token (scans/route.py)
|  +- Busy                      3   another process holds the lock of a folder
+- BrokenPlugin                 3   a plugin's code failed, or gave something else than its hook says
|  +- SystemFault               3   a disk, a file, memory or an encoding failed
+- ComparisonRefused            4   figures that must not stand in one table
|  +- NewerFormat               4   a record or table that only a later version can read
+- CellFailed                   1   a cell stopped; the others go on
|  +- NotFinite                 1   the loss became NaN or infinite
|  +- BadImage                  1   an image of a dataset can't be decoded
+- OutputLost                   1   standard output takes no more
+- Interrupted                 75   stopped from outside; the same command goes on
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from zigma_bench.escaping import shortened, visible

LONGEST_TEXT = 2000  # of what is wrong
LONGEST_NAME = 100  # that a nearest name is looked for


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
            f"no {kind} is called {shortened(repr(name))}",
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


class SystemFault(NotReady):
    """A disk, a file, memory or a terminal failed: what a person mends outside the program."""


class OutputLost(ZigmaBenchError):
    """Standard output takes no more: its disk is full, or it is closed."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelt one, whatever its capitals, or None when nothing is close."""
    if len(name) > LONGEST_NAME:
        return None
    names = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), list(names), n=1, cutoff=0.6)
    return names[found[0]] if found else None


# What the system reports


FAULTS = {
    errno.ENOSPC: ("there is no space left on the disk", "free some space, or take another folder"),
    errno.EDQUOT: ("the quota of disk space is used up", "free some space, or take another folder"),
    errno.EFBIG: ("the file would be larger than this system allows (no space for it)", "raise the limit (ulimit -f)"),
    errno.EACCES: ("permission is denied", "change its permissions, or take another folder"),
    errno.EPERM: ("the operation is not permitted", "change its permissions, or take another folder"),
    errno.EROFS: ("the disk is read-only", "take another folder"),
    errno.ENOENT: ("the file or its folder is gone", "put it back, or run the same command again"),
    errno.ENOTDIR: ("a file stands where a folder should be", "move it away"),
    errno.EISDIR: ("a folder stands where a file should be", "move it away"),
    errno.EEXIST: ("something of this name is there already", "move it away"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "take a shorter one"),
    errno.ELOOP: ("symbolic links lead in a circle", "mend the links"),
    errno.EIO: ("the disk failed to read or write", "check the disk"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOMEM: ("there is not enough memory", "free some, or take a smaller batch"),
    errno.EAGAIN: ("the system has no room for another process", "raise the limit (ulimit -u)"),
    errno.ESTALE: ("the network disk lost the file", "mount the disk again"),
}  # fmt: skip
NO_SPACE = ("no space left on device", "os error 28", "disk quota exceeded", "file too large", "pytorchstreamwriter",
            "requested and ")  # fmt: skip  # how libraries report a full disk without its number


def system_fault(error: BaseException, where: str | None = None) -> ZigmaBenchError | None:
    """What a disk, a file, memory or an encoding caused, as one sentence; None for any other error.

    `where` names the file where the error itself does not.
    """
    if isinstance(error, ZigmaBenchError):
        return error
    if isinstance(error, OSError):
        return _of_the_disk(error, where)
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


def _of_the_disk(error: OSError, where: str | None) -> ZigmaBenchError:
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
