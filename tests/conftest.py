"""What all tests share: no network, no user's plugins unless a test says so, and a small suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:  # as many tests at once as cores: one thread each, or they wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(ROOT / "tests" / part) for part in ("backbones", "conditioning", "data", "diffusion", "ops", "reports", "run")
]

LONG = (  # half of the time
    "test_end_to_end.py", "test_repository.py", "test_latent_cells.py", "test_suites.py", "test_texts.py",
)  # fmt: skip

SUITE = """# Does the test suite run?
name: tiny
data: {name: digits}
compare:
  - backbone: {name: zigma, width: 32, depth: 2, patch: 2}
    scans: [raster, {name: zigzag, paths: 8}]
  - backbone: {name: dit, width: 32, depth: 2, patch: 2}
seeds: [0, 1]
budget: {images: 64}
reference: {split: train}
train: {batch: 16}
sample: {count: 32, batch: 16, evaluations: 2}
quality: [val-loss]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: one process has them, with what their tests share, and the end is of short tests, so that
    no process waits for the other."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def suite_text() -> str:
    return SUITE


@pytest.fixture
def write_suite(tmp_path):
    """Write a suite file, with replacements in the small suite."""

    def write(*replacements: tuple[str, str], name: str = "suite.yaml") -> Path:
        text = SUITE
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cells_in_this_process(monkeypatch) -> None:
    """Cells run in this process: a fresh one for each, as users have, takes seconds to import torch."""
    from in_process import InProcessWorker

    monkeypatch.setattr("zigma_bench.run.executors.local.WorkerProcess", InProcessWorker)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Path:
    """A folder with the results of the quickstart at toy scale, and its table in first.json.

    It is run once, by whichever of pytest's processes comes first: who writes to the results takes a copy.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "quickstart"
    with FileLock(shared / "quickstart.lock"):
        if not (folder / "first.json").exists():
            words = ("run", str(ROOT / "suites/quickstart.yaml"), "--smoke", "--results", str(folder / "results"))
            command = [sys.executable, "-m", "zigma_bench", *words, "--json"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / "first.json").write_text(done.stdout)
    return folder
