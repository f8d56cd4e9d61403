"""For authors of plugins: check that registered objects follow the contract of their kind.

    import my_columns
    from zigma_bench.testing import check_plugin, check_scan

    def test_the_contract():
        check_plugin(my_columns)               # everything that the module registers, installed or not

    def test_my_scan():
        report = check_scan(my_columns.columns)
        assert not report.refused              # or: the scan only refuses the grids that it should refuse

`zigma-bench plugins check NAME` runs the same checks and prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from zigma_bench.plugins.registry import Spec, load_target
from zigma_bench.testing.lookup import NeedsOptions, as_registered, find_spec, specs_of_module
from zigma_bench.testing.report import Check, Report
from zigma_bench.testing.scan import GRIDS, ScanReport, check_scan, scan_report


def check_plugin(plugin: ModuleType) -> tuple[Report, ...]:
    """Check everything that a plugin's module registers, installed or not. AssertionError with all failed checks."""
    specs = [spec for spec in specs_of_module(plugin) if spec.comes_with is None]
    if not specs:
        raise AssertionError(f"{plugin.__name__}: expected at least one registered object, got none")
    with as_registered(specs):
        return tuple(report_of(spec, plugin=plugin).require() for spec in specs)


def check_backbone(backbone: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check a registered backbone, or the one of this name that the module `plugin` registers, with its `smoke`
    options.

    `options` override the `smoke` options. AssertionError with all failed checks.
    """
    return _check("backbone", backbone, plugin, options)


def check_mixer(mixer: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check a mixer in a block of width 32 on a grid of 4 x 6, along every route that it accepts."""
    return _check("mixer", mixer, plugin, options)


def check_merge(merge: str | Spec, *, plugin: ModuleType | None = None) -> Report:
    """Check a merge of two paths, both alone and in the mixer mamba of width 32 on a grid of 4 x 6."""
    return _check("merge", merge, plugin, {})


def check_metric(metric: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check a metric on generated images and a trivial network. NotReady if its files are missing."""
    return _check("metric", metric, plugin, options)


def check_extractor(extractor: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check an extractor on generated images. NotReady if its weights are missing."""
    return _check("extractor", extractor, plugin, options)


def check_report_format(report_format: str | Spec, *, plugin: ModuleType | None = None) -> Report:
    """Check a report format on generated tables."""
    return _check("report-format", report_format, plugin, {})


def check_executor(executor: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check an executor with a small suite on the CPU, which takes some seconds."""
    return _check("executor", executor, plugin, options)


def check_dataset(dataset: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check a dataset's description, images and splits; NotReady if its files are missing."""
    return _check("dataset", dataset, plugin, options)


def check_transform(transform: str | Spec, *, plugin: ModuleType | None = None, **options: Any) -> Report:
    """Check a transform on generated images of 8 x 8 pixels. `options` override the `smoke` options of its facts."""
    return _check("transform", transform, plugin, options)


def _check(kind: str, wanted: str | Spec, plugin: ModuleType | None, options: Mapping[str, Any]) -> Report:
    spec = find_spec(kind, wanted, plugin)
    with as_registered([spec] if plugin is None else specs_of_module(plugin)):
        return report_of(spec, plugin=plugin, options=options).require()


def report_of(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a registered object, passed and failed. Imports torch if the kind needs it."""
    if spec.kind == "scan":
        return scan_report(spec, options=options)
    module, function = f"zigma_bench.testing.{spec.kind.replace('-', '_')}", f"{spec.kind.replace('-', '_')}_report"
    report: Report = load_target(f"{module}:{function}")(spec, plugin=plugin, options=options)
    return report


__all__ = [
    "GRIDS", "Check", "NeedsOptions", "Report", "ScanReport", "check_backbone", "check_dataset", "check_executor",
    "check_extractor", "check_merge", "check_metric", "check_mixer", "check_plugin", "check_report_format",
    "check_scan", "check_transform", "report_of",
]  # fmt: skip
