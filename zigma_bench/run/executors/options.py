"""The options of the built-in executors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalOptions:
    """The devices of this machine, one cell per device at a time.

    `overlap`: measure the samples of a cell on a GPU while the next cell trains there. `warm`: run further cells in the
    same process, which saves the time to import libraries and to compile.
    """

    overlap: bool = True
    warm: bool = True
