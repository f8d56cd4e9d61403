"""Speed and memory of one network in a fresh process: whole training steps and whole samplings, raw times kept.

Warm-up goes on until three calls in a row agree within 10% (20 calls at most; the record says whether they did).
Throughput is images over the total time of the repeats, with the device synchronised after every call. Sampling comes
first, in a process that has not trained: on a CPU a peak is counted from the start of the process.
"""

from __future__ import annotations

import copy
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zigma_bench.device import Device
from zigma_bench.diffusion.draw import draw
from zigma_bench.diffusion.guidance import under_labels
from zigma_bench.diffusion.noise import StepNoise
from zigma_bench.errors import Interrupted
from zigma_bench.images import ArrayImages
from zigma_bench.models.speed import Graphed, compile_network
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Cell
from zigma_bench.record import Measurement
from zigma_bench.training.health import Health
from zigma_bench.training.step import Descent, autocast, draw_batch

AGREEMENT, CALLS_IN_A_ROW, MOST_WARM_UPS = 0.10, 3, 20


@dataclass(frozen=True)
class Timing:
    """Seconds of every counted call, of the first call, and whether the warm-up became stable."""

    seconds: tuple[float, ...]
    first_call_seconds: float
    warm_ups: int
    stable: bool

    def throughput(self, images: int) -> float:
        """Images a second, for calls of `images` images."""
        return images * len(self.seconds) / sum(self.seconds)

    def details(self) -> dict[str, Any]:
        median = statistics.median(self.seconds)
        spread = statistics.median(abs(s - median) for s in self.seconds)
        return {
            "median_seconds": median, "mad_seconds": spread, "first_call_seconds": self.first_call_seconds,
            "warm_ups": self.warm_ups, "stable": self.stable, "repeats": len(self.seconds),
        }  # fmt: skip


def measure_efficiency(
    cell: Cell,
    network: nn.Module,
    device: Device,
    tell: Callable[[int, str], None],
    stopped: Callable[[], bool],
) -> tuple[list[Measurement], dict[str, Any]]:
    """The measurements of the suite's efficiency stages, and their details."""
    assert cell.efficiency is not None
    found: list[Measurement] = []
    details: dict[str, Any] = {}
    base = {"card": device.card, "backend": resolve(cell.backend, device.type), "precision": cell.train.precision}
    base |= cell.objective_facts
    for stage in sorted(cell.efficiency.stages):  # sample, then train-step
        tell(0, stage)
        if stage == "sample" and cell.sample.solver == "dopri5":
            why = "dopri5 takes as many evaluations as a trained network asks for; time another solver"
            found.append(Measurement.refused("sample-images-per-second", "1/s", why))
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device.name)
        if stage == "train-step":
            batch, call = cell.train.batch, training_call(cell, network, device)
            how = {"batch": batch, "compile": cell.train.compile, "graph": cell.train.graph}
            name, facts = "train-images-per-second", {**base, **how}
        else:
            batch, call = cell.efficiency.sample_batch, sampling_call(cell, network, device)
            settings = {"solver": cell.sampler.solver, "evaluations": cell.sampler.evaluations}
            settings |= {"graph": cell.sample.graph, **cell.sampler.facts()}
            name, facts = "sample-images-per-second", {**base, "batch": batch, **settings}
        timing = time_calls(call, cell.efficiency.repeats, device, stopped)
        details[stage] = {**timing.details(), **flop_rate(cell, stage, timing.throughput(batch))}
        reason = None if timing.stable else "unstable: the warm-up did not settle within 10%"
        speed = timing.throughput(batch)
        found.append(Measurement.of(name, speed, "1/s", fingerprint=facts, raw=timing.seconds, reason=reason))
        found += [
            Measurement.of(f"{stage}-{what}", value, "bytes", fingerprint=facts)
            for what, value in peak_memory(device).items()
        ]
    return found, details


def flop_rate(cell: Cell, stage: str, images_per_second: float) -> dict[str, Any]:
    """FLOPs of an image by the operators' formulas, those of the scan apart, and FLOPs a second.

    A training step counts three forward passes, a sampling one for each evaluation.
    """
    passes = 3 if stage == "train-step" else cell.sample.resolved_evaluations
    assert passes is not None
    scan, total = (passes * n for n in (cell.forward_flops.get("scan", 0), sum(cell.forward_flops.values())))
    return {"flops": total, "scan_flops": scan, "flops_per_second": total * images_per_second}


def training_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """One whole training step, EMA included, on images that lie in memory."""
    target, batch = torch.device(device.name), cell.train.batch
    shape = (batch, cell.channels, cell.height, cell.width)
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), np.zeros(batch, np.int64))
    ema = copy.deepcopy(network).requires_grad_(False)
    network.train()
    if cell.train.compile:
        compile_network(network, device.type)
    health = Health(target, scaled=cell.train.precision == "fp16")
    descent = Descent(network, ema, cell.train, health, target)

    def call() -> None:
        descent(draw_batch(images, cell.train, cell.seed, 0, target, cell.condition), cell.train.learning_rate)

    return call


def sampling_call(cell: Cell, network: nn.Module, device: Device) -> Callable[[], None]:
    """One whole sampling of a batch, from noise to images."""
    assert cell.efficiency is not None
    target, settings = torch.device(device.name), cell.sample
    shape = (cell.efficiency.sample_batch, cell.channels, cell.height, cell.width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(target)
    network.eval()

    def said(x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        with torch.no_grad(), autocast(cell.train, target):
            return network(x, t, *y).float()  # type: ignore[no-any-return]

    evaluate = Graphed(said, device.type) if settings.graph else said
    if cell.condition is not None:
        y = torch.zeros(len(noise), dtype=torch.int64, device=target)
        evaluate = under_labels(evaluate, y, cell.condition.size, settings.guidance)

    def call() -> None:
        stirred = StepNoise(cell.seed, range(len(noise)), shape[1:], device.name)
        draw(evaluate, noise, objective=cell.objective, sampler=cell.sampler, step_noise=stirred)

    return call


def time_calls(call: Callable[[], None], repeats: int, device: Device, stopped: Callable[[], bool]) -> Timing:
    """Warm up until stable, then time `repeats` calls; raises Interrupted when `stopped()`."""

    def timed() -> float:
        if stopped():
            raise Interrupted("stopped between two timings; the same command times them again")
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device.name)
        return time.perf_counter() - start

    first = timed()
    warm_ups: list[float] = []
    while not _agree(warm_ups[-CALLS_IN_A_ROW:]) and len(warm_ups) < MOST_WARM_UPS:
        warm_ups.append(timed())
    seconds = tuple(timed() for _ in range(repeats))
    return Timing(seconds, first, len(warm_ups), _agree(warm_ups[-CALLS_IN_A_ROW:]))


def peak_memory(device: Device) -> dict[str, float]:
    """Bytes. On a CPU the peak of resident memory since the process began; on a GPU the peaks of allocated and reserved
    memory of this stage, and what is in use on the whole device, where the allocator keeps its peak."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device.name)
        return {
            "peak-memory": torch.cuda.max_memory_allocated(device.name),
            "peak-memory-reserved": torch.cuda.max_memory_reserved(device.name),
            "memory-on-device": total - free,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak-memory": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}


def _agree(seconds: list[float]) -> bool:
    return len(seconds) == CALLS_IN_A_ROW and max(seconds) <= (1 + AGREEMENT) * min(seconds)
