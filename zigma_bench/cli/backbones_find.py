"""A network as a command names it: its options, its layers under a scan, and what it costs; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zigma_bench.cli.scans_common import setting_of, split_settings
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Resolved, cell_routes
from zigma_bench.plan.resolve import resolve
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route
from zigma_bench.suite import Choice

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Network:
    """A network as it was asked for, with its cost. `image`: [C, H, W], or [T, C, H, W] of a clip. `kept`: bytes by
    precision and operator, or why nobody knows."""

    label: str
    backbone: Resolved
    scan: Resolved | None
    image: tuple[int, ...]
    grid: Grid
    routes: tuple[Route, ...]
    cost: Cost
    backend: str
    kept: Mapping[str, Mapping[str, int]] | str


def find_network(
    text: str, *, image: str, channels: int, scan: str | None, settings: Sequence[str], seed: int, backend: str
) -> Network:
    """The network of NAME/SIZE/PATCH or NAME:OPTION=VALUE,... on an image HxW or a clip TxHxW, its layers under a
    scan."""
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
    given = {"grid": grid, "channels": channels, "routes": routes}
    cost = spec.facts.cost(options, **given).within("not told apart")
    frames = (pixels.frames,) if pixels.video else ()
    size = (*frames, channels, pixels.height, pixels.width)
    return Network(text, backbone, found, size, grid, routes, cost, backend, _kept(spec, options, given, backend))


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
    options = _once([("size", size)] if slash else [], [setting_of(setting, text) for setting in settings], where=text)
    return resolve(catalogue(), "backbone", Choice.model_validate({**options, "name": name}), text)


def _scan(spec: Spec, text: str | None, settings: Sequence[str]) -> Resolved | None:
    """The scan asked for, else the backbone's own, else raster; none where the order of tokens does not matter."""
    if spec.facts.order == "free":
        if text is not None or settings:
            raise UsageError(f"the order of tokens does not matter to {spec.name}", where="--scan", do="leave it out")
        return None
    name, colon, rest = (text or spec.facts.default_scan or "raster").partition(":")
    written = [setting_of(setting, "--scan") for setting in (split_settings(rest) if colon else [])]
    options = _once(written, [setting_of(setting, "--set") for setting in settings], where="--scan")
    return resolve(catalogue(), "scan", Choice.model_validate({**options, "name": name}), "--scan")


def _once(*given: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Options from several places, each told once."""
    found: dict[str, Any] = {}
    for name, value in (pair for pairs in given for pair in pairs):
        if name in found or name == "name":
            what = f"the option {name!r} stands twice" if name in found else "'name' is no option"
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


def _kept(spec: Spec, options: Any, given: Mapping[str, Any], backend: str) -> Mapping[str, Mapping[str, int]] | str:
    if spec.facts.kept is None:
        return f"the backbone {spec.name!r} of {spec.owner} gives no estimate of the memory that it keeps"
    try:
        return {
            precision: spec.facts.kept(options, **given, backend=backend, precision=precision)
            for precision in PRECISIONS
        }
    except NotReady as error:  # a plugin's mixer that does not say
        return str(error)
    except UsageError as error:
        raise error.at("--backend") from None
