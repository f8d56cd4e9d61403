"""Check a transform: uint8 images of the same shape; each result depends only on its own image and is always the
same."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from zigma_bench.data.images import Pixels
from zigma_bench.plugins.registry import Spec
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

SIDE = 8  # of the images in a check; the `smoke` options must fit


def transform_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of a transform, on generated images of 8 x 8 pixels."""
    yes = imports_without_torch
    steps = [
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: yes(planning_module(spec, plugin)), essential=True),
    ]
    for values in option_sets(spec, {**spec.facts.smoke, **(options or {})}, ranges=False):
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        for channels in (1, 3):
            with_these = f" of {channels} channel(s)" + (f" with {words}" if words else "")
            run = functools.partial(_check_digest, spec, values, channels)
            steps.append(CheckStep(f"digest{with_these}", "a text, the same each time", run))
            run = functools.partial(_check_images, spec, values, channels)
            steps.append(
                CheckStep(
                    f"images{with_these}",
                    "uint8 of the same shape, each changed independently, the same each time",
                    run,
                )
            )
    return Report("transform", spec.name, spec.owner, run_checks(steps))


def _check_digest(spec: Spec, values: Mapping[str, Any], channels: int) -> str:
    options, shape = spec.make_options(values), {"channels": channels, "height": SIDE, "width": SIDE}
    if spec.facts.check is not None:
        spec.facts.check(options, **shape)
    first, second = spec.facts.digest(options, **shape), spec.facts.digest(options, **shape)
    if not isinstance(first, str) or first != second:
        raise CheckFailed(f"{first!r}, then {second!r}")
    return first[:12] or "none"


def _check_images(spec: Spec, values: Mapping[str, Any], channels: int) -> str:
    function, options = spec.load(), spec.make_options(values)
    pixels = np.random.RandomState(0).randint(0, 256, (5, channels, SIDE, SIDE)).astype(np.uint8)
    original = pixels.copy()
    made: Pixels = function(options, pixels)
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.shape != pixels.shape:
        raise CheckFailed(f"{getattr(made, 'dtype', type(made).__name__)} {getattr(made, 'shape', '')}")
    if not np.array_equal(pixels, original):
        raise CheckFailed("the input images were changed in place")
    alone = np.concatenate([function(options, original[i : i + 1].copy()) for i in range(len(original))])
    turned = function(options, original[::-1].copy())[::-1]
    if not (np.array_equal(made, alone) and np.array_equal(made, turned)):
        raise CheckFailed("the result for an image depends on the other images, or changes each time")
    return f"{made.dtype} {list(made.shape)}"
