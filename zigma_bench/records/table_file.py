"""The file that a suite's tables stand on, checked as it is read: names that lead nowhere else, and bounded numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.escaping import shortened
from zigma_bench.records.record import Stage
from zigma_bench.records.store import TABLE, read_table_file

Whole = Annotated[int, Interval(ge=0, le=10**30)]
Amount = Annotated[float, Interval(ge=0, le=1e30)]
Folder = Annotated[str, pydantic.StringConstraints(pattern=r"^[^/\\\\\x00.][^/\\\\\x00]{0,254}$")]
Identity = Annotated[str, pydantic.StringConstraints(pattern=r"^[^/\\\\\x00]{1,200}$")]
Text = Annotated[str, Len(max_length=10_000)]


class _Part(pydantic.BaseModel):
    """A part of the file; keys that are not known here are those of other versions."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class _Setting(_Part):
    backend: Text
    tokens: Whole
    batch: Whole


class _SizeMatch(_Part):
    by: Literal["parameters", "flops"]
    reference: Text
    target: Annotated[int, Interval(ge=1, le=10**30)]
    achieved: Whole
    given: dict[Text, Whole]
    chosen: dict[Text, Whole]


class _Cell(_Part):
    folder: Folder
    stages: dict[Stage, Identity]
    role: Literal["floor", "reconstruction", "cell", "ceiling"]
    seed: Whole
    backbone: Text | None
    scan: Text | None
    smoke: bool
    parameters: Whole
    forward_flops: Whole
    flops_by: Literal["formula", "counter"] = "formula"
    scanned_ratio: Amount
    tokens: Whole
    data: Text | None = None
    size_match: _SizeMatch | None = None
    setting: _Setting | None = None


class _Baseline(_Part):
    backbone: Text | None
    scan: Text | None


class _Stored(_Part):
    suite: Text
    question: Text
    smoke: bool
    budget: dict[Text, Amount]
    reference: Text
    sample_count: Whole
    residual: list[Text]
    cells: Annotated[list[_Cell], Len(max_length=100_000)]
    baseline: _Baseline | None = None


def read_stored(folder: Path) -> dict[str, Any]:
    """What the suite's tables stand on; ComparisonRefused for a file of another shape, with the key that is wrong."""
    path = folder / TABLE
    stored = read_table_file(path)
    if stored is None:
        raise UsageError("no suite has left results here", where=str(folder), do="run a suite first")
    try:
        _Stored.model_validate(stored)
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        key = shortened(".".join(map(str, fault["loc"])))
        got = None if fault["type"] == "missing" else fault["input"]
        what = f"this is no table of zigma-bench ({fault['msg']})"
        raise ComparisonRefused(what, where=f"{path}, key {key}", got=got, do="move the file away") from None
    return stored
