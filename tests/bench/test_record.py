"""A benchmark's record is written after each row, so that an interruption loses no rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zigma_bench.bench import ops
from zigma_bench.bench.cases import Shape
from zigma_bench.bench.record import open_bench_record
from zigma_bench.bench.step import StepShape, bench_step
from zigma_bench.errors import Interrupted
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")


def stopped(results: Path, after: int) -> None:
    """A benchmark of operators that is interrupted after `count` saved cases."""
    seen = []
    with open_bench_record("ops", CPU, results) as (_, keep):

        def count_and_keep(rows):
            if len(seen) == after:
                raise KeyboardInterrupt
            seen.append(len(rows))
            keep(rows)

        ops.bench_ops(
            CPU, ops=["conv"], shapes=[Shape(1, 4, 8)], paths=["raster"], seconds=0.01, save_rows=count_and_keep
        )


def test_an_interrupted_benchmark_keeps_what_it_timed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="earlier timings are in") as caught:
        stopped(tmp_path, after=1)
    (file,) = (tmp_path / "kernels").glob("ops-a-processor-*.json")
    assert caught.value.exit_code == 75 and str(file) in str(caught.value)
    assert {"source", "plugins", "command", "host"} <= json.loads(file.read_text())["provenance"].keys()
    assert {(row["op"], row["direction"]) for row in json.loads(file.read_text())["rows"]} == {("conv", "forward")}


def test_nothing_is_written_before_the_first_case(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="there are no earlier timings"):
        stopped(tmp_path, after=0)
    assert not list(tmp_path.rglob("*.json"))


def test_steps_are_kept_case_by_case_with_the_ratios_that_are_known() -> None:
    seen: list[list[int]] = []
    rows = bench_step(
        CPU, shapes=[StepShape(1, 16)], paths=["raster"], repeats=3,
        save_rows=lambda rows: seen.append([len(row.ratio) for row in rows]),
    )  # fmt: skip
    assert seen[-1] == [len(row.ratio) for row in rows]
    assert [len(one) for one in seen] == list(range(2, len(rows) + 1, 2)) and seen[0] == [0, 0]
