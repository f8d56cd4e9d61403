"""`bench ops`: every backend and peer of an operator on the same inputs in one run, round after round.

The calls of all backends alternate, so that a busy machine slows all of them; ratios are of medians within the run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from zigma_bench.bench.cases import (
    OPS,
    PEER,
    STATES,
    TAPS,
    Shape,
    backends,
    call,
    find_path,
    gate,
    inputs,
    is_loop,
    with_gradients,
)
from zigma_bench.system.device import Device

DIRECTIONS = ("forward", "forward+backward")
PEERS = ("naive", "torch", PEER, "mamba-ssm")
SHAPES = {
    "cpu": ("8x64x256", "8x256x512", "1x1024x768"),
    "cuda": ("64x256x1536", "16x1024x1536", "4x4096x1536", "1x16384x1536"),
}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
LOOP_STEPS = {"cpu": 1024, "cuda": 256}  # longer paths are not timed with a loop over time in Python
AHEAD_CYCLES = 8_000_000  # a kernel that waits this long (5 ms) lets the launches of a call get ahead of the card


@dataclass(frozen=True)
class Row:
    """One median. `ratio`: a peer's median over this one; `floor`: this median over the time its bytes take."""

    op: str
    direction: str
    shape: str
    dtype: str
    backend: str
    path: str
    median_ms: float
    spread_ms: float
    floor: float
    ratio: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_ops(
    device: Device,
    *,
    ops: Sequence[str] = OPS,
    shapes: Sequence[Shape] = (),
    paths: Sequence[str] = ("raster", "random"),
    seconds: float = 1.0,
    tell: Callable[[str], None] = lambda text: None,
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:
    """All rows; CellFailed before the first timing of a backend whose results are wrong, UsageError for a wrong path
    before anything is run.

    `seconds`: about how long the rounds of one operator, direction, shape and path last for each backend; `keep` is
    given all rows so far, again and again.
    """
    dtype = DTYPES[device.type]
    shapes = shapes or [Shape.parse(text) for text in SHAPES[device.type]]
    for shape in shapes:
        for path in paths:
            find_path(path, shape.length)
    for op in ops:
        for backend in backends(op, device.type):
            tell(f"checking {op} of {backend}")
            gate(op, backend, device=device.name, dtype=dtype)
    speed = copy_bytes_per_second(device)
    rows: list[Row] = []
    for op in ops:
        for shape in shapes:
            given = inputs(op, shape, device=device.name, dtype=dtype)
            grad = torch.randn(shape.batch, shape.length, shape.channels).to(device.name, dtype)
            for path in paths:
                for direction in DIRECTIONS:
                    tell(f"{op} {direction} {shape} {path}")
                    rows += _case(op, direction, shape, path, given, grad, device, seconds, speed)
                    keep(rows)
    return rows


def _case(
    op: str,
    direction: str,
    shape: Shape,
    path: str,
    given: dict[str, torch.Tensor],
    grad: torch.Tensor,
    device: Device,
    seconds: float,
    speed: float,
) -> list[Row]:
    """All backends on one input."""
    index, dtype = torch.from_numpy(find_path(path, shape.length)).to(device.name), grad.dtype
    backward = direction == "forward+backward"
    given = {name: tensor.detach().requires_grad_(backward) for name, tensor in given.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for backend in backends(op, device.type):
        if is_loop(backend) and shape.length > LOOP_STEPS[device.type]:
            continue
        if backward:
            calls[backend] = lambda name=backend: with_gradients(op, name, given, index, grad)  # type: ignore[misc]
        else:
            calls[backend] = lambda name=backend: call(op, name, given, index)  # type: ignore[misc]
    with torch.set_grad_enabled(backward):
        found = alternate(calls, seconds, device)
    medians = {name: statistics.median(times) for name, times in found.items()}
    floor = least_bytes(op, shape, dtype, backward) / speed
    rows = []
    for name, times in found.items():
        spread = statistics.median(abs(t - medians[name]) for t in times)
        ratio = {peer: medians[peer] / medians[name] for peer in PEERS if peer in medians and peer != name}
        words = (op, direction, str(shape), str(dtype).removeprefix("torch."), name, path)
        rows.append(Row(*words, 1e3 * medians[name], 1e3 * spread, medians[name] / floor, ratio))
    return rows


def alternate(calls: dict[str, Callable[[], Any]], seconds: float, device: Device) -> dict[str, list[float]]:
    """Seconds of each call, in rounds of one call each, after two rounds of warm-up; at least 5 rounds.

    A backend that has had its share of time twice over sits out further rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(1000):
        waiting = [
            name for name, times in found.items() if round_number < 7 or (sum(times) < seconds and len(times) < 200)
        ]
        if not waiting:
            break
        for name in waiting:
            took = timed(calls[name], device, ahead=True)
            if round_number >= 2:
                found[name].append(took)
    return found


def timed(function: Callable[[], Any], device: Device, *, ahead: bool = False) -> float:
    """Seconds of one call, the device idle before and after.

    `ahead`: those of the card alone, as far as the call's launches get ahead of it; else the launches count too.
    """
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device.name)
        if ahead:
            torch.cuda._sleep(AHEAD_CYCLES)  # type: ignore[no-untyped-call]
        begin.record()
        function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def least_bytes(op: str, shape: Shape, dtype: torch.dtype, backward: bool) -> int:
    """Each input read once and each output written once; a backward reads all again with the output's gradient."""
    rows = shape.batch * shape.length
    wide = {"scan": 3, "conv": 1}[op] * rows * shape.channels * dtype.itemsize
    narrow = {"scan": 2 * rows * STATES * dtype.itemsize, "conv": 0}[op]
    parameters = 4 * shape.channels * {"scan": STATES + 2, "conv": TAPS + 1}[op]
    read, out = wide + narrow + parameters, rows * shape.channels * dtype.itemsize
    return 3 * read + 2 * out if backward else read + out


def copy_bytes_per_second(device: Device) -> float:
    """Bytes read and written a second by a plain copy that no cache holds."""
    source = torch.empty(2**28 if device.type == "cpu" else 2**31, dtype=torch.uint8, device=device.name)
    source.fill_(1)
    target = torch.empty_like(source)
    times = [timed(lambda: target.copy_(source), device) for _ in range(7)]
    return 2 * source.numel() / statistics.median(times[2:])
