"""The plan: a resolved suite with its cells, and what is missing before they can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from zigma_bench.errors import NotReady, UsageError, names_near
from zigma_bench.plan.cells import Cell
from zigma_bench.plan.notes import describe_uneven_paths
from zigma_bench.plan.selection import RowChoice, RowSelection
from zigma_bench.plugins.registry import Missing
from zigma_bench.suite import Suite


@dataclass(frozen=True)
class Plan:
    """A resolved suite: its `cells` in order, what is `missing` before they can run, and a cell of the baseline's row.

    `cells` can be a part (see `only`) of `all_cells`. `settings`: the KEY=VALUE texts that override keys of the suite's
    file. `suite_sha256`: the hash of the file's text. `selections`: rows whose value of a varied key has not been
    chosen yet, with the cells that wait for the choice. `choices`: the choices that have been made. `wanted`: the
    labels of the only cells that run, None for all.
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
    selections: tuple[RowSelection, ...] = ()
    choices: tuple[RowChoice, ...] = ()
    wanted: frozenset[str] | None = None

    @property
    def final_cells(self) -> list[Cell]:
        """The cells of the table's rows, including those that wait for the choice of a value."""
        cells = [cell for cell in self.all_cells if cell.role == "cell" and not cell.tunes]
        return [*cells, *(cell for selection in self.selections for cell in selection.waiting)]

    def with_choices(self, choices: Sequence[RowChoice]) -> Plan:
        """The plan with the cells of the rows whose value has been chosen; the anchors stay last.

        A table has the cells of all rows, also of those that don't run now.
        """
        chosen = [cell for choice in choices for cell in choice.finals]
        rows = {choice.selection.row for choice in choices}
        run = [cell for cell in chosen if self.wanted is None or cell.label in self.wanted]
        return replace(
            self,
            cells=_before_anchors(self.cells, run),
            all_cells=_before_anchors(self.all_cells, chosen),
            selections=tuple(selection for selection in self.selections if selection.row not in rows),
            choices=(*self.choices, *choices),
        )

    @property
    def waiting(self) -> list[Cell]:
        """The cells that run as soon as the value of their row is chosen."""
        cells = [cell for selection in self.selections for cell in selection.waiting]
        return [cell for cell in cells if self.wanted is None or cell.label in self.wanted]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know about the cells, although they can run, in sentences."""
        return describe_uneven_paths(self.cells)

    def only(self, *patterns: str) -> Plan:
        """The plan with only the cells whose label matches a pattern (a part of it, or a glob); the anchors stay.

        Raises UsageError for a pattern that no cell matches.
        """
        cells = [cell for cell in self.cells if cell.role == "cell"]
        cells += [cell for one in self.selections for cell in one.waiting]
        matches = {pattern: [cell for cell in cells if _matches(cell, pattern.lower())] for pattern in patterns}
        for pattern, found in matches.items():
            if not found:
                labels = names_near(pattern, [cell.label for cell in cells])
                raise UsageError("no cell matches", where="--only", expected=f"a part of one of: {labels}", got=pattern)
        wanted = frozenset(cell.label for found in matches.values() for cell in found)
        tuning = {cell.label for one in self.selections if wanted & _labels_of(one) for cell in one.tuning}
        kept = tuple(cell for cell in self.cells if cell.role != "cell" or cell.label in wanted | tuning)
        return replace(self, cells=kept, wanted=wanted)

    def missing_on(self, device_type: str) -> tuple[Missing, ...]:
        """What is missing before the cells can run on a device, including a GPU that the suite needs."""
        return (*self.missing, *self._gpu_missing(device_type, "train", "sample"))

    def check_ready(self, device_type: str | None = None) -> None:
        """Raise NotReady (exit code 3) if files, weights or packages are missing, or a GPU that the suite needs."""
        self._refuse(self.missing if device_type is None else self.missing_on(device_type))

    def check_gpu(self, device_type: str, section: str) -> None:
        """Raise NotReady (exit code 3) if a section, train or sample, needs a GPU and the device isn't one."""
        self._refuse(self._gpu_missing(device_type, section))

    def _gpu_missing(self, device_type: str, *sections: str) -> tuple[Missing, ...]:
        keys = [f"{section}.{key}" for section in sections for key in ("compile", "graph")
                 if getattr(getattr(self.suite, section), key)]  # fmt: skip
        if device_type == "cuda" or not keys:
            return ()
        without = " ".join(f"--set {key}=false" for key in keys)
        what = f"an NVIDIA GPU for {', '.join(keys)} (the device is {device_type})"
        return (Missing(what, f"use one, or turn them off: {without}"),)

    def _refuse(self, missing: Sequence[Missing]) -> None:
        if missing:
            texts = [f"{item.what}: {item.do}" for item in missing]
            what = texts[0] if len(texts) == 1 else f"{len(texts)} things are missing"
            raise NotReady(what, where=f"{self.file}, can't run", problems=texts if len(texts) > 1 else ())


def _before_anchors(cells: Sequence[Cell], more: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with more of them in front of the anchors."""
    rows = [cell for cell in cells if cell.role == "cell"]
    return (*rows, *more, *(cell for cell in cells if cell.role != "cell"))


def _labels_of(selection: RowSelection) -> set[str]:
    """The labels of the cells that tune a row, and of those that wait for its choice."""
    return {cell.label for cell in (*selection.tuning, *selection.waiting)}


def _matches(cell: Cell, pattern: str) -> bool:
    label = cell.label.lower()
    return pattern in label or fnmatchcase(label, pattern)
