"""The record of a stage: values with unit and spread, what they were measured against, and where they come from.

Format history: 1 (0.1.0) the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zigma_bench.errors import ComparisonRefused, NewerFormat
from zigma_bench.escaping import shortened
from zigma_bench.system.json_files import check_finite, parse_json

FORMAT = 1
LARGEST = 1e100  # of a figure: its square is still a number
DO = "move the file away; the stage then runs again"  # about a broken record

Status = Literal["ok", "refused", "nan"]
Stage = Literal["train", "sample", "quality", "efficiency"]
STAGES: tuple[Stage, ...] = ("train", "sample", "quality", "efficiency")


@dataclass(frozen=True)
class Measurement:
    """One figure. `value` is None exactly when `status` is not `ok`; then `reason` gives the cause.

    `fingerprint` contains everything that two figures must share to be in the same column of a table.
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

    `files`: the sha256 of each file of this stage that a later stage reads. `inputs`: the sha256 of each file of an
    earlier stage that this stage has read, by STAGE/FILE.
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
        """Parse a record. NewerFormat for a later format, ComparisonRefused for a broken file."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ComparisonRefused(f"this is not a record of zigma-bench ({error!r})", where=where, do=DO) from None
        return cls.from_data(data, where=where)

    @classmethod
    def from_data(cls, data: Any, *, where: str) -> Record:
        """The record in a parsed JSON document, with the same errors as `from_json`."""
        try:
            version = data["format"]
        except (KeyError, TypeError) as error:
            raise ComparisonRefused(f"this is not a record of zigma-bench ({error!r})", where=where, do=DO) from None
        if type(version) is not int or version > FORMAT or version < 1:
            raise NewerFormat(
                "the record has a format that this version can't read",
                where=where,
                expected=f"format 1 to {FORMAT}",
                got=version,
                do="update zigma-bench, or move the record away",
            )
        try:
            measurements = tuple(_parse_measurement(item) for item in data["measurements"])
            record = cls(**{**data, "measurements": measurements})
            _check_fields(record, RECORD_FIELDS)
            check_finite((record.cell, record.provenance, record.details, [m.fingerprint for m in record.measurements]))
            return record
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            text = shortened(str(error))
            raise ComparisonRefused(
                f"a field of the record is missing, wrong or unknown ({text})", where=where, do=DO
            ) from None


MEASUREMENT_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "name": (str,), "unit": (str,), "fingerprint": (dict,), "status": ("ok", "refused", "nan"),
    "reason": (str, type(None)),
}  # fmt: skip
RECORD_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "stage": ("train", "sample", "quality", "efficiency"), "identity": (str,), "cell": (dict,),
    "status": ("done", "failed"), "reason": (str, type(None)), "provenance": (dict,), "details": (dict,),
    "files": (dict,), "inputs": (dict,),
}  # fmt: skip


def _check_fields(found: object, fields: Mapping[str, tuple[Any, ...]]) -> None:
    """ValueError for a field that is neither of an allowed type nor an allowed word."""
    for name, allowed in fields.items():
        value = getattr(found, name)
        if not any(isinstance(value, one) if isinstance(one, type) else value == one for one in allowed):
            words = " or ".join(one.__name__ if isinstance(one, type) else repr(one) for one in allowed)
            raise ValueError(f"{name} is {value!r} and should be {words}")


def _parse_measurement(item: dict[str, Any]) -> Measurement:
    """Parse a figure. ValueError if no stage can have written it: not finite, or in conflict with its status."""
    found = Measurement(**{**item, "raw": tuple(item["raw"])})
    _check_fields(found, MEASUREMENT_FIELDS)
    values = (*found.raw, *(() if found.value is None else (found.value,)))
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{found.name} is {value!r}, which is not a finite number")
        if abs(value) > LARGEST:
            raise ValueError(f"{found.name} is {value:.3g}, which is too large for a measurement")
    if (found.value is None) != (found.status != "ok"):
        raise ValueError(f"{found.name} has the value {found.value!r} and the status {found.status!r}")
    return found


def why_outdated(record: Record, records: Mapping[str, Record]) -> str | None:
    """Why a record is outdated: an earlier stage has run again since and written another file. None if it isn't."""
    for name, sha256 in record.inputs.items():
        source, _, file = name.partition("/")
        if source in records and records[source].files.get(file) != sha256:
            return f"{record.stage} used another {file} than the one that {source} has written since"
    return None


def without_outdated(records: Mapping[str, Record]) -> dict[str, Record]:
    """The records of a cell, in the order of its stages, without outdated ones (see `why_outdated`)."""
    found: dict[str, Record] = {}
    for stage in (stage for stage in STAGES if stage in records):
        record = records[stage]
        sources = {name.partition("/")[0] for name in record.inputs} & records.keys()
        if sources <= found.keys() and why_outdated(record, records) is None:
            found[stage] = record
    return found
