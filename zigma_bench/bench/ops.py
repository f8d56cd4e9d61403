"""`bench ops`: time every backend and peer of an operator on the same inputs in one run.

The calls of all backends alternate in rounds, so that a busy machine slows all of them. Ratios compare medians of the
same run.
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
    check_against_naive,
    find_path,
    is_loop,
    operator_call,
    random_inputs,
    runnable_backends,
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
LOOP_STEPS = {"cpu": 1024, "cuda": 256}  # a loop over time in Python is not timed on longer sequences
AHEAD_CYCLES = 8_000_000  # a kernel sleeps this long (5 ms) so that the host launches the whole call meanwhile


@dataclass(frozen=True)
class OperatorTiming:
    """The median time of one case. `ratio`: a peer's median divided by this one. `floor`: this median divided by the
    time to copy its bytes."""

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
    on_progress: Callable[[str], None] = lambda text: None,
    save_rows: Callable[[Sequence[OperatorTiming]], None] = lambda rows: None,
) -> list[OperatorTiming]:
    """Run the benchmark and return all rows.

    `seconds`: the approximate time per backend for each operator, direction, shape and path. `save_rows(rows)` is
    called with all rows so far after each case. Raises UsageError for a wrong path before anything runs, and CellFailed
    for a backend with wrong results before anything is timed.
    """
    dtype = DTYPES[device.type]
    shapes = shapes or [Shape.parse(text) for text in SHAPES[device.type]]
    for shape in shapes:
        for path in paths:
            find_path(path, shape.length)
    for op in ops:
        for backend in runnable_backends(op, device.type):
            on_progress(f"checking {op} of {backend}")
            check_against_naive(op, backend, device=device.name, dtype=dtype)
    speed = copy_bytes_per_second(device)
    rows: list[OperatorTiming] = []
    for op in ops:
        for shape in shapes:
            tensors = random_inputs(op, shape, device=device.name, dtype=dtype)
            grad = torch.randn(shape.batch, shape.length, shape.channels).to(device.name, dtype)
            for path in paths:
                for direction in DIRECTIONS:
                    on_progress(f"{op} {direction} {shape} {path}")
                    rows += _case(op, direction, shape, path, tensors, grad, device, seconds, speed)
                    save_rows(rows)
    return rows


def _case(
    op: str,
    direction: str,
    shape: Shape,
    path: str,
    tensors: dict[str, torch.Tensor],
    grad: torch.Tensor,
    device: Device,
    seconds: float,
    speed: float,
) -> list[OperatorTiming]:
    """Time all backends on one input."""
    index, dtype = torch.from_numpy(find_path(path, shape.length)).to(device.name), grad.dtype
    backward = direction == "forward+backward"
    tensors = {name: tensor.detach().requires_grad_(backward) for name, tensor in tensors.items()}
    calls: dict[str, Callable[[], Any]] = {}
    for backend in runnable_backends(op, device.type):
        if is_loop(backend) and shape.length > LOOP_STEPS[device.type]:
            continue
        if backward:
            calls[backend] = lambda name=backend: with_gradients(op, name, tensors, index, grad)  # type: ignore[misc]
        else:
            calls[backend] = lambda name=backend: operator_call(op, name, tensors, index)  # type: ignore[misc]
    with torch.set_grad_enabled(backward):
        found = time_alternately(calls, seconds, device)
    medians = {name: statistics.median(times) for name, times in found.items()}
    floor = least_bytes(op, shape, dtype, backward) / speed
    rows = []
    for name, times in found.items():
        spread = statistics.median(abs(t - medians[name]) for t in times)
        ratio = {peer: medians[peer] / medians[name] for peer in PEERS if peer in medians and peer != name}
        words = (op, direction, str(shape), str(dtype).removeprefix("torch."), name, path)
        rows.append(OperatorTiming(*words, 1e3 * medians[name], 1e3 * spread, medians[name] / floor, ratio))
    return rows


def time_alternately(calls: dict[str, Callable[[], Any]], seconds: float, device: Device) -> dict[str, list[float]]:
    """The seconds of each call, in at least 5 rounds of one call each, after two rounds of warm-up.

    A backend takes part in further rounds until its calls add up to `seconds`, or until it has 200 calls.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(1000):
        waiting = [
            name for name, times in found.items() if round_number < 7 or (sum(times) < seconds and len(times) < 200)
        ]
        if not waiting:
            break
        for name in waiting:
            took = time_call(calls[name], device, ahead=True)
            if round_number >= 2:
                found[name].append(took)
    return found


def time_call(function: Callable[[], Any], device: Device, *, ahead: bool = False) -> float:
    """The seconds of one call, with an idle device before and after.

    `ahead`: on a GPU, time only the device, by launching the call while a kernel sleeps; otherwise launches count too.
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
    """The bytes for reading each input once and writing each output once.

    With `backward` also for reading the inputs and the output gradient again, and for writing the input gradients.
    """
    rows = shape.batch * shape.length
    wide = {"scan": 3, "conv": 1}[op] * rows * shape.channels * dtype.itemsize
    narrow = {"scan": 2 * rows * STATES * dtype.itemsize, "conv": 0}[op]
    parameters = 4 * shape.channels * {"scan": STATES + 2, "conv": TAPS + 1}[op]
    read, out = wide + narrow + parameters, rows * shape.channels * dtype.itemsize
    return 3 * read + 2 * out if backward else read + out


def copy_bytes_per_second(device: Device) -> float:
    """Bytes per second read and written by a plain copy that is larger than any cache."""
    source = torch.empty(2**28 if device.type == "cpu" else 2**31, dtype=torch.uint8, device=device.name)
    source.fill_(1)
    target = torch.empty_like(source)
    times = [time_call(lambda: target.copy_(source), device) for _ in range(7)]
    return 2 * source.numel() / statistics.median(times[2:])
