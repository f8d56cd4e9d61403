"""Check an extractor: the features of an image depend only on the image, and are always the same."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import NotReady
from zigma_bench.metrics.extractors.open_extractor import open_extractor
from zigma_bench.metrics.features import Features, extract_features
from zigma_bench.plugins.registry import Spec
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

IMAGES, SIDE = 5, 16
TOLERANCE = 1e-3  # of the largest feature; kernels for other batch sizes differ by less in float32


def extractor_report(
    spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None
) -> Report:
    """All checks of an extractor, on generated images of 16 x 16 pixels."""
    sets = option_sets(spec, {**spec.facts.smoke, **(options or {})}, ranges=False)
    for item in spec.facts.missing(spec.make_options(sets[0])):
        raise NotReady(f"{spec.name} can't be checked here: {item.what}", do=item.do)
    steps = [
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep(
            "imports without torch", "yes", lambda: imports_without_torch(planning_module(spec, plugin)), essential=True
        ),
        CheckStep("fingerprint", "a text, the same each time", lambda: _check_fingerprint(spec, sets[0])),
    ]
    for values in sets:
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        expected = f"finite [{IMAGES}, {spec.facts.dimensions}], the same each time"
        run = functools.partial(_check_features, spec, values)
        steps.append(CheckStep(f"features{' with ' + words if words else ''}", expected, run, essential=True))
    steps += [
        CheckStep("images apart", "the same features for an image on its own", lambda: _check_apart(spec, sets[0])),
        CheckStep("one channel", "the same features as for three equal channels", lambda: _check_grey(spec, sets[0])),
        CheckStep("different images", "different features", lambda: _check_different(spec, sets[0])),
    ]
    return Report("extractor", spec.name, spec.owner, run_checks(steps))


def _images(channels: int = 3) -> ArrayImages:
    """Coloured noise, with a different background colour for each image."""
    draw = np.random.default_rng(0)
    ground = draw.integers(0, 200, (IMAGES, channels, 1, 1))
    return ArrayImages((ground + draw.integers(0, 56, (IMAGES, channels, SIDE, SIDE))).astype(np.uint8))


def _features(spec: Spec, values: Mapping[str, Any], images: ArrayImages) -> Features:
    extractor = open_extractor(spec, spec.make_options(values))
    found = extract_features(images, extractor, device="cpu", cache=None)
    if not np.isfinite(found).all():
        raise CheckFailed("features that are not finite")
    return found


def _check_fingerprint(spec: Spec, values: Mapping[str, Any]) -> str:
    found = [spec.facts.fingerprint(spec.make_options(values)) for _ in range(2)]
    if found[0] != found[1]:
        raise CheckFailed(f"{found[0]!r}, then {found[1]!r}")
    return repr(found[0])


def _check_features(spec: Spec, values: Mapping[str, Any]) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = _features(spec, values, _images())
        torch.manual_seed(2)
        second = _features(spec, values, _images())
    if not np.array_equal(first, second):
        raise CheckFailed("different features of the same images; don't draw weights, or use a separate generator")
    return str(list(first.shape))


def _check_apart(spec: Spec, values: Mapping[str, Any]) -> str:
    images = _images()
    together, alone = _features(spec, values, images), _features(spec, values, ArrayImages(images.take([1])))
    off = float(np.abs(together[1:2] - alone).max() / max(float(np.abs(together).max()), 1e-12))
    if not off <= TOLERANCE:
        raise CheckFailed(f"features of an image on its own differ by {off:.2g} from those in a batch")
    return f"a difference of {off:.1g}"


def _check_grey(spec: Spec, values: Mapping[str, Any]) -> str:
    grey = _images(channels=1)
    coloured = ArrayImages(np.repeat(grey.take(range(IMAGES)), 3, axis=1))
    if not np.array_equal(_features(spec, values, grey), _features(spec, values, coloured)):
        raise CheckFailed("different features")
    return "the same"


def _check_different(spec: Spec, values: Mapping[str, Any]) -> str:
    found = _features(spec, values, _images())
    if len(np.unique(found, axis=0)) < IMAGES:
        raise CheckFailed("the same features for different images")
    return f"{IMAGES} vectors"
