"""Every suite in suites/: it plans without data, and at toy scale it runs, every stage of every cell of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zigma_bench.plan import STAGES
from zigma_bench.records.store import run_folder
from zigma_bench.reports.render import to_json
from zigma_bench.reports.table import read_tables
from zigma_bench.run import encode
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.prepare import prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.run.workers import encode as encode_worker
from zigma_bench.system.device import find_device

SUITES = sorted((Path(__file__).resolve().parents[2] / "suites").glob("*.yaml"))
PAPER = {  # the suites of the paper, with the tokens of their largest cells and what they need beside a GPU
    "faceshq": (4096, "FFHQ"),
    "mm-celeba-256": (1024, "Multi-Modal-CelebA-HQ"),
    "mm-celeba-512": (4096, "Multi-Modal-CelebA-HQ"),
    "coco": (1024, "MS-COCO 2014"),
    "ucf101": (4096, "UCF101"),
    "position-embedding": (256, "Multi-Modal-CelebA-HQ"),
}


class Silent:
    """A watcher without output."""

    def begin(self, *given: object) -> None: ...

    def event(self, *given: object) -> None: ...

    def end(self, *given: object) -> None: ...


def named(names):
    return [path for path in SUITES if path.stem in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder for all suites, so that the features of a smoke reference are computed once."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture
def in_this_process(monkeypatch, results, cells_in_this_process):
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(results / "features"))

    def encoded(cell, results, device, emit, check):
        return encode_worker._encode(cell, results / ".cache", device, emit, lambda: False)

    monkeypatch.setattr(encode, "_run_worker", encoded)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_it_plans_and_its_first_line_is_a_question(path):
    made = prepare(path, settings=(), only=(), smoke=False)
    assert made.question.endswith("?")
    assert any(cell.role == "cell" for cell in made.cells)
    assert len({cell.identity("train", device_model="") for cell in made.cells if cell.role == "cell"}) == len(
        [cell for cell in made.cells if cell.role == "cell"]
    )


@pytest.mark.parametrize("path", named(PAPER), ids=lambda path: path.stem)
def test_a_suite_of_the_paper_says_what_to_get(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    made = prepare(path, settings=(), only=(), smoke=False)
    tokens, words = PAPER[path.stem]
    assert max(cell.tokens for cell in made.cells) == tokens
    assert {cell.seed for cell in made.cells if cell.role == "cell"} == {0, 1, 2}
    told = [f"{item.what}: {item.do}" for item in made.missing]
    (data,) = {line for line in told if "zigma-bench data check" in line}
    assert words in data
    assert any("the autoencoder stabilityai/sd-vae-ft-ema" in line for line in told)
    assert any("Inception" in line for line in told)
    assert any("clip-vit-large-patch14" in line for line in told) == ("text:" in path.read_text())
    assert any("i3d_torchscript.pt" in line for line in told) == (path.stem == "ucf101")


def test_run_without_data_stops_with_code_3_and_the_command_that_checks_it(root, tmp_path):
    command = [sys.executable, "-m", "zigma_bench", "run", str(root / "suites/ucf101.yaml"), "--results", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "crcv.ucf.edu" in done.stderr and "zigma-bench data check ucf101 --from" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_it_runs_at_toy_scale(path, results, in_this_process):
    made, device = prepare(path, settings=(), only=(), smoke=True), find_device("cpu")
    made.check_ready()
    outcomes = run_plan(made, results, (device,), Silent(), LocalExecutor(LocalOptions()), stages=STAGES)
    assert [outcome.reason for outcome in outcomes if outcome.status != "done"] == []
    folder = run_folder(results, made.suite.name, "smoke")
    rows = json.loads(to_json(read_tables(folder)))["rows"]
    assert len(rows) == len([outcome for outcome in outcomes if not outcome.cell.tunes])
    for row in rows:
        assert row["status"] == "done" and row["smoke"]
        for name, metric in row["metrics"].items():
            there = "efflite0" in name or name.startswith("train") or (name == "val-loss" and row["role"] == "cell")
            assert metric["n"] == 1 if there else metric["n"] == 1 or metric["reason"], (row["backbone"], name, metric)
    for sheet in folder.glob("*/sample-*/grid.png"):
        with Image.open(sheet) as picture:
            assert min(picture.size) > 100


def test_clips_are_drawn_as_films_and_strips_of_frames(root, results, in_this_process):
    made = prepare(root / "suites/ucf101.yaml", settings=(), only=("zigzag",), smoke=True)
    run_plan(made, results, (find_device("cpu"),), Silent(), LocalExecutor(LocalOptions()), stages=("train", "sample"))
    folder = run_folder(results, "ucf101", "smoke")
    films = sorted(folder.glob("*/sample-*/clips.webp"))
    assert films
    for film in films:
        clips = np.load(film.with_name("samples.npy"))  # [32, T, 1, H, W]
        assert clips.ndim == 5
        with Image.open(film) as frames:
            assert frames.n_frames == clips.shape[1]
        with Image.open(film.with_name("grid.png")) as strip:
            side = strip.width // clips.shape[1]
            frame = np.asarray(strip)[1 : side - 1, 1 : side - 1]
            enlarged = clips[0, 0, 0].repeat((side - 2) // clips.shape[4], 0).repeat((side - 2) // clips.shape[4], 1)
            assert np.array_equal(frame, enlarged)
