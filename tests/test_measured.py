"""The figures in the README are those of the records in results/."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS = ("val-loss", "fd-efflite0", "kid-efflite0")


def cells_of(heading: str) -> dict[str, list[str]]:
    """The table below the first header row that starts with `heading`: its rows by their first cell."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        found[first] = others
    return found


def test_orders_on_photographs() -> None:
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in (ROOT / "results" / "orders-cifar").glob("*/quality-*/record.json"):
        record = json.loads(file.read_text())
        if record["cell"]["role"] != "cell":
            continue
        for measurement in record["measurements"]:
            values[record["cell"]["scan_label"]][measurement["name"]].append(measurement["value"])
    table = cells_of("scan")
    assert set(table) == {scan for scan, metrics in values.items() if len(metrics["val-loss"]) == 3}
    for scan, cells in table.items():
        for name, cell in zip(METRICS, cells, strict=True):
            mean, deviation = (float(part) for part in cell.split(" ± "))
            found = values[scan][name]
            half = 0.5 * 10.0 ** -len(cell.split(" ± ")[0].partition(".")[2])
            assert mean == pytest.approx(statistics.mean(found), abs=1.001 * half), (scan, name)
            half = 0.5 * 10.0 ** -len(cell.split(" ± ")[1].partition(".")[2])
            assert deviation == pytest.approx(statistics.stdev(found), abs=1.001 * half), (scan, name)


def test_steps_on_a_card() -> None:
    newest = max((ROOT / "results" / "kernels").glob("step-NVIDIA-H100*.json"))
    medians = {
        (row["op"], row["direction"], row["shape"]): row["median_ms"] for row in json.loads(newest.read_text())["rows"]
    }
    table = cells_of("B x L")
    assert set(table) == {shape for _, _, shape in medians}
    order = [(op, f"{what}-graph") for what in ("forward", "train-step") for op in ("zigma", "dit")]
    for shape, cells in table.items():
        assert [float(cell) for cell in cells] == [round(medians[(*key, shape)], 2) for key in order]
    assert re.search(r"ZigMa-B \(768 x 24, 134 M", README)


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data" / "cifar10-jpeg").is_dir(), reason="no shared photographs")
def test_the_orders_go_on_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record has the identity that its suite's plan gives the stage today, so a run does not begin anew."""
    from zigma_bench.runner.prepare import prepare

    monkeypatch.chdir(ROOT)
    cells = prepare(Path("suites/orders-cifar.yaml"), settings=(), only=None, smoke=False).cells
    planned = {cell.identity(stage, card="") for cell in cells for stage in cell.stages}
    files = list((ROOT / "results" / "orders-cifar").glob("*/*/record.json"))
    records = [json.loads(file.read_text()) for file in files]
    assert len(records) >= 36
    assert {record["identity"] for record in records} <= planned
    texts = {
        m["fingerprint"]["reference"]["data"]
        for r in records
        for m in r["measurements"]
        if "reference" in m["fingerprint"]
    }
    assert texts == {cell.data_text for cell in cells}  # or the figures of before could not stand beside new ones
