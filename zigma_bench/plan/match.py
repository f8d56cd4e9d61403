"""Size matching: solve the depth or width of each backbone for the parameters or FLOPs of the reference.

The reference is the network of the baseline's row; its options never change. Every other backbone is solved with the
baseline's scan if it has that scan, else with its first scan, and has the same shape with its other scans. Sizes come
from the backbone's own check and cost functions, so heads, groups and positions always fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import Cell, Match, Resolved, sizes_match
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.suite import SizeMatch

STEPS = {"depth": (1,), "width": (64, 32, 16, 8, 4, 2, 1)}  # round widths first
MOST = {"depth": 512, "width": 65_536}
FARTHEST = 64  # steps in which the next valid value is searched
HEADS = (None, 16, 8)  # channels per head to try if the suite leaves heads open; None: the backbone's default

Size = Callable[[Mapping[str, int]], int | None]  # the size with these options; None if the backbone refuses them
Price = Callable[[Spec, Resolved, Cell], Cost]  # the cost of a backbone with the data and scan of a cell


@dataclass(frozen=True)
class Candidate:
    """Values of the solved options, and the size of the network with them."""

    values: dict[str, int]
    size: int


# Search


def multiples_around(size: Callable[[int], int | None], target: int, *, start: int, step: int, most: int) -> list[int]:
    """The valid multiples of `step` just below and above a target size, by bisection; sizes grow with the value."""

    def first_valid(k: int) -> int | None:
        return next((k + i for i in range(FARTHEST) if size((k + i) * step) is not None), None)

    def below(k: int) -> bool:
        valid = first_valid(k)
        return valid is not None and (size(valid * step) or 0) < target

    high = max(1, start // step)
    while below(high) and high * step <= most:
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if below(middle) else (low, middle)
    high = first_valid(high) or 0
    return [k * step for k in (low, high) if k and size(k * step) is not None]


def size_candidates(start: Mapping[str, int], size: Size, target: int) -> Iterator[Candidate]:
    """The shapes to try, in order: the values in `start`, then each option alone, from round to less round values.

    If the width may be solved too, the depth stays between half and twice its start, and pairs of both come last.
    """
    if (found := size({})) is not None:
        yield Candidate({}, found)
    for name, value in start.items():
        free = name == "width" or len(start) == 1
        tried = _candidates_along(name, value, {}, size, target)
        yield from (found for found in tried if free or value <= 2 * found.values[name] <= 4 * value)
    if len(start) > 1:
        yield from width_depth_pairs(start, size, target)


def width_depth_pairs(start: Mapping[str, int], size: Size, target: int) -> Iterator[Candidate]:
    """The widths solved at each depth, from the start depth outwards to half and to twice of it."""
    if (found := size({})) is not None:
        yield Candidate({}, found)
    depths = range(max(1, start["depth"] // 2), 2 * start["depth"] + 1)
    for depth in sorted(depths, key=lambda depth: (abs(depth - start["depth"]), depth)):
        yield from _candidates_along("width", start["width"], {"depth": depth}, size, target)


def _candidates_along(name: str, start: int, fixed: dict[str, int], size: Size, target: int) -> Iterator[Candidate]:
    @functools.cache
    def one(value: int) -> int | None:
        return size({**fixed, name: value})

    for step in STEPS[name]:
        values = multiples_around(one, target, start=start, step=step, most=MOST[name])
        sizes = [Candidate({**fixed, name: value}, one(value) or 0) for value in values]
        yield from sorted(sizes, key=lambda found: abs(found.size - target))


# A suite's backbones


@dataclass(frozen=True)
class Solved:
    """The suite's values of an entry's solved options, and the chosen ones; both empty if nothing changes."""

    given: dict[str, int]
    chosen: dict[str, int]


def match_sizes(
    groups: Sequence[list[Cell]],
    baseline: Cell,
    *,
    wanted: SizeMatch,
    price: Price,
    spec_of: Callable[[str], Spec],
    where: Callable[[int], str],
) -> list[Solved]:
    """The solved options of each entry of `compare`, whose cells with the suite's options are in `groups`.

    Raises UsageError for an entry that can't reach the size within the tolerance, or doesn't have the option.
    """
    solved = []
    for index, group in enumerate(groups):
        cell = next((cell for cell in group if cell.scan == baseline.scan), group[0])
        assert cell.backbone is not None
        if cell.backbone == baseline.backbone:
            solved.append(Solved({}, {}))
            continue
        try:
            solved.append(_solve_entry(cell, baseline, wanted, price, spec_of(cell.backbone.name)))
        except UsageError as error:
            raise error.at(where(index)) from None
    return solved


def _solve_entry(cell: Cell, baseline: Cell, wanted: SizeMatch, price: Price, spec: Spec) -> Solved:
    """The first candidate within the tolerance."""
    assert cell.backbone is not None
    names = _solvable_options(cell.backbone, wanted.solve)
    start = {name: cell.backbone.options[name] for name in names}
    target, nearest = size_of(baseline, wanted.by), None
    for channels in HEADS if cell.backbone.options.get("heads", 0) is None else HEADS[:1]:
        size = _size_function(cell, wanted.by, price, spec, channels)
        for found in (width_depth_pairs if wanted.solve == "both" else size_candidates)(start, size, target):
            if sizes_match(found.size, target):
                shape = {**cell.backbone.options, **found.values}
                heads = {} if channels is None else {"heads": shape["width"] // channels}
                return Solved({name: start[name] for name in found.values}, {**found.values, **heads})
            if nearest is None or abs(found.size - target) < abs(nearest.size - target):
                nearest = found
    raise _unreachable_error(cell.backbone, names, baseline, wanted, nearest)


def _solvable_options(backbone: Resolved, solve: str) -> list[str]:
    """The options to solve, in the order in which they are tried; UsageError for a backbone without them."""
    wanted = [solve] if solve in ("depth", "width") else ["depth", "width"]
    present = [name for name in wanted if type(backbone.options.get(name)) is int]
    if not present or (present != wanted and solve != "either"):
        missing = " and ".join(repr(name) for name in wanted if name not in present)
        raise UsageError(
            f"the backbone {backbone.name!r} has no option {missing} for size_match to solve",
            expected="a whole number among its options",
            got=", ".join(sorted(backbone.options)),
            do="solve another option (size_match: {by: ..., solve: depth}), or set size_match to none",
        )
    return present


def _size_function(cell: Cell, by: str, price: Price, spec: Spec, channels: int | None) -> Size:
    """A function that maps values of some options to the size of the cell's network (None if the backbone refuses).

    `channels` is the number of channels per head, None for the backbone's default.
    """
    known = {option.name: option for option in spec.options}
    backbone = cell.backbone
    assert backbone is not None

    def size(values: Mapping[str, int]) -> int | None:
        if channels is not None:
            width = {**backbone.options, **values}["width"]
            if width % channels:
                return None
            values = {**values, "heads": width // channels}
        try:
            checked = {name: known[name].check(value, where="size_match") for name, value in values.items()}
            other = backbone.model_copy(update={"options": {**backbone.options, **checked}})
            cost = price(spec, other, cell)
        except (NotReady, UsageError):
            return None
        return cost.parameters if by == "parameters" else cost.total_flops

    return size


def _unreachable_error(
    backbone: Resolved, names: list[str], baseline: Cell, wanted: SizeMatch, nearest: Candidate | None
) -> UsageError:
    """The error for a backbone that no valid value brings within the tolerance."""
    target, got = size_of(baseline, wanted.by), "no valid value"
    if nearest is not None:
        shape = " and ".join(f"{name} {value}" for name, value in nearest.values.items()) or "its original shape"
        got = f"{nearest.size:,} ({nearest.size / target - 1:+.1%}) with {shape}"
    more = "" if wanted.solve in ("either", "both") else f"set size_match: {{by: {wanted.by}, solve: both}}, or "
    heads = "choose heads that divide more widths, or " if "heads" in backbone.options else ""
    return UsageError(
        f"no {' and '.join(names)} brings the backbone {backbone.name!r} to the {wanted.by} of {baseline.row!r}",
        expected=f"{target:,} to 2%",
        got=got,
        do=f"{more}{heads}set size_match to none",
    )


def size_of(cell: Cell, by: str) -> int:
    """A cell's parameters, or the FLOPs of its forward pass."""
    return cell.parameters if by == "parameters" else sum(cell.forward_flops.values())


def with_match(cell: Cell, baseline: Cell, wanted: SizeMatch, solved: Solved) -> Cell:
    """The cell with its `size_match`, which enters its records but not its identity."""
    assert wanted.by != "none"
    match = Match(
        by=wanted.by, reference=baseline.row, target=size_of(baseline, wanted.by),
        achieved=size_of(cell, wanted.by), given=solved.given, chosen=solved.chosen,
    )  # fmt: skip
    return cell.model_copy(update={"size_match": match})


def describe_matches(matches: Mapping[str, Match]) -> list[str]:
    """The lines on matched rows, by label: the reference size, and how each other row was changed; empty for none."""
    if not matches:
        return []
    first = next(iter(matches.values()))
    by = {"parameters": "parameters", "flops": "FLOPs"}[first.by]
    changed = [f"{label} {match.summary}" for label, match in matches.items() if match.summary]
    head = f"sizes matched to the {first.target:,} {by} of {first.reference}, to 2%"
    return [": ".join([head, "; ".join(changed)]) if changed else head]
