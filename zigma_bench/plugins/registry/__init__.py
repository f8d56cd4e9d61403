"""Registered names with their specs: what plugins register, and how it is listed, explained and checked."""

from zigma_bench.plugins.registry.costs import Condition, Cost, FlopsBy, Missing, add_costs, sum_by_name
from zigma_bench.plugins.registry.facts import (
    BackboneFacts,
    DataFacts,
    DatasetFacts,
    ExecutorFacts,
    ExtractorFacts,
    LearnedScan,
    MergeFacts,
    MetricFacts,
    MixerFacts,
    ReportFormatFacts,
    TransformFacts,
)
from zigma_bench.plugins.registry.guard import guard_spec
from zigma_bench.plugins.registry.modules import module_spec, with_counted_cost
from zigma_bench.plugins.registry.specs import (
    RESERVED,
    Option,
    Registry,
    Spec,
    format_spec,
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
    "ExecutorFacts",
    "ExtractorFacts",
    "FlopsBy",
    "LearnedScan",
    "MergeFacts",
    "MetricFacts",
    "Missing",
    "MixerFacts",
    "Option",
    "Registry",
    "ReportFormatFacts",
    "Spec",
    "TransformFacts",
    "add_costs",
    "format_spec",
    "guard_spec",
    "load_target",
    "merge_spec",
    "module_spec",
    "scan_spec",
    "sum_by_name",
    "target_spec",
    "with_counted_cost",
]
