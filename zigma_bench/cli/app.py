"""The application: all commands, in groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zigma_bench.cli import about, bench, catalogue, data, find_batch, images, models, plugins, suites
from zigma_bench.plugins.files import add_folder

app = typer.Typer(
    name="zigma-bench",
    help="Compares scan orders and backbones of state-space diffusion models: train, sample, measure, tabulate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


FOLDER_HELP = (
    "A folder whose *.py files are plugins, each named after its file. Can be anywhere in a command, and repeated. "
    "Sets ZIGMA_BENCH_PLUGIN_FOLDER."
)


@app.callback()
def _main(
    folders: Annotated[list[Path] | None, typer.Option("--plugins", metavar="DIR", help=FOLDER_HELP)] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    for folder in folders or ():  # only without `__main__`, which removes --plugins from the arguments first
        add_folder(folder)
    if version:  # together with other arguments; `__main__` handles a single --version
        from zigma_bench import __version__

        print(f"zigma-bench {__version__}")
        raise typer.Exit()


for command in (suites.run, suites.train, models.sample, images.quality, suites.plan, suites.report):
    app.command()(command)
app.command("import")(models.import_model)
app.command()(find_batch.find_batch)
app.command()(about.doctor)
app.command()(about.schema)
app.add_typer(catalogue.scans, name="scans")
app.add_typer(catalogue.backbones, name="backbones")
app.add_typer(plugins.plugins, name="plugins")
app.add_typer(bench.bench, name="bench")
app.add_typer(data.data, name="data")
