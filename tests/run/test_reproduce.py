"""`reproduce` runs a cell from its record alone, compares every figure, and refuses what is not as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Cell
from zigma_bench.records.record import Measurement, Record
from zigma_bench.run.reproduce import check_reproducible, compare_records, read_reproducible, reproduce


def source_of(toy, stage="quality"):
    return read_reproducible(toy.stage(stage))


def with_cell(source, **facts):
    """The record with other facts of its cell."""
    cell = Cell.model_validate_json(json.dumps({**source.cell.model_dump(mode="json"), **facts}))
    return replace(source, cell=cell)


def test_the_figures_are_equal_to_the_bit_without_the_results(toy):
    """Only the record is left of the first run."""
    record = toy.folder / "record.json"
    shutil.copy(toy.stage("quality") / "record.json", record)
    before = json.loads(record.read_text())
    shutil.rmtree(toy.results)
    found = reproduce(read_reproducible(record), toy.folder / "again", toy.device, toy.watcher)
    assert found.agrees and [pair.verdict for pair in found.pairs] == ["equal"] * 2
    assert [(pair.name, pair.old) for pair in found.pairs] == [(m["name"], m["value"]) for m in before["measurements"]]
    assert found.files == {"sample/samples.npy": True, "train/ema.safetensors": True}
    assert (found.tolerance, found.machines) == (0.0, ())
    assert found.new.is_relative_to(toy.folder / "again") and not toy.results.exists()


def test_a_repeated_command_compares_again(toy):
    out = toy.folder / "again"
    reproduce(source_of(toy, "train"), out, toy.device, toy.watcher)
    before = toy.files(out)
    assert reproduce(source_of(toy, "train"), out, toy.device, toy.watcher).agrees
    assert toy.files(out) == before


def new_record(source, *measurements, **facts):
    return replace(source.record, measurements=measurements or source.record.measurements, **facts)


def verdicts(source, new, tolerance):
    found = compare_records(source, new, source.file, tolerance)
    return found.agrees, {pair.name: (pair.verdict, pair.reason) for pair in found.pairs}


def test_the_tolerance_is_relative(toy):
    source = source_of(toy)
    loss, kid = source.record.measurements
    new = new_record(source, replace(loss, value=loss.value * 1.01), kid)
    assert verdicts(source, new, 0.02) == (True, {loss.name: ("agrees", None), kid.name: ("equal", None)})
    assert verdicts(source, new, 0.005)[1][loss.name] == ("differs", None)
    (pair, _) = compare_records(source, new, source.file, 0.02).pairs
    assert pair.difference == pytest.approx(0.01)


def test_a_measurement_that_is_missing_refused_or_of_something_else_differs(toy):
    source = source_of(toy)
    loss, kid = source.record.measurements
    assert verdicts(source, new_record(source, loss), 1.0)[1][kid.name] == ("differs", "not measured now")
    more = Measurement.of("another", 1.0, "1")
    assert verdicts(source, new_record(source, loss, kid, more), 1.0)[1]["another"][0] == "differs"
    refused = Measurement.refused(kid.name, kid.unit, "too few", kid.fingerprint)
    assert verdicts(source, new_record(source, loss, refused), 1.0)[1][kid.name][1] == "ok then, refused now"
    other = replace(kid, fingerprint={**kid.fingerprint, "n_samples": 7})
    assert "n_samples" in verdicts(source, new_record(source, loss, other), 1.0)[1][kid.name][1]
    both = replace(source, record=new_record(source, loss, refused))
    assert verdicts(both, new_record(source, loss, refused), 0.0)[0]


def test_the_default_tolerance_depends_on_the_machines(toy):
    source = source_of(toy)

    def default(**origin):
        new = new_record(source, provenance={**source.record.provenance, **origin})
        return compare_records(source, new, source.file).tolerance

    assert (default(), default(threads=64), default(device="cuda:0")) == (0.0, 0.02, 0.02)
    assert default(versions={"torch": "0.1"}) == 0.02
    timed = replace(source, stage="efficiency")
    assert compare_records(timed, source.record, source.file).tolerance == 0.1


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"data_fingerprint": "0" * 64}, "other images than it had"),
        ({"order_digests": ["0" * 64, "1" * 64]}, "an order that differs"),
        ({"metric_fingerprints": ["0" * 64, "1" * 64]}, "the weights of the metric val-loss are not the same"),
        ({"scan": {"name": "raster", "owner": "mine 1.0", "options": {}}}, "was of mine 1.0"),
        ({"backend": "triton"}, "triton"),
    ],
)
def test_what_is_not_as_it_was_is_refused(toy, facts, words):
    with pytest.raises(NotReady, match="(?s)" + words):
        check_reproducible(with_cell(source_of(toy), **facts), toy.device)


def test_all_problems_are_listed_at_once(toy):
    source = with_cell(source_of(toy), data_fingerprint="0" * 64, order_digests=["0" * 64, "1" * 64])
    with pytest.raises(NotReady) as caught:
        check_reproducible(source, toy.device)
    assert len(caught.value.problems) == 2


def test_timings_belong_to_a_device(toy):
    source = replace(source_of(toy), stage="efficiency")
    with pytest.raises(NotReady, match="were measured on test, and the device is another"):
        check_reproducible(source, replace(toy.device, model_name="another"))


def test_a_record_without_figures_or_of_another_version_is_refused(toy):
    with pytest.raises(UsageError, match="no figures"):
        source_of(toy, "sample")
    with pytest.raises(UsageError, match="no record here"):
        read_reproducible(toy.folder)
    file = toy.stage("quality") / "record.json"
    record = Record.from_json(file.read_text(), where="")
    toy.change(file, identity="0" * 64)
    with pytest.raises(NotReady, match="can't be recomputed"):
        read_reproducible(file)
    toy.change(file, identity=record.identity, status="failed", reason="no space")
    with pytest.raises(UsageError, match="failed"):
        read_reproducible(file)


def test_a_suite_name_can_not_leave_the_folder(toy):
    file = toy.stage("train") / "record.json"
    toy.change(file, cell={**json.loads(file.read_text())["cell"], "suite": "../elsewhere"})
    with pytest.raises(NotReady, match="suite name"):
        read_reproducible(file)


def test_the_command_and_its_exit_codes(toy):
    """The cell has been run again already, so that each call only compares."""
    file = toy.stage("train") / "record.json"
    reproduce(source_of(toy, "train"), toy.folder / "reproduced", toy.device, toy.watcher)

    def call(*words):
        command = [sys.executable, "-m", "zigma_bench", "reproduce", str(file), "--device", "cpu", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=toy.folder, env=dict(os.environ))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    done = call("--tolerance", "0")
    assert done.returncode == 0 and "1 measurement agrees" in done.stdout and "equal" in done.stdout, done.stderr
    record = json.loads(file.read_text())
    (loss,) = record["measurements"]
    toy.change(file, measurements=[{**loss, "value": 2 * loss["value"]}])
    done = call("--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["pairs"][0]["difference"] == pytest.approx(-0.5) and not found["agrees"]
