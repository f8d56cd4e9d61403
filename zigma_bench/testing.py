"""For authors of plugins: check that a scan keeps its contract on every kind of grid.

from zigma_bench.testing import check_scan

def test_my_scan():
    report = check_scan(my_scan)
    assert not report.refused        # or: only the grids that my scan declares unfit
"""

from __future__ import annotations

import functools
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zigma_bench.errors import NotReady, ZigmaBenchError
from zigma_bench.grid import Grid
from zigma_bench.registry import Option, Spec, scan_spec
from zigma_bench.scans.layers import fresh_routes, routes
from zigma_bench.scans.route import BrokenScan, Route

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
    scan: Callable[..., Any] | str,
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
    checked, refused = [], {}
    for values in _option_sets(spec) if options is None else [spec.resolve(o, where="check_scan") for o in options]:
        for grid in (g if isinstance(g, Grid) else Grid.parse(g) for g in grids):
            case = f"{grid} {values}" if values else str(grid)
            reason = _check(spec, grid, values, case)
            if reason is None:
                checked.append(case)
            else:
                refused[case] = reason
    if not checked:
        raise AssertionError(
            f"scan {spec.name!r}: expected at least one grid that it takes, got only refusals: {refused}"
        )
    return ScanReport(spec.name, tuple(checked), refused)


def _spec_of(scan: Callable[..., Any] | str) -> Spec:
    try:
        if isinstance(scan, str):
            from zigma_bench.plugins import catalogue

            return catalogue().get("scan", scan)
        name = getattr(scan, "__name__", type(scan).__name__)
        return scan_spec(name, scan, owner=getattr(scan, "__module__", "an unknown module"))
    except ZigmaBenchError as error:
        raise AssertionError(f"expected a scan that registers, got: {error}") from error


def _option_sets(spec: Spec) -> list[dict[str, Any]]:
    """The defaults, then each listed choice and each end of a range, one option at a time."""
    required = {option.name: choices[0] for option in spec.options if option.required and (choices := _choices(option))}
    missing = [option.name for option in spec.options if option.required and option.name not in required]
    if missing:
        raise AssertionError(f"scan {spec.name!r}: expected `options=` with values for {', '.join(missing)}, got none")
    sets = [spec.resolve(required, where="check_scan")]
    for option in spec.options:
        for value in _choices(option):
            values = spec.resolve({**required, option.name: value}, where="check_scan")
            if values not in sets:
                sets.append(values)
    return sets


def _choices(option: Option) -> list[Any]:
    """The values an option lists: those of a Literal, both truths, the ends of a range of whole numbers."""
    origin, arguments = typing.get_origin(option.annotation), typing.get_args(option.annotation)
    if origin is Literal:
        return list(arguments)
    if option.annotation is bool:
        return [False, True]
    if origin is typing.Annotated and arguments[0] is int:
        ends = [getattr(item, end, None) for item in arguments[1:] for end in ("ge", "le")]
        return [end for end in ends if end is not None]
    return []


def _check(spec: Spec, grid: Grid, values: Mapping[str, Any], case: str) -> str | None:
    """Check one grid with one set of options; the reason if the scan refuses it."""
    for depth in DEPTHS:
        for seed in SEEDS:
            try:
                with _torch_out_of_reach():
                    once = routes(spec, grid=grid, depth=depth, seed=seed, options=values)
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
    tokens = np.broadcast_to(np.arange(route.tokens), route.paths.shape)
    back = np.take_along_axis(np.take_along_axis(tokens, route.paths, 1), route.inverse, 1)
    if not np.array_equal(back, tokens):
        raise AssertionError(
            f"scan {spec.name!r} on {case}: expected the inverse to undo the path, got {back.tolist()}"
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


def _without_torch(spec: Spec) -> None:
    """The scan's module must import without torch, as plans do. What was typed at a prompt has no file to import."""
    name = spec.target.partition(":")[0] if isinstance(spec.target, str) else getattr(spec.target, "__module__", "")
    file = getattr(sys.modules.get(name), "__file__", None)
    trace = _torch_import(name, file, tuple(sys.path)) if file is not None and name != "__main__" else None
    if trace is not None:
        raise AssertionError(f"scan {spec.name!r}: expected module {name} to import without torch, got:\n{trace}")


IMPORT = """
import importlib, sys
from importlib.util import module_from_spec, spec_from_file_location
name, file, *sys.path = {arguments!r}
sys.modules["torch"] = None
try:
    importlib.import_module(name)
except ModuleNotFoundError as error:
    if not f"{{name}}.".startswith(f"{{error.name}}."):
        raise
    spec = spec_from_file_location(name, file)  # such as a test's module, which pytest imports by file alone
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
"""


@functools.cache
def _torch_import(name: str, file: str, path: tuple[str, ...]) -> str | None:
    """The traceback of importing a module in a fresh process without torch, or None if it imports."""
    code = IMPORT.format(arguments=[name, file, *path])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr if done.returncode else None
