"""A suite that selects: its tuning cells run first, then each row runs with the value that they chose."""

from __future__ import annotations

import json

import pytest
from test_runs import Watcher

from zigma_bench.cli.show import show_plan
from zigma_bench.errors import BrokenPlugin, NotReady
from zigma_bench.plan import STAGES
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.records.table_file import read_table_file
from zigma_bench.reports.render import table_footer
from zigma_bench.reports.table import read_tables
from zigma_bench.run.due import cell_folder
from zigma_bench.run.executors.executor import CellOutcome
from zigma_bench.run.prepare import check_stages, prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.run.status import StatusReader
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")
SUITE = """# Which rate does each row get?
name: sel
data: {name: digits, validation: 300}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster, {name: zigzag, paths: 2}]
seeds: [0, 1]
vary: {train.learning_rate: [1.0e-3, 2.0e-3, 3.0e-3]}
select: {over: train.learning_rate, seeds: [100, 101]}
tuning: {loss_images: 64}
budget: {images: 64}
train: {batch: 16}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [{name: val-loss, images: 64}]
"""
LOSSES = {"raster": [0.5, 0.3, 0.4], "zigzag": [0.3, 0.4, 0.5]}  # by the rate's position


class RecordingExecutor:
    """Writes the records of each cell at once. `broken`: the scan and rate whose tuning fails; `limit`: of cells."""

    def __init__(self, broken=(), limit=1000):
        self.ran, self.broken, self.limit = [], broken, limit

    def run_cells(self, cells, place):
        outcomes = []
        for cell in cells[: self.limit]:
            folder = cell_folder(place.folder, cell)
            self.ran.append(cell.label)
            outcomes.append(CellOutcome(cell, folder, "done"))
            for stage in cell.stages:
                identity, facts = cell.identity(stage, device_model=CPU.model_name), cell.model_dump(mode="json")
                if cell.tunes and (cell.scan.name, cell.train.learning_rate) in self.broken:
                    write_record(
                        stage_folder(folder, stage, identity), Record(stage, identity, facts, "failed", reason="no")
                    )
                    continue
                loss = LOSSES[cell.scan.name][round(cell.train.learning_rate * 1e3) - 1] if stage == "train" else 1.0
                name = "tuning-loss" if stage == "train" else "val-loss"
                measured = (Measurement.of(name, loss + cell.seed / 1e4, "1"),) if stage != "sample" else ()
                write_record(stage_folder(folder, stage, identity), Record(stage, identity, facts, "done", measured))
        if len(cells) > self.limit:
            raise KeyboardInterrupt
        return outcomes


@pytest.fixture
def run(tmp_path):
    (tmp_path / "sel.yaml").write_text(SUITE)

    def call(executor, *only):
        plan = prepare(tmp_path / "sel.yaml", settings=(), only=only, smoke=False)
        return run_plan(plan, tmp_path / "r", (CPU,), Watcher(), executor, stages=STAGES)

    return call


def final(executor):
    return [label for label in executor.ran if "tuning" not in label and label.startswith("zigma")]


def test_each_row_runs_with_its_best_value(run, tmp_path):
    executor = RecordingExecutor()
    outcomes = run(executor)
    assert [label.startswith("tuning") for label in executor.ran] == [True] * 12 + [False] * 6
    rows = ("zigma · raster", "zigma · zigzag paths=2")
    assert sorted(final(executor)) == [f"{row} · seed {seed}" for row in rows for seed in (0, 1)]
    rates = {outcome.cell.label: outcome.cell.train.learning_rate for outcome in outcomes if not outcome.cell.tunes}
    assert rates["zigma · raster · seed 1"] == 2e-3 and rates["zigma · zigzag paths=2 · seed 0"] == 1e-3
    table = read_table_file(tmp_path / "r" / "sel" / "main")
    raster, zigzag = table.selected
    assert raster.chosen == "learning_rate=0.002" and not raster.at_edge and zigzag.at_edge and table.waiting == {}
    assert list(raster.losses.values()) == pytest.approx([0.51005, 0.31005, 0.41005])
    (shown,) = read_tables(tmp_path / "r" / "sel" / "main")
    assert [row.scan_words for row in shown.rows if row.role == "cell"] == ["raster", "zigzag paths=2"]
    assert shown.rows[2].facts["selected"] == "learning_rate=0.001 (edge of the range)"
    assert any("at the edge of the range" in line and "zigzag" in line for line in table_footer(shown))


def test_a_second_run_finds_the_same_choice_and_rewrites_nothing(run, tmp_path):
    run(RecordingExecutor())
    before = (tmp_path / "r" / "sel" / "main" / "table.json").stat().st_mtime_ns
    again = RecordingExecutor()
    run(again)
    assert len(again.ran) == 18  # one call for all cells: nothing waits any more
    content = json.loads((tmp_path / "r" / "sel" / "main" / "table.json").read_text())
    assert len(content["selected"]) == 2
    assert before <= (tmp_path / "r" / "sel" / "main" / "table.json").stat().st_mtime_ns


def test_a_value_whose_tuning_fails_is_not_chosen(run, tmp_path):
    executor = RecordingExecutor(broken={("zigzag", 1e-3)})
    outcomes = run(executor)
    assert {o.cell.train.learning_rate for o in outcomes if "zigzag" in o.cell.label and not o.cell.tunes} == {2e-3}
    (zigzag,) = [one for one in read_table_file(tmp_path / "r" / "sel" / "main").selected if "zigzag" in one.row]
    assert next(iter(zigzag.losses.values())) is None


def test_a_row_whose_tuning_fails_everywhere_waits_and_the_others_run(run, tmp_path):
    executor = RecordingExecutor(broken={("zigzag", rate) for rate in (1e-3, 2e-3, 3e-3)})
    run(executor)
    assert final(executor) == ["zigma · raster · seed 0", "zigma · raster · seed 1"]
    assert read_table_file(tmp_path / "r" / "sel" / "main").waiting == {"zigma · zigzag paths=2": 2}


def test_the_state_names_the_cells_that_wait(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(RecordingExecutor(limit=5))
    state = StatusReader().read(tmp_path / "r" / "sel" / "main")
    assert dict(state.unselected) == {"zigma · raster": 2, "zigma · zigzag paths=2": 2}
    labels = [cell.label for cell in state.cells]
    assert "tuning · zigma · raster · learning_rate=0.001 · seed 100" in labels and len(set(labels)) == len(labels)
    executor = RecordingExecutor()
    run(executor)
    assert len(final(executor)) == 4


def test_a_part_of_a_suite_leaves_the_other_rows_in_the_table(run, tmp_path):
    run(RecordingExecutor())
    executor = RecordingExecutor()
    run(executor, "raster")
    assert final(executor) == ["zigma · raster · seed 0", "zigma · raster · seed 1"]
    table = read_table_file(tmp_path / "r" / "sel" / "main")
    assert sum(cell.scan == "zigzag paths=2" and not cell.tunes for cell in table.cells) == 2
    assert len(table.selected) == 2


def test_a_part_of_the_seeds_runs_only_these(run):
    executor = RecordingExecutor()
    run(executor, "· seed 1")
    assert final(executor) == ["zigma · raster · seed 1", "zigma · zigzag paths=2 · seed 1"]


def test_a_passing_failure_of_a_tuning_cell_decides_nothing(run):
    """The cell runs again before the choice is made."""
    with pytest.raises(KeyboardInterrupt):
        run(RecordingExecutor(broken={("raster", 2e-3)}, limit=12))
    executor = RecordingExecutor()
    outcomes = run(executor)
    rates = {
        outcome.cell.train.learning_rate for outcome in outcomes if outcome.cell.label == "zigma · raster · seed 0"
    }
    assert rates == {2e-3} and executor.ran[0].startswith("tuning")


def test_an_executor_that_loses_a_cell_is_named(run):
    class Losing(RecordingExecutor):
        def run_cells(self, cells, place):
            return super().run_cells(cells, place)[1:]

    with pytest.raises(BrokenPlugin, match="returned no outcome for 1 cells"):
        run(Losing())


def test_a_report_says_which_rows_wait_and_why(run, tmp_path):
    run(RecordingExecutor(broken={("zigzag", rate) for rate in (1e-3, 2e-3, 3e-3)}))
    (shown,) = read_tables(tmp_path / "r" / "sel" / "main")
    (line,) = [line for line in table_footer(shown) if "wait for the choice" in line]
    assert line.startswith("zigma · zigzag paths=2: 2 cells wait") and "6 of 6 tuning cells failed: train: no" in line


def test_samples_need_a_chosen_value(run, tmp_path):
    plan = prepare(tmp_path / "sel.yaml", settings=(), only=(), smoke=False)
    with pytest.raises(NotReady, match=r"the value of train.learning_rate is not chosen yet for 2 rows"):
        check_stages(plan, ("sample",), tmp_path / "r", CPU)


def test_a_smoke_plan_prints_the_cells_that_wait(run, tmp_path, capsys):
    show_plan(prepare(tmp_path / "sel.yaml", settings=(), only=(), smoke=True), tmp_path / "r", CPU)
    assert "2 more cells wait for the choice of train.learning_rate in 2 rows" in capsys.readouterr().out


def test_a_selected_row_brings_its_tuning_cells(run):
    executor = RecordingExecutor()
    run(executor, "zigzag")
    assert sum(label.startswith("tuning") for label in executor.ran) == 6
    assert final(executor) == ["zigma · zigzag paths=2 · seed 0", "zigma · zigzag paths=2 · seed 1"]
