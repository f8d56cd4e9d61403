"""What an NVIDIA card was doing while it was timed: clocks, temperature, power, and the energy of an image, by NVML.

The counter of energy is the whole card's and moves in steps, so a window of calls lasts WINDOW_SECONDS at least; what
the idle card draws is told beside it and not taken off. Without nvidia-ml-py (the extra `gpu`) there are no figures,
and the reason stands in their place.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zigma_bench.system.device import Device

WINDOW_SECONDS = 3.0


@dataclass(frozen=True)
class Meter:
    """NVML and its handle of the card that torch uses; `why_not` where there are none."""

    nvml: Any = None
    handle: Any = None
    why_not: str | None = None

    def state(self) -> dict[str, Any]:
        """Megahertz, degrees Celsius, watts and the reasons (NVML's bits) that hold the clocks down, now."""
        if self.why_not is not None:
            return {"why_not": self.why_not}
        n, h = self.nvml, self.handle
        readings: dict[str, Callable[[], float]] = {
            "sm_mhz": lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
            "memory_mhz": lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
            "celsius": lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
            "watts": lambda: n.nvmlDeviceGetPowerUsage(h) / 1e3,
            "throttle_reasons": lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(h),
            "processes": lambda: len(n.nvmlDeviceGetComputeRunningProcesses(h)),
        }
        return {name: self._read(reading) for name, reading in readings.items()}

    def joules(self) -> float | None:
        """The card's counter of energy; None where it has none."""
        return self._read(lambda: self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3)

    def _read(self, reading: Callable[[], float]) -> float | None:
        try:
            return reading()
        except self.nvml.NVMLError:  # not every card has every reading
            return None


def find_meter(device: Device) -> Meter:
    """The meter of a device; the CPU has none."""
    if device.type != "cuda":
        return Meter(why_not="NVML measures NVIDIA cards alone")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return Meter(why_not="nvidia-ml-py is not installed: pip install 'zigma-bench[gpu]'")
    try:
        nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device.name).uuid)
        known = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return Meter(nvml, nvml.nvmlDeviceGetHandleByUUID(known))
    except (nvml.NVMLError, AttributeError) as error:  # no driver, an AMD card, or a torch that tells no UUID
        return Meter(why_not=f"NVML does not know the card: {error}")


def joules_a_call(call: Callable[[], object], device: Device, meter: Meter) -> float | None:
    """Energy of the card for one call, over a window of calls launched one behind another."""
    if meter.why_not is not None or meter.joules() is None:
        return None
    torch.cuda.synchronize(device.name)
    before, start, calls = meter.joules(), time.perf_counter(), 0
    while time.perf_counter() - start < WINDOW_SECONDS:
        call()
        torch.cuda.synchronize(device.name)
        calls += 1
    after = meter.joules()
    return None if before is None or after is None else (after - before) / calls
