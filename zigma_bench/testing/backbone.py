"""A backbone's contract: the velocity of each image alone, at the cost that its formula says."""

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
# What the data of a check determines, for backbones whose options leave it to the data.
DATA = DataFacts(3, 8, 8, "made up", conditions=(Condition("class", 10), Condition("text", 16, tokens=TEXT_TOKENS)))
MOST_BUILT = 1_000_000  # parameters: a check builds many networks, and ends in seconds


@dataclass(frozen=True)
class BackboneCase:
    """One geometry: options, image and the route of every layer."""

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
        """Why the backbone does not take this geometry, if it does not."""
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
        given = () if (condition := self.condition) is None else (made_up_condition(condition, self.options, BATCH),)
        return ModuleCase(self.build, (x, t, *given), (BATCH, *self.image), self.cost)

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
        CheckStep("options", "a type for each, and defaults of it", lambda: check_options(spec)),
        CheckStep(
            "toy", "values for depth, patch and all that has no default, in facts.smoke", lambda: _toy(spec, toy), True
        ),
        CheckStep("imports without torch", _expected_import(spec), lambda: _imports(spec, plugin), essential=True),
        CheckStep("geometry", "an image and an order that it takes", lambda: _geometry(spec, toy), essential=True),
    ]
    checks = run_checks(first)
    if checks[-1].ok:
        case = _cases(spec, toy)[0]
        steps = [
            *network_steps(case.built()),
            CheckStep("time", "another output at another time", lambda: _time(case)),
            CheckStep("order", _expected_order(spec), lambda: _order(spec, toy, case)),
            CheckStep("other options", "the formula's parameters for each listed choice", lambda: _formula(spec, toy)),
            CheckStep(
                "condition", "another output for another y, an error for none", lambda: _condition(spec, toy, case)
            ),
        ]
        checks += run_checks(steps)
    return Report("backbone", spec.name, spec.owner, checks)


def _toy(spec: Spec, toy: Mapping[str, Any]) -> str:
    options = _options(spec, spec.resolve(toy, where="facts.smoke"))
    for name in ("depth", "patch"):
        if not isinstance(getattr(options, name, None), int):
            raise CheckFailed(f"{name} {getattr(options, name, None)!r}; a plan reads options.depth and options.patch")
    return ", ".join(f"{key} {value}" for key, value in toy.items())


def _options(spec: Spec, values: Mapping[str, Any]) -> Any:
    return spec.make_options({**values, **spec.facts.fill(values, DATA)})


def _expected_import(spec: Spec) -> str:
    return "of no plain module" if isinstance(spec.target, ModuleContract) else "yes"


def _imports(spec: Spec, plugin: ModuleType | None) -> str:
    if isinstance(spec.target, ModuleContract):
        return "a plain module, whose class brings torch"
    return imports_without_torch(planning_module(spec, plugin))


def _scans(spec: Spec) -> list[str | None]:
    return [None] if spec.facts.order == "free" else list(test_routes(Grid(1, 2)))


def _cases(spec: Spec, toy: Mapping[str, Any]) -> list[BackboneCase]:
    """All geometries that the backbone takes."""
    values = spec.resolve(toy, where="facts.smoke")
    cases = [BackboneCase(spec, values, image, scan) for image in IMAGES for scan in _scans(spec)]
    return [case for case in cases if case.refusal() is None]


def _geometry(spec: Spec, toy: Mapping[str, Any]) -> str:
    if not (cases := _cases(spec, toy)):
        values = spec.resolve(toy, where="facts.smoke")
        raise CheckFailed(f"only refusals: {BackboneCase(spec, values, IMAGES[0], _scans(spec)[0]).refusal()}")
    images = dict.fromkeys("x".join(map(str, case.image)) for case in cases)
    scans = dict.fromkeys(case.scan or "no order" for case in cases)
    return f"{', '.join(images)}; {', '.join(scans)}"


def _time(case: BackboneCase) -> str:
    x, t, *y = case.built().inputs
    network = with_noise(case.built())
    with torch.no_grad():
        off = relative_difference(network(x, t, *y), network(x, t.flip(0), *y))
    if off == 0:
        raise CheckFailed("the same: the time is not used")
    return f"a difference of {off:.1g}"


def _expected_order(spec: Spec) -> str:
    return "ignored" if spec.facts.order == "free" else "another output for another order"


def _order(spec: Spec, toy: Mapping[str, Any], case: BackboneCase) -> str:
    """A free backbone gives the same whatever the order; any other must read it."""
    inputs = case.built().inputs
    if spec.facts.order == "free":
        given = (test_routes(case.grid)["columns"],) * case.options.depth
        other = ModuleCase(lambda: case.build(given), inputs, case.built().shape, case.cost)
        same = [with_noise(case.built()), with_noise(other)]
        with torch.no_grad():
            off = relative_difference(same[1](*inputs), same[0](*inputs))
        if off > 0:
            raise CheckFailed(f"a difference of {off:.2g} with a scan by columns")
        return "the same with a scan by columns"
    peers = [c for c in _cases(spec, toy) if c.image == case.image and _peer(c, case)]
    for peer in peers:
        with torch.no_grad():
            if relative_difference(with_noise(peer.built())(*inputs), with_noise(case.built())(*inputs)) > 0:
                return f"{case.scan} and {peer.scan} differ"
    raise CheckFailed(
        f"the same for {', '.join(str(c.scan) for c in peers)}" if peers else "no second order that it takes"
    )


def _peer(other: BackboneCase, case: BackboneCase) -> bool:
    """Whether two cases differ in the order alone."""
    a, b = other.routes[0], case.routes[0]
    return a != b and (a.K, a.share, a.merge) == (b.K, b.share, b.merge)


def _formula(spec: Spec, toy: Mapping[str, Any]) -> str:
    """The parameters by formula for every listed choice, and for every order and image that the backbone takes."""
    built, left = 0, 0
    for values in option_sets(spec, toy, where="facts.smoke"):
        for case in (BackboneCase(spec, values, image, scan) for image in IMAGES[:2] for scan in _scans(spec)[-4:]):
            if case.refusal() is None:
                if case.cost().parameters > MOST_BUILT:
                    left += 1
                    continue
                try:
                    same_parameters(case.built())
                except CheckFailed as error:
                    raise CheckFailed(
                        f"{error} with {dict(values)}, image {case.image}, {case.scan or 'no order'}"
                    ) from None
                built += 1
    return f"{built} networks" + (f"; {left} not built, of over {MOST_BUILT:,} parameters" if left else "")


def _condition(spec: Spec, toy: Mapping[str, Any], case: BackboneCase) -> str:
    """Every condition that the options offer, with the first set of options that has it."""
    found: dict[Condition, str] = {}
    for values in option_sets(spec, toy, ranges=False, where="facts.smoke"):
        other = BackboneCase(spec, values, case.image, case.scan)
        condition = other.condition
        if condition is not None and condition not in found and other.refusal() is None:
            found[condition] = check_condition(other.built(), condition)
    return ", ".join(f"{condition}: {words}" for condition, words in found.items()) or "it has none"
