"""`why` names what changed in an identity, and every other reason for which a stage runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plan import cells
from zigma_bench.records.record import Record
from zigma_bench.run.why import choose_cell, explain_cell, facts_of


def explain(toy, *settings, pattern="zigma · raster · seed 0", name=None):
    plan = toy.plan(*settings)
    return explain_cell(plan, choose_cell(plan, pattern), toy.results, toy.device, name)


def changes(toy, *settings, pattern="zigma · raster · seed 0"):
    """The keys that changed, by stage, with the values before and now."""
    found = explain(toy, *settings, pattern=pattern)
    return {
        one.stage: {change.key: (change.before, change.now) for change in one.near.changes}
        for one in found.stages
        if one.near is not None
    }


def test_what_is_done_is_done(toy):
    found = explain(toy)
    assert [(one.stage, one.state) for one in found.stages] == [(s, "done") for s in ("train", "sample", "quality")]
    assert (found.run, found.is_new_run, found.folder) == ("main", False, toy.cell)


def test_a_changed_key_is_named_in_each_stage_that_depends_on_it(toy):
    rate = {"train.learning_rate": ("the default", "0.001")}
    assert changes(toy, "train.learning_rate=1e-3") == {"train": rate, "sample": rate, "quality": rate}
    steps = {"sample.evaluations": ("2", "3")}
    assert changes(toy, "sample.evaluations=3") == {"sample": steps, "quality": steps}
    assert changes(toy, "budget.images=128")["train"] == {"budget.images": ("64", "128")}
    found = changes(toy, "data.validation=120")["train"]
    assert set(found) == {"data.options.validation", "data fingerprint"}


def test_another_order_is_one_change(toy):
    found = changes(toy, "compare.0.scans=[zigzag]", pattern="zigma · zigzag*seed 0")["train"]
    assert found["scan.name"] == ("raster", "zigzag")
    assert found["orders"] == ("2 layers", "2 layers, 2 with another order")
    assert not any(key.startswith("orders.") for key in found)


def test_a_stage_of_another_run_is_reused(toy):
    toy.run("sample.evaluations=3", stages=("train",))
    shutil.rmtree(toy.cell)
    found = explain(toy)
    assert [one.state for one in found.stages] == ["reused", "due", "due"]
    assert "evaluations-3" in found.stages[0].reason


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"status": "failed", "reason": "no space"}, "it failed: no space"),
     ({"inputs": {"train/ema.safetensors": "0" * 64}}, "another ema.safetensors")],
)  # fmt: skip
def test_a_stage_that_is_due_for_another_reason_than_its_identity(toy, facts, words):
    toy.change(toy.stage("sample") / "record.json", **facts)
    sample = explain(toy).stages[1]
    assert sample.state == "due" and words in sample.reason and sample.near is None


def test_a_done_stage_runs_again_for_its_file(toy):
    (toy.stage("train") / "ema.safetensors").unlink()
    shutil.rmtree(toy.stage("sample"))
    train = explain(toy).stages[0]
    assert train.reason == "it is done, but sample needs its file ema.safetensors, which is missing"


def test_a_broken_record_is_named(toy):
    (toy.stage("quality") / "record.json").write_text("{")
    assert "its record is broken" in explain(toy).stages[2].reason
    found = explain(toy, "sample.evaluations=3")
    assert len(found.unread) == 1 and str(toy.stage("quality")) in found.unread[0]


def test_an_earlier_protocol_is_a_change(toy, monkeypatch):
    monkeypatch.setattr(cells, "PROTOCOL", cells.PROTOCOL + 1)
    monkeypatch.setattr("zigma_bench.run.why.PROTOCOL", cells.PROTOCOL)
    assert changes(toy)["train"] == {"protocol": (str(cells.PROTOCOL - 1), str(cells.PROTOCOL))}


def test_a_record_whose_identity_is_not_that_of_its_cell_is_explained(toy):
    file = toy.stage("train") / "record.json"
    record = Record.from_json(file.read_text(), where="")
    assert isinstance(facts_of(record), dict)
    toy.change(file, identity="0" * 64)
    assert "can't be recomputed" in facts_of(Record.from_json(file.read_text(), where=""))
    near = explain(toy, "budget.images=128").stages[0].near
    assert near.changes == () and "can't be recomputed" in near.unexplained
    toy.change(file, cell={**record.cell, "colour": "red"})
    assert "the key colour" in facts_of(Record.from_json(file.read_text(), where=""))
    toy.change(file, cell={**record.cell, "scan": {"name": "mine", "owner": "mine.py", "options": {}}})
    assert "a plugin that isn't loaded" in facts_of(Record.from_json(file.read_text(), where=""))


def test_one_cell_is_chosen(toy):
    plan = toy.plan()
    assert choose_cell(plan, "FLOOR").role == "floor"
    with pytest.raises(UsageError, match="several cells match"):
        choose_cell(plan, "zigma")
    with pytest.raises(UsageError, match="no cell matches"):
        choose_cell(plan, "hilbert")


def test_the_command(toy):
    words = ["why", str(toy.suite), "zigma · raster · seed 0", "--set", "sample.evaluations=3", "--device", "cpu"]
    command = [sys.executable, "-m", "zigma_bench", *words, "--results", str(toy.results)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and "sample.evaluations: 2 -> 3" in done.stdout, done.stderr
    assert "changed as in sample" in done.stdout
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True).stdout)
    assert [one["state"] for one in found["stages"]] == ["reused", "due", "due"]
