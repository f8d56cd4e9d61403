"""A scan's contract: paths that visit every token once, the same whenever they are asked for, on every kind of grid."""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from zigma_bench.errors import NotReady, ZigmaBenchError
from zigma_bench.plugins.registry import Spec, scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import fresh_routes, layer_routes
from zigma_bench.scans.route import BrokenScan, Route
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

LINES = ("1x1", "1x2", "2x1", "1x7", "8x1")
SQUARES = ("2x2", "3x3", "4x4", "5x5", "7x7", "8x8", "16x16")
RECTANGLES = ("2x3", "3x2", "3x5", "4x6", "6x4", "5x8", "7x11", "13x6", "8x12")
CLIPS = ("2x3x4", "3x4x4")
GRIDS = tuple(Grid.parse(sides) for sides in (*LINES, *SQUARES, *RECTANGLES, *CLIPS))
DEPTHS = (1, 9)  # a network of one layer, and one deeper than a cycle of eight
SEEDS = (0, 1)


@dataclass(frozen=True)
class ScanReport:
    """What was checked and what the scan refused: each entry is `HxW {options}`, a refusal with its reason."""

    name: str
    checked: tuple[str, ...]
    refused: Mapping[str, str]


def check_scan(
    scan: Callable[..., Any] | str | Spec,
    *,
    grids: Sequence[Grid | str] = GRIDS,
    options: Sequence[Mapping[str, Any]] | None = None,
) -> ScanReport:
    """Run a scan (a function, or a registered name) through the matrix of grids, options, depths and seeds.

    Checked: it registers; every layer's paths visit every token once; the same call gives the same result whatever was
    called before; the inverse undoes the path; it works without torch. `options`: the sets of options to go through;
    left out, the defaults, and each choice of each option that lists its values. Raises AssertionError with what was
    expected and got; also when every grid is refused. A grid refused with NotReady stands in the report.
    """
    spec = _spec_of(scan)
    _without_torch(spec)
    sizes = [grid if isinstance(grid, Grid) else Grid.parse(grid) for grid in grids]
    checked, refused = list[str](), dict[str, str]()
    for values in option_sets(spec) if options is None else [spec.resolve(o, where="check_scan") for o in options]:
        taken, not_taken = _check_grids(spec, sizes, values)
        checked += taken
        refused |= not_taken
    if not checked:
        raise AssertionError(
            f"scan {spec.name!r}: expected at least one grid that it takes, got only refusals: {refused}"
        )
    return ScanReport(spec.name, tuple(checked), refused)


def scan_report(spec: Spec, *, options: Mapping[str, Any] | None = None) -> Report:
    """The checks of `check_scan` as a report, a line for each set of options."""
    steps = [
        CheckStep("options", "a type for each, and defaults of it", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: _without_torch(spec), essential=True),
    ]
    expected = "every token once in each layer's paths, the same whenever asked for, undone by their inverse"
    for index, values in enumerate(option_sets(spec, options)):
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        look = functools.partial(_all_grids, spec, values, required=index == 0)
        steps.append(CheckStep(f"orders with {words}" if words else "orders", expected, look))
    if spec.facts is not None:
        from zigma_bench.testing.learned import learned_steps

        steps += learned_steps(spec, option_sets(spec, options)[0])
    return Report("scan", spec.name, spec.owner, run_checks(steps))


def _all_grids(spec: Spec, values: Mapping[str, Any], *, required: bool) -> str:
    """How many grids keep the contract; `required`: at least one must be taken."""
    taken, refused = _check_grids(spec, GRIDS, values)
    if required and not taken:
        raise CheckFailed(f"only refusals: {next(iter(refused.values()))}")
    reason = f", {len(refused)} refused ({next(iter(refused.values()))})" if refused else ""
    return f"{len(taken)} grids{reason}"


def _check_grids(spec: Spec, grids: Sequence[Grid], values: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The grids that keep the contract, and those refused with the reason."""
    checked, refused = [], {}
    for grid in grids:
        case = f"{grid} {values}" if values else str(grid)
        reason = _check(spec, grid, values, case)
        if reason is None:
            checked.append(case)
        else:
            refused[case] = reason
    return checked, refused


def _spec_of(scan: Callable[..., Any] | str | Spec) -> Spec:
    if isinstance(scan, Spec):
        return scan
    try:
        if isinstance(scan, str):
            from zigma_bench.plugins.discovery import catalogue

            return catalogue().get("scan", scan)
        name = getattr(scan, "__name__", type(scan).__name__)
        return scan_spec(name, scan, owner=getattr(scan, "__module__", "an unknown module"))
    except ZigmaBenchError as error:
        raise AssertionError(f"expected a scan that registers, got: {error}") from error


def _check(spec: Spec, grid: Grid, values: Mapping[str, Any], case: str) -> str | None:
    """Check one grid with one set of options; the reason if the scan refuses it."""
    for depth in DEPTHS:
        for seed in SEEDS:
            try:
                with _torch_out_of_reach():
                    once = layer_routes(spec, grid=grid, depth=depth, seed=seed, options=values)
                    again = fresh_routes(spec, grid=grid, depth=depth, seed=seed, options=values)
            except BrokenScan as error:
                raise AssertionError(f"{case}: {error}") from error
            except NotReady as refusal:
                return str(refusal)
            except ZigmaBenchError as error:
                raise AssertionError(f"{case}: expected paths, or a refusal with NotReady, got: {error}") from error
            _same_again(spec, once, again, f"{case}, depth {depth}, seed {seed}")
            for layer, route in enumerate(once):
                _inverse_undoes(spec, route, f"{case}, layer {layer}")
    return None


def _same_again(spec: Spec, once: tuple[Route, ...], again: tuple[Route, ...], case: str) -> None:
    for layer, (first, second) in enumerate(zip(once, again, strict=True)):
        if first != second:
            raise AssertionError(
                f"scan {spec.name!r} on {case}: expected the same paths whenever layer {layer} is asked for, "
                f"got {_short(first)} and then {_short(second)}; draw random numbers from "
                "np.random.default_rng([seed, layer]) and keep no state between calls"
            )


def _inverse_undoes(spec: Spec, route: Route, case: str) -> None:
    """Step -> token -> step comes back for every token that a path visits; of all others the inverse says -1."""
    expected = np.full((route.K, route.tokens), -1)
    for k, path in enumerate(route.paths.tolist()):
        for step, token in enumerate(path):
            if token >= 0:
                expected[k, token] = step
    if not np.array_equal(route.inverse, expected):
        raise AssertionError(
            f"scan {spec.name!r} on {case}: expected the inverse to undo the path, got {route.inverse.tolist()}"
        )


def _short(route: Route) -> str:
    return f"{route.paths[:, :8].tolist()} ({route.digest[:8]})"


@contextmanager
def _torch_out_of_reach() -> Iterator[None]:
    """Inside, `import torch` fails as it does where torch is not installed."""
    held = sys.modules.get("torch")
    sys.modules["torch"] = typing.cast(Any, None)
    try:
        yield
    finally:
        del sys.modules["torch"]
        if held is not None:
            sys.modules["torch"] = held


def _without_torch(spec: Spec) -> str:
    """The scan's module must import without torch, as plans do."""
    try:
        return imports_without_torch(planning_module(spec))
    except CheckFailed as error:
        what = str(error).replace(" does not:", " to import without torch, got:", 1)
        raise CheckFailed(f"scan {spec.name!r}: expected {what}") from None
