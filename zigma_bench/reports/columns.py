"""What must not stand in one table: figures of one name that were measured unlike, and smoke beside real runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused
from zigma_bench.records.record import Measurement


def check_smoke(smoke: Iterable[bool], where: Path) -> None:
    """Refuse smoke runs beside real ones."""
    if len(set(smoke)) > 1:
        raise ComparisonRefused("smoke runs stand beside real ones", where=str(where), do="run the suite again")


def check_columns(measurements: Iterable[Measurement], where: Path) -> None:
    """Refuse two figures of one name that differ in unit or fingerprint, with the fields in which they do."""
    first: dict[str, dict[str, Any]] = {}
    for measurement in measurements:
        if measurement.value is None:
            continue
        facts = {"unit": measurement.unit, **measurement.fingerprint, **_pixels(measurement.fingerprint)}
        other = first.setdefault(measurement.name, facts)
        unlike = sorted(key for key in {*other, *facts} if other.get(key) != facts.get(key))
        if unlike:
            raise ComparisonRefused(
                f"two figures called {measurement.name} differ in {', '.join(unlike)}",
                where=str(where),
                expected=f"{unlike[0]} {other.get(unlike[0])!r} in every row",
                got=facts.get(unlike[0]),
                do="run the suite again, so that all rows are measured alike",
            )


def _pixels(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The reference by the hash of its pixels; the words for its data gain options over time, and change no pixel."""
    reference = fingerprint.get("reference")
    if not isinstance(reference, dict) or "sha256" not in reference:
        return {}
    return {"reference": {key: value for key, value in reference.items() if key != "data"}}
