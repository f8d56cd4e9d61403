"""Which backend runs, what a missing compiler means, and the cache of compiled operators."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zigma_bench.bench.cases import runnable_backends as backends_of_benchmark
from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.mixers.memory import number_bytes
from zigma_bench.ops import backends, compiler
from zigma_bench.ops.backend import Backend, Implementation, SavedMemory
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.selective_scan import SelectiveScanArguments, selective_scan
from zigma_bench.ops.selective_scan import __file__ as scan_folder
from zigma_bench.system.device import nvidia_gpus

SOURCE = Path(scan_folder).with_name("scan.cpp")
needs_compiler = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C++ compiler")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["naive", "torch"])
def test_portable_backends_run_everywhere(name: str, device: str) -> None:
    assert backends.resolve(name, device) == name


@needs_compiler
def test_auto_with_a_compiler() -> None:
    assert backends.resolve("auto", "cpu") == backends.resolve("cpu", "cpu") == "cpu"
    assert {name: backends.available()[name] for name in ("naive", "torch", "cpu")} == dict.fromkeys(
        ("naive", "torch", "cpu"), ""
    )


@pytest.mark.skipif(bool(nvidia_gpus()), reason="there is an NVIDIA GPU")
def test_without_a_gpu() -> None:
    assert backends.resolve("auto", "cuda") == "torch"
    for name in ("fused", "mamba-ssm"):
        with pytest.raises(NotReady, match="needs"):
            backends.resolve(name, "cuda")
        with pytest.raises(NotReady, match=f"'{name}' doesn't run on this device; expected cuda; got 'cpu'"):
            backends.resolve(name, "cpu")
    assert "NVIDIA GPU" in backends.available()["fused"]


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler() -> None:
    assert backends.resolve("auto", "cpu") == "torch"
    with pytest.raises(NotReady, match=r"needs a C\+\+ compiler.*install one"):
        backends.resolve("cpu", "cpu")
    reasons = backends.available()
    assert reasons["naive"] == reasons["torch"] == "" and "C++ compiler" in reasons["cpu"]


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(NotReady, match="doesn't run on this device; expected cpu; got 'cuda'"):
        backends.resolve("cpu", "cuda")
    with pytest.raises(UnknownName, match=r"no backend is called 'torhc'.*did you mean 'torch'"):
        backends.resolve("torhc", "cpu")
    with pytest.raises(UsageError, match="expected cpu or cuda; got 'abacus'"):
        backends.resolve("auto", "abacus")


def _toy_selective_scan(arguments: SelectiveScanArguments) -> torch.Tensor:
    from zigma_bench.ops.selective_scan.naive import naive_selective_scan

    return 2 * naive_selective_scan(arguments)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend with one operator: the content of a new file in `ops/backends`, and the line that registers it."""
    found = Backend(
        name="toy",
        device_types=("cpu",),
        dtypes=("float32",),
        find_problem=lambda: None,
        operators={"selective_scan": Implementation(_toy_selective_scan)},
        memory=SavedMemory(steps_per_state=4),
    )
    monkeypatch.setitem(backends.BACKENDS, "toy", found)
    return found


def scan_arguments(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    rows, narrow = torch.ones(1, 5, 2, dtype=dtype), torch.ones(1, 5, 3, dtype=dtype)
    return {"u": rows, "delta": rows, "A": -torch.ones(2, 3, dtype=dtype), "B": narrow, "C": narrow}


@pytest.mark.usefixtures("toy")
def test_a_new_backend_is_one_registered_object() -> None:
    assert backends.resolve("toy", "cpu") == "toy" and backends.available()["toy"] == ""
    given = scan_arguments()
    assert torch.equal(selective_scan(**given, backend="toy"), 2 * selective_scan(**given, backend="naive"))
    assert "toy" in backends_of_benchmark("scan", "cpu") and "toy" not in backends_of_benchmark("conv", "cpu")
    assert number_bytes("fp32", "toy") == 4


@pytest.mark.usefixtures("toy")
def test_a_backend_refuses_what_it_does_not_support() -> None:
    with pytest.raises(
        NotReady, match=r"causal_conv: the backend 'toy' doesn't compute this operator; expected one of"
    ):
        causal_conv(torch.ones(1, 5, 2), torch.ones(2, 4), None, backend="toy")
    with pytest.raises(UsageError, match=r"the backend 'toy' doesn't support the dtype of u; expected one of float32"):
        selective_scan(**scan_arguments(torch.bfloat16), backend="toy")
    with pytest.raises(NotReady, match="'toy' doesn't run on this device; expected cpu; got 'cuda'"):
        backends.resolve("toy", "cuda")


def test_auto_names_each_backend_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "torch"):
        broken = dataclasses.replace(
            backends.BACKENDS[name], find_problem=lambda name=name: NotReady(f"no {name} here")
        )
        monkeypatch.setitem(backends.BACKENDS, name, broken)
    with pytest.raises(NotReady, match="no backend runs on this device: cpu: no cpu here; torch: no torch here"):
        backends.resolve("auto", "cpu")


def test_the_hint_of_mamba_ssm_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE pip install" in backends.available()["mamba-ssm"]


def test_choosing_imports_no_torch() -> None:
    code = (
        "import sys, zigma_bench.ops.backends as b, zigma_bench.ops.selective_scan, zigma_bench.ops.causal_conv;"
        "b.available(); b.resolve('auto', 'cpu'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_compiler
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys; from zigma_bench.ops.compiler import load_library;"
        "print(load_library(Path(sys.argv[1])).scan_lanes())"
    )
    environment = {**os.environ, "ZIGMA_BENCH_CACHE": str(tmp_path / "new" / "cache")}
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(SOURCE)], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    lanes = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert lanes[0] == lanes[1] and int(lanes[0]) in (4, 8, 16)
    (left,) = (tmp_path / "new" / "cache").iterdir()  # one library, no temporary file
    assert left.name.startswith("scan-") and left.suffix == ".so"


@needs_compiler
def test_a_compiled_library_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path))
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    first = compiler.compile_library(source)
    written = first.stat().st_mtime_ns
    assert compiler.compile_library(source) == first and first.stat().st_mtime_ns == written
    source.write_text('extern "C" int one() { return 2; }')
    second = compiler.compile_library(source)
    assert second != first and ctypes.CDLL(str(second)).one() == 2 and ctypes.CDLL(str(first)).one() == 1


@needs_compiler
def test_a_source_that_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "broken.cpp"
    source.write_text("int one( {")
    with pytest.raises(NotReady, match=r"can't be compiled by .*error"):
        compiler.compile_library(source)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_named_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotReady, match="got 'no-such-compiler'"):
        compiler.require_compiler()


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiler.find_compiler() is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NotReady, match="set ZIGMA_BENCH_CACHE"):
        compiler.compile_library(SOURCE)


def _apply(name: str, x: np.ndarray[tuple[int], np.dtype[np.float32]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = x.copy()
    function = getattr(compiler.load_library(SOURCE), name)
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int64), None
    function(values.ctypes.data, len(values))
    return values.astype(np.float64)


@needs_compiler
def test_the_own_exponential_is_accurate() -> None:
    x = np.concatenate([np.linspace(-87, 0, 400_001), -np.logspace(-12, 1.9, 10_001)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(_apply("scan_exp", x) / exact - 1).max() < 3e-7


@needs_compiler
def test_the_own_softplus_is_accurate_and_stable() -> None:
    x = np.concatenate([np.linspace(-87, 87, 400_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
    exact = np.logaddexp(x.astype(np.float64), 0)
    assert np.abs(_apply("scan_softplus", x) / exact - 1).max() < 6e-7
    far = _apply("scan_softplus", np.array([1e4, -1e4, np.inf, np.nan], dtype=np.float32))
    assert far[0] == 1e4 and 0 <= far[1] < 1e-37 and far[2] == np.inf and np.isnan(far[3])
