"""Check a backbone: each output depends only on its own image, and the cost formula is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Condition, Cost, DataFacts, Spec
from zigma_bench.plugins.registry.modules import ModuleContract
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.testing.condition import TEXT_TOKENS, check_condition, made_up_condition
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.network import (
    ModuleCase,
    network_steps,
    noise,
    relative_difference,
    same_parameters,
    with_noise,
)
from zigma_bench.testing.orders import test_routes
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

IMAGES = ((3, 8, 12), (1, 8, 8), (3, 16, 16))  # channels, height, width
BATCH = 3
BACKEND = "torch"
# Facts of the data in a check, for backbone options that depend on the data.
DATA = DataFacts(3, 8, 8, "made up", conditions=(Condition("class", 10), Condition("text", 16, tokens=TEXT_TOKENS)))
MOST_BUILT = 1_000_000  # parameters; a check builds many networks in a few seconds


@dataclass(frozen=True)
class BackboneCase:
    """One geometry: options, image shape and the route of every layer."""

    spec: Spec
    values: Mapping[str, Any]
    image: tuple[int, int, int]
    scan: str | None

    @property
    def grid(self) -> Grid:
        return Grid.of_image(*self.image[1:], self.options.patch)

    @property
    def options(self) -> Any:
        return _options(self.spec, self.values)

    @property
    def routes(self) -> tuple[Route, ...]:
        return () if self.scan is None else (test_routes(self.grid)[self.scan],) * self.options.depth

    def refusal(self) -> str | None:
        """Why the backbone refuses this geometry; None if it accepts it."""
        try:
            grid, routes = self.grid, self.routes
            if self.spec.facts.check is not None:
                self.spec.facts.check(self.options, grid=grid, routes=routes)
        except NotReady as error:
            return str(error)
        return None

    def cost(self) -> Cost:
        cost: Cost = self.spec.facts.cost(self.options, grid=self.grid, channels=self.image[0], routes=self.routes)
        return cost

    def build(self, routes: Sequence[Route] | None = None) -> Any:
        routes = self.routes if routes is None else routes
        return self.spec.load()(self.options, grid=self.grid, channels=self.image[0], routes=routes, backend=BACKEND)

    def built(self) -> ModuleCase:
        x, t = noise(BATCH, *self.image), torch.tensor([0.1, 0.5, 0.9])
        y = () if (condition := self.condition) is None else (made_up_condition(condition, self.options, BATCH),)
        return ModuleCase(self.build, (x, t, *y), (BATCH, *self.image), self.cost)

    @property
    def condition(self) -> Condition | None:
        condition: Condition | None = self.spec.facts.condition(self.options)
        return condition


def backbone_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of a backbone."""
    toy = {**spec.facts.smoke, **(options or {})}
    first = [
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep(
            "toy",
            "facts.smoke has values for depth, patch and all options without a default",
            lambda: _check_smoke(spec, toy),
            True,
        ),
        CheckStep("imports without torch", _expected_import(spec), lambda: _check_import(spec, plugin), essential=True),
        CheckStep(
            "geometry",
            "at least one image and order that it accepts",
            lambda: _check_geometry(spec, toy),
            essential=True,
        ),
    ]
    checks = run_checks(first)
    if checks[-1].ok:
        case = _cases(spec, toy)[0]
        steps = [
            *network_steps(case.built()),
            CheckStep("time", "another output at another time", lambda: _check_time(case)),
            CheckStep("order", _expected_order(spec), lambda: _check_order(spec, toy, case)),
            CheckStep(
                "other options",
                "parameters as in the formula, for each listed choice",
                lambda: _check_parameters(spec, toy),
            ),
            CheckStep(
                "condition",
                "another output for another y, an error without y",
                lambda: _check_conditions(spec, toy, case),
            ),
        ]
        checks += run_checks(steps)
    return Report("backbone", spec.name, spec.owner, checks)


def _check_smoke(spec: Spec, toy: Mapping[str, Any]) -> str:
    options = _options(spec, spec.resolve(toy, where="facts.smoke"))
    for name in ("depth", "patch"):
        if not isinstance(getattr(options, name, None), int):
            raise CheckFailed(f"{name} {getattr(options, name, None)!r}; a plan reads options.depth and options.patch")
    return ", ".join(f"{key} {value}" for key, value in toy.items())


def _options(spec: Spec, values: Mapping[str, Any]) -> Any:
    return spec.make_options({**values, **spec.facts.fill(values, DATA)})


def _expected_import(spec: Spec) -> str:
    return "yes, except for a plain module" if isinstance(spec.target, ModuleContract) else "yes"


def _check_import(spec: Spec, plugin: ModuleType | None) -> str:
    if isinstance(spec.target, ModuleContract):
        return "a plain module, and its class needs torch"
    return imports_without_torch(planning_module(spec, plugin))


def _scans(spec: Spec) -> list[str | None]:
    return [None] if spec.facts.order == "free" else list(test_routes(Grid(1, 2)))


def _cases(spec: Spec, toy: Mapping[str, Any]) -> list[BackboneCase]:
    """All geometries that the backbone accepts."""
    values = spec.resolve(toy, where="facts.smoke")
    cases = [BackboneCase(spec, values, image, scan) for image in IMAGES for scan in _scans(spec)]
    return [case for case in cases if case.refusal() is None]


def _check_geometry(spec: Spec, toy: Mapping[str, Any]) -> str:
    if not (cases := _cases(spec, toy)):
        values = spec.resolve(toy, where="facts.smoke")
        raise CheckFailed(
            f"it refuses all, such as: {BackboneCase(spec, values, IMAGES[0], _scans(spec)[0]).refusal()}"
        )
    images = dict.fromkeys("x".join(map(str, case.image)) for case in cases)
    scans = dict.fromkeys(case.scan or "no order" for case in cases)
    return f"{', '.join(images)}; {', '.join(scans)}"


def _check_time(case: BackboneCase) -> str:
    x, t, *y = case.built().inputs
    network = with_noise(case.built())
    with torch.no_grad():
        off = relative_difference(network(x, t, *y), network(x, t.flip(0), *y))
    if off == 0:
        raise CheckFailed("the same output; the time is not used")
    return f"a difference of {off:.1g}"


def _expected_order(spec: Spec) -> str:
    return "ignored" if spec.facts.order == "free" else "another output for another order"


def _check_order(spec: Spec, toy: Mapping[str, Any], case: BackboneCase) -> str:
    """A free backbone must ignore the order; any other must use it."""
    inputs = case.built().inputs
    if spec.facts.order == "free":
        columns = (test_routes(case.grid)["columns"],) * case.options.depth
        other = ModuleCase(lambda: case.build(columns), inputs, case.built().shape, case.cost)
        same = [with_noise(case.built()), with_noise(other)]
        with torch.no_grad():
            off = relative_difference(same[1](*inputs), same[0](*inputs))
        if off > 0:
            raise CheckFailed(f"the output differs by {off:.2g} with a scan by columns")
        return "the same output with a scan by columns"
    peers = [c for c in _cases(spec, toy) if c.image == case.image and _differs_in_order(c, case)]
    for peer in peers:
        with torch.no_grad():
            if relative_difference(with_noise(peer.built())(*inputs), with_noise(case.built())(*inputs)) > 0:
                return f"{case.scan} and {peer.scan} differ"
    raise CheckFailed(
        f"the same output for {', '.join(str(c.scan) for c in peers)}" if peers else "it accepts no second order"
    )


def _differs_in_order(other: BackboneCase, case: BackboneCase) -> bool:
    """Whether two cases differ only in the order."""
    a, b = other.routes[0], case.routes[0]
    return a != b and (a.K, a.share, a.merge) == (b.K, b.share, b.merge)


def _check_parameters(spec: Spec, toy: Mapping[str, Any]) -> str:
    """The parameters by formula for every listed choice, and for every order and image that the backbone accepts."""
    built, skipped = 0, 0
    for values in option_sets(spec, toy, where="facts.smoke"):
        for case in (BackboneCase(spec, values, image, scan) for image in IMAGES[:2] for scan in _scans(spec)[-4:]):
            if case.refusal() is None:
                if case.cost().parameters > MOST_BUILT:
                    skipped += 1
                    continue
                try:
                    same_parameters(case.built())
                except CheckFailed as error:
                    raise CheckFailed(
                        f"{error} with {dict(values)}, image {case.image}, {case.scan or 'no order'}"
                    ) from None
                built += 1
    return f"{built} networks" + (f"; {skipped} with more than {MOST_BUILT:,} parameters not built" if skipped else "")


def _check_conditions(spec: Spec, toy: Mapping[str, Any], case: BackboneCase) -> str:
    """Check every condition that the options offer, with the first set of options that has it."""
    found: dict[Condition, str] = {}
    for values in option_sets(spec, toy, ranges=False, where="facts.smoke"):
        other = BackboneCase(spec, values, case.image, case.scan)
        condition = other.condition
        if condition is not None and condition not in found and other.refusal() is None:
            found[condition] = check_condition(other.built(), condition)
    return ", ".join(f"{condition}: {words}" for condition, words in found.items()) or "it has no condition"
