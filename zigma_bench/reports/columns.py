"""Refuse tables that mix smoke runs with real runs, or values of one metric that were measured differently."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused
from zigma_bench.records.record import Measurement


def check_smoke(smoke: Iterable[bool], where: Path) -> None:
    """ComparisonRefused if smoke runs are mixed with real runs."""
    if len(set(smoke)) > 1:
        raise ComparisonRefused("smoke runs are mixed with real runs", where=str(where), do="run the suite again")


def check_columns(measurements: Iterable[Measurement], where: Path) -> None:
    """ComparisonRefused if two values of one name differ in unit or fingerprint; names the differing fields."""
    first: dict[str, dict[str, Any]] = {}
    for measurement in measurements:
        if measurement.value is None:
            continue
        facts = {"unit": measurement.unit, **measurement.fingerprint, **_reference_pixels(measurement.fingerprint)}
        other = first.setdefault(measurement.name, facts)
        unlike = sorted(key for key in {*other, *facts} if other.get(key) != facts.get(key))
        if unlike:
            raise ComparisonRefused(
                f"two values of {measurement.name} differ in {', '.join(unlike)}",
                where=str(where),
                expected=f"{unlike[0]} {other.get(unlike[0])!r} in every row",
                got=facts.get(unlike[0]),
                do="run the suite again, so that all rows are measured in the same way",
            )


def _reference_pixels(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The reference by the hash of its pixels only. The text that names its data may change while the pixels don't."""
    reference = fingerprint.get("reference")
    if not isinstance(reference, dict) or "sha256" not in reference:
        return {}
    return {"reference": {key: value for key, value in reference.items() if key != "data"}}
