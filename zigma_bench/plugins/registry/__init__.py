"""Names and what stands behind them: what plugins register, and how it is listed, explained and checked."""

from zigma_bench.plugins.registry.costs import Condition, Cost, Missing, added, sum_by_name
from zigma_bench.plugins.registry.facts import (
    BackboneFacts,
    DataFacts,
    DatasetFacts,
    LearnedScan,
    MergeFacts,
    MetricFacts,
    MixerFacts,
    TransformFacts,
)
from zigma_bench.plugins.registry.guard import guarded
from zigma_bench.plugins.registry.specs import (
    RESERVED,
    Option,
    Registry,
    Spec,
    load_target,
    merge_spec,
    scan_spec,
    target_spec,
)

__all__ = [
    "RESERVED",
    "BackboneFacts",
    "Condition",
    "Cost",
    "DataFacts",
    "DatasetFacts",
    "LearnedScan",
    "MergeFacts",
    "MetricFacts",
    "Missing",
    "MixerFacts",
    "Option",
    "Registry",
    "Spec",
    "TransformFacts",
    "added",
    "guarded",
    "load_target",
    "merge_spec",
    "scan_spec",
    "sum_by_name",
    "target_spec",
]
