"""The whole program as a user runs it: a table, a second run that does nothing, kills, failures and bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAM = [sys.executable, "-m", "zigma_bench"]
ONE_CELL = (
    ("    scans: [raster, {name: zigzag, paths: 8}]\n  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n",
     "    scans: [{name: zigzag, paths: 8}]\n"),
    ("seeds: [0, 1]", "seeds: [0]"),
)  # fmt: skip


def run(*words: object, **rest) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, **rest)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)["rows"]


def figures(results: Path) -> dict[str, object]:
    """Every measured value, and the digest of every sample set, by cell and stage."""
    found = {}
    for path in sorted(results.glob("*/*/*/*/record.json")):
        record = json.loads(path.read_text())
        key = f"{path.parts[-3]}/{record['stage']}"
        found[key] = [(m["name"], m["value"]) for m in record["measurements"]]
    for path in sorted(results.glob("*/*/*/*/samples.npy")):
        found[f"{path.parts[-3]}/pixels"] = np.load(path).tobytes()
    return found


def clear_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("zigma-bench: ")]
    error = "\n".join([line, *(line for line in done.stderr.splitlines() if line.startswith("  - "))])
    assert all(word in error for word in words), error


@pytest.fixture(scope="module")
def smoke(quickstart, root):
    """The quickstart at toy scale, run twice."""
    results, first = quickstart / "results", (quickstart / "first.json").read_text()
    written = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    second = run("run", root / "suites" / "quickstart.yaml", "--smoke", "--results", results, "--json")
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    return results, first, second, written, after


def test_a_suite_ends_in_a_table(smoke):
    results, first, *_ = smoke
    table = json.loads(first)["rows"]
    assert [row["role"] for row in table] == ["floor", *["cell"] * 4, "ceiling"]
    assert {row["backbone"] for row in table if row["role"] == "cell"} == {"zigma", "vision-mamba", "dit"}
    assert all(row["status"] == "done" and row["smoke"] for row in table)
    assert [(row["backbone"], row["scan"]) for row in table if row["baseline"]] == [("zigma", "raster")]
    for row in table:
        for name in ("fd-efflite0", "kid-efflite0"):
            assert row["metrics"][name]["n"] == 1
        if row["role"] == "cell":
            assert row["metrics"]["train-images-per-second"]["mean"] > 0
            assert row["metrics"]["sample-images-per-second"]["mean"] > 0
            assert row["metrics"]["train-step-peak-memory"]["mean"] > 1e8
            assert row["parameters"] > 0
    for path in results.glob("*/*/*/sample-*/grid.png"):
        with Image.open(path) as sheet:
            assert sheet.size == (8 * 50, 4 * 50)
    assert len(list(results.glob("*/*/*/sample-*/grid.png"))) == 6


def test_a_second_run_does_nothing_and_says_the_same(smoke):
    _, first, second, written, after = smoke
    assert after == written
    assert second.stdout == first
    assert second.stderr.count("already done") == 6


def test_records_say_where_they_come_from(smoke):
    results = smoke[0]
    (path,) = results.glob("*/*/zigma-zigzag-paths-8-seed-0-*/quality-*/record.json")
    record = json.loads(path.read_text())
    assert record["provenance"]["versions"]["torch"]
    assert record["provenance"]["backend"] in ("cpu", "torch")
    assert record["provenance"]["executor"] == "local" and record["provenance"]["command"][1] == "run"
    assert {"source", "plugins", "driver", "power_limit_watts", "host"} <= record["provenance"].keys()
    assert [start["host"] for start in record["provenance"]["attempts"]] == [record["provenance"]["host"]]
    (fd,) = [m for m in record["measurements"] if m["name"] == "fd-efflite0"]
    assert fd["fingerprint"]["n_samples"] == 32
    assert (path.parent / "spec.json").exists()


def test_floor_below_ceiling_even_at_toy_scale(smoke):
    table = {row["role"]: row["metrics"]["fd-efflite0"]["mean"] for row in json.loads(smoke[1])["rows"]}
    assert table["floor"] < table["ceiling"]


LONGER = (*ONE_CELL, ("{images: 64}", "{images: 4800}"), ("{batch: 16}", "{batch: 16, checkpoint_seconds: 0.2}"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, suite_text):
    """The suite that is killed, run to its end in one go: its table and its results."""
    folder = tmp_path_factory.mktemp("whole")
    for old, new in LONGER:
        suite_text = suite_text.replace(old, new)
    (folder / "suite.yaml").write_text(suite_text)
    done = run("run", folder / "suite.yaml", "--results", folder / "results", "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "results"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_anywhere_it_ends_in_the_same_figures(write_suite, tmp_path, whole, number):
    path, results = write_suite(*LONGER), tmp_path / "killed"
    for wanted in ("train-*/checkpoint-*/manifest.json", "sample-*/part-*.npz"):
        with subprocess.Popen(
            [*PROGRAM, "run", str(path), "--results", str(results)],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process:
            until = time.monotonic() + 60
            while (
                not list(results.glob(f"*/*/zigma*/{wanted}")) and process.poll() is None and time.monotonic() < until
            ):
                time.sleep(0.005)
            process.send_signal(number)
            process.wait()
        assert process.returncode in (-signal.SIGKILL, 75, 0)
        assert wanted.startswith("sample") or process.returncode != 0
    again = run("run", path, "--results", results, "--json")
    assert (again.stdout, figures(results)) == (whole[0], figures(whole[1]))
    assert not list(results.rglob("*.tmp"))
    assert not list(results.rglob("checkpoint-*"))


def test_stages_run_alone_and_in_order(write_suite, tmp_path):
    path, results = write_suite(*ONE_CELL), ("--results", tmp_path / "results")
    clear_error(run("sample", path, *results), 3, "the stage train of this cell is not done", "run train first")
    assert run("train", path, *results).returncode == 0
    clear_error(run("quality", path, *results), 3, "the stage sample", "run sample first")
    (ema,) = (tmp_path / "results").glob("*/*/*/train-*/ema.safetensors")
    whole = ema.read_bytes()
    ema.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = run("sample", path, *results)
    assert (again.returncode, "ema.safetensors: the file is altered" in again.stderr) == (0, True), again.stderr
    assert ema.read_bytes() == whole, "trained again"
    done = run("quality", path, *results, "--json")
    assert [row["status"] for row in rows(done)] == ["done"] * 3
    assert run("run", path, *results).stderr.count("already done") == 3


def test_a_cell_that_fails_is_a_row_and_the_others_run(write_suite, tmp_path):
    plugin = tmp_path / "site"
    info = plugin / "bad_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zigma_bench]\nbad = bad_backbone\n")
    (plugin / "bad_backbone.py").write_text(
        textwrap.dedent("""
        from zigma_bench import hookimpl
        from zigma_bench.backbones.dit.facts import DitOptions, dit_cost
        from zigma_bench.plugins.registry import BackboneFacts

        def build(options, **rest):
            raise MemoryError("too large for this machine")

        @hookimpl
        def register_backbones(register):
            register("bad", "bad_backbone:build", options=DitOptions, facts=BackboneFacts(order="free", cost=dit_cost))
    """)
    )
    path = write_suite(("{name: dit, ", "{name: bad, "), ("seeds: [0, 1]", "seeds: [0]"))
    environment = {**os.environ, "PYTHONPATH": str(plugin)}
    done = run("run", path, "--results", tmp_path / "results", "--json", env=environment)
    assert done.returncode == 1
    status = {row["backbone"]: (row["status"], row["reason"]) for row in rows(done)}
    said, reason = status["bad"]
    assert said == "failed" and reason.startswith("train: there is not enough memory (too large for this machine)")
    assert f"raised at {plugin / 'bad_backbone.py'}:" in reason
    assert [s for s, _ in status.values()].count("done") == 3


def test_a_nan_is_a_failed_row(write_suite, tmp_path):
    path = write_suite(*ONE_CELL, ("{batch: 16}", "{batch: 16, learning_rate: 1e30}"))
    done = run("train", path, "--results", tmp_path / "results", "--json")
    assert done.returncode == 1
    (row,) = [row for row in rows(done) if row["role"] == "cell"]
    assert row["status"] == "failed"
    assert re.search("the loss became .* at step [0-9]+: it began in the (forward pass, in|loss)", row["reason"])


def test_another_diffusion_from_the_suite_to_the_table(write_suite, tmp_path):
    path = write_suite(
        *ONE_CELL,
        ("{batch: 16}", "{batch: 16, path: vp, prediction: noise, weighting: velocity, precision: fp16}"),
        ("evaluations: 2", "solver: ddim, eta: 0.5, evaluations: 7"),
    )
    words = ("run", path, "--results", tmp_path / "results", "--json")
    first, again = run(*words), run(*words)
    assert [row["status"] for row in rows(first)] == ["done"] * 3, first.stderr
    assert again.stderr.count("already done") == 3
    (train,), (sample,) = (
        [json.loads(found.read_text()) for found in (tmp_path / "results").glob(f"*/*/zigma*/{stage}-*/record.json")]
        for stage in ("train", "sample")
    )
    assert train["details"]["scaling"]["skipped_steps"] + train["details"]["steps"] >= 4
    assert train["measurements"][0]["fingerprint"]["objective"]["path"] == "vp"
    assert train["provenance"]["precision"] == "fp16"
    assert sample["details"] == {"count": 32, "evaluations": 7}
    (cell,) = [row for row in rows(first) if row["role"] == "cell"]
    assert cell["metrics"]["val-loss"]["mean"] > 0


def test_bad_input_is_one_clear_line(write_suite, tmp_path, root):
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    clear_error(run("run", empty), 2, "the suite is empty")
    clear_error(run("plan", write_suite(("name: zigzag", "name: zigzga"))), 2, "did you mean 'zigzag'?")
    clear_error(run("run", write_suite(), "--device", "tpu"), 2, "there is no such device")
    clear_error(run("run", write_suite(), "--only", "hilbert"), 2, "no cell matches")
    clear_error(run("report", tmp_path / "nowhere"), 2, "no such results folder")
    clear_error(run("scans", "show", "zigzga"), 2, "did you mean 'zigzag'?")
    clear_error(run("scans", "show", "zigzag", "--grid", "8"), 2, "not a grid")
    clear_error(run("report", "--format", "cvs"), 2, "did you mean 'csv'?")
    (tmp_path / "file").write_text("")
    clear_error(run("run", write_suite(), "--results", tmp_path / "file"), 3, "can't be written")
    assert not list(tmp_path.glob("results*"))


def test_a_suite_without_its_data_says_what_to_get(root, tmp_path):
    done = run("run", root / "suites" / "faceshq.yaml", "--results", tmp_path / "results", cwd=tmp_path)
    clear_error(done, 3, "data/faceshq", "FFHQ", "CelebA-HQ", "licen")
    planned = run("plan", root / "suites" / "faceshq.yaml", cwd=tmp_path)
    assert planned.returncode == 3
    assert "zigma · zigzag paths=8 · seed 0" in planned.stdout
    assert json.loads(run("plan", root / "suites" / "faceshq.yaml", "--json", cwd=tmp_path).stdout)["missing"]


def test_a_corrupt_image_is_the_cells_reason(write_suite, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(80):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")
    (folder / "041.png").write_bytes((folder / "041.png").read_bytes()[:60])
    data = f"{{name: huggingface, path: imagefolder, data_dir: {folder}, validation: 40, resolution: 8}}"
    done = run("train", write_suite(*ONE_CELL, ("{name: digits}", data)), "--results", tmp_path / "results", "--json")
    assert done.returncode == 1
    assert "041.png" in next(row["reason"] for row in rows(done) if row["role"] == "cell")


def test_a_record_of_a_newer_format_is_refused(write_suite, tmp_path):
    path, results = write_suite(*ONE_CELL), tmp_path / "results"
    assert run("train", path, "--results", results).returncode == 0
    record = next(results.glob("*/*/zigma*/train-*/record.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))
    clear_error(run("run", path, "--results", results), 4, "format that this version can't read", "got 99")
    clear_error(run("report", results), 1, "record.json", "got 99")  # the record fails its row; the others are shown


def test_too_few_held_out_images_end_before_training(write_suite, tmp_path):
    """Held-out files are only counted when they are loaded; if the options determine the number, the plan stops."""
    for split, count in (("train", 40), ("held", 20)):
        (tmp_path / split).mkdir()
        for number in range(count):
            Image.new("L", (8, 8), number).save(tmp_path / split / f"{number}.png")
    files = f"data_files: {tmp_path}/train/*.png, validation_files: {tmp_path}/held/*.png"
    data = f"{{name: huggingface, path: imagefolder, {files}, resolution: 8, channels: 1}}"
    path = write_suite(*ONE_CELL, ("{name: digits}", data))
    done = run("train", path, "--results", tmp_path / "results", "--json")
    assert done.returncode == 1, done.stderr
    (row,) = [row for row in rows(done) if row["role"] == "cell"]
    assert row["reason"].startswith("train: the floor needs 32 held-out images")


def test_the_wheel_works_outside_the_clone(root, tmp_path):
    wheel, site = tmp_path / "wheel", tmp_path / "site"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheel), str(root)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = wheel.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        str(site),
        str(built),
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    where = [sys.executable, "-c", "import zigma_bench; print(zigma_bench.__file__)"]
    found = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
    words = (
        "run",
        root / "suites" / "quickstart.yaml",
        "--smoke",
        "--only",
        "zigzag",
        "--results",
        tmp_path / "r",
        "--json",
    )
    table = rows(run(*words, env=environment, cwd=tmp_path))
    done = [(row["role"], row["scan"]) for row in table if row["status"] == "done"]
    assert done == [("floor", None), ("cell", "zigzag paths=8"), ("ceiling", "raster")]
    assert [row["status"] for row in table].count("missing") == 3  # what --only left out is still in the table


def test_photographs_from_a_parquet_file(root, tmp_path):
    """cifar10-small on its real data, at a tiny budget."""
    if not (root / "../shared/data/cifar10-jpeg").is_dir():
        pytest.skip("the CIFAR-10 parquet files are not beside the project")
    small = ["budget.images=64", "train.batch=16", "sample.count=32", "sample.evaluations=2", "sample.batch=32"]
    small += ["compare.0.backbone.depth=2", "compare.0.backbone.width=32", "quality=[val-loss]", "efficiency=null"]
    small += [f"{stage}.{what}=false" for stage in ("train", "sample") for what in ("compile", "graph")]
    settings = [word for setting in small for word in ("--set", setting)]
    words = ("run", "suites/cifar10-small.yaml", "--only", "zigma", *settings, "--results", tmp_path, "--json")
    table = rows(run(*words, cwd=root))
    done = [row["backbone"] for row in table if row["status"] == "done"]
    assert done == ["held-out images", "zigma", "zigma", "untrained zigma"]
    assert {row["tokens"] for row in table if row["role"] == "cell"} == {256}
    grid = next(tmp_path.glob("*/*/floor*/sample-*/grid.png"))
    with Image.open(grid) as sheet:
        assert sheet.mode == "RGB"
