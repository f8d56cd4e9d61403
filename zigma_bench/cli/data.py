"""`data`: what is done with the images of a suite before anything is trained."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from zigma_bench.cli.data_check import check as check_data
from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, Settings, Smoke, SuiteFile
from zigma_bench.errors import NotReady, UsageError

data = typer.Typer(help="Prepare and check the data of a suite.", no_args_is_help=True)

CHECK_HELP = "Compare the checksums of what is there, and write nothing; code 3 where something is missing or broken."


data.command("check")(check_data)


@data.command()
def encode(
    suite: SuiteFile,
    settings: Settings = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    check: Annotated[bool, typer.Option("--check", help=CHECK_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """Write the latents that a suite's networks see into a cache; goes on where it stopped, mends what is broken."""
    from zigma_bench.device import find_device
    from zigma_bench.runner.encode import cached_cells, check_latents, encode_latents, state
    from zigma_bench.runner.prepare import prepare
    from zigma_bench.runner.watch import watcher

    target = find_device(device)
    unmeasured = [*(settings or ()), "quality=[]"]  # what metrics lack is no matter here
    made = prepare(suite, settings=unmeasured, only=only, smoke=smoke, fetch=True)
    made.check_ready()
    if not (cells := cached_cells(made.cells)):
        raise UsageError("no data of this suite has latents", where=str(suite), do="give its data the key latents")
    if check:
        found = check_latents(made, results, target)
        if faults := [fault for _, of_cache in found for fault in of_cache]:
            raise NotReady(
                f"{len(faults)} shards are missing or broken: {'; '.join(faults)}", where=str(suite),
                do="run the command again without --check, which encodes them",
            )  # fmt: skip
    else:
        print(f"device: {target.name} ({target.card})", file=sys.stderr)
        with watcher(len(cells)) as watching:
            encode_latents(made.cells, results, target, watching.event)
    spaces = [cell.latents for cell in cells if cell.latents is not None]
    if as_json:
        typer.echo(json.dumps([{**space.facts, "state": state(space, results)} for space in spaces], indent=1))
        return
    for space in spaces:
        typer.echo(f"{space}\n{'checksums are right: ' if check else ''}{state(space, results)}")
