"""The selection of a varied value for each row: the cells that tune it, and those that wait for its choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zigma_bench.plan.cells import Cell

TUNING_LOSS = "tuning-loss"  # the measurement of a training whose mean over the tuning seeds decides


@dataclass(frozen=True)
class Candidate:
    """One value for a row: its label (`learning_rate=0.001`), the cells that tune it, and the cells with the table's
    seeds that run if it is chosen."""

    words: str
    tuning: tuple[Cell, ...]
    finals: tuple[Cell, ...]


@dataclass(frozen=True)
class RowSelection:
    """The candidates of a row, in the order of the suite's values. `over`: the varied key."""

    row: str
    over: str
    candidates: tuple[Candidate, ...]

    @property
    def tuning(self) -> tuple[Cell, ...]:
        """The cells that tune the row."""
        return tuple(cell for candidate in self.candidates for cell in candidate.tuning)

    @property
    def waiting(self) -> tuple[Cell, ...]:
        """The cells that wait for the choice, with the first value in place of the chosen one."""
        return self.candidates[0].finals

    def choose(self, losses: Sequence[Sequence[float] | None]) -> RowChoice | None:
        """The candidate with the lowest mean of its `losses`, one for each tuning seed, in the order of the candidates.

        A candidate without losses has failed. None if all have.
        """
        means = {number: sum(values) / len(values) for number, values in enumerate(losses) if values}
        if not means:
            return None
        best = min(means, key=lambda number: (means[number], number))
        edge = len(self.candidates) > 1 and best in (0, len(self.candidates) - 1)
        return RowChoice(self, best, tuple(means.get(number) for number in range(len(losses))), edge)


@dataclass(frozen=True)
class RowChoice:
    """The chosen candidate of a row, and the mean tuning loss of each (None for one that has failed).

    `at_edge`: the best value is the first or the last of the range, so a better one may lie outside.
    """

    selection: RowSelection
    best: int
    losses: tuple[float | None, ...]
    at_edge: bool

    @property
    def finals(self) -> tuple[Cell, ...]:
        """The cells of the row with the chosen value."""
        return tuple(
            cell.model_copy(update={"selected": self.words}) for cell in self.selection.candidates[self.best].finals
        )

    @property
    def words(self) -> str:
        """The chosen value, marked if it is at the edge of the range."""
        words = self.selection.candidates[self.best].words
        return f"{words} (edge of the range)" if self.at_edge else words


def selections_of(tuning: Iterable[Cell], finals: Iterable[Cell], over: str) -> tuple[RowSelection, ...]:
    """The selections of all rows, from the cells of every value of the varied key `over`."""
    rows: dict[str, dict[str, tuple[list[Cell], list[Cell]]]] = {}
    for kind, cells in enumerate((tuning, finals)):
        for cell in cells:
            row = without_key(cell, over).row
            rows.setdefault(row, {}).setdefault(cell.varied[over], ([], []))[kind].append(cell)
    return tuple(
        RowSelection(row, over, tuple(_candidate(words, *groups, over) for words, groups in candidates.items()))
        for row, candidates in rows.items()
    )


def _candidate(words: str, tuning: Sequence[Cell], finals: Sequence[Cell], over: str) -> Candidate:
    return Candidate(words, tuple(tuning), tuple(without_key(cell, over) for cell in finals))


def without_key(cell: Cell, key: str) -> Cell:
    """A cell whose label doesn't show a varied key."""
    varied: Mapping[str, str] = {name: words for name, words in cell.varied.items() if name != key}
    return cell.model_copy(update={"varied": varied, "tunes": False})
