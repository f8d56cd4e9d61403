"""Commands on data sets, before a run touches them."""

from __future__ import annotations

import typer

from zigma_bench.cli.data_check import check

data = typer.Typer(help="Look at the data sets of suites.", no_args_is_help=True)
data.command()(check)
