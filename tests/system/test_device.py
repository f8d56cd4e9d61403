"""Devices: found without torch, and refused if they are missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.run.prepare import prepare
from zigma_bench.system import device


@pytest.fixture
def cards(monkeypatch):
    """Pretend that nvidia-smi lists some GPUs."""

    def pretend(*names, visible=None):
        device.nvidia_gpus.cache_clear()
        monkeypatch.setattr(device.shutil, "which", lambda program: "/bin/nvidia-smi" if names else None)
        answer = subprocess.CompletedProcess([], 0, stdout="\n".join(names))
        monkeypatch.setattr(device.subprocess, "run", lambda *words, **rest: answer)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    yield pretend
    device.nvidia_gpus.cache_clear()


def test_auto_uses_the_first_gpu_or_the_cpu(cards):
    cards("H100", "A100")
    assert device.find_device("auto") == device.Device("cuda:0", "H100")
    assert device.find_device("cuda:1") == device.Device("cuda:1", "A100")
    assert device.find_device("cpu").type == "cpu"
    cards("H100", "A100", visible="1")
    assert device.find_device("auto") == device.Device("cuda:0", "A100")
    cards("H100", "A100", visible="1,-1,0")
    assert device.nvidia_gpus() == ("A100",)
    for hidden in ("", "-1"):
        cards("H100", visible=hidden)
        assert device.find_device("auto").name == "cpu"
    cards("H100", visible="")
    assert device.find_device("auto").name == "cpu"
    cards()
    assert device.find_device("auto").name == "cpu"


def test_what_is_not_there_is_refused(cards):
    cards("H100")
    with pytest.raises(NotReady, match="there is no device cuda:1"):
        device.find_device("cuda:1")
    cards()
    with pytest.raises(NotReady, match="cuda:0"):
        device.find_device("cuda")
    for wrong in ("tpu", "cuda:", "cuda:x", ""):
        with pytest.raises(UsageError, match="there is no such device"):
            device.find_device(wrong)


@pytest.fixture
def amd(monkeypatch, tmp_path):
    """Pretend that torch is a build for ROCm and that the driver lists a CPU and some GPUs."""

    def pretend(*versions, hip="'6.4.1'"):
        device.amd_gpus.cache_clear()
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "version.py").write_text(f"cuda = None\nhip: str = {hip}\n")
        spec = SimpleNamespace(origin=str(tmp_path / "torch" / "__init__.py"))
        monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(device, "KFD", tmp_path / "nodes")
        for number, version in enumerate((0, *versions)):
            node = tmp_path / "nodes" / str(number)
            node.mkdir(parents=True, exist_ok=True)
            if version is not None:
                (node / "properties").write_text(f"simd_count 8\ngfx_target_version {version}\nvendor_id 4098\n")
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    yield pretend
    device.amd_gpus.cache_clear()


def test_amd_cards_are_found_where_torch_is_for_rocm(cards, amd, monkeypatch):
    cards()
    amd(90402, 90010, None, 100300)  # a container may not use the third
    assert device.amd_gpus() == ("AMD gfx942", "AMD gfx90a", "AMD gfx1030")
    assert device.find_device("auto") == device.Device("cuda:0", "AMD gfx942")
    device.amd_gpus.cache_clear()
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert device.gpu_names() == ("AMD gfx90a",)
    amd(90402, hip="None")
    assert device.find_device("auto").name == "cpu"


@pytest.mark.parametrize(
    "start",
    ["from zigma_bench.__main__ import main as start", "from zigma_bench.run.workers.cell import main as start"],
)
def test_the_program_and_its_cells_look_for_garbage_seldom(start):
    code = f"import gc, sys; sys.argv = ['zigma-bench', '--help']\n{start}\ntry:\n    start()\n"
    code += "except (SystemExit, ValueError):  # there is no job\n    assert gc.get_threshold()[0] == 50_000"
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_suite_that_needs_a_gpu_is_refused_on_other_devices(write_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(write_suite(("train: {", "train: {graph: true, "), ("sample: {", "sample: {compile: true, ")))
    keys = r"an NVIDIA GPU for train.graph, sample.compile \(the device is cpu\).*--set train.graph=false"
    for command in ("plan", "run", "train"):
        refused = CliRunner().invoke(app, [command, path, "--device", "cpu"])
        assert isinstance(refused.exception, NotReady) and re.search(keys, str(refused.exception)), command
    planned = CliRunner().invoke(app, ["plan", path, "--device", "cpu", "--json"])
    (missing,) = json.loads(planned.stdout)["missing"]
    assert missing["do"].endswith("--set train.graph=false --set sample.compile=false")
    words = ["find-batch", path, "--device", "cpu", "--memory", "1"]
    with pytest.raises(NotReady, match=r"an NVIDIA GPU for train.graph \(the device is cpu\)"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "results").exists()

    without = ["--set", "train.graph=false", "--set", "sample.compile=false"]
    assert CliRunner().invoke(app, ["plan", path, "--device", "cpu", *without]).exit_code == 0
    (plan := prepare(Path(path), settings=(), only=(), smoke=False)).check_ready("cuda")
    assert plan.missing_on("cuda") == ()
