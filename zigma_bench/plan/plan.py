"""A suite resolved: its cells, and what is missing before they can run, here and on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import Cell
from zigma_bench.plugins.registry import Missing
from zigma_bench.suite import Suite


@dataclass(frozen=True)
class Plan:
    """The suite resolved: its cells in order, what is missing before they can run, and a cell of the baseline's row.

    `settings`: the KEY=VALUE texts that were laid over the suite's file. `suite_sha256`: the hash of the file's text.
    """

    suite: Suite
    question: str
    file: str
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...]
    smoke: bool
    all_cells: tuple[Cell, ...]
    baseline: Cell
    suite_sha256: str
    settings: tuple[str, ...] = ()

    def only(self, *patterns: str) -> Plan:
        """The cells whose label matches one of the patterns: a part of it, or a glob; anchors stay.

        UsageError for a pattern that no cell matches.
        """
        cells = [cell for cell in self.cells if cell.role == "cell"]
        wanted = {pattern: [cell for cell in cells if _matches(cell, pattern.lower())] for pattern in patterns}
        for pattern, found in wanted.items():
            if not found:
                labels = ", ".join(cell.label for cell in cells)
                raise UsageError("no cell matches", where="--only", expected=f"a part of one of: {labels}", got=pattern)
        kept = {cell.label for found in wanted.values() for cell in found}
        return replace(self, cells=tuple(cell for cell in self.cells if cell.role != "cell" or cell.label in kept))

    def missing_on(self, device_type: str) -> tuple[Missing, ...]:
        """What is missing before the cells can run on a device: also the card that the suite asks for."""
        return (*self.missing, *self._card_missing(device_type, "train", "sample"))

    def check_ready(self, device_type: str | None = None) -> None:
        """Stop with code 3 where something is missing: files, weights, packages, and on a device the card asked for."""
        self._refuse(self.missing if device_type is None else self.missing_on(device_type))

    def check_card(self, device_type: str, section: str) -> None:
        """Stop with code 3 where a section of the suite, train or sample, asks for a card and this device is none."""
        self._refuse(self._card_missing(device_type, section))

    def _card_missing(self, device_type: str, *sections: str) -> tuple[Missing, ...]:
        asked = [f"{section}.{key}" for section in sections for key in ("compile", "graph")
                 if getattr(getattr(self.suite, section), key)]  # fmt: skip
        if device_type == "cuda" or not asked:
            return ()
        without = " ".join(f"--set {key}=false" for key in asked)
        what = f"an NVIDIA card for {', '.join(asked)} (the device is {device_type})"
        return (Missing(what, f"take one, or do without: {without}"),)

    def _refuse(self, missing: Sequence[Missing]) -> None:
        if missing:
            raise NotReady(
                "; and ".join(f"{item.what}: {item.do}" for item in missing), where=f"{self.file}, can't run"
            )


def _matches(cell: Cell, wanted: str) -> bool:
    label = cell.label.lower()
    return wanted in label or fnmatchcase(label, wanted)
