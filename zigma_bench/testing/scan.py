"""Check a scan: its paths visit every token once and are always the same, on every kind of grid."""

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
DEPTHS = (1, 9)  # one layer, and more layers than a cycle of eight
SEEDS = (0, 1)


@dataclass(frozen=True)
class ScanReport:
    """The checked grids and the refused ones with the reason. Each is written as `HxW {options}`."""

    name: str
    checked: tuple[str, ...]
    refused: Mapping[str, str]


def check_scan(
    scan: Callable[..., Any] | str | Spec,
    *,
    grids: Sequence[Grid | str] = GRIDS,
    options: Sequence[Mapping[str, Any]] | None = None,
) -> ScanReport:
    """Check a scan (a function or a registered name) on all combinations of grids, options, depths and seeds.

    The checks: it registers; every layer's paths visit every token once; the same call always gives the same result;
    the inverse undoes the path; it works without torch. `options`: the sets of options to check; by default, the
    default options and each listed choice of each option. Raises AssertionError if a check fails, or if every grid is
    refused. The report lists grids that were refused with NotReady.
    """
    spec = _spec_of(scan)
    _check_import(spec)
    sizes = [grid if isinstance(grid, Grid) else Grid.parse(grid) for grid in grids]
    checked, refused = list[str](), dict[str, str]()
    for values in option_sets(spec) if options is None else [spec.resolve(o, where="check_scan") for o in options]:
        accepted, not_accepted = _check_grids(spec, sizes, values)
        checked += accepted
        refused |= not_accepted
    if not checked:
        raise AssertionError(
            f"scan {spec.name!r}: expected at least one grid that it accepts, got only refusals: {refused}"
        )
    return ScanReport(spec.name, tuple(checked), refused)


def scan_report(spec: Spec, *, options: Mapping[str, Any] | None = None) -> Report:
    """The checks of `check_scan` as a report, with one line per set of options."""
    steps = [
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: _check_import(spec), essential=True),
    ]
    expected = "each layer's paths visit every token once, are the same each time, and are undone by their inverse"
    for index, values in enumerate(option_sets(spec, options)):
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        run = functools.partial(_check_all_grids, spec, values, required=index == 0)
        steps.append(CheckStep(f"orders with {words}" if words else "orders", expected, run))
    if spec.facts is not None:
        from zigma_bench.testing.learned import learned_steps

        steps += learned_steps(spec, option_sets(spec, options)[0])
    return Report("scan", spec.name, spec.owner, run_checks(steps))


def _check_all_grids(spec: Spec, values: Mapping[str, Any], *, required: bool) -> str:
    """How many grids pass. `required`: at least one must be accepted."""
    accepted, refused = _check_grids(spec, GRIDS, values)
    if required and not accepted:
        raise CheckFailed(f"it refuses all grids, such as: {next(iter(refused.values()))}")
    reason = f", {len(refused)} refused ({next(iter(refused.values()))})" if refused else ""
    return f"{len(accepted)} grids{reason}"


def _check_grids(spec: Spec, grids: Sequence[Grid], values: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The grids that pass, and the refused ones with the reason."""
    checked, refused = [], {}
    for grid in grids:
        case = f"{grid} {values}" if values else str(grid)
        reason = _check_grid(spec, grid, values, case)
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


def _check_grid(spec: Spec, grid: Grid, values: Mapping[str, Any], case: str) -> str | None:
    """Check one grid with one set of options; the reason if the scan refuses it."""
    for depth in DEPTHS:
        for seed in SEEDS:
            try:
                with _torch_hidden():
                    once = layer_routes(spec, grid=grid, depth=depth, seed=seed, options=values)
                    again = fresh_routes(spec, grid=grid, depth=depth, seed=seed, options=values)
            except BrokenScan as error:
                raise AssertionError(f"{case}: {error}") from error
            except NotReady as refusal:
                return str(refusal)
            except ZigmaBenchError as error:
                raise AssertionError(f"{case}: expected paths, or a refusal with NotReady, got: {error}") from error
            _require_same_routes(spec, once, again, f"{case}, depth {depth}, seed {seed}")
            for layer, route in enumerate(once):
                _require_inverse(spec, route, f"{case}, layer {layer}")
    return None


def _require_same_routes(spec: Spec, once: tuple[Route, ...], again: tuple[Route, ...], case: str) -> None:
    for layer, (first, second) in enumerate(zip(once, again, strict=True)):
        if first != second:
            raise AssertionError(
                f"scan {spec.name!r} on {case}: expected the same paths for layer {layer} each time, "
                f"got {_short(first)} and then {_short(second)}; draw random numbers from "
                "np.random.default_rng([seed, layer]) and keep no state between calls"
            )


def _require_inverse(spec: Spec, route: Route, case: str) -> None:
    """The inverse maps every visited token back to its step, and all other tokens to -1."""
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
def _torch_hidden() -> Iterator[None]:
    """A context in which `import torch` fails as if torch weren't installed."""
    module = sys.modules.get("torch")
    sys.modules["torch"] = typing.cast(Any, None)
    try:
        yield
    finally:
        del sys.modules["torch"]
        if module is not None:
            sys.modules["torch"] = module


def _check_import(spec: Spec) -> str:
    """The scan's module must import without torch, as plans do."""
    try:
        return imports_without_torch(planning_module(spec))
    except CheckFailed as error:
        what = str(error).replace(" does not:", " to import without torch, got:", 1)
        raise CheckFailed(f"scan {spec.name!r}: expected {what}") from None
