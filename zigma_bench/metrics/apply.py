"""Measure one metric by its name."""

from __future__ import annotations

from typing import Any

from zigma_bench.errors import NotReady
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Measurement


def measure_metric(name: str, options: dict[str, Any], subject: Subject) -> Measurement:
    """Measure one metric on one subject. If its weights or the network are missing, the measurement is refused with the
    reason."""
    spec = catalogue().get("metric", name)
    chosen = spec.make_options(options)
    if missing := spec.facts.missing(chosen):
        return Measurement.refused(name, spec.facts.unit, "; ".join(f"{m.what}: {m.do}" for m in missing))
    if spec.facts.needs == "network" and subject.network is None:
        return Measurement.refused(name, spec.facts.unit, "there is no network to measure")
    try:
        measurement: Measurement = spec.load()(chosen, subject)
    except NotReady as error:  # an invalid weights file, or an extractor whose features changed
        return Measurement.refused(name, spec.facts.unit, str(error))
    return measurement
