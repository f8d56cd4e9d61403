"""All commands, by group."""

from __future__ import annotations

from typing import Annotated

import typer

from zigma_bench.cli import about, catalogue, suites

app = typer.Typer(
    name="zigma-bench",
    help="Compares scan orders and backbones of state-space diffusion models: train, sample, measure, tabulate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:  # with other words beside it; alone it is answered before this module is imported
        from zigma_bench import __version__

        typer.echo(f"zigma-bench {__version__}")
        raise typer.Exit()


for command in (suites.run, suites.train, suites.sample, suites.quality, suites.plan, suites.report):
    app.command()(command)
app.command()(about.doctor)
app.command()(about.schema)
app.add_typer(catalogue.scans, name="scans")
app.add_typer(catalogue.backbones, name="backbones")
app.add_typer(catalogue.plugins, name="plugins")
