"""Find the network that a command names, with its options, routes and cost. No network is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zigma_bench.cli.scans_common import setting_of, split_settings
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Resolved, cell_routes
from zigma_bench.plan.resolve import resolve_option
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.suite import Choice

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ShownNetwork:
    """A requested network with its cost.

    `image` is the shape [C, H, W], or [T, C, H, W] of a clip. `activation_bytes` is the activation memory by precision
    and operator, or the reason why it is unknown.
    """

    label: str
    backbone: Resolved
    scan: Resolved | None
    image: tuple[int, ...]
    grid: Grid
    routes: tuple[Route, ...]
    cost: Cost
    backend: str
    activation_bytes: Mapping[str, Mapping[str, int]] | str


def find_network(
    text: str, *, image: str, channels: int, scan: str | None, settings: Sequence[str], seed: int, backend: str
) -> ShownNetwork:
    """The network NAME/SIZE/PATCH or NAME:OPTION=VALUE,... for an image HxW or a clip TxHxW, with the routes of a scan.

    Raises UsageError for an invalid name or option, and NotReady for a grid that doesn't fit.
    """
    backbone = _backbone(text)
    spec = catalogue().get("backbone", backbone.name)
    found = _scan(spec, scan, settings)
    pixels, options = _pixels(image, channels), spec.make_options(backbone.options)
    try:
        grid = Grid.of_image(pixels.height, pixels.width, options.patch, pixels.frames)
    except NotReady as error:
        raise error.at(f"--grid {image}") from None
    routes = cell_routes(found, grid=grid, depth=options.depth, seed=seed, catalogue=catalogue())
    if spec.facts.check is not None:
        spec.facts.check(options, grid=grid, routes=routes)
    geometry = {"grid": grid, "channels": channels, "routes": routes}
    cost = spec.facts.cost(options, **geometry).within("not broken down")
    frames = (pixels.frames,) if pixels.video else ()
    size = (*frames, channels, pixels.height, pixels.width)
    memory = _activation_bytes(spec, options, geometry, backend)
    return ShownNetwork(text, backbone, found, size, grid, routes, cost, backend, memory)


def _backbone(text: str) -> Resolved:
    head, colon, rest = text.partition(":")
    name, slash, size = head.partition("/")
    settings = split_settings(rest) if colon else []
    spec = catalogue().get("backbone", name)
    if not slash and not colon and any(option.required for option in spec.options):
        raise UsageError(
            "the network's size is missing", where=text,
            expected=f"{name}/SIZE/PATCH such as {name}/B/2, or {name}:width=96,depth=6,patch=2",
        )  # fmt: skip
    size_option = [("size", size)] if slash else []
    options = _merged(size_option, [setting_of(setting, text) for setting in settings], where=text)
    return resolve_option(catalogue(), "backbone", Choice.model_validate({**options, "name": name}), text)


def _scan(spec: Spec, text: str | None, settings: Sequence[str]) -> Resolved | None:
    """The requested scan, else the backbone's default, else raster; None for an order-free backbone."""
    if spec.facts.order == "free":
        if text is not None or settings:
            raise UsageError(f"the order of tokens does not matter to {spec.name}", where="--scan", do="leave it out")
        return None
    name, colon, rest = (text or spec.facts.default_scan or "raster").partition(":")
    written = [setting_of(setting, "--scan") for setting in (split_settings(rest) if colon else [])]
    options = _merged(written, [setting_of(setting, "--set") for setting in settings], where="--scan")
    return resolve_option(catalogue(), "scan", Choice.model_validate({**options, "name": name}), "--scan")


def _merged(*settings: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The options of several lists; UsageError for an option that is listed twice."""
    found: dict[str, Any] = {}
    for name, value in (pair for pairs in settings for pair in pairs):
        if name in found or name == "name":
            what = f"the option {name!r} is listed twice" if name in found else "'name' is not an option"
            raise UsageError(what, where=where, got=value)
        found[name] = value
    return found


def _pixels(text: str, channels: int) -> Grid:
    try:
        found = Grid.parse(text)
    except UsageError as error:
        raise error.at("--grid") from None
    if channels < 1:
        raise UsageError("an image has at least one channel", where="--channels", got=channels)
    return found


def _activation_bytes(
    spec: Spec, options: Any, geometry: Mapping[str, Any], backend: str
) -> Mapping[str, Mapping[str, int]] | str:
    """The estimated activation memory by precision and operator, or the reason why there is none."""
    if spec.facts.memory is None:
        return f"the backbone {spec.name!r} of {spec.owner} has no estimate of its activation memory"
    try:
        return {
            precision: spec.facts.memory(options, **geometry, backend=backend, precision=precision)
            for precision in PRECISIONS
        }
    except NotReady as error:  # the mixer of a plugin has no estimate
        return str(error)
    except UsageError as error:
        raise error.at("--backend") from None
