"""The settings of one backbone and scan: in an efficiency suite, combinations of backend, tokens and batch.

Any other suite has one setting: its data, its backend and its recipe.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from zigma_bench.plugins.registry import DataFacts, Spec
from zigma_bench.suite import Efficiency, Suite, Train

NO_DATA = DataFacts(1, 1, 1, "")  # for an efficiency suite, where each setting has its own shape


@dataclass(frozen=True)
class Setting:
    """The image shape, the backend, the recipe with its batch, and what is timed."""

    facts: DataFacts
    backend: str
    train: Train
    efficiency: Efficiency | None


def settings_of(suite: Suite, facts: DataFacts, spec: Spec, options: Any) -> list[Setting]:
    """The settings of one backbone: backends x lengths x batches in an efficiency suite, else one with `facts`.

    An order-free backbone uses no backend, so it has a single setting per length and batch.
    """
    timed = suite.efficiency
    if timed is None or timed.tokens is None:
        return [Setting(facts, suite.backend, suite.train, timed)]
    backends = (timed.backends or (suite.backend,))[: 1 if spec.facts.order == "free" else None]
    batches = timed.batch or (suite.train.batch,)
    wanted = spec.facts.condition(options)
    labels = () if wanted is None else (wanted,)  # the content of a label or text doesn't change the time
    found = []
    for backend, tokens, batch in itertools.product(backends, timed.tokens, batches):
        side = options.patch * math.isqrt(tokens)
        stages = tuple(stage for stage in timed.stages if stage != "latency" or batch == batches[0])
        efficiency = timed.model_copy(update={"sample_batch": batch, "stages": stages})
        train = suite.train.model_copy(update={"batch": batch})
        if stages:
            shape = DataFacts(timed.channels, side, side, "", conditions=labels)
            found.append(Setting(shape, backend, train, efficiency))
    return found
