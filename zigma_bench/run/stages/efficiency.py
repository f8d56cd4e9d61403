"""The stage `efficiency`: speed and memory of a cell's network, with one round per process."""

from __future__ import annotations

from pathlib import Path

from zigma_bench.backbones.build import build_network
from zigma_bench.efficiency import combine_rounds, measure_round
from zigma_bench.records.sealed import Parts
from zigma_bench.records.store import write_json
from zigma_bench.run.stages.context import StageContext, StageResult
from zigma_bench.system.json_files import parse_json


def efficiency_stage(context: StageContext, folder: Path) -> StageResult | None:
    """Time one round with a new network of the cell. After the last round, combine all rounds into measurements."""
    assert context.cell.efficiency is not None
    names = tuple(f"round-{number}.json" for number in range(context.cell.efficiency.rounds))
    parts = Parts(folder, {})
    due = next((name for name in names if name not in parts), None)
    if due is not None:
        network = build_network(context.cell, context.device.type)
        on_progress = context.progress_of("efficiency", None)
        found = measure_round(context.cell, network, context.device, on_progress, context.stopped)
        write_json(folder / due, found)
        parts.add(due)
    if any(name not in parts for name in names):
        return None
    rounds = [parse_json((folder / name).read_text(encoding="utf-8")) for name in names]
    return StageResult(*combine_rounds(context.cell, context.device, rounds), names)
