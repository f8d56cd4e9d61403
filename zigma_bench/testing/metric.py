"""Check a metric: a finite value in the declared unit, always the same, or a reason."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import NotReady, ZigmaBenchError
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.registry import Spec
from zigma_bench.records.record import Measurement
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

SIDE = 16
LEAST = 12  # images; more if the metric needs more


def metric_report(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a metric, on generated images and a trivial network."""
    values = option_sets(spec, options)[0]
    for item in spec.facts.missing(spec.make_options(values)):
        raise NotReady(f"{spec.name} can't be checked here: {item.what}", do=item.do)
    subject = _subject(spec, values)
    steps = [
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep(
            "imports without torch", "yes", lambda: imports_without_torch(planning_module(spec, plugin)), essential=True
        ),
        CheckStep(
            "fingerprint in the plan", "a text, the same each time", lambda: _check_plan_fingerprint(spec, values)
        ),
        CheckStep(
            "value", f"a finite Measurement in {spec.facts.unit!r}", lambda: _check_value(spec, values, subject), True
        ),
        CheckStep("repetition", "the same value and fingerprint", lambda: _check_repetition(spec, values, subject)),
        CheckStep(
            "one channel",
            "a finite Measurement",
            lambda: _check_value(spec, values, _subject(spec, values, channels=1)),
        ),
        CheckStep(
            "fingerprint",
            "JSON, different for a different reference",
            lambda: _check_fingerprint(spec, values, subject),
        ),
        CheckStep(
            "nothing to measure",
            "an error of zigma_bench.errors, or status refused",
            lambda: _check_empty_subject(spec, values),
        ),
        CheckStep(
            "odd input", "status ok, nan or refused, without a NaN value", lambda: _check_odd_input(spec, values)
        ),
    ]
    for other in option_sets(spec, options)[1:]:
        words = ", ".join(f"{key} {value}" for key, value in other.items())
        run = functools.partial(_check_value, spec, other, _subject(spec, other))
        steps.append(CheckStep(f"value with {words}", "a finite Measurement", run))
    return Report("metric", spec.name, spec.owner, run_checks(steps))


def _subject(spec: Spec, values: Mapping[str, Any], *, channels: int = 3, seed: int = 0) -> Subject:
    count = max(LEAST, spec.facts.minimum_images(spec.make_options(values)))
    return Subject(
        samples=_images(count, channels, 10 + seed),
        reference=_images(count + 3, channels, 20 + seed),
        reference_facts={"data": "made up", "split": "train"},
        validation=_images(count, channels, 30 + seed),
        network=lambda x, t: 0.5 * x,
    )


def _images(count: int, channels: int, seed: int) -> ArrayImages:
    """Coloured noise, with a different background colour for each image."""
    draw = np.random.default_rng(seed)
    ground = draw.integers(0, 200, (count, channels, 1, 1))
    return ArrayImages((ground + draw.integers(0, 56, (count, channels, SIDE, SIDE))).astype(np.uint8))


def _measure(spec: Spec, values: Mapping[str, Any], subject: Subject) -> Measurement:
    found = spec.load()(spec.make_options(values), subject)
    if not isinstance(found, Measurement):
        raise CheckFailed(f"a {type(found).__name__}")
    if found.unit != spec.facts.unit:
        raise CheckFailed(f"a value in the unit {found.unit!r}")
    if (found.value is None) == (found.status == "ok") or (found.status != "ok" and not found.reason):
        raise CheckFailed(f"status {found.status!r} with the value {found.value} and the reason {found.reason!r}")
    if found.value is not None and not np.isfinite(found.value):
        raise CheckFailed(f"status 'ok' with the value {found.value}; Measurement.of turns it into a status")
    json.dumps([found.value, found.raw, found.fingerprint], allow_nan=False)
    return found


def _check_value(spec: Spec, values: Mapping[str, Any], subject: Subject) -> str:
    found = _measure(spec, values, subject)
    if found.status != "ok":
        raise CheckFailed(f"{found.status}: {found.reason}")
    return f"{found.name} {found.value:.5g} {found.unit!r}"


def _check_repetition(spec: Spec, values: Mapping[str, Any], subject: Subject) -> str:
    torch.manual_seed(1)
    first = _measure(spec, values, subject)
    torch.manual_seed(2)
    second = _measure(spec, values, subject)
    if first != second:
        raise CheckFailed(f"{first.value} {first.fingerprint}, then {second.value} {second.fingerprint}")
    return f"{first.value}, twice"


def _check_plan_fingerprint(spec: Spec, values: Mapping[str, Any]) -> str:
    found = [spec.facts.fingerprint(spec.make_options(values)) for _ in range(2)]
    if not isinstance(found[0], str) or found[0] != found[1]:
        raise CheckFailed(f"{found[0]!r}, then {found[1]!r}")
    return repr(found[0])


def _check_fingerprint(spec: Spec, values: Mapping[str, Any], subject: Subject) -> str:
    """Values for different references must not be in one column, so their fingerprints must differ."""
    if spec.facts.needs == "samples" and not spec.facts.compares:
        return "the metric uses no reference"
    first = _measure(spec, values, subject)
    other = _measure(spec, values, _subject(spec, values, seed=1))
    if first.fingerprint == other.fingerprint:
        raise CheckFailed(
            f"the same for a different reference: {first.fingerprint}; add zigma_bench.data.images.pixels_digest of it"
        )
    return ", ".join(sorted(first.fingerprint))


def _check_empty_subject(spec: Spec, values: Mapping[str, Any]) -> str:
    try:
        found = _measure(spec, values, Subject())
    except ZigmaBenchError as error:
        return str(error)
    if found.status == "ok":
        raise CheckFailed(f"the value {found.value}")
    return f"{found.status}: {found.reason}"


def _check_odd_input(spec: Spec, values: Mapping[str, Any]) -> str:
    """Measure one black image, and a network that returns NaN."""
    black = ArrayImages(np.zeros((1, 3, SIDE, SIDE), dtype=np.uint8))
    full = _subject(spec, values)
    odd = Subject(black, black, {}, full.validation, lambda x, t: x * float("nan"))
    try:
        found = _measure(spec, values, odd)
    except ZigmaBenchError as error:
        return str(error)
    if spec.facts.needs == "network" and found.status == "ok":
        raise CheckFailed(f"the value {found.value} for a network that returns NaN")
    return found.status if found.reason is None else f"{found.status}: {found.reason}"
