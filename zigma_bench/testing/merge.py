"""Check a merge: it combines two paths at the cost of its formula, both alone and in a mixer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import find_spec
from zigma_bench.plugins.registry import Cost, Spec
from zigma_bench.scans.route import Route
from zigma_bench.testing.lookup import as_registered, imports_without_torch, planning_module
from zigma_bench.testing.mixer import BATCH, BLOCK, GRID, MixerCase
from zigma_bench.testing.network import ModuleCase, network_steps, noise
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

PATHS, VALUE_BYTES = 2, 4  # float32


class MergeModule(nn.Module):
    """Wraps the merge as a module with one input per path: outputs [B, L, C], or with `parts` their rows [B, V, C]."""

    def __init__(self, merge: nn.Module, parts: list[Tensor] | None) -> None:
        super().__init__()
        self.merge, self.parts = merge, parts

    def forward(self, *outputs: Tensor) -> Any:
        if self.parts is None:
            return self.merge(list(outputs))
        x = outputs[0].new_zeros(len(outputs[0]), GRID.tokens, outputs[0].shape[-1])
        return self.merge(list(zip(self.parts, outputs, strict=True)), x)


@dataclass(frozen=True)
class MergeCase:
    """A merge, and a route of two paths that uses it."""

    spec: Spec

    @property
    def route(self) -> Route:
        """Raster forwards and backwards; even and odd tokens if each path visits a part of the tokens."""
        raster = np.arange(GRID.tokens)
        split = self.spec.facts.splits_tokens
        paths = raster.reshape(-1, PATHS).T if split else np.stack([raster, raster[::-1]])
        return Route(paths, merge=self.spec.name)

    def refusal(self) -> str | None:
        """Why the merge refuses the route; None if it accepts it."""
        try:
            if self.spec.facts.check is not None:
                self.spec.facts.check(route=self.route, channels=BLOCK.inner)
        except NotReady as error:
            return str(error)
        return None

    def cost(self) -> Cost:
        cost: Cost = self.spec.facts.cost(paths=PATHS, channels=BLOCK.inner, tokens=GRID.tokens)
        return cost

    def build(self) -> nn.Module:
        merge = self.spec.load()(paths=PATHS, channels=BLOCK.inner)
        if not isinstance(merge, nn.Module):
            raise CheckFailed(f"a {type(merge).__name__}")
        parts = [torch.from_numpy(path.copy()) for path in self.route.paths] if self.spec.facts.splits_tokens else None
        return MergeModule(merge, parts)

    def built(self) -> ModuleCase:
        facts = self.spec.facts
        tokens = GRID.tokens // PATHS if facts.splits_tokens else GRID.tokens
        channels = BLOCK.inner // PATHS if facts.splits_channels else BLOCK.inner
        outputs = tuple(noise(BATCH, tokens, channels, seed=number) for number in range(PATHS))
        return ModuleCase(self.build, outputs, (BATCH, GRID.tokens, BLOCK.inner), self.cost)


def merge_report(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a merge; it has no options."""
    assert not options, options
    with as_registered([spec]):
        case, module = MergeCase(spec), planning_module(spec, plugin)
        checks = run_checks([
            CheckStep("imports without torch", "yes", lambda: imports_without_torch(module), essential=True),
            CheckStep("name", "a route finds this merge by its name", lambda: _check_name(spec), True),
            CheckStep("route", "it accepts a route of two paths", lambda: _check_route(case), True),
        ])  # fmt: skip
        if checks[-1].ok:
            checks += run_checks(
                [
                    *network_steps(case.built()),
                    CheckStep("memory", "bytes by operator, or no estimate", lambda: _check_memory(spec)),
                ]
            )
            in_mixer = MixerCase(find_spec("mixer", "mamba"), {}, case.route).built()
            steps = [step for step in network_steps(in_mixer) if step.what not in ("FLOPs", "initial weights")]
            checks += run_checks([CheckStep(f"in a mixer: {step.what}", step.expected, step.run) for step in steps])
    return Report("merge", spec.name, spec.owner, checks)


def _check_name(spec: Spec) -> str:
    if (other := find_spec("merge", spec.name)).target != spec.target:
        raise CheckFailed(f"the merge of {other.owner}")
    return spec.name


def _check_route(case: MergeCase) -> str:
    if (reason := case.refusal()) is not None:
        raise CheckFailed(f"refused: {reason}")
    return ", ".join(f"{case.route.paths[k, :3].tolist()}..." for k in range(PATHS))


def _check_memory(spec: Spec) -> str:
    if spec.facts.memory is None:
        return "none"
    sizes = {"paths": PATHS, "channels": BLOCK.inner, "tokens": GRID.tokens, "value_bytes": VALUE_BYTES}
    found: Mapping[str, int] = spec.facts.memory(**sizes)
    if not all(isinstance(name, str) and type(count) is int and count >= 0 for name, count in found.items()):
        raise CheckFailed(repr(found))
    return f"{sum(found.values()):,} bytes"
