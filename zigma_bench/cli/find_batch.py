"""`find-batch`: find the largest batch that fits in memory; the suite is not changed."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, Settings, Smoke, SuiteFile


def find_batch(
    suite: SuiteFile,
    settings: Settings = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    memory: Annotated[
        float | None, typer.Option("--memory", help="GiB to use. Default: 95% of the GPU's memory.", min=0.01)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The largest batch of all, by bisection; else the largest power of two.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the largest batch whose training fits in memory.

    It tries powers of two, and with --exact bisects. Each try is a new process. The suite is not changed.
    """
    from zigma_bench.records.store import check_writable, write_json
    from zigma_bench.run.command import command_provenance
    from zigma_bench.run.find_batch import distinct_shapes, limit_of
    from zigma_bench.run.find_batch import find_batch as find
    from zigma_bench.run.prepare import prepare
    from zigma_bench.system.device import find_device

    target = find_device(device)
    made = prepare(suite, settings=settings or (), only=only or (), smoke=smoke)
    made.check_gpu(target.type, "train")
    limit, folder = limit_of(target, memory), results / made.suite.name
    file = folder / ("find-batch-smoke.json" if smoke else "find-batch.json")
    check_writable(folder)
    cells = distinct_shapes(made)
    found = [find(cell, target, limit, lambda text: print(text, file=sys.stderr), exact=exact) for cell in cells]
    document = {
        "card": target.model_name, "limit_bytes": limit, "exact": exact, "provenance": command_provenance(target),
        "cells": [one.to_json() for one in found],
    }  # fmt: skip
    write_json(file, document)
    if as_json:
        print(json.dumps(document, indent=1))
        return
    for one in found:
        peak = "" if one.peak_bytes is None else f", peak {one.peak_bytes / 2**30:.2f} GiB"
        print(f"{one.label}: batch {one.batch:,}{peak}")
    smallest = min(one.batch for one in found)
    all_fit = f"train.batch={smallest:,} fits all cells" if smallest else "a batch of 0: one image does not fit"
    kind = "the largest" if exact else "the largest powers of two (--exact bisects)"
    print(f"{kind} within {limit / 2**30:.2f} GiB of {target.model_name}; {all_fit}")
    print(f"record: {file}")
