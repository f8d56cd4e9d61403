"""A small suite that has been run, for tests of what reads and moves the files of runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zigma_bench.plan import STAGES
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.prepare import prepare
from zigma_bench.run.run_plan import run_plan
from zigma_bench.system.device import Device

SUITE = """# Is everything found again?
name: toy
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster]
budget: {images: 64}
train: {batch: 16}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [val-loss, {name: kid-efflite0, size: 64}]
"""


class Silent:
    """A watcher that shows nothing."""

    def begin(self, cell, stages):
        pass

    def event(self, cell, event):
        pass

    def end(self, cell):
        pass


class Toy:
    """A suite and its results in a folder; its cells run in this process."""

    device, watcher = Device("cpu", "test"), Silent()

    def __init__(self, folder: Path) -> None:
        self.folder, self.suite, self.results = folder, folder / "suite.yaml", folder / "results"
        self.suite.write_text(SUITE)

    def plan(self, *settings):
        return prepare(self.suite, settings=settings, only=(), smoke=False)

    def run(self, *settings, name=None, results=None, stages=STAGES):
        """Run the suite; its outcomes, none of which has failed."""
        plan = self.plan(*settings)
        place = plan, results or self.results, (self.device,), self.watcher, LocalExecutor(LocalOptions())
        outcomes = run_plan(*place, stages=stages, name=name)
        assert [outcome.reason for outcome in outcomes if outcome.status == "failed"] == []
        return outcomes

    @property
    def main(self) -> Path:
        """The folder of the first run."""
        return self.results / "toy" / "main"

    @property
    def cell(self) -> Path:
        """The folder of the trained cell of the first run."""
        (found,) = self.main.glob("zigma-raster-*")
        return found

    def stage(self, name, cell=None) -> Path:
        """The folder of the first stage of this name of a cell, without those that a test has made from it."""
        found = [path for path in sorted((cell or self.cell).glob(f"{name}-*")) if "12345678" not in path.name]
        return found[0]

    def change(self, file: Path, **facts) -> None:
        """Change keys of a JSON file."""
        file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))

    def files(self, results=None) -> dict[str, bytes]:
        """The content of all files of a results folder."""
        root = results or self.results
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def _finished(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def toy(_finished, tmp_path, cells_in_this_process) -> Toy:
    """A copy of a finished run."""
    if not (_finished / "results").exists():
        Toy(_finished).run()
    shutil.copytree(_finished / "results", tmp_path / "results")
    return Toy(tmp_path)
