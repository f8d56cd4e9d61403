"""The record of a stage counts its starts, and names what the parent process knows about its origin."""

from __future__ import annotations

import json

import pytest

from zigma_bench.errors import Interrupted
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.store import RECORD, SPEC
from zigma_bench.run.command import command_provenance
from zigma_bench.run.stages import run as stages
from zigma_bench.run.stages.context import StageContext, StageFailed, StageResult
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")


@pytest.fixture
def context(write_suite, tmp_path):
    cell = next(cell for cell in make_plan(*load_suite(write_suite()), catalogue()).cells if cell.role == "cell")
    origin = {"executor": "local", "host": "the parent's host", "device": "replaced"}
    return StageContext(cell, tmp_path / "cell", tmp_path, CPU, lambda event: None, lambda: False, origin)


def test_a_stage_that_was_interrupted_twice_has_three_attempts(context, monkeypatch):
    outcomes = [Interrupted("stopped"), Interrupted("stopped"), StageResult([], {})]

    def call(stage, context, folder):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(stages, "_call_stage", call)
    for _ in range(2):
        with pytest.raises(Interrupted):
            stages.run_stage(context, "train")
    stages.run_stage(context, "train")
    record = context.record("train")
    assert record is not None
    starts = record.provenance["attempts"]
    assert len(starts) == 3 and [start["time"] for start in starts] == sorted(start["time"] for start in starts)
    assert starts[-1]["time"] == record.provenance["started"]
    assert (record.provenance["executor"], record.provenance["device"]) == ("local", "cpu")
    assert record.provenance["host"] == "the parent's host"
    assert record.identity == context.cell.identity("train", device_model="")


def test_a_failed_stage_counts_its_attempts_too(context, monkeypatch):
    def call(stage, context, folder):
        raise ValueError("broken")

    monkeypatch.setattr(stages, "_call_stage", call)
    for _ in range(2):
        with pytest.raises(StageFailed):
            stages.run_stage(context, "train")
    folder = context.stage_folder("train")
    failed = json.loads((folder / RECORD).read_text())
    assert failed["status"] == "failed" and len(failed["provenance"]["attempts"]) == 2
    assert len(json.loads((folder / SPEC).read_text())["starts"]) == 2


def test_the_origin_of_a_command_is_computed_once(monkeypatch):
    command_provenance.cache_clear()
    calls = []
    monkeypatch.setattr("zigma_bench.run.command.run_provenance", lambda device, **rest: calls.append(rest) or rest)
    first, second = command_provenance(CPU), command_provenance(CPU)
    command_provenance.cache_clear()
    assert first is second and len(calls) == 1
    assert first["executor"] == "local"
