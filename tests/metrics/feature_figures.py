"""Metrics on features, by the names of the metric and the extractor, as a suite uses them."""

from __future__ import annotations

import functools
from typing import Any

from zigma_bench.metrics.clips import measure_frames
from zigma_bench.metrics.measure import measure_features
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Measurement


def measured(kind: str, extractor: str, options: Any, subject: Subject) -> Measurement:
    return measure_features(kind, catalogue().get("extractor", extractor), options, subject)


def of_frames(kind: str, extractor: str, options: Any, subject: Subject) -> Measurement:
    return measure_frames(kind, catalogue().get("extractor", extractor), options, subject)


fid = functools.partial(measured, "fd", "inception")
fd_efflite0 = functools.partial(measured, "fd", "efflite0")
kid_efflite0 = functools.partial(measured, "kid", "efflite0")
