"""A transform's contract: uint8 images of the same shape, each changed alone and always alike."""

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

SIDE = 8  # of a toy, as the facts promise


def transform_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of a transform, on made-up images of 8 x 8 pixels."""
    yes = imports_without_torch
    steps = [
        CheckStep("options", "a type for each, and defaults of it", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: yes(planning_module(spec, plugin)), essential=True),
    ]
    for values in option_sets(spec, {**spec.facts.smoke, **(options or {})}, ranges=False):
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        for channels in (1, 3):
            with_these = f" of {channels} channel(s)" + (f" with {words}" if words else "")
            look = functools.partial(_digest, spec, values, channels)
            steps.append(CheckStep(f"digest{with_these}", "text, the same when asked again", look))
            look = functools.partial(_images, spec, values, channels)
            steps.append(CheckStep(f"images{with_these}", "new ones of that shape, each changed alone and alike", look))
    return Report("transform", spec.name, spec.owner, run_checks(steps))


def _digest(spec: Spec, values: Mapping[str, Any], channels: int) -> str:
    options, shape = spec.make_options(values), {"channels": channels, "height": SIDE, "width": SIDE}
    if spec.facts.check is not None:
        spec.facts.check(options, **shape)
    first, second = spec.facts.digest(options, **shape), spec.facts.digest(options, **shape)
    if not isinstance(first, str) or first != second:
        raise CheckFailed(f"{first!r}, then {second!r}")
    return first[:12] or "none"


def _images(spec: Spec, values: Mapping[str, Any], channels: int) -> str:
    function, options = spec.load(), spec.make_options(values)
    given = np.random.RandomState(0).randint(0, 256, (5, channels, SIDE, SIDE)).astype(np.uint8)
    kept = given.copy()
    made: Pixels = function(options, given)
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.shape != given.shape:
        raise CheckFailed(f"{getattr(made, 'dtype', type(made).__name__)} {getattr(made, 'shape', '')}")
    if not np.array_equal(given, kept):
        raise CheckFailed("the images that were given are changed")
    alone = np.concatenate([function(options, kept[i : i + 1].copy()) for i in range(len(kept))])
    turned = function(options, kept[::-1].copy())[::-1]
    if not (np.array_equal(made, alone) and np.array_equal(made, turned)):
        raise CheckFailed("an image differs with what stands beside it, or when it is made again")
    return f"{made.dtype} {list(made.shape)}"
