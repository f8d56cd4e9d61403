"""What a stage leaves behind: values with unit and spread, what they were measured against, and where they came from.

Format history: 1 (0.1.0) the first.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from zigma_bench.errors import ComparisonRefused, NewerFormat

FORMAT = 1

Status = Literal["ok", "refused", "nan"]


@dataclass(frozen=True)
class Measurement:
    """One figure. `value` is None exactly when `status` is not `ok`, and `reason` then says why.

    `fingerprint` holds everything that two figures must share to stand in one column.
    """

    name: str
    value: float | None
    unit: str
    fingerprint: dict[str, Any] = field(default_factory=dict)
    status: Status = "ok"
    reason: str | None = None
    raw: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, value: float, unit: str, **rest: Any) -> Measurement:
        """A measurement of a computed value; NaN and infinity become a status."""
        if math.isfinite(value):
            return cls(name, float(value), unit, **rest)
        return cls(name, None, unit, status="nan", reason=f"the value is {value}", **rest)

    @classmethod
    def refused(cls, name: str, unit: str, reason: str, fingerprint: dict[str, Any] | None = None) -> Measurement:
        return cls(name, None, unit, fingerprint or {}, "refused", reason)


@dataclass(frozen=True)
class Record:
    """The record of one stage of one cell.

    `files`: the sha256 of each file of the stage that a later stage reads. `inputs`: the sha256 of each file of an
    earlier stage that this one has read, by STAGE/FILE.
    """

    stage: str
    identity: str
    cell: dict[str, Any]
    status: Literal["done", "failed"]
    measurements: tuple[Measurement, ...] = ()
    reason: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        from dataclasses import asdict

        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Record:
        """A record read back; a newer format is refused, a broken file is an error that names it."""
        do = "move the file away; the stage is then done again"
        try:
            data = json.loads(text)
            version = data["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ComparisonRefused(f"this is no record of zigma-bench ({error!r})", where=where, do=do) from None
        if not isinstance(version, int) or version > FORMAT or version < 1:
            raise NewerFormat(
                "the record has a format that this version can't read",
                where=where,
                expected=f"format 1 to {FORMAT}",
                got=version,
                do="update zigma-bench, or move the record away",
            )
        try:
            data["measurements"] = tuple(_measurement(item) for item in data["measurements"])
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ComparisonRefused(
                f"the record lacks a field, has one too many or a wrong one ({error})", where=where, do=do
            ) from None


def _measurement(item: dict[str, Any]) -> Measurement:
    """A figure read back; ValueError for one that no stage leaves: not finite, or with a status that denies it."""
    found = Measurement(**{**item, "raw": tuple(item["raw"])})
    values = (*found.raw, *(() if found.value is None else (found.value,)))
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{found.name} holds {value!r}, which is no finite number")
    if (found.value is None) != (found.status != "ok"):
        raise ValueError(f"{found.name} has the value {found.value!r} and the status {found.status!r}")
    return found
