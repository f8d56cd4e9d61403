"""Commands on what is registered: scans, backbones and plugins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zigma_bench.registry import Registry, Spec

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Name = Annotated[str, typer.Argument(help="A registered name.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="OPTION=VALUE.")]

scans = typer.Typer(help="Scan orders.", no_args_is_help=True, rich_markup_mode=None)
backbones = typer.Typer(help="Denoising networks.", no_args_is_help=True, rich_markup_mode=None)
plugins = typer.Typer(help="Plugins, loaded and set aside.", no_args_is_help=True, rich_markup_mode=None)


@scans.command("list")
def list_scans(as_json: AsJson = False) -> None:
    """List every scan with its options."""
    from zigma_bench.plugins import catalogue

    _list(catalogue().scans, as_json)


@scans.command("show")
def show_scan(
    name: Name,
    grid: Annotated[str, typer.Option("--grid", help="HxW or TxHxW.")] = "8x8",
    layer: Annotated[int | None, typer.Option("--layer", help="Only this layer.")] = None,
    depth: Annotated[int, typer.Option("--depth", help="Layers of the network.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="The seed that random orders take.")] = 0,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Draw a scan's paths on a grid and print what they are like."""
    from zigma_bench.cli.show_scan import show, show_json

    call = show_json if as_json else show
    call(name, grid, layer=layer, depth=depth, seed=seed, settings=settings or [])


@backbones.command("list")
def list_backbones(as_json: AsJson = False) -> None:
    """List every backbone with its options."""
    from zigma_bench.plugins import catalogue

    _list(catalogue().backbones, as_json)


@backbones.command("show")
def show_backbone(name: Name, as_json: AsJson = False) -> None:
    """Print a backbone's options, named sizes and whether the order of tokens matters to it."""
    from zigma_bench.plugins import catalogue

    spec = catalogue().get("backbone", name)
    facts = {"order": spec.facts.order, "default_scan": spec.facts.default_scan, "sizes": dict(spec.facts.sizes)}
    if as_json:
        typer.echo(json.dumps({**_describe(spec), **facts}, indent=1))
        return
    _print_spec(spec)
    order = "matters" if spec.facts.order == "scan" else "does not matter (one cell, whatever the scans)"
    typer.echo(f"  the order of tokens {order}; its own scan: {spec.facts.default_scan or 'none'}")
    for size, options in spec.facts.sizes.items():
        typer.echo(f"  size {size}/PATCH: " + ", ".join(f"{key} {value}" for key, value in options.items()))


@plugins.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List every plugin with what it registered, and those set aside with the reason."""
    from zigma_bench.plugins import catalogue

    found = catalogue()
    if as_json:
        loaded = [{"name": p.name, "owner": p.owner, "registered": list(p.registered)} for p in found.plugins]
        aside = [{"name": p.name, "owner": p.owner, "reason": p.reason} for p in found.problems]
        typer.echo(json.dumps({"plugins": loaded, "problems": aside}, indent=1))
        return
    for plugin in found.plugins:
        typer.echo(f"{plugin.name} ({plugin.owner}): {', '.join(plugin.registered) or 'nothing yet'}")
    for problem in found.problems:
        typer.echo(f"{problem.name} ({problem.owner}): SET ASIDE: {problem.reason}")


def _list(registry: Registry, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_describe(spec) for spec in registry], indent=1))
        return
    for spec in registry:
        _print_spec(spec)


def _print_spec(spec: Spec) -> None:
    typer.echo(f"{spec.name} ({spec.owner}): {spec.doc}")
    for option in spec.options:
        default = "required" if option.required else f"default {json.dumps(option.default)}"
        typer.echo(f"  {option.name}: {option.type_text}; {default}")


def _describe(spec: Spec) -> dict[str, Any]:
    options = []
    for option in spec.options:
        default = {} if option.required else {"default": option.default}
        options.append({"name": option.name, "type": option.type_text, "required": option.required, **default})
    return {"name": spec.name, "owner": spec.owner, "doc": spec.doc, "options": options}
