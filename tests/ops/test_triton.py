"""The backend `triton` without a GPU: kernels interpreted and compiled, operators as PyTorch sees them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from zigma_bench.backbones.zigma.facts import ZigmaOptions, zigma_cost
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady
from zigma_bench.ops import arguments, backends
from zigma_bench.ops.backends import gpu
from zigma_bench.ops.backends import triton as triton_backend
from zigma_bench.ops.selective_scan import SelectiveScanArguments
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.zigzag import zigzag

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
KERNELS = ("stage_projections_kernel", "scan_outputs_kernel", "carry_states_kernel", "scan_gradients_kernel")
KINDS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64",
}  # fmt: skip


@needs_triton
def test_interpreted_kernels_follow_the_naive_loop() -> None:
    """In a separate process, because Triton decides at import whether it compiles or interprets."""
    file = Path(__file__).with_name("interpreted_triton.py")
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Compiled:
    """A stand-in for a kernel: it compiles the launches for a GPU and stores the code."""

    def __init__(self, kernel: Any, card: int, code: dict[str, str]) -> None:
        self.kernel, self.card, self.code, self.arg_names = kernel, card, code, kernel.arg_names

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compile

    def compile(self, *arguments: Any, num_warps: int = 4, **fixed: Any) -> None:
        from triton import compile
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        given = {**dict(zip(self.kernel.arg_names, arguments, strict=False)), **fixed}
        values = {name: given.pop(name) for name in self.kernel.arg_names}
        assert not given
        constants = {name: value for name, value in values.items() if value is None or name in fixed}
        signature = {
            name: "constexpr" if name in constants else KINDS[value.dtype] if isinstance(value, torch.Tensor) else "i32"
            for name, value in values.items()
        }
        source = ASTSource(self.kernel, signature, constants)
        built = compile(source, target=GPUTarget("cuda", self.card, 32), options={"num_warps": num_warps})
        self.code[self.kernel.__name__] = built.asm["ptx"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make launches only compile for a GPU, and return the dict of their code by kernel."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def instead(module: Any, card: int, *names: str) -> dict[str, str]:
        code: dict[str, str] = {}
        for name in names:
            monkeypatch.setattr(module, name, Compiled(getattr(module, name), card, code))
        return code

    return instead


def scan_for(
    card: int, compiled: Any, dtype: torch.dtype, states: int, segment_starts: torch.Tensor | None
) -> dict[str, str]:
    """The code of a scan of two parts, with its gradients; from a state where there are segments."""
    from zigma_bench.ops.selective_scan import triton_launch as launch

    code: dict[str, str] = compiled(launch, card, *KERNELS)
    rows, B, path = torch.zeros(1, 128, 40, dtype=dtype), torch.zeros(1, 128, states, dtype=dtype), torch.arange(128)
    A, D = torch.zeros(40, states), torch.zeros(40)
    initial = None if segment_starts is None else torch.zeros(1, 40, states)
    given = SelectiveScanArguments(rows, rows, A, B, B, D, rows, D, True, path, segment_starts, initial)
    launch.run_triton_backward(given, rows, launch.run_triton_forward(given, save=True)[1])
    return code


@pytest.fixture
def two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from zigma_bench.ops.selective_scan import triton_launch

    monkeypatch.setattr(triton_launch, "gpu_parallelism", lambda device: (1000, 32))


@needs_triton
@pytest.mark.usefixtures("two_parts")
def test_time_stays_in_a_lane(compiled: Any) -> None:
    """Of a network's size nothing is exchanged between lanes but the sums over channels of the gradients of B and C."""
    code = scan_for(90, compiled, torch.bfloat16, 16, None)
    for name in ("scan_outputs_kernel", "carry_states_kernel"):
        assert not [word for word in ("shfl", "shared", "bar.sync") if word in code[name]], name
    assert code["scan_gradients_kernel"].count("shfl") == 4 * 2 * 16 * 5  # steps, B and C, states, halvings of 32 lanes


@needs_triton
@pytest.mark.usefixtures("two_parts")
def test_the_scan_compiles_for_a_gpu_of_2018(compiled: Any) -> None:
    code = scan_for(75, compiled, torch.float16, 1, torch.zeros(128, dtype=torch.int64))
    assert set(code) == set(KERNELS)
    assert all(".target sm_75" in text for text in code.values())


@needs_triton
def test_the_convolution_compiles_for_a_gpu_of_2018(compiled: Any) -> None:
    from zigma_bench.ops.causal_conv import triton_conv

    code = compiled(triton_conv, 75, "conv_kernel", "conv_gradients_kernel")
    rows, weight, bias = torch.zeros(1, 9, 40), torch.zeros(40, 2), torch.zeros(40)
    order = (torch.arange(9), torch.zeros(9, dtype=torch.int64))
    triton_conv._run_backward(triton_conv._run(rows, weight, bias, *order, True), rows, weight, bias, *order, True)
    assert set(code) == {"conv_kernel", "conv_gradients_kernel"} and all(
        ".target sm_75" in text for text in code.values()
    )


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_names", tuple)
    monkeypatch.setattr(gpu, "nvidia_gpus", tuple)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("no_card")
def test_without_a_gpu_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.resolve("auto", "cuda") == "torch"
    with pytest.raises(NotReady, match=r"'triton' doesn't run on this device; expected cuda; got 'cpu'.*run on a GPU"):
        backends.resolve("triton", "cpu")
    assert importlib.util.find_spec("triton") is None or "needs a GPU" in backends.available()["triton"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the package triton" in backends.available()["triton"]


def pretend_card(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], hip: str | None) -> None:
    """Torch and the device limits pretend that there is such a GPU."""
    monkeypatch.setattr(gpu, "gpu_names", lambda: (name,))
    monkeypatch.setattr(gpu, "nvidia_gpus", lambda: () if hip else (name,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(triton_backend, "find_launcher_problem", lambda: None)


@pytest.mark.parametrize(
    ("name", "capability", "hip", "backend"),
    [
        ("H100", (9, 0), None, "fused"),
        ("T4", (7, 5), None, "triton"),
        ("P100", (6, 0), None, "torch"),
        ("AMD gfx90a", (9, 0), "6.4", "triton"),
    ],
)
def test_auto_takes_triton_on_cards_that_fused_does_not_serve(
    name: str, capability: tuple[int, int], hip: str | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_card(monkeypatch, name, capability, hip)
    assert backends.resolve("auto", "cuda") == backend
    reason = backends.available()["triton"]
    assert "expected compute capability 7.0 or later; got 'P100: 6.0'" in reason if name == "P100" else reason == ""


def test_what_launches_a_kernel_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = str(triton_backend.find_launcher_problem())
    assert "needs a C compiler and Python's headers" in reason and "no compiler" in reason
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(triton_backend.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "no Python.h" in str(triton_backend.find_launcher_problem())
    (tmp_path / "Python.h").touch()
    assert triton_backend.find_launcher_problem() is None


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500, 16384])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("states", [1, 5, 16, 24, 64])
@pytest.mark.parametrize("channels", [8, 40, 1536])
@needs_triton
def test_plans_cover_every_step_once(batch: int, length: int, channels: int, states: int) -> None:
    from zigma_bench.ops.selective_scan import triton_launch as launch

    plan = launch.choose_triton_launch_config(batch, length, channels, states, 40, 32)
    part = launch.part_length(length, plan.parts)
    assert part % launch.SAVE == 0 and (plan.parts - 1) * part < length <= plan.parts * part
    assert launch.pad_states(states) <= plan.warps * launch.STATES_PER_WARP and plan.channels == 32
    warps = batch * -(-channels // 32) * plan.warps
    assert warps * plan.parts <= max(warps, 1.5 * launch.RESIDENT * 40)
    assert plan.parts > 1 or length <= 64 or warps > launch.RESIDENT * 40 / 2


@needs_triton
def test_a_network_runs_on_imagined_tensors_and_counts_what_the_formula_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, dtypes, gradients and FLOPs as PyTorch sees the operators when it traces or counts."""
    from zigma_bench.ops.causal_conv import triton_conv  # noqa: F401  (the counter knows what is defined before it)
    from zigma_bench.ops.selective_scan import triton_scan  # noqa: F401

    monkeypatch.setattr(triton_backend, "interprets_kernels", lambda: True)  # on the CPU, where autograd needs no GPU
    monkeypatch.setattr(arguments, "_visits_each_once", lambda path: True)  # nothing is in an imagined path
    spec, grid = scan_spec("zigzag", zigzag, owner="test"), Grid(8, 8)
    orders = layer_routes(spec, grid=grid, depth=2, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    options = ZigmaOptions(width=32, depth=2, patch=1)
    network = Zigma(options, grid=grid, channels=3, routes=orders, backend="triton")
    imagined = FakeTensorMode()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    fakes = {name: imagined.from_tensor(tensor) for name, tensor in tensors.items()}
    with imagined, FlopCounterMode(display=False) as counter:
        x, t = torch.empty(2, 3, 8, 8), torch.empty(2)
        y = torch.func.functional_call(network, fakes, (x, t))
        forward = counter.get_total_flops()
        leaves = {name: fakes[name] for name, _ in network.named_parameters()}
        grads = torch.autograd.grad(y.square().mean(), list(leaves.values()))
    assert y.shape == x.shape
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        assert grad.shape == leaf.shape and grad.dtype == leaf.dtype, name
    assert forward == 2 * zigma_cost(options, grid=grid, channels=3, routes=orders).total_flops
    assert counter.get_total_flops() > 2.5 * forward
