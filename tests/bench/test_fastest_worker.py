"""The worker of `fastest`: it times real networks, and a hang, a crash or a memory limit costs only that case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from zigma_bench.bench.fastest import measure
from zigma_bench.bench.fastest.cases import EAGER, Case, make_cell
from zigma_bench.bench.fastest.measure import CaseTimer, attention_backends
from zigma_bench.bench.fastest.networks import find_networks
from zigma_bench.bench.fastest.process import WorkerProcess
from zigma_bench.errors import CellFailed, Interrupted
from zigma_bench.ops.selective_scan import torch_blocks
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")
GRID = Grid(4, 4)


def cell_of(label, mode="inference", batch=1, grid=GRID):
    network = next(one for one in find_networks(catalogue(), "cpu", grid)[0] if one.label == label)
    return make_cell(Case(network, EAGER, batch, grid), mode, catalogue())


@pytest.fixture(scope="module")
def timer():
    return CaseTimer(CPU, None)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_case_has_raw_seconds_memory_and_parameters(timer, mode):
    found = timer.time(cell_of("dit", mode), lambda: False)
    assert len(found["seconds"]) >= measure.FEWEST and min(found["seconds"]) > 0
    assert found["attention"] == ["flash"]
    assert found["parameters"] > 10**4
    assert found["peak_bytes"] is None or found["peak_bytes"] > 2**20
    json.dumps(found)


def test_a_slow_call_is_timed_without_warm_up(timer, monkeypatch):
    monkeypatch.setattr(measure, "SLOW_SECONDS", 0.0)
    found = timer.time(cell_of("dit"), lambda: False)
    assert len(found["seconds"]) == measure.FEWEST
    with pytest.raises(Interrupted):
        timer.time(cell_of("dit"), lambda: True)


def test_a_network_is_built_once_for_all_batches(timer, monkeypatch):
    timer.time(cell_of("sit"), lambda: False)
    monkeypatch.setattr(measure, "build_network", None)
    timer.time(cell_of("sit", batch=2), lambda: False)
    timer.time(cell_of("sit", "training"), lambda: False)


def test_a_backend_with_wrong_results_is_not_timed(monkeypatch):
    right = torch_blocks.torch_selective_scan
    monkeypatch.setattr(torch_blocks, "torch_selective_scan", lambda arguments: right(arguments) * 1.001)
    with pytest.raises(CellFailed, match="the backend 'torch' is wrong"):
        CaseTimer(CPU, None).time(cell_of("zigma · mamba · torch"), lambda: False)


def test_the_backends_of_attention_are_those_that_ran():
    q = torch.randn(1, 2, 8, 4)
    assert attention_backends(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == ["flash"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert attention_backends(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == ["math"]
    assert attention_backends(lambda: q + q) == []


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        ("aten::_scaled_dot_product_cudnn_attention", "cudnn"),
        ("aten::_scaled_dot_product_efficient_attention", "efficient"),
        ("aten::_scaled_dot_product_flash_attention", "flash"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "flash"),
        ("aten::_scaled_dot_product_attention_math", "math"),
        ("aten::_scaled_dot_product_flash_attention_backward", None),
        ("aten::scaled_dot_product_attention", None),
    ],
)
def test_the_names_of_pytorchs_operators(operator, name):
    match = measure.SDPA.fullmatch(operator)
    assert (match and (match[1] or match[2])) == name


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    file = tmp_path / "worker.py"
    file.write_text(f"import json, os, sys, time\nfor line in sys.stdin:\n    job = json.loads(line)\n    {text}\n")
    return sys.executable, str(file)


ECHO = "print(json.dumps({'cell': job['cell'], 'pid': os.getpid()}), flush=True)"


def test_one_process_answers_all_jobs(tmp_path):
    with WorkerProcess(CPU, 5, program(tmp_path, ECHO)) as worker:
        answers = [worker.ask({"n": n}, 5.0, 30.0) for n in range(3)]
    assert [answer["cell"]["n"] for answer in answers] == [0, 1, 2]
    assert len({answer["pid"] for answer in answers}) == 1 == worker.starts
    assert worker.process is None


def test_a_crash_is_an_answer_and_the_next_job_starts_a_process(tmp_path):
    text = "os._exit(3) if job['cell'].get('dies') else " + ECHO
    with WorkerProcess(CPU, None, program(tmp_path, text)) as worker:
        died = worker.ask({"dies": True}, 5.0, 30.0)
        assert died["kind"] == "fault" and "ended with code 3" in died["why_not"]
        assert worker.ask({"n": 1}, 5.0, 30.0)["cell"] == {"n": 1}
    assert worker.starts == 2


def test_the_last_words_of_a_process_are_in_the_reason(tmp_path):
    with WorkerProcess(CPU, None, program(tmp_path, "sys.exit('no such kernel')")) as worker:
        assert "no such kernel" in worker.ask({}, 5.0, 30.0)["why_not"]


def test_a_hang_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("zigma_bench.bench.fastest.process.STARTING_SECONDS", 0.1)
    monkeypatch.setattr("zigma_bench.bench.fastest.process.GRACE_SECONDS", 0.1)
    with WorkerProcess(CPU, None, program(tmp_path, "time.sleep(100)")) as worker:
        hung = worker.ask({}, 0.2, 30.0)
        assert hung["kind"] == "fault" and "it was killed" in hung["why_not"]
        assert worker.ask({}, 20.0, 0.2)["kind"] == "late"
    assert worker.starts == 2


def test_the_real_worker_refuses_and_times(tmp_path):
    """A backend that can't run here, a memory limit that nothing meets, and a case that is timed, in one process."""
    cells = [cell_of("dit").model_dump(mode="json"), cell_of("zigma · mamba · torch").model_dump(mode="json")]
    cells[1]["backend"] = "fused"
    with WorkerProcess(CPU, None) as worker:
        refused, timed = worker.ask(cells[1], 60.0, 300.0), worker.ask(cells[0], 60.0, 300.0)
        assert refused["kind"] == "refused" and "fused" in refused["why_not"] and not refused["ends"]
        assert timed["attention"] == ["flash"] and len(timed["seconds"]) >= measure.FEWEST
        assert worker.starts == 1


@pytest.mark.skipif(not measure.STATUS.exists(), reason="memory is read through /proc")
def test_a_memory_limit_is_a_reason():
    timer = CaseTimer(CPU, 2**20)
    with pytest.raises(MemoryError, match="its peak is") as caught:
        timer.time(cell_of("dit"), lambda: False)
    assert "memory limit" in timer.memory_reason(caught.value)
