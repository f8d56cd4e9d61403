"""Where a record came from: the state of the sources, the plugins, the GPU and the starts of a stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zigma_bench.plugins import discovery
from zigma_bench.plugins.discovery import PluginInfo
from zigma_bench.plugins.origins import plugin_origins
from zigma_bench.records import provenance
from zigma_bench.records.provenance import read_starts, run_provenance, source_state
from zigma_bench.records.sealed import file_sha256
from zigma_bench.system import device as devices
from zigma_bench.system.device import Device, gpu_facts

CPU = Device("cpu", "a processor")


def git(folder: Path, *words: str) -> None:
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("one\n")
    (folder.parent / "other.txt").write_text("one\n")
    (folder.parent / ".gitignore").write_text("*.log\n")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout_is_its_commit(package):
    state = source_state(package)
    assert len(state["commit"]) == 40 and state["changes_sha256"] is None
    (package.parent / "other.txt").write_text("two\n")  # not part of the package
    (package / "ignored.log").write_text("two\n")
    assert source_state(package) == state


def test_every_change_of_the_package_has_another_hash(package):
    found = [source_state(package)]
    for file, text in (("__init__.py", "two\n"), ("new.py", "one\n"), ("new.py", "two\n"), ("newer.py", "two\n")):
        (package / file).write_text(text)
        found.append(source_state(package))
    assert len({state["changes_sha256"] for state in found}) == len(found)
    assert len({state["commit"] for state in found}) == 1
    git(package.parent, "add", ".")  # a staged change is still uncommitted
    assert source_state(package)["changes_sha256"] is not None


def test_the_settings_of_a_person_do_not_change_the_hash(package, monkeypatch):
    (package / "__init__.py").write_text("two\n")
    state = source_state(package)
    git(package.parent, "config", "color.ui", "always")
    git(package.parent, "config", "diff.noprefix", "true")
    git(package.parent, "config", "diff.context", "0")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert source_state(package) == state


def test_a_package_that_is_no_checkout_has_no_source_state(package, tmp_path, monkeypatch):
    assert source_state(tmp_path) is None
    installed = package.parent / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert source_state(installed) is None  # untracked, in the checkout of another project
    monkeypatch.setenv("PATH", "/nowhere")
    assert source_state(package) is None


def test_everything_of_a_command_is_named(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setattr(sys, "argv", ["zigma-bench", "run", "a.yaml"])
    found = run_provenance(CPU, executor="local", plugins=[{"name": "a"}])
    assert found["command"] == ["zigma-bench", "run", "a.yaml"] and found["plugins"] == [{"name": "a"}]
    assert found["executor"] == "local" and found["host"] and found["versions"]["torch"]
    assert (found["driver"], found["power_limit_watts"]) == (None, None)
    assert "hush" not in json.dumps(found)


def test_driver_and_power_limit_of_the_visible_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_from_nvidia_smi", lambda fields: ["580.1, 700.00", "580.1, [N/A]"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_facts(Device("cuda:0", "a card")) == {"driver": "580.1", "power_limit_watts": 700.0}
    assert gpu_facts(Device("cuda:1", "a card")) == {"driver": "580.1", "power_limit_watts": None}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu_facts(Device("cuda:1", "a card"))["power_limit_watts"] == 700.0


def test_plugins_have_the_hashes_of_their_code(tmp_path, monkeypatch):
    (tmp_path / "own_order.py").write_text("x = 1\n")
    package = tmp_path / "own_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "kernel.cu").write_text("// fast\n")
    (package / "notes.txt").write_text("not code\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_order", "own_package"):
        __import__(module)
    known = discovery.catalogue()
    loaded = [
        PluginInfo("own_order", "own_order.py sha256:0", ("scan a",), "own_order"),
        PluginInfo("own", "own 1.2", ("mixer b",), "own_package"),
    ]
    monkeypatch.setattr(known, "plugins", [*known.plugins, *loaded])
    one, two = (plugin for plugin in plugin_origins() if plugin["owner"].startswith("own"))
    assert one["sha256"] == {"own_order.py": file_sha256(tmp_path / "own_order.py")}
    assert two["owner"] == "own 1.2" and set(two["sha256"]) == {"__init__.py", "inner/kernel.cu"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": "a"}', '{"identity": "b", "starts": [{"time": 1.0}]}'])
def test_a_spec_without_starts_of_this_identity(tmp_path, text):
    (tmp_path / "spec.json").write_text(text)
    assert read_starts(tmp_path / "spec.json", "a") == []
    assert read_starts(tmp_path / "nowhere.json", "a") == []


def test_the_starts_of_a_stage_are_read(tmp_path):
    starts = [{"time": 1.0, "host": "one"}, {"time": 2.0, "host": "two"}]
    (tmp_path / "spec.json").write_text(json.dumps({"identity": "a", "starts": starts}))
    assert read_starts(tmp_path / "spec.json", "a") == starts


def test_the_state_of_this_package_is_found():
    assert provenance.PACKAGE.name == "zigma_bench"
