"""Decide what to time next: every network as it is, larger batches, other lengths, then the leading ones compiled.

Each part has a share of the time; what is left over goes to what the parts didn't reach. Whatever wasn't measured in
time is named. A network that is refused, fails or hangs is a line with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from zigma_bench.bench.fastest.cases import EAGER, Case, Launch, Mode, Timed, launches_on, make_cell, merge_rounds
from zigma_bench.bench.fastest.crossings import Crossing, between, find_crossing, longer, shorter
from zigma_bench.bench.fastest.networks import ATTENTION, Network, Refused
from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid

SHARES = (0.28, 0.44, 0.6, 0.88, 1.0)  # of the time, until the end of each part
LEADING = 4  # networks that are compiled for both batches before any other is
CASE_SECONDS = {"cpu": 40.0, "cuda": 90.0}  # that a case may take; on a GPU, kernels are compiled at first use
COMPILED_CASE_SECONDS = 120.0
LEAST_SECONDS = 2.0  # that must be left to begin a case
GAIN = 0.03  # a larger batch that gains less throughput than this is beyond saturation
MOST_BATCH = 2**14
LATE = "not measured in time"

Ask = Callable[[Any, float, float], dict[str, Any]]  # cell, its seconds, and the most until there is an answer


@dataclass
class Outcome:
    """What was found about one network.

    `latency`: at the requested batch, by launch. `saturated`: at the batch of saturation, by launch. `reasons`: why
    something is missing, by what it is.
    """

    network: Network
    latency: dict[str, Timed] = field(default_factory=dict)
    saturated: dict[str, Timed] = field(default_factory=dict)
    limited_by: str | None = None  # why no larger batch was tried
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Timed | None:
        """The fastest timing at the requested batch."""
        return min(self.latency.values(), key=lambda timed: timed.median, default=None)

    def fastest(self, *, compiled: bool) -> Timed | None:
        """The fastest timing at the requested batch, of those that are compiled or of those that aren't."""
        found = (timed for timed in self.latency.values() if timed.case.launch.compiled == compiled)
        return min(found, key=lambda timed: timed.median, default=None)

    @property
    def best_saturated(self) -> Timed | None:
        """The timing with the largest throughput."""
        return max(self.saturated.values(), key=lambda timed: timed.images_per_second, default=None)


@dataclass
class Search:
    """The search of one command. `ask` answers jobs; `seconds`: the time for everything."""

    networks: Sequence[Network]
    grid: Grid
    batch: int
    mode: Mode
    device_type: str
    ask: Ask
    seconds: float
    on_progress: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.outcomes = {network.label: Outcome(network) for network in self.networks}
        self.crossings: list[Crossing] = []
        self.late: dict[str, None] = {}
        self._known: dict[tuple[str, str, int, Grid], Timed | Refused] = {}

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (self.clock() - self.began)

    def run(self) -> None:
        """Time as much as the time allows."""
        parts = [
            self._uncompiled(), self._saturations(), self._crossings(compiled=False), self._compiled(),
            self._crossings(compiled=True),
        ]  # fmt: skip
        for part, share in zip(parts, SHARES, strict=True):
            self._drive(part, self.seconds * (1 - share))
        for part in parts:  # what a part didn't reach; without time, this only names it
            self._drive(part, 0.0, drain=True)

    def _drive(self, steps: Iterator[None], reserve: float, *, drain: bool = False) -> None:
        """Do steps until only `reserve` seconds are left, or all of them."""
        while (drain or self.left > reserve) and next(steps, StopIteration) is None:
            pass

    # What to time

    def _uncompiled(self) -> Iterator[None]:
        """Every network at the requested batch, with each launch that doesn't compile."""
        for network in self.networks:
            outcome = self.outcomes[network.label]
            for launch in launches_on(self.device_type, compiled=False):
                self._time_latency(outcome, launch)
                yield
                if EAGER.name in outcome.reasons:  # the network itself fails
                    break

    def _saturations(self) -> Iterator[None]:
        """The measured networks from the fastest to the slowest: larger batches, with the fastest launch."""
        for outcome in self._each(self._by_speed):
            yield from self._saturate(outcome)

    def _saturate(self, outcome: Outcome) -> Iterator[None]:
        """Double the batch until the throughput stops growing or memory ends."""
        best = outcome.best
        if best is None:
            return
        outcome.saturated[best.case.launch.name] = best
        while best.case.batch < MOST_BATCH:
            batch = 1 << best.case.batch.bit_length()  # the next power of two
            case = Case(best.case.network, best.case.launch, batch, self.grid)
            found = self._time(case)
            yield
            if isinstance(found, Refused):
                outcome.limited_by = f"batch {case.batch:,}: {found.reason}"
                return
            if found.images_per_second < (1 + GAIN) * best.images_per_second:
                outcome.limited_by = f"batch {case.batch:,} gains less than {GAIN:.0%}"
                return
            best = outcome.saturated[best.case.launch.name] = found

    def _compiled(self) -> Iterator[None]:
        """The measured networks from the fastest to the slowest, compiled.

        The leading ones come first: at the requested batch, then at the batch of saturation.
        """
        done: list[Outcome] = []
        for outcome in self._each(self._by_speed):
            yield from self._compiled_latency(outcome)
            done.append(outcome)
            if len(done) == LEADING:
                break
        for outcome in done:
            yield from self._compiled_saturation(outcome)
        for outcome in self._each(self._by_speed):
            yield from self._compiled_latency(outcome)
            yield from self._compiled_saturation(outcome)

    def _compiled_latency(self, outcome: Outcome) -> Iterator[None]:
        for launch in launches_on(self.device_type, compiled=True):
            self._time_latency(outcome, launch)
            yield

    def _compiled_saturation(self, outcome: Outcome) -> Iterator[None]:
        batch = max((timed.case.batch for timed in outcome.saturated.values()), default=self.batch)
        for launch in launches_on(self.device_type, compiled=True):
            if launch.name in outcome.latency and batch > self.batch:
                found = self._time(Case(outcome.network, launch, batch, self.grid))
                if isinstance(found, Timed):
                    outcome.saturated[launch.name] = found
                yield

    @staticmethod
    def _each(ordered: Callable[[], Sequence[Outcome]]) -> Iterator[Outcome]:
        """Each outcome once, the first one of the present order that was not yielded before."""
        done: set[str] = set()
        while (found := next((one for one in ordered() if one.network.label not in done), None)) is not None:
            done.add(found.network.label)
            yield found

    def _by_speed(self) -> list[Outcome]:
        """The measured networks: the attention baseline, the fastest of each kind, then the others."""
        measured = sorted((one for one in self.outcomes.values() if one.best is not None), key=_median)
        kinds = [one.network.kind for one in measured]
        repeated = {one.network.label: kinds.index(one.network.kind) < i for i, one in enumerate(measured)}

        def place(outcome: Outcome) -> tuple[bool, bool]:
            network = outcome.network
            return repeated[network.label], network.backbone.name != ATTENTION

        return sorted(measured, key=place)

    def _crossings(self, *, compiled: bool) -> Iterator[None]:
        """For each kind of linear-time network, the lengths at which it and attention are equally fast."""
        done: set[tuple[str, str | None]] = set()
        for outcome in self._each(self._by_speed):
            network, attention = outcome.network, self.attention
            timed = outcome.fastest(compiled=compiled)
            if not network.linear or not network.mixes or network.kind in done or timed is None or attention is None:
                continue
            if (base := attention.fastest(compiled=compiled)) is not None:
                done.add(network.kind)
                yield from self._crossing(timed.case, base.case)

    @property
    def attention(self) -> Outcome | None:
        """The network that stands for attention: the baseline if it was measured, else the fastest quadratic one."""
        found = [outcome for outcome in self._by_speed() if outcome.network.linear is False]
        return found[0] if found else None

    def _crossing(self, linear: Case, attention: Case) -> Iterator[None]:
        """Step to other lengths until the faster one changes, then once between the two lengths.

        Both are timed one after the other also at the first length, because the machine may have been busy before.
        """
        points: dict[Grid, tuple[Timed, Timed]] = {}
        grid: Grid | None = self.grid
        stopped_by: str | None = None
        while grid is not None:
            timing = self._time_again if grid == self.grid else self._time
            pair = [timing(replace(case, grid=grid)) for case in (attention, linear)]
            yield
            refused = next((one for one in pair if isinstance(one, Refused)), None)
            if refused is not None:
                stopped_by = f"{grid.tokens:,} tokens: {refused.reason}"
                break
            points[grid] = (pair[0], pair[1])  # type: ignore[assignment]
            grid = _next_grid(points, self.grid)
        self.crossings.append(find_crossing(linear, attention, points, stopped_by))

    # How to time

    def _time_latency(self, outcome: Outcome, launch: Launch) -> None:
        """Time a network at the requested batch, and note the result or its reason."""
        if launch.compiled and not outcome.network.traceable:
            outcome.reasons[launch.name] = f"PyTorch can't trace the calls of the backend {outcome.network.backend!r}"
            return
        found = self._time(Case(outcome.network, launch, self.batch, self.grid))
        if isinstance(found, Timed):
            outcome.latency[launch.name] = found
        else:
            outcome.reasons[launch.name] = found.reason

    def _time_again(self, case: Case) -> Timed | Refused:
        """A second timing of a case, which its latency then includes; the first one if no time is left."""
        first, again = self._time(case), self._measure(case)
        if isinstance(first, Refused) or isinstance(again, Refused):
            return first
        latency = self.outcomes[case.network.label].latency
        latency[case.launch.name] = merge_rounds(latency[case.launch.name], again)
        return again

    def _time(self, case: Case) -> Timed | Refused:
        """Time a case, unless it was timed before or no time is left."""
        key = (case.network.label, case.launch.name, case.batch, case.grid)
        if key not in self._known or (self._is_late(self._known[key]) and self.left > LEAST_SECONDS):
            self._known[key] = self._measure(case)
        found = self._known[key]
        if self._is_late(found):
            self.late[case.label] = None
        else:
            self.late.pop(case.label, None)
        return found

    @staticmethod
    def _is_late(found: Timed | Refused) -> bool:
        return isinstance(found, Refused) and found.reason == LATE

    def _measure(self, case: Case) -> Timed | Refused:
        if self.left <= LEAST_SECONDS:
            return Refused(case.label, LATE)
        self.on_progress(f"{case.label} ({self.left:.0f} s left)")
        try:
            cell = _cell_json(case, self.mode)
        except ZigmaBenchError as error:
            return Refused(case.label, str(error))
        left = self.left
        most = COMPILED_CASE_SECONDS if case.launch.compiled else CASE_SECONDS[self.device_type]
        answer = self.ask(cell, min(most, left), left)
        if answer.get("kind") == "late":
            return Refused(case.label, f"it takes more than {most:.0f} s to time" if left > most else LATE)
        if "why_not" in answer:
            return Refused(case.label, str(answer["why_not"]))
        return Timed(case, **{**answer, "seconds": tuple(answer["seconds"]), "attention": tuple(answer["attention"])})


def _median(outcome: Outcome) -> float:
    assert outcome.best is not None
    return outcome.best.median


def _next_grid(points: dict[Grid, tuple[Timed, Timed]], start: Grid) -> Grid | None:
    """The next length to time: towards a change of the faster one, then one between; None at the end."""
    linear_wins = {grid: linear.median < attention.median for grid, (attention, linear) in points.items()}
    ordered = sorted(points, key=lambda grid: grid.tokens)
    for short, long in pairwise(ordered):
        if linear_wins[short] != linear_wins[long]:
            return between(short, long)
    return shorter(ordered[0]) if linear_wins[start] else longer(ordered[-1])


def _cell_json(case: Case, mode: Mode) -> dict[str, Any]:
    return make_cell(case, mode, catalogue()).model_dump(mode="json")
