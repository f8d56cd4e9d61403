"""Hooks, registries, and the discovery of plugins."""

KINDS = (
    "scan", "backbone", "mixer", "merge", "metric", "extractor", "dataset", "transform", "report-format", "executor",
)  # fmt: skip
TEMPLATES = ("scan", "learned-scan", *KINDS[1:])  # of `plugins new`: a learned scan has its own
