"""Time one case after another in one process. Networks that may be needed again wait in the memory of the host.

The calls are those of `efficiency/calls.py`: a forward pass as in sampling, or a whole training step. Times are by the
wall clock, with an idle device before and after each call.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zigma_bench.backbones.build import build_network
from zigma_bench.bench.cases import OPERATORS, check_against_naive
from zigma_bench.bench.ops import DTYPES
from zigma_bench.efficiency.calls import make_timed_call
from zigma_bench.efficiency.timing import (
    AGREEMENT,
    CALLS_IN_A_ROW,
    Timing,
    peak_memory,
    release_memory,
    time_calls,
    timed_call,
)
from zigma_bench.errors import Interrupted
from zigma_bench.layers.speed import uncompile_network
from zigma_bench.ops.backends import BACKENDS, resolve
from zigma_bench.plan import Cell
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.system.device import Device

FEWEST, MOST = 6, 40  # counted calls: six are the fewest with a 95% interval of the median
COUNTED_SECONDS, WARM_UP_SECONDS = 0.5, 0.5
MOST_WARM_UPS = 20
SLOW_SECONDS = 0.5  # of a call
WAITING = 12  # networks in the memory of the host
SDPA = re.compile(r"aten::_scaled_dot_product_(?:(\w+?)_attention|attention_(math))(?:_for_\w+|_overrideable)?")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CaseTimer:
    """Times the cells of cases on one device. `limit_bytes`: the memory that a case may use, None for all."""

    def __init__(self, device: Device, limit_bytes: int | None) -> None:
        self.device, self.limit_bytes = device, limit_bytes
        gc.collect()
        gc.freeze()  # PyTorch's objects, so that later collections are short
        self._checked, self._warm = set[str](), set[str]()
        self._networks: dict[str, nn.Module] = {}  # by everything that they depend on, the present one last
        if device.type == "cuda":
            torch.cuda.set_device(device.name)
            if limit_bytes is not None:
                total = torch.cuda.get_device_properties(device.name).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device.name)

    def time(self, cell: Cell, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Time the one call of a cell. Raises Interrupted when `stopped()`, and any error of the network."""
        self._check_backend(cell)
        network = self._network_of(cell)
        release_memory(self.device)
        clear_peak()
        assert cell.efficiency is not None
        timed = make_timed_call(cell.efficiency.stages[0], cell, network, self.device)
        with self._limited(_network_key(cell) in self._warm):
            first, _ = timed_call(timed.call, self.device)
        self._warm.add(_network_key(cell))
        with self._limited(True):
            timing = self._time_again(timed.call, stopped)
        peak = self._peak_bytes()
        attention = [] if self._is_recorded(cell) else attention_backends(timed.call)
        del timed
        network.zero_grad(set_to_none=True)
        self._check_peak(peak)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {
            "seconds": list(timing.seconds), "first_call_seconds": first, "stable": timing.stable, "peak_bytes": peak,
            "parameters": parameters, "attention": attention,
        }  # fmt: skip

    def _time_again(self, call: Callable[[], object], stopped: Callable[[], bool]) -> Timing:
        """Time a call that has been called before: some calls of warm-up, then as many as fit in COUNTED_SECONDS.

        A slow call is timed FEWEST times without further warm-up.
        """
        again, _ = timed_call(call, self.device)
        if again < SLOW_SECONDS:
            repeats = min(MOST, max(FEWEST, int(COUNTED_SECONDS / again)))
            most = min(MOST_WARM_UPS, max(CALLS_IN_A_ROW, int(WARM_UP_SECONDS / again)))
            return time_calls(call, repeats, self.device, stopped, most=most)
        seconds = [again]
        while len(seconds) < FEWEST:
            if stopped():
                raise Interrupted("not measured in time")
            seconds.append(timed_call(call, self.device)[0])
        stable = max(seconds) <= (1 + AGREEMENT) * min(seconds)
        return Timing(tuple(seconds), again, 0, stable)

    def forget(self) -> None:
        """Free all networks."""
        self._networks.clear()
        self._reset_compiler()
        with contextlib.suppress(RuntimeError):  # of a device that is no longer usable
            release_memory(self.device)

    def is_usable(self) -> bool:
        """Whether the device still works after an error; some errors end everything in this process."""
        try:
            return float(torch.ones(2, device=self.device.name).sum()) == 2.0
        except RuntimeError:
            return False

    def memory_reason(self, error: BaseException) -> str:
        """Why a case ran out of memory."""
        first = str(error).splitlines()[0] if str(error) else "out of memory"
        if self.limit_bytes is None:
            return f"out of memory: {first}"
        return f"it needs more than the memory limit of {self.limit_bytes / 2**30:g} GiB: {first}"

    def _network_of(self, cell: Cell) -> nn.Module:
        """The network of a cell on the device; the previous network moves to the host."""
        key = _network_key(cell)
        if self._networks and next(reversed(self._networks)) != key:
            previous = next(reversed(self._networks.values()))
            uncompile_network(previous)
            previous.to("cpu")
            self._reset_compiler()
            while len(self._networks) >= WAITING:
                del self._networks[next(iter(self._networks))]
        network = self._networks.pop(key, None)
        if network is None:
            network = build_network(cell, self.device.type)
        self._networks[key] = network.to(self.device.name)
        return network

    @staticmethod
    def _reset_compiler() -> None:
        if "torch._dynamo" in sys.modules:  # importing it takes seconds
            torch._dynamo.reset()

    def _check_backend(self, cell: Cell) -> None:
        """NotReady if the backend can't run here, CellFailed if its results are wrong; checked once."""
        assert cell.backbone is not None
        if catalogue().get("backbone", cell.backbone.name).facts.order == "free":
            return
        backend = resolve(cell.backend, self.device.type)
        if backend in self._checked:
            return
        for operator, name in OPERATORS.items():
            if name in BACKENDS[backend].operators:
                check_against_naive(operator, backend, device=self.device.name, dtype=DTYPES[self.device.type])
        self._checked.add(backend)

    @contextlib.contextmanager
    def _limited(self, warm: bool) -> Iterator[None]:
        """A context in which a CPU process can't allocate beyond the limit. On a GPU, PyTorch's allocator enforces it.

        The first call of a network isn't limited (it is not `warm`), because compilers may run in it.
        """
        if self.device.type == "cuda" or self.limit_bytes is None or not warm or not STATUS.exists():
            yield
            return
        import resource

        status = process_status()
        before = resource.getrlimit(resource.RLIMIT_AS)
        room = max(0, self.limit_bytes - status["VmRSS"])
        resource.setrlimit(resource.RLIMIT_AS, (status["VmSize"] + room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    def _peak_bytes(self) -> float | None:
        """The peak memory of the case: allocated on a GPU, resident in the whole process on a CPU."""
        if self.device.type == "cuda":
            return peak_memory(self.device)["peak-memory"]
        return float(process_status()["VmHWM"]) if STATUS.exists() else None

    def _check_peak(self, peak: float | None) -> None:
        if self.limit_bytes is not None and peak is not None and peak > self.limit_bytes:
            raise MemoryError(f"its peak is {peak / 2**30:.2f} GiB")

    @staticmethod
    def _is_recorded(cell: Cell) -> bool:
        """Whether the launches are replayed from a CUDA graph, which calls no operator."""
        return cell.train.graph or cell.sample.graph


def _network_key(cell: Cell) -> str:
    """Everything that the network of a cell depends on, and its grid."""
    return repr(cell.model_dump(mode="json", exclude={"train", "sample", "efficiency"}))


def attention_backends(call: Callable[[], object]) -> list[str]:
    """The backends of `scaled_dot_product_attention` that PyTorch uses in a call: flash, cudnn, efficient or math."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    matches = (SDPA.fullmatch(event.name) for event in profile.events() or ())
    return sorted({match[1] or match[2] for match in matches if match is not None})


def process_status() -> dict[str, int]:
    """The memory of this process in bytes, by the names of the Linux kernel: VmRSS, VmHWM, VmSize."""
    lines = (line.split() for line in STATUS.read_text().splitlines() if line.startswith("Vm"))
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}


def clear_peak() -> None:
    """Set the peak resident memory of this process to the present one, where the kernel supports it."""
    with contextlib.suppress(OSError):
        if os.access(CLEAR, os.W_OK):
            CLEAR.write_text("5")
