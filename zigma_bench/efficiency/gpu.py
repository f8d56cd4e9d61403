"""Read the clocks, temperature, power and energy of an NVIDIA GPU with NVML while it is timed.

The energy counter covers the whole GPU and has a coarse resolution, so a measurement lasts at least WINDOW_SECONDS.
Idle power is not subtracted; the state of the GPU before and after is recorded. Without nvidia-ml-py (the extra `gpu`)
there are no values, and the reason is recorded instead.
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
class GpuMeter:
    """NVML and its handle of torch's GPU, or the reason `why_not` if these are not available."""

    nvml: Any = None
    handle: Any = None
    why_not: str | None = None

    def state(self) -> dict[str, Any]:
        """The current clocks (MHz), temperature (Celsius), power (watts), throttle reasons (NVML's bits), processes."""
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
        """The energy counter of the GPU in joules; None if it has none."""
        return self._read(lambda: self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3)

    def _read(self, reading: Callable[[], float]) -> float | None:
        try:
            return reading()
        except self.nvml.NVMLError:  # some GPUs don't support some readings
            return None


def find_meter(device: Device) -> GpuMeter:
    """The meter of a device. For a CPU it only contains a reason."""
    if device.type != "cuda":
        return GpuMeter(why_not="NVML only measures NVIDIA GPUs")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return GpuMeter(why_not="nvidia-ml-py is not installed: pip install 'zigma-bench[gpu]'")
    try:
        nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device.name).uuid)
        known = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return GpuMeter(nvml, nvml.nvmlDeviceGetHandleByUUID(known))
    except (nvml.NVMLError, AttributeError) as error:  # no driver, an AMD GPU, or no UUID in this torch
        return GpuMeter(why_not=f"NVML doesn't know the GPU: {error}")


def joules_per_call(call: Callable[[], object], device: Device, meter: GpuMeter) -> float | None:
    """The mean energy of the GPU per call, in joules, over a window of consecutive calls; None without a counter."""
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
