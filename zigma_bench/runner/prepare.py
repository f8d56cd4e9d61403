"""From the words of a command to a plan, and from a plan to an estimate of its time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zigma_bench.device import Device
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Cell, Plan, Stage, make_plan
from zigma_bench.plugins import catalogue
from zigma_bench.runner.encode import fetch_autoencoders
from zigma_bench.runner.local import cell_folder, pending
from zigma_bench.store import read_record, stage_folder
from zigma_bench.suite import load_suite

# A network of small matrices and scans reaches about this share of the speed of one large matrix product.
SHARE_OF_MATMUL = 0.15


@dataclass(frozen=True)
class Estimate:
    """Seconds of training and sampling of a cell, or None, and what the guess stands on."""

    seconds: float | None
    source: str


def prepare(path: Path, *, settings: Sequence[str], only: str | None, smoke: bool, fetch: bool = False) -> Plan:
    """The plan of a suite file with settings laid over it, narrowed to the cells that match `only`.

    With `fetch` the autoencoders that it names on the Hub are downloaded first, where the network is allowed.
    """
    suite, source = load_suite(path, settings=settings)
    if fetch and not smoke:
        fetch_autoencoders(suite)
    plan = make_plan(suite, source, catalogue(), smoke=smoke)
    return plan.only(only) if only is not None else plan


def check_stages(plan: Plan, stages: Sequence[Stage], results: Path, device: Device) -> None:
    """A stage alone needs the stages before it done, and some cell that has it."""
    if not any(stage in cell.stages for cell in plan.cells for stage in stages):
        raise UsageError(f"no cell of this suite has the stage {' or '.join(stages)}", where=plan.file)
    for cell in plan.cells:
        for stage in cell.stages[: max((cell.stages.index(s) for s in stages if s in cell.stages), default=0)]:
            if stage not in stages and stage != "efficiency" and pending(results, cell, (stage,), device):
                raise NotReady(f"the stage {stage} of this cell is not done", where=cell.label, do=f"run {stage} first")


def plan_json(plan: Plan, results: Path, device: Device) -> dict[str, Any]:
    """The plan with everything resolved, as one document."""
    cells = []
    for cell in plan.cells:
        guess = estimate(cell, results, device)
        cells.append({
            **cell.model_dump(mode="json"), "label": cell.label, "stages": list(cell.stages),
            "objective": asdict(cell.objective), "sampler": asdict(cell.sampler),
            "identity": {stage: cell.identity(stage, card=device.card) for stage in cell.stages},
            "estimated_seconds": guess.seconds, "estimate_from": guess.source,
        })  # fmt: skip
    missing = [{"what": item.what, "do": item.do} for item in plan.missing]
    return {
        "suite": plan.suite.name,
        "question": plan.question,
        "smoke": plan.smoke,
        "cells": cells,
        "missing": missing,
    }


def estimate(cell: Cell, results: Path, device: Device) -> Estimate:
    """The time of a cell: from its own efficiency record on this card, else from its FLOPs on a CPU."""
    if cell.timed_alone:
        return Estimate(None, "nothing tells how long timing takes before it was done")
    drawn = cell.sample.count if cell.backbone is not None else 0
    if (speeds := _measured(cell, results, device)) is not None:
        train, sample = speeds
        return Estimate(_training_seconds(cell, train) + drawn / sample, "its efficiency record")
    if device.type != "cpu":
        return Estimate(None, "no efficiency record of this cell on this card yet")
    rate = matmul_rate() * SHARE_OF_MATMUL
    flops = sum(cell.forward_flops.values())
    evaluations = cell.sample.resolved_evaluations or 100
    if flops == 0:
        return Estimate(0.0, "nothing is computed")
    return Estimate(
        _training_seconds(cell, rate / (3 * flops)) + drawn * evaluations * flops / rate, "FLOPs, to a factor of 3"
    )


def matmul_rate() -> float:
    """FLOP/s of a float32 matrix product of 1,024 on this CPU, measured once."""
    global _rate
    if _rate is None:
        import numpy as np

        a = np.ones((1024, 1024), dtype=np.float32)
        a @ a
        start = time.perf_counter()
        for _ in range(3):
            a @ a
        _rate = 3 * 2 * 1024**3 / (time.perf_counter() - start)
    return _rate


_rate: float | None = None


def _training_seconds(cell: Cell, images_per_second: float) -> float:
    if cell.train_seconds is not None:
        return cell.train_seconds
    return (cell.train_images or 0) / images_per_second


def _measured(cell: Cell, results: Path, device: Device) -> tuple[float, float] | None:
    if cell.role != "cell" or cell.efficiency is None:
        return None
    identity = cell.identity("efficiency", card=device.card)
    record = read_record(stage_folder(cell_folder(results, cell), "efficiency", identity), identity)
    values = {m.name: m.value for m in record.measurements} if record else {}
    train, sample = values.get("train-images-per-second"), values.get("sample-images-per-second")
    return (train, sample) if train and sample else None
