"""The commands that list and show registered objects: `scans`, `backbones`, `mixers`, `data list`, `metrics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zigma_bench.plugins.registry import Spec

ARROWS = {"lower": "↓", "higher": "↑"}

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Name = Annotated[str, typer.Argument(help="A registered name.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="OPTION=VALUE.")]
GridText = Annotated[str, typer.Option("--grid", help="HxW or TxHxW.")]
Depth = Annotated[int, typer.Option("--depth", help="Layers of the network.")]
Seed = Annotated[int, typer.Option("--seed", help="The seed of random orders.")]
Svg = Annotated[Path | None, typer.Option("--svg", help="Write the picture to this file.")]
Png = Annotated[Path | None, typer.Option("--png", help="Write the picture to this file.")]


def list_scans(as_json: AsJson = False) -> None:
    """List all scans with their options."""
    _list("scan", as_json)


def show_scan(
    name: Name,
    grid: GridText = "8x8",
    layer: Annotated[int | None, typer.Option("--layer", help="Only this layer.")] = None,
    depth: Depth = 8,
    seed: Seed = 0,
    settings: Settings = None,
    as_json: AsJson = False,
    svg: Svg = None,
    png: Png = None,
    gif: Annotated[Path | None, typer.Option("--gif", help="Write an animation of at most 120 frames.")] = None,
) -> None:
    """Draw the paths of a scan and print their statistics."""
    from zigma_bench.cli.scans_common import find_routes, picture_files
    from zigma_bench.cli.scans_show import show

    wanted = picture_files(svg=svg, png=png, gif=gif)
    found = find_routes(name, grid, layer=layer, depth=depth, seed=seed, settings=settings or [])
    show(found, as_json=as_json, wanted=wanted)


def compare_scans(
    names: Annotated[list[str], typer.Argument(help="Scans, with options as in zigzag:paths=2.", metavar="SCAN...")],
    grid: GridText = "16x16",
    depth: Depth = 8,
    seed: Seed = 0,
    as_json: AsJson = False,
    svg: Svg = None,
    png: Png = None,
) -> None:
    """Tabulate the statistics of scans side by side.

    The picture adds the distances of neighbours in the sequence.
    """
    from zigma_bench.cli.scans_common import find_written, picture_files
    from zigma_bench.cli.scans_compare import compare

    wanted = picture_files(svg=svg, png=png)
    found = [find_written(name, grid, depth=depth, seed=seed) for name in names]
    compare(found, as_json=as_json, wanted=wanted)


def scan_gallery(
    names: Annotated[list[str] | None, typer.Argument(help="Scans; all by default.", metavar="[SCAN...]")] = None,
    grid: GridText = "16x16",
    depth: Depth = 8,
    seed: Seed = 0,
    svg: Svg = None,
    png: Png = None,
) -> None:
    """Draw scans on one page, by default all of them."""
    from zigma_bench.cli.scans_common import picture_files
    from zigma_bench.cli.scans_gallery import gallery

    gallery(names or (), grid, depth=depth, seed=seed, wanted=picture_files(svg=svg, png=png))


def list_backbones(as_json: AsJson = False) -> None:
    """List all backbones with their options."""
    _list("backbone", as_json)


def show_backbone(
    name: Annotated[str, typer.Argument(help="A name, or a network: zigma/B/2, or zigma:width=96,depth=6,patch=2.")],
    grid: Annotated[
        str | None, typer.Option("--grid", help="HxW of an image, or TxHxW of a clip. Default: 32x32.")
    ] = None,
    scan: Annotated[str | None, typer.Option("--scan", help="A scan, with options as in zigzag:paths=2.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="OPTION=VALUE of the scan.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="Channels of the image. Default: 3.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="The backend for the memory. Default: fused.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The seed of random orders. Default: 0.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a backbone's options, or a network's cost.

    NAME prints options and sizes. A network, such as zigma/B/2, prints parameters, FLOPs, memory and paths.
    """
    is_set = [item is not None for item in (grid, scan, settings, channels, backend, seed)]
    if "/" in name or ":" in name or any(is_set):
        from zigma_bench.cli.backbones_find import find_network
        from zigma_bench.cli.backbones_show import show_network

        network = find_network(
            name, image=grid or "32x32", channels=3 if channels is None else channels, scan=scan,
            settings=settings or (), seed=seed or 0, backend=backend or "fused",
        )  # fmt: skip
        show_network(network, as_json=as_json)
        return
    from zigma_bench.plugins.discovery import catalogue

    _show_options(catalogue().get("backbone", name), as_json)


def _show_options(spec: Spec, as_json: bool) -> None:
    """Print a backbone's options, its named sizes, and whether the order of tokens matters to it."""
    facts = {"order": spec.facts.order, "default_scan": spec.facts.default_scan, "sizes": dict(spec.facts.sizes)}
    if as_json:
        print(json.dumps({**_describe(spec), **facts}, indent=1))
        return
    _print_spec(spec)
    order = "matters" if spec.facts.order == "scan" else "does not matter (one cell for all scans)"
    print(f"  the order of tokens {order}; default scan: {spec.facts.default_scan or 'none'}")
    for size, options in spec.facts.sizes.items():
        print(f"  size {size}/PATCH: " + ", ".join(f"{key} {value}" for key, value in options.items()))


def list_mixers(as_json: AsJson = False) -> None:
    """List all mixers with their options."""
    _list("mixer", as_json)


def list_data_sets(as_json: AsJson = False) -> None:
    """List all data sets with their options."""
    _list("dataset", as_json)


def list_metrics(as_json: AsJson = False) -> None:
    """List all metrics: what they measure and need.

    An arrow shows which direction is better. A metric whose files or packages are missing says so.
    """
    from zigma_bench.plugins.discovery import catalogue

    found = [_describe_metric(spec) for spec in catalogue().metrics]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for metric in found:
        print(f"{metric['name']} {ARROWS[metric['better']]} ({metric['owner']}): {metric['doc']}")
        if metric["missing"]:
            print(f"  can't be measured yet: {'; '.join(metric['missing'])} (see zigma-bench doctor)")


def _describe_metric(spec: Spec) -> dict[str, Any]:
    """A metric as `metrics list` shows it; `missing`: files and packages that its default options need."""
    required = [option.name for option in spec.options if option.required]
    missing = [] if required else [item.what for item in spec.facts.missing(spec.make_options({}))]
    facts = {"better": spec.facts.better, "unit": spec.facts.unit, "of": spec.facts.of, "needs": spec.facts.needs}
    return {**_describe(spec), **facts, "missing": missing}


def _list(kind: str, as_json: bool) -> None:
    from zigma_bench.plugins.discovery import catalogue

    registry = catalogue().registry(kind)
    if as_json:
        print(json.dumps([_describe(spec) for spec in registry], indent=1))
        return
    for spec in registry:
        _print_spec(spec)


def _print_spec(spec: Spec) -> None:
    print(f"{spec.name} ({spec.owner}): {spec.doc}")
    for option in spec.options:
        default = "required" if option.required else f"default {json.dumps(option.default)}"
        print(f"  {option.name}: {option.type_text}; {default}")


def _describe(spec: Spec) -> dict[str, Any]:
    options = []
    for option in spec.options:
        default = {} if option.required else {"default": option.default}
        options.append({"name": option.name, "type": option.type_text, "required": option.required, **default})
    return {"name": spec.name, "owner": spec.owner, "doc": spec.doc, "options": options}
