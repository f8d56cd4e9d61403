"""The result of `fastest`: the ranking, the crossings, the refusals, and the keys of a suite for the winner.

Doesn't import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zigma_bench.bench.fastest.cases import LAUNCHES, Mode, Timed
from zigma_bench.bench.fastest.crossings import Crossing
from zigma_bench.bench.fastest.networks import ATTENTION, CHANNELS, PATCH, SIZES, Network, Refused
from zigma_bench.bench.fastest.search import LATE, Outcome
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.system.device import Device, precision_on


@dataclass(frozen=True)
class Findings:
    """Everything that one command found.

    `limit_bytes`: the memory that a case could use, None for all of a GPU. `refused`: what was not ranked, and why.
    `late`: the cases that were not measured in time. `starts`: of the worker process, one more than its faults.
    """

    device: Device
    mode: Mode
    batch: int
    grid: Grid
    limit_bytes: int | None
    outcomes: Sequence[Outcome]
    refused: Sequence[Refused]
    crossings: Sequence[Crossing]
    attention: str | None
    late: Sequence[str]
    seconds: float
    starts: int
    provenance: Mapping[str, Any]

    @property
    def ranked(self) -> list[Outcome]:
        """The networks from the fastest to the slowest at the requested batch, without controls."""
        found = [one for one in self.outcomes if one.best is not None and one.network.mixes]
        return sorted(found, key=lambda one: one.best.median if one.best else 0.0)

    @property
    def saturated(self) -> list[Outcome]:
        """The networks from the largest to the smallest throughput, without controls."""
        found = [one for one in self.outcomes if one.best_saturated is not None and one.network.mixes]
        return sorted(found, key=lambda one: -(one.best_saturated.images_per_second if one.best_saturated else 0.0))

    @property
    def controls(self) -> list[Outcome]:
        """The measured networks in which tokens exchange no information."""
        return [one for one in self.outcomes if one.best is not None and not one.network.mixes]

    @property
    def failed(self) -> list[Refused]:
        """What was not ranked, and why: what could not be tried, and the networks that failed."""
        untimed = [one for one in self.outcomes if one.best is None]
        eager = [Refused(one.network.label, why) for one in untimed for why in _first(one) if why != LATE]
        return [*self.refused, *eager]

    @property
    def grouped(self) -> list[tuple[str, list[str]]]:
        """Each reason in `failed`, with everything that it refuses."""
        found: dict[str, list[str]] = {}
        for one in self.failed:
            found.setdefault(one.reason, []).append(one.label)
        return list(found.items())

    @property
    def held_equal(self) -> str:
        """What all networks have in common."""
        size, device_type = SIZES[self.device.type], self.device.type
        sized = f"width {size['width']}, patch {PATCH} and {CHANNELS} channels"
        own = sorted({one.network.backbone.name for one in self.outcomes if not one.network.matched})
        others = f"; {', '.join(own)} with the defaults of the plugin" if own else ""
        return (
            f"held equal: {sized}, {precision_on(device_type, 'auto')}; the depth is that with the parameters closest "
            f"to those of {ATTENTION} with {size['depth']} layers (without learned positions){others}"
        )

    @property
    def launch_lines(self) -> list[str]:
        """What can't be timed on this type of device at all."""
        others = [one.name for one in LAUNCHES if self.device.type not in one.devices]
        return [f"not on this device: {', '.join(others)}, which need an NVIDIA GPU"] if others else []

    def to_json(self) -> dict[str, Any]:
        """The whole result as one document."""
        winners = {"latency": winner_yaml(self.ranked, self.mode, saturated=False)}
        winners["throughput"] = winner_yaml(self.saturated, self.mode, saturated=True)
        return {
            "device": self.device.name, "card": self.device.model_name, "mode": self.mode, "batch": self.batch,
            "grid": str(self.grid), "tokens": self.grid.tokens, "memory_limit_bytes": self.limit_bytes,
            "held_equal": self.held_equal, "attention_baseline": self.attention,
            "ranking": [_outcome_json(one) for one in self.ranked],
            "ranking_at_saturation": [one.network.label for one in self.saturated],
            "controls": [_outcome_json(one) for one in self.controls],
            "crossings": [one.to_json() for one in self.crossings],
            "refused": [{"what": one.label, "why": one.reason} for one in self.failed],
            "not_measured_in_time": list(self.late), "yaml": winners,
            "seconds": self.seconds, "worker_starts": self.starts, "provenance": dict(self.provenance),
        }  # fmt: skip


def _first(outcome: Outcome) -> list[str]:
    """The reason why a network has no timing, if there is one."""
    return list(outcome.reasons.values())[:1]


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    network, best = outcome.network, outcome.best
    assert best is not None
    return {
        "network": network.label, "backbone": network.backbone.model_dump(mode="json"), "mixer": network.mixer,
        "backend": network.backend, "scan": network.scan and network.scan.model_dump(mode="json"),
        "linear_time": network.linear, "fastest_launch": best.case.launch.name, "parameters": best.parameters,
        "latency": [timed.to_json() for timed in outcome.latency.values()],
        "saturated": [timed.to_json() for timed in outcome.saturated.values()],
        "no_larger_batch": outcome.limited_by, "missing": dict(outcome.reasons),
        "attention": attention_of(outcome),
    }  # fmt: skip


def attention_of(outcome: Outcome) -> list[str]:
    """The backends of PyTorch's attention that the network used in any timing."""
    timings = (*outcome.latency.values(), *outcome.saturated.values())
    return sorted({name for timed in timings for name in timed.attention})


def overlaps(a: Timed, b: Timed) -> bool:
    """Whether the intervals of two throughputs overlap, so that their order is not certain."""
    (low_a, high_a), (low_b, high_b) = (
        (timed.case.batch / timed.interval[1], timed.case.batch / timed.interval[0]) for timed in (a, b)
    )
    return low_a <= high_b and low_b <= high_a


def winner_yaml(ranked: Sequence[Outcome], mode: Mode, *, saturated: bool) -> str | None:
    """The keys of a suite for the first network of a ranking; None for an empty ranking."""
    if not ranked:
        return None
    timed = ranked[0].best_saturated if saturated else ranked[0].best
    assert timed is not None
    return suite_keys(timed, mode)


def suite_keys(timed: Timed, mode: Mode) -> str:
    """The keys of a suite with the network of a case, as YAML: `compare`, `backend` and how it is launched."""
    import yaml

    network, keys = timed.case.network, {"batch": timed.case.batch, **timed.case.launch.suite_keys}
    entry: dict[str, Any] = {"backbone": _written(network)}
    if network.scan is not None:
        entry["scans"] = [network.scan.name]
    document: dict[str, Any] = {"compare": [entry]}
    if network.backend is not None:
        document["backend"] = network.backend
    document["train" if mode == "training" else "sample"] = keys
    text: str = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)
    return text


def _written(network: Network) -> dict[str, Any]:
    """A backbone as in a suite: its name, and the options that differ from their defaults."""
    spec = catalogue().get("backbone", network.backbone.name)
    options = network.backbone.options
    chosen = {one.name: options[one.name] for one in spec.options if options[one.name] != one.default}
    if network.mixer is not None:
        chosen["mixer"] = network.mixer
    return {"name": network.backbone.name, **chosen}
