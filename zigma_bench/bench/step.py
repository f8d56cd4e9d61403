"""`bench step`: time forward passes and training steps of ZigMa and of a DiT with as many parameters, in one run.

A training step is the loss, its gradients, AdamW and the EMA. On an NVIDIA GPU the blocks of both networks are
compiled, and each case is timed with normal launches and as a CUDA graph.
"""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from zigma_bench.bench.cases import check_against_naive
from zigma_bench.bench.ops import DTYPES, time_call
from zigma_bench.errors import UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.layers.speed import compile_network, record_graph
from zigma_bench.ops.backends import BACKENDS, available, resolve
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.system.device import Device
from zigma_bench.training.ema import update_ema

PATCH, CHANNELS = 2, 4
WARM_UPS = 3
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"zigma": {"width": 128, "depth": 4, "drop_path": 0.0}, "dit": {"width": 128, "depth": 2, "heads": 4}},
    "cuda": {
        "zigma": {"width": 768, "depth": 24, "drop_path": 0.0},
        "dit": {"width": 768, "depth": 12, "heads": 12},
    },  # B and B
}
SHAPES = {"cpu": ("8x64", "2x256"), "cuda": ("64x256", "16x1024", "4x4096", "1x16384")}
PEERS = {"cpu": ("torch",), "cuda": ("mamba-ssm",)}  # other backends for ZigMa besides ours
PATHS: dict[str, dict[str, Any]] = {"raster": {}, "zigzag": {"paths": 8}, "random": {"paths": 8}}
ATTENTION = "attention"  # the backend and path in DiT's rows


@dataclass(frozen=True)
class StepRow:
    """The median time of one case. `ratio`: the median of a peer divided by this one, by peer, such as `zigma
    mamba-ssm` or `dit`."""

    op: str
    direction: str
    shape: str
    dtype: str
    backend: str
    path: str
    median_ms: float
    spread_ms: float
    parameters: int
    memory_gib: float | None
    ratio: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepShape:
    """B x L."""

    batch: int
    length: int

    @classmethod
    def parse(cls, text: str) -> StepShape:
        parts = text.lower().split("x")
        numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
        if len(parts) != 2 or len(numbers) != 2 or 0 in numbers or round(numbers[1] ** 0.5) ** 2 != numbers[1]:
            raise UsageError("not a shape", where="--shape", expected="BxL with a square L, such as 16x1024", got=text)
        return cls(*numbers)

    @property
    def side(self) -> int:
        return int(self.length**0.5 + 0.5)

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"


def bench_step(
    device: Device,
    *,
    shapes: Sequence[StepShape] = (),
    paths: Sequence[str] = tuple(PATHS),
    repeats: int = 12,
    compiled: bool = True,
    on_progress: Callable[[str], None] = lambda text: None,
    save_rows: Callable[[Sequence[StepRow]], None] = lambda rows: None,
) -> list[StepRow]:
    """Run the benchmark and return all rows. `save_rows(rows)` is called with all rows so far after each case.

    Raises UsageError for an unknown path, and CellFailed for a backend with wrong results before anything is timed.
    """
    for path in paths:
        if path not in PATHS:
            raise UsageError("bench step doesn't support this path", expected=", ".join(PATHS), got=path)
    ours = resolve("auto", device.type)
    backends = [ours, *(name for name in PEERS[device.type] if name != ours and not available()[name])]
    for backend in backends:
        for op in ("scan", "conv"):
            on_progress(f"checking {op} of {backend}")
            check_against_naive(op, backend, device=device.name, dtype=DTYPES[device.type])
    rows: list[StepRow] = []
    for shape in shapes or [StepShape.parse(text) for text in SHAPES[device.type]]:
        cases = [("zigma", ours, path) for path in paths]
        cases += [("zigma", peer, paths[-1]) for peer in backends[1:]] + [("dit", ATTENTION, ATTENTION)]
        found: list[StepRow] = []
        for name, backend, path in cases:
            on_progress(f"{name} {backend} {path} {shape}")
            compiles = compiled and device.type == "cuda" and (backend == ATTENTION or BACKENDS[backend].traceable)
            found += _case(name, backend, path, shape, device, repeats, compiles)
            save_rows([*rows, *_with_ratios(found)])
        rows += _with_ratios(found)
    return rows


def _case(
    name: str, backend: str, path: str, shape: StepShape, device: Device, repeats: int, compiled: bool
) -> Iterator[StepRow]:
    """Time the forward pass and training step of one network, with normal launches and, on a GPU, as a CUDA graph."""
    dtype, allocated = DTYPES[device.type], _allocated(device)
    network = build_bench_network(name, backend, path, shape, device)
    if compiled:
        compile_network(network, device.type)
    calls = _calls(network, shape, device, dtype)
    for direction, call in calls.items():
        for _ in range(WARM_UPS):
            call()
        for suffix in ("", "-graph") if device.type == "cuda" else ("",):
            _reset_peak(device)
            run = call if not suffix else _graph_of(call)
            times = [time_call(run, device) for _ in range(repeats)]
            median = statistics.median(times)
            spread = statistics.median(abs(t - median) for t in times)
            words = (direction + suffix, str(shape), str(dtype).removeprefix("torch."), backend, path)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            yield StepRow(name, *words, 1e3 * median, 1e3 * spread, parameters, _peak(device, allocated))
            del run
    del network, calls
    gc.collect()
    if device.type == "cuda":
        torch._dynamo.reset()
        torch.cuda.empty_cache()


def build_bench_network(name: str, backend: str, path: str, shape: StepShape, device: Device) -> nn.Module:
    """Build a network for shape.length tokens. Parameters that are zero at initialization become small random numbers,
    so that no gradient is zero."""
    spec = catalogue().get("backbone", name)
    options = spec.make_options({**SIZES[device.type][name], "patch": PATCH})
    kind = "raster" if path == ATTENTION else path
    scan = catalogue().get("scan", kind)
    grid = Grid(shape.side, shape.side)
    chosen = scan.resolve(PATHS[kind], where=f"--path {kind}")
    orders = layer_routes(scan, grid=grid, depth=options.depth, seed=0, options=chosen)
    chosen_backend = "naive" if backend == ATTENTION else backend  # DiT doesn't use it
    network: nn.Module = spec.load()(options, grid=grid, channels=CHANNELS, routes=orders, backend=chosen_backend)
    initialise_network(network, 0)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=rng))
    return network.to(device.name)


def _calls(network: nn.Module, shape: StepShape, device: Device, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    pixels = (shape.batch, CHANNELS, PATCH * shape.side, PATCH * shape.side)
    x, target = torch.randn(pixels, device=device.name), torch.randn(pixels, device=device.name)
    t = torch.rand(shape.batch, device=device.name)
    average = copy.deepcopy(network).requires_grad_(False)
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True, capturable=on_gpu)

    def evaluate() -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
            return network(x, t).float()  # type: ignore[no-any-return]

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return evaluate()

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        (evaluate() - target).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        update_ema(average, network, 0.999)

    return {"forward": forward, "train-step": train}


def _graph_of(call: Callable[[], Any]) -> Callable[[], None]:
    graph, _output = record_graph(call, "the benchmark's graph")
    return graph.replay


def _with_ratios(rows: list[StepRow]) -> list[StepRow]:
    def peer(row: StepRow) -> str:
        return row.op if row.op == "dit" else f"{row.op} {row.backend}"

    found = []
    for row in rows:
        others = [r for r in rows if r.direction == row.direction and peer(r) != peer(row)]
        ratio = {peer(other): other.median_ms / row.median_ms for other in others}
        found.append(StepRow(**{**asdict(row), "ratio": ratio}))
    return found


def _reset_peak(device: Device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device.name)


def _allocated(device: Device) -> int:
    """The allocated bytes on a GPU, for example for the compiled code of earlier cases."""
    return torch.cuda.memory_allocated(device.name) if device.type == "cuda" else 0


def _peak(device: Device, allocated: int) -> float | None:
    """The peak memory in GiB since the last reset, minus the bytes `allocated` before the case."""
    return (torch.cuda.max_memory_allocated(device.name) - allocated) / 2**30 if device.type == "cuda" else None
