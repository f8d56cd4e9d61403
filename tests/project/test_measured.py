"""The values in the documentation and in the README are those of the records in results/."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zigma_bench.records.pack import read_records
from zigma_bench.reports.crossings import find_crossings
from zigma_bench.reports.table import read_table
from zigma_bench.run.fitted_costs import fit_costs
from zigma_bench.run.timed import timed_calls
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

ROOT = Path(__file__).parents[2]
PAGES = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("results.md", "kernels.md"))
CARD = "NVIDIA H100 80GB HBM3"  # of the timings
SETTINGS = {  # under which a suite was run there
    "efficiency": [
        "efficiency.batch=[1]", "efficiency.rounds=1", "efficiency.repeats=5", "efficiency.stages=[forward,train-step]",
        "train.compile=true", "train.graph=true", "sample.graph=true", "sample.compile=true",
    ]
}  # fmt: skip
METRICS = ("val-loss", "fd-efflite0", "kid-efflite0", "fd-efflite2")


def records_of(suite: str, run: str, stage: str | None = None) -> list[dict[str, Any]]:
    """The records of a run, packed or not, as JSON documents. `stage`: only those of this one."""
    found = read_records(ROOT / "results" / suite / run)
    return [asdict(record) for record in found if stage in (None, record.stage)]


def cells_of(heading: str) -> dict[str, list[str]]:
    """The table below the first header row that starts with `heading`: its rows by their first cell."""
    lines = PAGES.splitlines()
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
    for record in records_of("orders-cifar", "main", "quality"):
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


def test_the_readme_has_rows_of_the_table_of_orders() -> None:
    """Each row of the README's table is that of the page, or a part of it."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| scan | val-loss | fd-efflite0 |") + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:] if line.startswith("|")]
    whole = cells_of("scan")
    shown = [row for row in rows if row[0] in whole]
    assert len(shown) >= 5
    for scan, loss, distance in shown:
        assert [loss, distance] == whole[scan][:2]


def test_pictures_of_emoji() -> None:
    """The table of the page, and its anchors."""
    found: dict[str, dict[str, float]] = {}
    for record in records_of("emoji", "main", "quality"):
        values = {m["name"]: m["value"] for m in record["measurements"]}
        found[record["cell"]["scan_label"] if record["cell"]["role"] == "cell" else record["cell"]["role"]] = values
    rows = [line for line in PAGES.splitlines() if line.startswith(("| raster |", "| zigzag paths=8 |"))]
    for line in rows[-2:]:
        scan, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for name, cell in zip(METRICS, cells, strict=False):
            assert float(cell) == round(found[scan][name], len(cell.partition(".")[2])), (scan, name)
    floor, ceiling = (found[role]["fd-efflite0"] for role in ("floor", "ceiling"))
    told = " ".join(PAGES.split())
    assert f"(the floor) is {floor:.1f}, and that of the untrained network (the ceiling) {ceiling:.0f}." in told


def test_factors_of_an_order() -> None:
    """Each finished cell of study-factors is a row of the table, with its values."""
    names = {"path": "along the path", "grid": "on the grid"}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for record in records_of("study-factors", "main", "quality"):
        cell = record["cell"]
        key = names[cell["backbone"]["options"]["mixer"]["options"]["convolution"]], cell["scan_label"]
        found[key] = {m["name"]: m["value"] for m in record["measurements"]}
        assert cell["seed"] == 0 and cell["train_images"] == 102_400 and cell["sample"]["count"] == 10_000
    lines = PAGES.splitlines()
    start = lines.index("| convolution | order | val-loss | fd-efflite0 | kid-efflite0 | fd-efflite2 |") + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + len(found)]]
    assert {(convolution, order) for convolution, order, *_ in rows} == set(found) and len(found) == 12
    for convolution, order, *cells in rows:
        for name, cell in zip(METRICS, cells, strict=True):
            assert float(cell) == round(found[convolution, order][name], len(cell.partition(".")[2])), (order, name)
    record = next(r for r in records_of("study-factors", "main", "train") if r["cell"]["role"] == "cell")
    flops = 3 * sum(record["cell"]["forward_flops"].values()) * 102_400
    assert f"{flops / 1e14:.1f}e14 FLOPs per cell" in PAGES


def test_the_margin_of_the_study_of_factors() -> None:
    """The table of study-margin, the gain over pairs, and the margins that study-factors declares."""
    values: dict[int, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records_of("study-margin", "main", "quality"):
        cell = record["cell"]
        for measurement in record["measurements"] if cell["role"] == "cell" else ():
            values[cell["train_images"]][measurement["name"]][cell["seed"]] = measurement["value"]
    table = cells_of("training images")
    assert {int(images.replace(",", "")) for images in table} == set(values)
    for images, cells in table.items():
        for name, cell in zip(METRICS, cells, strict=True):
            found = list(values[int(images.replace(",", ""))][name].values())
            digits = len(cell.split(" ± ")[0].partition(".")[2])
            assert cell == f"{statistics.mean(found):.{digits}f} ± {statistics.stdev(found):.{digits}f}"
            assert len(found) == 5
    gains = {
        name: [values[102_400][name][seed] - values[112_640][name][seed] for seed in range(5)]
        for name in ("fd-efflite0", "val-loss")
    }
    (distance, loss), told = gains.values(), " ".join(PAGES.split())
    assert (
        f"The gain is {statistics.mean(distance):.1f} ± {statistics.stdev(distance):.1f} in fd-efflite0 and "
        f"{statistics.mean(loss):.4f} ± {statistics.stdev(loss):.4f} in the loss" in told
    )
    declared = load_suite(ROOT / "suites/study-factors.yaml")[0].statistics
    assert declared is not None
    for name, gain in gains.items():
        assert declared.margin[name].difference == float(f"{statistics.mean(gain):.2g}")


def test_backbones_on_photographs() -> None:
    values: dict[tuple[str, str], dict[str, float]] = {}
    for record in records_of("backbones", "main", "quality"):
        cell, found = record["cell"], {m["name"]: m["value"] for m in record["measurements"]}
        if cell["role"] == "cell":
            values[cell["backbone_label"], cell["scan_label"] or ""] = found
            assert cell["train_images"] == 64000
    lines = PAGES.splitlines()
    start = lines.index("| backbone | scan | val-loss | fd-efflite0 | kid-efflite0 | fd-efflite2 |") + 2
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + len(values)]]
    assert {(backbone, scan) for backbone, scan, *_ in table} == set(values) and len(values) == 7
    for backbone, scan, *cells in table:
        for name, cell in zip(METRICS, cells, strict=True):
            found = values[backbone, scan][name]
            assert float(cell) == round(found, len(cell.partition(".")[2])), (backbone, scan, name)


@pytest.mark.parametrize(
    ("call", "network", "names", "worst"),
    [
        ("train-step", "mamba", "10 cells of ZigMa and VisionMamba", 0.06),
        ("train-step", "attention", "5 of DiT", 0.06),
        ("forward", "mamba", None, 0.165), ("forward", "attention", None, 0.03),
    ],
)  # fmt: skip
def test_costs_on_a_gpu_are_predicted(call: Any, network: str, names: str | None, worst: float) -> None:
    """From 256 to 65,536 tokens, each cell left out in turn."""
    timed = timed_calls(ROOT / "results", CARD)
    (kind,) = {one.kind for one in timed if (one.kind.call, one.kind.network) == (call, network) and one.kind.compiled}
    costs = fit_costs(timed, kind, "fused")
    assert not isinstance(costs, str)
    assert max(costs.seconds.error, costs.peak.error) < 0.08
    assert max(*costs.seconds.left_out, *costs.peak.left_out) < worst
    if names is not None:
        time, memory = (f"{fit.error:.0%} and {max(fit.left_out):.0%}" for fit in (costs.seconds, costs.peak))
        told = f"{names}: {time} in time, {memory} in memory" if network == "mamba" else f"{names}: {time}, {memory}"
        assert names.startswith(f"{costs.cells} ") and told in " ".join(PAGES.split())


def rows_of(kind: str) -> list[dict[str, Any]]:
    """The rows of all records of a benchmark on this GPU; later records replace earlier ones."""
    found = {}
    for file in sorted((ROOT / "results" / "kernels").glob(f"{kind}-NVIDIA-H100*.json")):
        for row in json.loads(file.read_text())["rows"]:
            found[tuple(row[key] for key in ("op", "direction", "shape", "backend", "path"))] = row
    return list(found.values())


def test_steps_on_a_gpu() -> None:
    ours = [row for row in rows_of("step") if row["backend"] in ("fused", "attention")]
    medians = {(row["op"], row["direction"], row["shape"]): row["median_ms"] for row in ours}
    table = cells_of("B x L")
    assert set(table) == {shape for _, _, shape in medians}
    order = [(op, f"{what}-graph") for what in ("forward", "train-step") for op in ("zigma", "dit")]
    for shape, cells in table.items():
        assert [float(cell) for cell in cells] == [round(medians[(*key, shape)], 2) for key in order]
    assert re.search(r"ZigMa-B \(768 x 24, 134 M", PAGES)
    large = set(table) - {"1x1024"}
    told = []
    for op in ("zigma", "dit"):
        slower = [medians[op, "train-step", shape] / medians[op, "train-step-graph", shape] for shape in large]
        told += [f"{min(slower):.1f} to {max(slower):.1f} times"]
    assert f"16,000 tokens take {told[0]} as long, DiT's {told[1]}." in " ".join(PAGES.split())


@pytest.mark.parametrize(
    ("direction", "heading"), [("forward", "B x L x E"), ("forward+backward", "B x L x E, both ways")]
)
def test_scans_on_a_gpu(direction: str, heading: str) -> None:
    medians = {
        (row["shape"], row["backend"], row["path"]): row["median_ms"]
        for row in rows_of("ops")
        if (row["op"], row["direction"]) == ("scan", direction)
    }
    table = cells_of(heading)
    assert set(table) == {shape for shape, _, _ in medians}
    columns = [("fused", path) for path in ("raster", "zigzag", "hilbert", "random")]
    columns += [(backend, "random") for backend in ("triton", "mamba-ssm", "pscan")]
    for shape, cells in table.items():
        for key, cell in zip(columns, cells, strict=True):
            assert float(cell) == round(medians[shape, *key], len(cell.partition(".")[2])), (shape, key)
        raster, *others = (medians[shape, *key] for key in columns[:4])
        assert max(others) < 1.01 * raster, "what the page says of a path"


@pytest.mark.parametrize(("run", "heading"), [("h100", "tokens"), ("h200", "tokens, H200")])
def test_lengths_on_a_gpu(run: str, heading: str) -> None:
    """The table of lengths, and the crossings that the report names."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for record in records_of("efficiency", run, "efficiency"):
        values = {m["name"]: m["value"] for m in record["measurements"]}
        found[record["cell"]["backbone_label"], record["cell"]["tokens"]] = values
    backbones = ("zigma", "vision-mamba", "dit")
    table = cells_of(heading)
    assert {(backbone, int(length.replace(",", ""))) for backbone in backbones for length in table} == set(found)
    for length, cells in table.items():
        rows = [found[backbone, int(length.replace(",", ""))] for backbone in backbones]
        told = [1000 / row[f"{call}-images-per-second"] for call in ("forward", "train") for row in rows]
        assert [float(cell) for cell in cells[:6]] == [round(value, 2) for value in told], length
        assert [float(cell) for cell in cells[6:]] == [round(row["train-step-peak-memory"] / 2**30, 1) for row in rows]
    joules = {backbone: found[backbone, 65536]["train-step-joules-per-image"] for backbone in backbones}
    assert f"ZigMa takes {joules['zigma']:.0f} joules, one of DiT {joules['dit']:.0f}." in PAGES

    crossed = {
        (crossing.metric, crossing.ahead, crossing.behind): f"{crossing.tokens:,.0f}"
        for crossing in find_crossings(read_table(ROOT / "results" / "efficiency" / run))
    }
    forward, train = "forward-images-per-second", "train-images-per-second"
    told = " ".join(PAGES.split())
    zigma = [crossed[call, "zigma zigzag paths=8", "dit"] for call in (forward, train)]
    assert f"ZigMa overtakes DiT at about {zigma[0]} tokens forward and {zigma[1]} in training" in told
    mamba = [crossed[call, "vision-mamba bidirectional", "dit"] for call in (forward, train)]
    assert f"VisionMamba at {mamba[0]} and {mamba[1]}." in told


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data" / "cifar10-jpeg").is_dir(), reason="no shared photographs")
@pytest.mark.parametrize(
    ("suite", "run", "count", "card"),
    [("orders-cifar", "main", 67, "NVIDIA H200"), ("backbones", "main", 32, "NVIDIA H200"),
     ("study-margin", "main", 34, "NVIDIA H200"), ("study-factors", "main", 42, "NVIDIA H200"),
     ("emoji", "main", 10, "NVIDIA H200"), ("efficiency", "h100", 15, CARD), ("efficiency", "h200", 15, "NVIDIA H200")],
)  # fmt: skip
def test_suites_continue_from_the_records(
    suite: str, run: str, count: int, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record has the identity that its suite's plan gives the stage today, and the suite finds its run again."""
    from zigma_bench.run.prepare import prepare
    from zigma_bench.run.runs import find_run, make_table

    monkeypatch.chdir(ROOT)
    plan = prepare(Path(f"suites/{suite}.yaml"), settings=SETTINGS.get(suite, ()), only=(), smoke=False)
    chosen = find_run(plan, ROOT / "results", run)
    assert chosen.name == run and chosen.existing is not None
    table = make_table(plan, ROOT / "results" / suite / run, Device("cuda", card), chosen)
    assert table.model_copy(update={"suite_sha256": chosen.existing.table.suite_sha256}) == chosen.existing.table
    planned = {cell.identity(stage, device_model=card) for cell in plan.cells for stage in cell.stages}
    records = records_of(suite, run)
    assert len(records) == count  # of each cell that is done, and of the anchors
    assert {record["identity"] for record in records} <= planned
