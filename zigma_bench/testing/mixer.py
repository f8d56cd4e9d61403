"""Check a mixer: tokens in raster order in and out, along every route that it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.network import ModuleCase, network_steps, noise, same_parameters
from zigma_bench.testing.orders import special_orders, test_routes
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

BLOCK = ZigmaOptions(width=32, depth=2, patch=1)
GRID = Grid(4, 6)
BATCH = 3
BACKEND = "torch"


@dataclass(frozen=True)
class MixerCase:
    """A mixer's options and the route of its layer."""

    spec: Spec
    values: Mapping[str, Any]
    route: Route

    @property
    def options(self) -> Any:
        return self.spec.make_options(self.values)

    def refusal(self) -> str | None:
        """Why the mixer refuses the route; None if it accepts it."""
        try:
            if self.spec.facts.check is not None:
                self.spec.facts.check(self.options, block=BLOCK, grid=GRID, route=self.route)
        except NotReady as error:
            return str(error)
        return None

    def cost(self) -> Cost:
        cost: Cost = self.spec.facts.cost(self.options, block=BLOCK, grid=GRID, route=self.route)
        return cost

    def build(self) -> Any:
        return self.spec.load()(self.options, block=BLOCK, grid=GRID, route=self.route, backend=BACKEND)

    def built(self) -> ModuleCase:
        shape = (BATCH, GRID.tokens, BLOCK.width)
        return ModuleCase(self.build, (noise(*shape),), shape, self.cost)


def mixer_report(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a mixer on its first route, and the most important ones on every other."""
    values = option_sets(spec, options)[0]
    routes = {**test_routes(GRID), **special_orders(GRID)}
    cases = {name: MixerCase(spec, values, route) for name, route in routes.items()}
    checks = run_checks([
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: imports_without_torch(planning_module(spec, plugin)), True),
        CheckStep("routes", "at least one that it accepts", lambda: _check_routes(cases), essential=True),
    ])  # fmt: skip
    if checks[-1].ok:
        taken = [(name, case) for name, case in cases.items() if case.refusal() is None]
        checks += run_checks(network_steps(taken[0][1].built()))
        checks += run_checks([step for name, case in taken[1:] for step in _short_checks(name, case)])
        checks += run_checks(
            [
                CheckStep(
                    "other options", "parameters as in the formula", lambda: _check_parameters(spec, options, taken)
                )
            ]
        )
    return Report("mixer", spec.name, spec.owner, checks)


def _short_checks(name: str, case: MixerCase) -> list[CheckStep]:
    chosen = ("parameters", "output", "samples apart")
    steps = [step for step in network_steps(case.built()) if step.what in chosen]
    return [CheckStep(f"{name}: {step.what}", step.expected, step.run) for step in steps]


def _check_routes(cases: Mapping[str, MixerCase]) -> str:
    refused = {name: reason for name, case in cases.items() if (reason := case.refusal()) is not None}
    accepted = [name for name in cases if name not in refused]
    if not accepted:
        raise CheckFailed(f"it refuses all, such as: {next(iter(refused.values()))}")
    words = f"; refused: {', '.join(refused)} ({next(iter(refused.values()))})" if refused else ""
    return ", ".join(accepted) + words


def _check_parameters(spec: Spec, options: Mapping[str, Any] | None, taken: list[tuple[str, MixerCase]]) -> str:
    """The parameters by formula for every listed choice of every option."""
    count = 0
    for values in option_sets(spec, options):
        for name, known in taken:
            case = MixerCase(spec, values, known.route)
            if case.refusal() is None:
                try:
                    same_parameters(case.built())
                except CheckFailed as error:
                    raise CheckFailed(f"{error} with {dict(values)} and {name}") from None
                count += 1
    return f"{count} mixers"
