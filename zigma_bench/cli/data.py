"""`data`: commands that check and encode the images of a suite before training."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, Settings, Smoke, SuiteFile
from zigma_bench.errors import NotReady, UsageError

CHECK_HELP = "Only compare checksums; exit code 3 if something is missing or broken."


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
    """Encode a suite's images and captions into caches.

    The same command resumes after an interruption and repairs broken shards.
    """
    from zigma_bench.run.encode import (
        cache_state,
        cached_cells,
        check_latents,
        check_texts,
        encode_latents,
        encode_texts,
        text_cells,
        text_state,
    )
    from zigma_bench.run.prepare import prepare
    from zigma_bench.run.watch import watcher
    from zigma_bench.system.device import find_device

    target = find_device(device)
    unmeasured = [*(settings or ()), "quality=[]"]  # encoding doesn't need the files of metrics
    made = prepare(suite, settings=unmeasured, only=only or (), smoke=smoke, fetch=True)
    made.check_ready()
    cells, readers = cached_cells(made.cells), text_cells(made.cells)
    if not cells and not readers:
        raise UsageError(
            "no data of this suite has latents, and no network of it has a text condition", where=str(suite),
            do="add the key latents or text to its data",
        )  # fmt: skip
    if check:
        found = check_latents(made, results, target)
        faults = [fault for _, of_cache in found for fault in of_cache]
        if faults := [*faults, *check_texts(made, results, target)]:
            raise NotReady(
                f"{len(faults)} shards are missing or broken", where=str(suite), problems=faults,
                do="run the command again without --check, which encodes them",
            )  # fmt: skip
    else:
        print(f"device: {target.name} ({target.model_name})", file=sys.stderr)
        with watcher(len(cells) + len(readers)) as watching:
            encode_latents(made.cells, results, target, watching.event)
            encode_texts(made.cells, results, target, watching.event)
    texts = [cell.text for cell in readers if cell.text is not None]
    spaces = [cell.latents for cell in cells if cell.latents is not None]
    if as_json:
        found_latents = [{**space.facts, "state": cache_state(space, results)} for space in spaces]
        found_texts = [{**text.model_dump(mode="json"), "state": text_state(text)} for text in texts]
        typer.echo(json.dumps([*found_latents, *found_texts], indent=1))
        return
    for space in spaces:
        typer.echo(f"{space}\n{'checksums are correct: ' if check else ''}{cache_state(space, results)}")
    for text in texts:
        typer.echo(f"{text}\n{'checksums are correct: ' if check else ''}{text_state(text)}")
