"""Runs of one suite side by side: none overwrites another, and a run reuses finished stages of earlier ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zigma_bench.errors import BrokenPack, NotReady, UsageError
from zigma_bench.plan import STAGES
from zigma_bench.records.pack import pack_run
from zigma_bench.records.packed import PACKED
from zigma_bench.records.store import only_writer, write_record
from zigma_bench.reports.table import find_tables
from zigma_bench.run import reuse
from zigma_bench.run.executors import local, tasks
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.prepare import check_stages, plan_json, prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")
SUITE = """# Do runs stay apart?
name: toy
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster]
budget: {images: 64}
train: {batch: 16}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [val-loss]
"""
MORE = "sample.evaluations=3"  # other images from the same weights


class Watcher:
    """Stores what a run reports."""

    def __init__(self) -> None:
        self.stages, self.events = [], []

    def begin(self, cell, stages):
        self.stages.append(stages)

    def event(self, cell, event):
        self.events.append(event)

    def end(self, cell):
        pass


class Bench:
    """A suite in a folder, run in this process."""

    def __init__(self, folder: Path) -> None:
        self.suite, self.results, self.watcher = folder / "suite.yaml", folder / "results", Watcher()
        self.suite.write_text(SUITE)

    def plan(self, *settings, smoke=False):
        return prepare(self.suite, settings=settings, only=(), smoke=smoke)

    def __call__(self, *settings, name=None, stages=STAGES):
        """The name of the run, and the stages that were due by cell."""
        self.watcher = Watcher()
        place = self.plan(*settings), self.results, (CPU,), self.watcher, LocalExecutor(LocalOptions())
        outcomes = run_plan(*place, stages=stages, name=name)
        assert [outcome.reason for outcome in outcomes if outcome.status == "failed"] == []
        return outcomes[0].folder.parent.name, self.watcher.stages

    @property
    def notices(self):
        return [event["text"] for event in self.watcher.events if event["event"] == "notice"]

    def file(self, run, pattern):
        (found,) = self.results.glob(f"toy/{run}/zigma*/{pattern}")
        return found

    def names(self):
        return sorted(path.parent.name for path in self.results.glob("toy/*/table.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a finished run, to be copied."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def bench(whole, tmp_path, cells_in_this_process):
    if not (whole / "results").exists():
        assert Bench(whole)() == ("main", [("train", "sample", "quality"), *[("sample", "quality")] * 2])
    shutil.copytree(whole / "results", tmp_path / "results")
    return Bench(tmp_path)


def test_other_options_are_another_run_and_the_first_stays(bench):
    before = {path: path.read_bytes() for path in (bench.results / "toy" / "main").rglob("*") if path.is_file()}
    assert bench(MORE) == ("evaluations-3", [("sample", "quality"), (), ("sample", "quality")])
    assert bench.notices == [
        "train: already done in the run main, and reused from there",
        "sample, quality: already done in the run main, and reused from there",
    ]
    assert {path: path.read_bytes() for path in before} == before
    assert bench.names() == ["evaluations-3", "main"]
    assert bench(MORE) == ("evaluations-3", [()] * 3) and bench() == ("main", [()] * 3)
    table = json.loads((bench.results / "toy" / "evaluations-3" / "table.json").read_text())
    assert (table["run"], table["options"], table["smoke"]) == ("evaluations-3", [MORE], False)
    assert table["content"]["sample"]["evaluations"] == 3


def test_a_run_is_whole_without_the_one_that_it_has_used(bench):
    """Its files are hard links, so that they take no space, and its records are its own."""
    bench(MORE)
    weights = bench.file("evaluations-3", "train-*/ema.safetensors")
    assert weights.samefile(bench.file("main", "train-*/ema.safetensors"))
    assert not weights.with_name("record.json").samefile(bench.file("main", "train-*/record.json"))
    shutil.rmtree(bench.results / "toy" / "main")
    assert bench(MORE) == ("evaluations-3", [()] * 3)
    assert bench() == ("main", [("sample", "quality"), (), ("sample", "quality")])


def test_a_disk_without_links_has_copies(bench, monkeypatch):
    def refuse(*names):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(reuse.os, "link", refuse)
    assert bench(MORE, stages=("train",)) == ("evaluations-3", [()] * 3)
    first, second = (bench.file(run, "train-*/ema.safetensors") for run in ("main", "evaluations-3"))
    assert first.read_bytes() == second.read_bytes() and not first.samefile(second)


def test_an_altered_file_is_not_used(bench, capsys):
    weights = bench.file("main", "train-*/ema.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert bench(MORE)[1][0] == ("train", "sample", "quality")
    assert f"{weights}: the file is altered" in capsys.readouterr().err
    assert bench.file("evaluations-3", "train-*/ema.safetensors").read_bytes() == whole, "trained again"


def test_a_broken_record_is_named_and_not_used(bench, capsys):
    bench.file("main", "quality-*/record.json").write_text("{")
    assert bench(name="second") == ("second", [("quality",), (), ()])
    assert "record.json: the record is broken" in capsys.readouterr().err


def test_records_without_files_are_used_as_they_are(bench):
    """As in a clean clone of records: nothing is computed for a run whose records are all there."""
    for path in bench.results.rglob("*"):
        if path.is_file() and path.name not in ("record.json", "table.json"):
            path.unlink()
    assert bench(name="second") == ("second", [()] * 3)
    assert not list(bench.results.rglob("samples.npy"))


def test_a_packed_run_is_done(bench):
    """Nothing runs, nothing is unpacked, and its table and its rows are those of before."""
    main = bench.results / "toy" / "main"
    table, rows = (main / "table.json").read_bytes(), find_tables([main])[0].rows
    assert len(pack_run(main, remove=True).removed) == 3
    assert bench() == ("main", [()] * 3)
    assert sorted(path.name for path in main.iterdir()) == [".lock", PACKED, "table.json"]
    assert (main / "table.json").read_bytes() == table and find_tables([main])[0].rows == rows


def test_a_packed_run_is_reused_by_another(bench):
    pack_run(bench.results / "toy" / "main", remove=True)
    assert bench(name="second") == ("second", [()] * 3)
    assert bench.file("second", "train-*/record.json")


def test_a_due_stage_of_a_packed_run_makes_its_inputs_again(bench):
    """As in a run whose weights were removed; the new records count, and the other packed ones stay."""
    main = bench.results / "toy" / "main"
    shutil.rmtree(bench.file("main", "quality-*"))
    pack_run(main, remove=True)
    assert bench() == ("main", [("train", "sample", "quality"), (), ()])
    assert bench() == ("main", [()] * 3)
    assert pack_run(main).records == 7


def test_damaged_packed_records_stop_the_run(bench):
    main = bench.results / "toy" / "main"
    pack_run(main, remove=True)
    (main / PACKED).write_bytes(b"no")
    with pytest.raises(BrokenPack, match="restore the file"):
        bench()
    assert not list(main.glob("*/*/record.json")), "nothing is trained again"


def test_only_what_is_asked_for_is_used(bench):
    assert bench(name="second", stages=("train",)) == ("second", [()] * 3)
    assert bench.file("second", "train-*/record.json")
    assert not list(bench.results.glob("toy/second/*/sample-*/record.json"))


def test_a_kill_while_a_stage_is_copied_leaves_one_that_is_not_done(bench, monkeypatch):
    def kill(folder, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(reuse, "write_record", kill)
    with pytest.raises(KeyboardInterrupt):
        bench(MORE)
    monkeypatch.setattr(reuse, "write_record", write_record)
    assert bench.file("evaluations-3", "train-*/ema.safetensors")
    assert not list(bench.results.glob("toy/evaluations-3/*/train-*/record.json"))
    assert bench(MORE)[1][0] == ("sample", "quality")


def test_a_cell_at_work_in_another_run_is_waited_for(bench, monkeypatch):
    """Its stages are then reused, not trained twice."""
    train = bench.file("main", "train-*")
    shutil.move(train, bench.results / "aside")
    looks = []

    def has_writer(asked):
        looks.append(asked)
        if len(looks) == 4:
            shutil.move(bench.results / "aside", train)
        return asked == train.parent and len(looks) < 5

    monkeypatch.setattr(tasks, "has_writer", has_writer)
    monkeypatch.setattr(local, "has_writer", has_writer)
    monkeypatch.setattr(local, "WAIT_SECONDS", 0)
    assert bench(name="second", stages=("train",))[1][-1] == ()
    assert any("to finish it" in text for text in bench.notices)
    assert bench.notices[-1] == "train: already done in the run main, and reused from there"
    assert looks[1] == train.parent


def test_a_single_stage_can_use_an_earlier_stage_of_another_run(bench):
    check_stages(bench.plan(MORE), ("sample",), bench.results, CPU)
    assert bench(MORE, stages=("sample",)) == ("evaluations-3", [("sample",), (), ("sample",)])
    with pytest.raises(NotReady, match="the stage train of this cell is not done"):
        check_stages(bench.plan("seeds=[1]"), ("sample",), bench.results, CPU)


def test_names_are_kept_apart(bench):
    with pytest.raises(
        UsageError, match=r"the run 'main' has other options: sample.evaluations is 2 in the run and 3 now"
    ):
        bench(MORE, name="main")
    assert bench(MORE, name="more", stages=("train",)) == ("more", [()] * 3)
    assert bench(MORE, stages=("train",))[0] == "more"  # its options find it without its name
    assert bench.names() == ["main", "more"]


def test_an_edited_suite_keeps_the_table_of_before(bench):
    main = (bench.results / "toy" / "main" / "table.json").read_bytes()
    bench.suite.write_text(SUITE.replace("scans: [raster]", "scans: [raster, zigzag]") + "# a comment\n")
    name, due = bench(stages=("train",))
    assert (name, due) == ("scans-name-raster-name-zigzag", [(), ("train",), (), ()])
    assert (bench.results / "toy" / "main" / "table.json").read_bytes() == main
    bench.suite.write_text(SUITE)
    assert bench() == ("main", [()] * 3)


def test_declared_tests_are_no_option_of_the_run(bench):
    """After an edit the same run has them; nothing is computed, and no record is copied."""
    before = {path: path.read_bytes() for path in bench.results.rglob("record.json")}
    bench.suite.write_text(SUITE + "statistics: {primary: val-loss}\n")
    assert bench() == ("main", [()] * 3) and bench.names() == ["main"]
    assert find_tables([bench.results])[0].declared.primary == "val-loss"
    assert {path: path.read_bytes() for path in bench.results.rglob("record.json")} == before
    assert bench("statistics.alpha=0.01") == ("main", [()] * 3)
    (table,) = find_tables([bench.results])
    assert (table.declared.alpha, table.options) == (0.01, ())
    bench.suite.write_text(SUITE)
    assert bench() == ("main", [()] * 3) and find_tables([bench.results])[0].declared is None


def test_settings_that_change_nothing_are_the_main_run(bench, tmp_path):
    assert bench("budget.images=64", "sample.evaluations=2") == ("main", [()] * 3)
    shutil.rmtree(bench.results)
    assert plan_json(bench.plan("budget.images=64"), bench.results, CPU)["run"] == "main"
    assert plan_json(bench.plan(MORE), bench.results, CPU)["is_new_run"]


def test_a_smoke_run_is_a_separate_run(bench):
    document = plan_json(bench.plan(smoke=True), bench.results, CPU)
    assert (document["run"], document["is_new_run"], document["smoke"]) == ("smoke", True, True)


def test_a_broken_table_file_is_replaced(bench, capsys):
    path = bench.results / "toy" / "main" / "table.json"
    before = json.loads(path.read_text())
    path.write_text("{")
    assert bench() == ("main", [()] * 3)
    assert "table.json: the file is broken and is replaced" in capsys.readouterr().err
    assert json.loads(path.read_text())["cells"] == before["cells"]


def test_the_run_that_worked_last_is_reported(bench):
    bench(MORE, stages=("train",))
    (table,) = find_tables([bench.results])
    assert (table.run, table.options, table.other_runs) == ("evaluations-3", (MORE,), ("main",))
    shutil.rmtree(bench.file("main", "quality-*"))
    bench()
    (table,) = find_tables([bench.results / "toy"])
    assert (table.run, table.other_runs) == ("main", ("evaluations-3",))
    bench(MORE, stages=("train",))  # which does nothing
    assert find_tables([bench.results])[0].run == "main"


def test_two_processes_begin_one_run(tmp_path):
    """The second waits for the lock of the suite, and finds the run of the first."""
    bench = Bench(tmp_path)
    code = (
        "import sys; from pathlib import Path; from zigma_bench.run.prepare import prepare\n"
        "from zigma_bench.run.runs import open_run; from zigma_bench.system.device import Device\n"
        f"plan = prepare(Path({str(bench.suite)!r}), settings=[sys.argv[1]], only=(), smoke=False)\n"
        "print('ready', flush=True)\n"
        f"print(open_run(plan, Path({str(bench.results)!r}), Device('cpu', 'test')).folder.name)"
    )
    (bench.results / "toy").mkdir(parents=True)
    settings = ("sample.evaluations=3", "efficiency.evaluations=3", "sample.evaluations=3.0", "sample.evaluations=3")
    with only_writer(bench.results / "toy"):
        started = [
            subprocess.Popen([sys.executable, "-c", code, one], stdout=subprocess.PIPE, text=True, env={**os.environ})
            for one in (settings[0], settings[3])
        ]
        assert [process.stdout.readline() for process in started if process.stdout] == ["ready\n"] * 2
    assert [process.communicate()[0] for process in started] == ["evaluations-3\n"] * 2
    assert bench.names() == ["evaluations-3"]
