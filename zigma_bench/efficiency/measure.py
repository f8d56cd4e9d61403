"""The efficiency of one cell: rounds of timed calls, each round in a fresh process, and the values computed from them.

A round is a mapping that can be stored as JSON: the raw times and peak memory of every timed call, the state of the GPU
before and after, and the ceilings of the device. Rounds of different cells alternate, so that a machine that heats up
or is busy for a while slows all of them. If one call runs out of memory, its result is that reason, and the other calls
are still measured.

Throughput is the number of images divided by the total time of the counted calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from zigma_bench.efficiency.calls import CALL_NAMES, make_timed_call
from zigma_bench.efficiency.ceilings import measure_ceilings, scan_alone
from zigma_bench.efficiency.gpu import GpuMeter, find_meter, joules_per_call
from zigma_bench.efficiency.timing import (
    AGREEMENT,
    CALLS_IN_A_ROW,
    MOST_WARM_UPS,
    Timing,
    gc_frozen,
    out_of_memory,
    peak_memory,
    release_memory,
    time_calls,
)
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Cell
from zigma_bench.records.record import Measurement
from zigma_bench.system.device import Device

OnProgress = Callable[[int, str], None]
Round = dict[str, Any]
NAMES = {  # name and unit of the speed of each timed call
    "latency": ("latency", "s"),
    "forward": ("forward-images-per-second", "1/s"),
    "sample": ("sample-images-per-second", "1/s"),
    "forward-backward": ("forward-backward-images-per-second", "1/s"),
    "train-step": ("train-images-per-second", "1/s"),
}
UNSTABLE = f"unstable: the warm-up did not settle within {AGREEMENT:.0%}, or the rounds differ by more"
ADAPTIVE = "the evaluations of dopri5 depend on the trained network; time another solver"


def measure_efficiency(
    cell: Cell, network: nn.Module, device: Device, on_progress: OnProgress, stopped: Callable[[], bool]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measure one round, and return its measurements and details."""
    return combine_rounds(cell, device, [measure_round(cell, network, device, on_progress, stopped)])


def measure_round(
    cell: Cell, network: nn.Module, device: Device, on_progress: OnProgress, stopped: Callable[[], bool]
) -> Round:
    """Measure every timed call of the cell once. The ceilings come last because they need much memory."""
    with gc_frozen():
        return _measure_round(cell, network, device, on_progress, stopped)


def _measure_round(
    cell: Cell, network: nn.Module, device: Device, on_progress: OnProgress, stopped: Callable[[], bool]
) -> Round:
    assert cell.efficiency is not None
    meter, stages = find_meter(device), dict[str, Round]()
    network = network.to(device.name)
    for number, name in enumerate(s for s in CALL_NAMES if s in cell.efficiency.stages):
        on_progress(number, name)
        release_memory(device)
        stages[name] = _measure_call(name, cell, network, device, meter, stopped)
    network.zero_grad(set_to_none=True)
    release_memory(device)
    found: Round = {"stages": stages}
    if cell.timed_alone:
        on_progress(len(stages), "ceilings")
        repeats = cell.efficiency.repeats
        found["scan"] = _without_memory_errors(lambda: scan_alone(cell, device, repeats, stopped))
        release_memory(device)
        found["ceilings"] = _without_memory_errors(lambda: measure_ceilings(cell, device))
    return found


def _measure_call(
    name: str, cell: Cell, network: nn.Module, device: Device, meter: GpuMeter, stopped: Callable[[], bool]
) -> Round:
    assert cell.efficiency is not None
    if name == "sample" and cell.sample.solver == "dopri5":
        return {"why_not": ADAPTIVE}
    repeats = cell.efficiency.repeats

    def measure() -> Round:
        timed_call = make_timed_call(name, cell, network, device)
        before = meter.state()
        most = CALLS_IN_A_ROW if cell.smoke else MOST_WARM_UPS  # the values of a smoke run are meaningless
        timing = time_calls(timed_call.call, repeats, device, stopped, most=most)
        after, memory = meter.state(), peak_memory(device)
        states = {"before": before, "after": after}
        joules = joules_per_call(timed_call.call, device, meter)
        setting = {"batch": timed_call.batch, "passes": timed_call.passes, "facts": timed_call.facts}
        return {**setting, "timing": asdict(timing), "memory": memory, "card": states, "joules_a_call": joules}

    return _without_memory_errors(measure)


def _without_memory_errors(measure: Callable[[], Round]) -> Round:
    """The measured values, or the reason if memory ran out."""
    try:
        return measure()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"why_not": f"out of memory: {str(error).splitlines()[0]}" if str(error) else "out of memory"}


def combine_rounds(cell: Cell, device: Device, rounds: Sequence[Round]) -> tuple[list[Measurement], dict[str, Any]]:
    """The measurements and details of all rounds together. A call that fails in one round has failed."""
    base = {"card": device.model_name, "precision": cell.train.precision, **cell.objective_facts}
    if not cell.timed_alone:  # otherwise the label of the row contains the backend and the batch
        base["backend"] = resolve(cell.backend, device.type)
    found: list[Measurement] = []
    details: dict[str, Any] = {"rounds": list(rounds)}
    for name in rounds[0]["stages"]:
        each = [one["stages"][name] for one in rounds]
        if (reason := next((one["why_not"] for one in each if "why_not" in one), None)) is not None:
            figure, unit = NAMES[name]
            found.append(Measurement.refused(figure, unit, reason))
            details[name] = {"why_not": reason}
            continue
        timing = Timing.of_rounds([_read_timing(one["timing"]) for one in each])
        details[name] = {**timing.details(), **flop_rate(cell, each[0]["passes"], timing.throughput(each[0]["batch"]))}
        found += _call_measurements(name, cell, base, each, timing)
        if cell.timed_alone and device.type == "cuda":
            found.append(_energy_measurement(name, base, each))
    if cell.timed_alone:
        found += _device_limits(cell, base, rounds)
    return found, details


def _call_measurements(
    name: str, cell: Cell, base: dict[str, Any], each: Sequence[Round], timing: Timing
) -> list[Measurement]:
    """The speed, the peak memory and, in an efficiency suite, the matrix-product FLOP/s of one timed call."""
    first, (figure, unit) = each[0], NAMES[name]
    batch = {} if cell.timed_alone and name != "latency" else {"batch": first["batch"]}
    facts = {**base, **batch, **first["facts"]}
    speed = timing.throughput(first["batch"])
    value, reason = (speed if unit == "1/s" else 1 / speed), None if timing.stable else UNSTABLE
    found = [Measurement.of(figure, value, unit, fingerprint=facts, raw=timing.seconds, reason=reason)]
    for what in first["memory"]:
        peak = max(one["memory"][what] for one in each)
        found.append(Measurement.of(f"{name}-{what}", peak, "bytes", fingerprint=facts))
    if cell.timed_alone:
        rate = flop_rate(cell, first["passes"], speed)["matmul_flops_per_second"]
        found.append(Measurement.of(f"{name}-matmul-flops-per-second", rate, "FLOP/s", fingerprint=facts))
    return found


def _energy_measurement(name: str, base: dict[str, Any], each: Sequence[Round]) -> Measurement:
    """The energy of the whole GPU per image in joules, or the reason if it can't be measured."""
    figure = f"{name}-joules-per-image"
    joules = [one["joules_a_call"] / one["batch"] for one in each if one["joules_a_call"] is not None]
    if len(joules) == len(each):
        return Measurement.of(figure, sum(joules) / len(joules), "J", fingerprint=base, raw=tuple(joules))
    why = each[0]["card"]["before"].get("why_not", "the GPU has no energy counter")
    return Measurement.refused(figure, "J", why)


def _device_limits(cell: Cell, base: dict[str, Any], rounds: Sequence[Round]) -> list[Measurement]:
    """Bytes per second of the scan alone and the ceilings of the device, as means over the rounds."""
    units = {"scan": {"bytes_per_second": "B/s"}}
    units["ceilings"] = {"matmul_flops_per_second": "FLOP/s", "copy_bytes_per_second": "B/s"}
    names = {"bytes_per_second": "scan-bytes-per-second"}
    found = []
    for part, figures in units.items():
        for key, unit in figures.items():
            name = names.get(key, f"ceiling-{key.replace('_', '-')}")
            reason = next((one[part]["why_not"] for one in rounds if "why_not" in one[part]), None)
            if reason is not None:
                found.append(Measurement.refused(name, unit, reason))
                continue
            values = tuple(one[part][key] for one in rounds)
            found.append(Measurement.of(name, sum(values) / len(values), unit, fingerprint=base, raw=values))
    return found


def flop_rate(cell: Cell, passes: int, images_per_second: float) -> dict[str, Any]:
    """The FLOPs of an image by the formulas of the operators, those of the scan alone, and FLOPs per second.

    `passes`: the cost of an image in forward passes; a backward pass counts as two. Recomputation doesn't count.
    """
    scan, total = (passes * n for n in (cell.forward_flops.get("scan", 0), sum(cell.forward_flops.values())))
    return {
        "flops": total, "scan_flops": scan, "flops_per_second": total * images_per_second,
        "matmul_flops_per_second": (total - scan) * images_per_second,
    }  # fmt: skip


def _read_timing(stored: dict[str, Any]) -> Timing:
    """The timing of a stored round."""
    tuples = {key: tuple(stored[key]) for key in ("seconds", "device_seconds")}
    return Timing(**{**stored, **tuples})
