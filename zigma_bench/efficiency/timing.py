"""Time a call: warm up until stable, then store the time of every counted call; also the first call and peak memory.

The warm-up ends when three consecutive calls agree within 10%, or after 20 calls; the record shows whether they agreed.
A call is timed by the wall clock, with an idle device before and after. On a GPU, device events are recorded too; if
these times are much shorter, the host is the bottleneck.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zigma_bench.errors import Interrupted
from zigma_bench.system.device import Device

AGREEMENT, CALLS_IN_A_ROW, MOST_WARM_UPS = 0.10, 3, 20
ALLOCATION = ("can't allocate memory", "not enough memory", "std::bad_alloc")  # in torch's error messages on a CPU


@dataclass(frozen=True)
class Timing:
    """The seconds of every counted call and of the first call, and whether the warm-up became stable.

    `device_seconds`: the same calls timed by device events; empty on a CPU.
    """

    seconds: tuple[float, ...]
    first_call_seconds: float
    warm_ups: int
    stable: bool
    device_seconds: tuple[float, ...] = ()

    def throughput(self, images: int) -> float:
        """Images per second, for calls of `images` images."""
        return images * len(self.seconds) / sum(self.seconds)

    def details(self) -> dict[str, Any]:
        """Summary values. `first_call_extra_seconds`: compilation, graph capture and allocations in the first call."""
        median = statistics.median(self.seconds)
        spread = statistics.median(abs(s - median) for s in self.seconds)
        found = {
            "median_seconds": median, "mad_seconds": spread, "first_call_seconds": self.first_call_seconds,
            "first_call_extra_seconds": self.first_call_seconds - median, "warm_ups": self.warm_ups,
            "stable": self.stable, "repeats": len(self.seconds),
        }  # fmt: skip
        if self.device_seconds:
            found["device_median_seconds"] = statistics.median(self.device_seconds)
        return found

    @classmethod
    def of_rounds(cls, rounds: Sequence[Timing]) -> Timing:
        """Merge the timings of several processes: stable if each is stable and their medians agree within 10%."""
        medians = [statistics.median(timing.seconds) for timing in rounds]
        return cls(
            seconds=tuple(s for timing in rounds for s in timing.seconds),
            first_call_seconds=rounds[0].first_call_seconds,
            warm_ups=rounds[0].warm_ups,
            stable=all(timing.stable for timing in rounds) and max(medians) <= (1 + AGREEMENT) * min(medians),
            device_seconds=tuple(s for timing in rounds for s in timing.device_seconds),
        )


def time_calls(
    call: Callable[[], object], repeats: int, device: Device, stopped: Callable[[], bool], *, most: int = MOST_WARM_UPS
) -> Timing:
    """Warm up until stable, or `most` calls, then time `repeats` calls; raises Interrupted when `stopped()`."""

    def timed() -> tuple[float, float | None]:
        if stopped():
            raise Interrupted("stopped between two timings; the same command times them again")
        return timed_call(call, device)

    first, _ = timed()
    warm_ups: list[float] = []
    while not _agree(warm_ups[-CALLS_IN_A_ROW:]) and len(warm_ups) < most:
        warm_ups.append(timed()[0])
    counted = [timed() for _ in range(repeats)]
    by_card = tuple(seconds for _, seconds in counted if seconds is not None)
    stable = _agree(warm_ups[-CALLS_IN_A_ROW:])
    return Timing(tuple(seconds for seconds, _ in counted), first, len(warm_ups), stable, by_card)


def timed_call(call: Callable[[], object], device: Device) -> tuple[float, float | None]:
    """The seconds of one call by the wall clock, and by device events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start, None
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device.name)
    start = time.perf_counter()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device.name)
    return time.perf_counter() - start, float(begin.elapsed_time(end)) / 1e3


def peak_memory(device: Device) -> dict[str, float]:
    """The peak memory in bytes. On a CPU, the peak resident memory since the start of the process. On a GPU, the peak
    allocated and reserved memory of this stage, and the memory in use on the whole device, which includes the memory
    that the allocator still reserves."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device.name)
        return {
            "peak-memory": torch.cuda.max_memory_allocated(device.name),
            "peak-memory-reserved": torch.cuda.max_memory_reserved(device.name),
            "memory-on-device": total - free,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak-memory": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)  # a failed graph capture


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """Collect garbage once and exclude all live objects (mostly PyTorch's) from collections inside the context.

    Collections by `release`, and by Python during a counted call, then take a hundredth of the time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory(device: Device) -> None:
    """Free unused memory, and reset the peak memory counters."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device.name)


def _agree(seconds: list[float]) -> bool:
    return len(seconds) == CALLS_IN_A_ROW and max(seconds) <= (1 + AGREEMENT) * min(seconds)
