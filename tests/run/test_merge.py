"""A merge brings runs, overwrites and loses nothing, and can be stopped and repeated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.records import store
from zigma_bench.records.store import only_writer
from zigma_bench.reports.table import find_tables
from zigma_bench.run import merge as module
from zigma_bench.run.merge import merge_results
from zigma_bench.run.runs import mark_updated, open_run

MORE = "sample.evaluations=3"


@pytest.fixture
def target(toy):
    """An empty results folder."""
    return toy.folder / "target"


def content(toy, results):
    """The files of a results folder that belong to records."""
    left_out = ("log.txt", "table.md", "sheet.png", ".lock")
    files = toy.files(results).items()
    return {name: data for name, data in files if not name.endswith(left_out) and not name.startswith(".cache")}


def counts(report):
    return [(run.source, run.target, run.is_new, run.brought, run.present) for run in report.runs]


def test_a_new_run_is_brought_as_it_is(toy, target):
    before = toy.files()
    assert counts(merge_results(target, toy.results)) == [("main", "main", True, 7, 0)]
    assert content(toy, target) == content(toy, toy.results) and toy.files() == before
    assert counts(merge_results(target, toy.results)) == [("main", "main", False, 0, 7)]
    assert content(toy, target) == content(toy, toy.results)
    assert [table.run for table in find_tables([target])] == ["main"]


def test_equal_options_are_one_run_with_the_stages_of_both(toy, target):
    shutil.copytree(toy.results, target)
    for folder in [*toy.main.glob("floor*"), toy.stage("quality")]:
        shutil.rmtree(folder)
    (cell,) = (target / "toy" / "main").glob("zigma-raster*")
    shutil.rmtree(cell)
    (target / "toy" / "main").rename(target / "toy" / "mine")
    toy.change(target / "toy" / "mine" / "table.json", run="mine")
    kept = content(toy, target)
    report = merge_results(target, toy.results)
    assert counts(report) == [("main", "mine", False, 2, 2)] and report.is_complete
    assert kept.items() <= content(toy, target).items()
    toy.results = target
    assert sorted(path.name for path in (target / "toy").iterdir() if path.name[0] != ".") == ["mine"]
    assert [outcome.status for outcome in toy.run()] == ["done", "skipped", "skipped"]  # only quality was missing


def test_the_union_of_the_cells_of_two_seeds(toy, target):
    """Two machines, each with one of the cells: the tables list the union."""
    shutil.copytree(toy.results, target)
    for results, left_out in ((toy.results, "ceiling"), (target, "cell")):
        file = results / "toy" / "main" / "table.json"
        cells = json.loads(file.read_text())["cells"]
        toy.change(file, cells=[cell for cell in cells if cell["role"] != left_out])
    merge_results(target, toy.results)
    table = json.loads((target / "toy" / "main" / "table.json").read_text())
    assert sorted(cell["role"] for cell in table["cells"]) == ["ceiling", "cell", "floor"]


def test_a_command_at_work_keeps_what_a_merge_has_added(toy, target):
    shutil.copytree(toy.results, target)
    file = toy.results / "toy" / "main" / "table.json"
    cells = json.loads(file.read_text())["cells"]
    run = open_run(toy.plan(), toy.results, toy.device)
    toy.change(file, cells=[cell for cell in cells if cell["role"] != "floor"])
    merge_results(toy.results, target)
    mark_updated(replace(run, table=run.table.model_copy(update={"cells": []})))
    assert len(json.loads(file.read_text())["cells"]) == 3


def test_a_name_of_other_options_gets_a_hash(toy, target):
    toy.run(MORE, name="mine", results=target, stages=("train",))
    toy.run(name="mine")  # equal options as main
    shutil.rmtree(toy.main)
    kept = content(toy, target)
    ((source, name, is_new, *_),) = counts(merge_results(target, toy.results))
    assert source == "mine" and name.startswith("mine-") and is_new
    assert kept.items() <= content(toy, target).items()
    assert json.loads((target / "toy" / name / "table.json").read_text())["run"] == name
    assert counts(merge_results(target, toy.results)) == [("mine", name, False, 0, 7)]


def test_equal_options_with_other_identities_stay_apart(toy, target):
    """As after an update of a plugin: in one table, a row would have a seed twice."""
    shutil.copytree(toy.results, target)
    file = target / "toy" / "main" / "table.json"
    cells = json.loads(file.read_text())["cells"]
    toy.change(file, cells=[{**cell, "stages": dict.fromkeys(cell["stages"], "0" * 64)} for cell in cells])
    ((_, name, is_new, *_),) = counts(merge_results(target, toy.results))
    assert name.startswith("main-") and is_new


def test_two_different_records_are_a_conflict(toy, target):
    shutil.copytree(toy.results, target)
    file = toy.stage("train") / "record.json"
    record = json.loads(file.read_text())
    toy.change(file, measurements=[{**record["measurements"][0], "value": 0.5}], files={"ema.safetensors": "0" * 64})
    (cell,) = (target / "toy" / "main").glob("zigma-raster*")
    shutil.rmtree(toy.stage("sample", cell))
    kept = content(toy, target)
    report = merge_results(target, toy.results)
    assert content(toy, target) == kept | {
        name: data for name, data in content(toy, target).items() if "/sample-" in name
    }
    (conflict,) = report.conflicts
    assert str(file) in conflict and str(cell / file.parent.name / "record.json") in conflict and "0.5" in conflict
    assert merge_results(target, toy.results).conflicts == [conflict]


def test_what_was_made_from_other_weights_is_left_out(toy, target):
    shutil.copytree(toy.results, target)
    (cell,) = (target / "toy" / "main").glob("zigma-raster*")
    toy.change(toy.stage("train", cell) / "record.json", files={"ema.safetensors": "0" * 64})
    shutil.rmtree(toy.stage("sample", cell))
    report = merge_results(target, toy.results)
    assert not list(cell.glob("sample-*"))
    assert any("another ema.safetensors" in conflict for conflict in report.conflicts)


def test_a_failed_stage_gives_way_to_a_finished_one_and_not_the_reverse(toy, target):
    shutil.copytree(toy.results, target)
    (cell,) = (target / "toy" / "main").glob("zigma-raster*")
    file = toy.stage("quality", cell) / "record.json"
    toy.change(file, status="failed", reason="no space", measurements=[])
    failed = file.read_bytes()
    assert merge_results(toy.results, target).is_complete
    assert json.loads((toy.stage("quality") / "record.json").read_text())["status"] == "done"
    assert merge_results(target, toy.results).runs[0].brought == 1
    assert json.loads(file.read_text())["status"] == "done" and file.read_bytes() != failed


def test_broken_and_later_records_are_reported(toy, target):
    (toy.stage("quality") / "record.json").write_text("{")
    (ceiling,) = toy.main.glob("ceiling*")
    toy.change(toy.stage("quality", ceiling) / "record.json", format=99)
    later = toy.results / "toy" / "later"
    shutil.copytree(toy.main, later)
    (later / "table.json").write_text("[]")
    report = merge_results(target, toy.results)
    assert len(report.problems) == 3 and report.runs[0].brought == 5
    assert not (target / "toy" / "later").exists()
    toy.change(toy.main / "table.json", format=99)
    assert "a format that this version can't read" in merge_results(target, toy.results).problems[0]


def test_files_that_are_missing_are_added_and_altered_ones_are_not(toy, target):
    shutil.copytree(toy.results, target)
    (cell,) = (target / "toy" / "main").glob("zigma-raster*")
    weights, samples = toy.stage("train", cell) / "ema.safetensors", toy.stage("sample", cell) / "samples.npy"
    whole = weights.read_bytes()
    weights.unlink()
    samples.unlink()
    (toy.stage("sample") / "samples.npy").write_bytes(b"altered")
    report = merge_results(target, toy.results)
    assert weights.read_bytes() == whole and not samples.exists()
    assert "is altered" in report.problems[0] and report.runs[0].files == 1


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cell_at_work_is_left_out_and_merged_afterwards(toy, target, side, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    merge_results(target, toy.results)
    shutil.rmtree(target / toy.cell.relative_to(toy.results))
    with only_writer(toy.cell if side == "source" else target / toy.cell.relative_to(toy.results)):
        report = merge_results(target, toy.results)
    assert report.runs[0].brought == 0 and "merge again afterwards" in report.problems[0]
    assert merge_results(target, toy.results).runs[0].brought == 3
    assert content(toy, target) == content(toy, toy.results)


@pytest.mark.parametrize("last", [0, 1, 5, 14])
def test_an_interrupted_merge_is_resumed(toy, target, monkeypatch, last):
    calls = []

    def link(file, place):
        calls.append(file)
        if len(calls) > last:
            raise KeyboardInterrupt
        return link_file(file, place)

    link_file = module.link_file
    monkeypatch.setattr(module, "link_file", link)
    with pytest.raises(KeyboardInterrupt):
        merge_results(target, toy.results)
    assert (target / "toy" / "main" / "table.json").exists()
    monkeypatch.setattr(module, "link_file", link_file)
    assert merge_results(target, toy.results).is_complete
    assert content(toy, target) == content(toy, toy.results)


def test_folders_that_can_not_be_merged(toy, target):
    for place in (toy.results, toy.results / "toy"):
        with pytest.raises(UsageError, match="in the other"):
            merge_results(place, toy.results)
    with pytest.raises(UsageError, match="no runs"):
        merge_results(toy.results, target)
    with pytest.raises(UsageError, match="no runs"):
        merge_results(target, toy.main)
    merge_results(target, toy.results)
    with pytest.raises(UsageError, match="name the whole results"):
        merge_results(target / "toy", toy.results)


def test_the_command(toy, target):
    command = [sys.executable, "-m", "zigma_bench", "merge", str(target), str(toy.results)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout) == (0, "toy/main: new run; stages: 7 brought; files: 15\n"), done.stderr
    (toy.stage("quality") / "record.json").write_text("{")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1 and len(json.loads(done.stdout)["problems"]) == 1
    assert str(toy.stage("quality")) in done.stderr
