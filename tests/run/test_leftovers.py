"""`gc` lists what no run needs, and removes nothing that is needed, locked or foreign."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zigma_bench.records.store import only_writer, working_on
from zigma_bench.run.leftovers import find_leftovers, remove_leftovers


def listed(toy) -> set[str]:
    return {str(one.path.relative_to(toy.results)) for one in find_leftovers(toy.results).found}


def copy_stage(toy, name="sample", digits="12345678", cell=None) -> Path:
    """A stage with another identity than the one that is listed."""
    cell = cell or toy.cell
    return Path(shutil.copytree(toy.stage(name), cell / f"{name}-{digits}"))


def old_cell(toy) -> Path:
    """A cell that no table lists."""
    cell = toy.main / "zigma-old-seed-0-12345678"
    for name in ("train", "sample", "quality"):
        copy_stage(toy, name, cell=cell)
    return cell


def test_everything_of_a_finished_run_is_needed(toy):
    toy.run("sample.evaluations=3")
    before = toy.files()
    found, removed = remove_leftovers(toy.results)
    assert (found.found, found.untouched, removed) == ((), (), ())
    assert toy.files().keys() >= before.keys()


def test_cells_and_stages_that_no_table_lists(toy):
    cell, stage = old_cell(toy), copy_stage(toy)
    unneeded = {str(path.relative_to(toy.results)) for place in (cell, stage) for path in place.rglob("*")}
    needed = set(toy.files()) - unneeded
    assert listed(toy) == {str(cell.relative_to(toy.results)), str(stage.relative_to(toy.results))}
    found, removed = remove_leftovers(toy.results)
    assert removed == found.found and not cell.exists() and not stage.exists()
    assert needed <= set(toy.files())


def test_a_stage_that_another_run_lists_is_needed(toy):
    toy.run("sample.evaluations=3")
    shutil.rmtree(toy.results / "toy" / "evaluations-3" / toy.cell.name / toy.stage("train").name)
    (toy.main / "table.json").unlink()
    found = listed(toy)
    assert str(toy.stage("sample").relative_to(toy.results)) in found  # only main listed these images
    assert str(toy.stage("train").relative_to(toy.results)) not in found and len(found) > 1


def test_timings_on_another_device_are_needed(toy):
    stage = copy_stage(toy, "quality").rename(toy.cell / "efficiency-87654321")
    toy.change(stage / "record.json", stage="efficiency")
    assert listed(toy) == set()


def test_a_record_of_a_later_version_is_needed(toy):
    stage = copy_stage(toy)
    toy.change(stage / "record.json", format=99)
    assert listed(toy) == set()


def test_what_is_locked_stays(toy):
    cell, stage = old_cell(toy), copy_stage(toy)
    with only_writer(cell):
        assert [one.path for one in remove_leftovers(toy.results)[1]] == [stage]
        assert cell.exists() and not stage.exists()
    stage = copy_stage(toy)
    with working_on(toy.main):
        found, removed = remove_leftovers(toy.results)
        assert removed == () and all("a command works" in one.held for one in found.found)
    assert cell.exists() and stage.exists()


def test_what_is_foreign_stays(toy):
    cell, stage = old_cell(toy), copy_stage(toy)
    (cell / "thesis.txt").write_text("mine")
    (stage / "notes.md").write_text("mine")
    (toy.main / "my-notes-12345678").mkdir()
    (toy.main / "my-notes-12345678" / "file").write_text("mine")
    found, removed = remove_leftovers(toy.results)
    assert removed == () and {one.held.rpartition(" ")[2] for one in found.found} == {"thesis.txt", "notes.md"}
    assert (cell / "thesis.txt").exists() and (stage / "notes.md").exists()


def test_a_suite_with_a_broken_table_is_not_touched(toy):
    cell = old_cell(toy)
    other = toy.results / "toy" / "other"
    other.mkdir()
    (other / "table.json").write_text("{")
    found, removed = remove_leftovers(toy.results)
    assert (found.found, removed) == ((), ()) and cell.exists()
    assert "the suite toy" in found.untouched[0] and str(other / "table.json") in found.untouched[0]


def test_what_killed_processes_left(toy):
    paths = [toy.cell / ".owner", toy.cell / ".a.json.x.tmp", toy.cell / ".b.tmp", toy.stage("train") / "checkpoint-1"]
    paths[0].write_text("host process 1")
    paths[1].write_text("{")
    for folder in paths[2:]:
        folder.mkdir()
        (folder / "file").write_text("1")
    living = toy.cell / ".living.tmp"
    handle = os.open(living, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert listed(toy) == {str(path.relative_to(toy.results)) for path in paths}
    remove_leftovers(toy.results)
    assert not any(path.exists() for path in paths) and living.exists()
    os.close(handle)


def test_cache_entries_that_no_record_was_measured_with(toy):
    (entry,) = (toy.results / ".cache" / "features").iterdir()
    other = entry.with_name("0" * 64 + entry.name[64:])
    shutil.copy(entry, other)
    latents = toy.results / ".cache" / "latents" / "0123456789abcdef"
    latents.mkdir(parents=True)
    (toy.results / ".cache" / "features" / "mine.txt").write_text("mine")
    assert listed(toy) == {str(path.relative_to(toy.results)) for path in (other, latents)}
    quality = toy.stage("quality") / "record.json"
    text = quality.read_text()
    quality.unlink()  # the run may need its entries again
    found = find_leftovers(toy.results)
    assert found.found == () and "toy/main isn't finished" in found.untouched[0]
    quality.write_text(text)
    remove_leftovers(toy.results)
    assert entry.exists() and not other.exists() and not latents.exists()


def test_hard_links_of_another_run_free_nothing(toy):
    toy.run("sample.evaluations=3")
    shutil.rmtree(toy.results / "toy" / "evaluations-3" / toy.stage("train").parent.name / toy.stage("train").name)
    stage = copy_stage(toy)
    size = next(one.bytes for one in find_leftovers(toy.results).found if one.path == stage)
    assert size == sum(path.stat().st_size for path in stage.iterdir())
    for path in stage.iterdir():
        os.link(path, toy.folder / path.name)
    assert next(one.bytes for one in find_leftovers(toy.results).found if one.path == stage) == 0


@pytest.mark.parametrize("words", [(), ("--json",), ("--remove",)])
def test_the_command(toy, words):
    stage = copy_stage(toy)
    command = [sys.executable, "-m", "zigma_bench", "gc", str(toy.results), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if words == ("--json",):
        (one,) = json.loads(done.stdout)["found"]
        assert one["path"] == str(stage) and not one["removed"]
    else:
        assert str(stage.relative_to(toy.results)) in done.stdout
    assert stage.exists() == (words != ("--remove",))
