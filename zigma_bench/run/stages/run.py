"""Run the due stages of a cell, and write a record of each."""

from __future__ import annotations

import contextlib
import importlib
import socket
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zigma_bench.errors import CellFailed, Interrupted, NotReady, ZigmaBenchError
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Stage
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.records.provenance import read_starts, software
from zigma_bench.records.record import Record
from zigma_bench.records.sealed import file_hashes
from zigma_bench.records.store import SPEC, clear_stage_leftovers, write_json, write_record
from zigma_bench.run.due import find_due
from zigma_bench.run.stages.context import StageContext, StageFailed, StageResult
from zigma_bench.system.device import precision_on
from zigma_bench.system.interrupts import contain_plugin
from zigma_bench.system.notices import report_notice


def run_due_stages(context: StageContext, wanted: Sequence[Stage]) -> None:
    """Run the due stages among `wanted`, and earlier stages with lost files. The caller holds the lock of the cell.

    The due stages are computed again after each stage, because they depend on the files that the stage has written. Of
    an efficiency stage, only one round runs here.
    """
    done: list[Stage] = []
    while True:
        due = find_due(context.cell, context.folder, context.device, wanted)
        for text in due.altered:
            report_notice(text)
        left = [stage for stage in due.stages if stage != "efficiency" or stage not in done]
        if not left:
            return
        if left[0] in done:
            raise CellFailed(
                f"the stage {left[0]} is due again right after it was done: its files change during the run",
                where=str(context.stage_folder(left[0])), do="look for another program that writes there",
            )  # fmt: skip
        run_stage(context, left[0])
        done.append(left[0])


def run_stage(context: StageContext, stage: Stage) -> None:
    """Run one stage and write its record. A failure is recorded with its reason and ends the cell.

    An efficiency stage writes its record only after its last round.
    """
    folder, started, identity = context.stage_folder(stage), time.time(), context.identity(stage)
    facts = context.cell.model_dump(mode="json")
    context.emit({"event": "start", "stage": stage})
    try:
        starts = [*read_starts(folder / SPEC, identity), {"time": started, "host": socket.gethostname()}]
        write_json(folder / SPEC, {"stage": stage, "identity": identity, "cell": facts, "starts": starts})
        inputs = context.inputs(stage)
        with contain_plugin():  # exit() in a plugin also fails the cell
            found = _call_stage(stage, context, folder)
        if found is not None:
            write_record(folder, _record_of(context, stage, found, inputs, started))
            clear_stage_leftovers(folder)  # only after the record, because a resumed stage needs these files
    except Interrupted:
        raise
    except Exception as error:  # any failure becomes this cell's row, and the other cells continue
        traceback.print_exc()
        reason = reason_of(error)
        known = isinstance(error, ZigmaBenchError)  # else a fresh process may do better: memory, the device
        context.emit({"event": "failed", "stage": stage, "text": reason, "known": known})
        origin = _provenance(context, stage, started)
        with contextlib.suppress(OSError):  # on a full disk only the event reports it
            record = Record(
                stage, identity, facts, "failed", reason=reason, provenance=origin, details={"known": known}
            )
            write_record(folder, record)
        raise StageFailed from None
    context.emit({"event": "done", "stage": stage, "seconds": time.time() - started})


def _call_stage(stage: Stage, context: StageContext, folder: Path) -> StageResult | None:
    """Run a stage. Its module is imported here, so that each stage imports only what it needs."""
    module = importlib.import_module(f"zigma_bench.run.stages.{stage}")
    found: StageResult | None = getattr(module, f"{stage}_stage")(context, folder)
    return found


def _record_of(
    context: StageContext, stage: Stage, found: StageResult, inputs: dict[str, str], started: float
) -> Record:
    """The record of a stage that is done."""
    return Record(
        stage=stage,
        identity=context.identity(stage),
        cell=context.cell.model_dump(mode="json"),
        status="done",
        measurements=tuple(found.measurements),
        provenance=_provenance(context, stage, started),
        details=found.details,
        files=file_hashes(context.stage_folder(stage), found.files),
        inputs=inputs,
    )


def _provenance(context: StageContext, stage: Stage, started: float) -> dict[str, Any]:
    """The provenance of a stage: that of the command, and its own.

    The backend is None if it can't run here, which is also the reason of the failed cell.
    """
    cell, device = context.cell, context.device
    try:
        backend = resolve(cell.backend, device.type)
    except NotReady:
        backend = None
    return {
        **software(),
        **context.provenance,
        "attempts": read_starts(context.stage_folder(stage) / SPEC, context.identity(stage)),
        "device": device.name,
        "card": device.model_name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "precision": precision_on(device.type, cell.train.precision),
        "backend": backend,
        "started": started,
        "seconds": time.time() - started,
    }
