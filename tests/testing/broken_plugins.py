"""Plugins that each break one rule of the contract of their kind; test_checks.py checks the reported errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zigma_bench import hookimpl
from zigma_bench.data.images import ArrayImages, Splits, pixels_digest
from zigma_bench.plugins.registry import (
    BackboneFacts,
    Cost,
    DataFacts,
    DatasetFacts,
    MergeFacts,
    MetricFacts,
    MixerFacts,
)
from zigma_bench.records.record import Measurement


@dataclass(frozen=True)
class Options:
    """None."""


@dataclass(frozen=True)
class BackboneOptions:
    """A toy."""

    width: int = 8
    depth: int = 1
    patch: int = 1


def _mixer(forward, *, extra=None):
    import torch
    from torch import nn

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(32, 32, bias=False)
            if extra is not None:
                extra(self, torch)

        def forward(self, x):
            return forward(self, self.inner(x))

    return Made()


def leaky(options, **rest):
    return _mixer(lambda self, x: x + x.mean(0))


def wrong_cost(options, **rest):
    return _mixer(lambda self, x: x)


def unseeded(options, **rest):
    def extra(self, torch):
        self.register_buffer("shift", torch.randn(32))

    return _mixer(lambda self, x: x + self.shift, extra=extra)


def forgotten(options, **rest):
    def extra(self, torch):
        self.scale = torch.nn.Parameter(torch.ones(32))
        self.init_parameters = lambda draw: None

    return _mixer(lambda self, x: x * self.scale, extra=extra)


def unused(options, **rest):
    def extra(self, torch):
        self.unused = torch.nn.Linear(32, 32, bias=False)

    return _mixer(lambda self, x: x, extra=extra)


def narrow(options, **rest):
    return _mixer(lambda self, x: x[..., 1:])


COUNT = [0]


def hidden_state(options, **rest):
    COUNT[0] += 1
    return _mixer(lambda self, x, by=COUNT[0]: x * by)


def raises(options, **rest):
    return 1 / 0


def _network(of_routes):
    import torch
    from torch import nn

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.colour = nn.Linear(1, 1)
            self.register_buffer("by", torch.tensor(of_routes), persistent=False)

        def forward(self, x, t):
            return self.colour(x[..., None])[..., 0] * (self.by + t[:, None, None, None])

    return Made()


def says_free(options, *, routes, **rest):
    return _network(float(len(routes)))


def says_scan(options, **rest):
    return _network(1.0)


def wrong_unit(options, subject):
    return Measurement.of("wrong-unit", 1.0, "metre", fingerprint={"sha": pixels_digest(subject.compared()[1])})


def by_chance(options, subject):
    return Measurement.of("by-chance", np.random.rand(), "1", fingerprint={"sha": pixels_digest(subject.compared()[1])})


def bare(options, subject):
    return Measurement.of("bare", float(len(subject.compared()[0])), "1")


def not_a_number(options, subject):
    return Measurement("not-a-number", float("nan"), "1")


def describe(options):
    return DataFacts(1, 8, 8, "the same")


def _pixels(side, seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 1, side, side)).astype(np.uint8)


def overlapping(options):
    return Splits(ArrayImages(_pixels(8, 0)), ArrayImages(_pixels(8, 0)[:4]))


def other_size(options):
    return Splits(ArrayImages(_pixels(4, 0)), ArrayImages(_pixels(4, 1)))


def other_each_time(options):
    return Splits(ArrayImages(_pixels(8, None)), ArrayImages(_pixels(8, None)))


def silent(options):
    texts = [("a", "b"), ("c", " "), ("d",), ("e",)]
    return Splits(ArrayImages(_pixels(8, 0)[:4], None, texts), ArrayImages(_pixels(8, 1)[:4], None, texts))


@hookimpl
def register_mixers(register):
    for target in (leaky, wrong_cost, unseeded, forgotten, unused, narrow, hidden_state, raises):
        parameters = {"wrong_cost": 1025, "forgotten": 1056, "unused": 2048}.get(target.__name__, 1024)
        facts = MixerFacts(cost=lambda options, count=parameters, **rest: Cost(count, {"all": 1}))
        name = target.__name__.replace("_", "-")
        register(name, f"broken_plugins:{target.__name__}", options=Options, facts=facts)


def _merge(forward, *, weights=0):
    import torch
    from torch import nn

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            if weights:
                self.weight = nn.Parameter(torch.empty(weights))

        def init_parameters(self, draw):
            if weights:
                nn.init.ones_(self.weight)

        def forward(self, outputs):
            return forward(self, outputs)

    return Made()


def wrong_merge_cost(paths, channels):
    return _merge(lambda self, outputs: sum(outputs) * self.weight.repeat(channels // 64).mean(), weights=128)


def first_path_alone(paths, channels):
    return _merge(lambda self, outputs: outputs[0])


def narrow_merge(paths, channels):
    return _merge(lambda self, outputs: sum(outputs)[..., 1:])


def another_sum(paths, channels):
    return _merge(lambda self, outputs: sum(outputs))


@hookimpl
def register_merges(register):
    for target in (wrong_merge_cost, first_path_alone, narrow_merge):
        name = target.__name__.replace("_", "-")
        register(name, f"broken_plugins:{target.__name__}", doc="A broken merge.", facts=MergeFacts())
    register("sum", "broken_plugins:another_sum", doc="A merge with the name of another.", facts=MergeFacts())


@hookimpl
def register_backbones(register):
    def cost(options, **rest):
        return Cost(2, {"all": 1})

    smoke = {"width": 8, "depth": 1, "patch": 1}
    for name, order in (("says-free", "free"), ("says-scan", "scan")):
        facts = BackboneFacts(order=order, cost=cost, smoke=smoke)
        register(name, f"broken_plugins:{name.replace('-', '_')}", options=BackboneOptions, facts=facts)


@hookimpl
def register_metrics(register):
    facts = MetricFacts(unit="1", better="lower", needs="samples")
    for name in ("wrong-unit", "by-chance", "bare", "not-a-number"):
        register(name, f"broken_plugins:{name.replace('-', '_')}", options=Options, facts=facts)


@hookimpl
def register_datasets(register):
    for name in ("overlapping", "other-size", "other-each-time"):
        target = f"broken_plugins:{name.replace('-', '_')}"
        register(name, target, options=Options, facts=DatasetFacts(describe=describe))
    captioned = DatasetFacts(describe=lambda options: DataFacts(1, 8, 8, "the same", captions=True))
    register("silent", "broken_plugins:silent", options=Options, facts=captioned)
    placed = DatasetFacts(describe=describe, places=("folder",))
    register("misplaced", "broken_plugins:silent", options=Options, facts=placed)
