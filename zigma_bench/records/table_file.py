"""The table file of a run: the options of the run, and the records that the rows of its table come from.

    RESULTS/<suite>/<run>/table.json

A run writes it before its first cell, and reports read it. The reader checks that folder names stay inside the run, and
that numbers and texts are bounded.

Format history: 1 (0.1.0) the first.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.errors import ComparisonRefused, NewerFormat, UsageError
from zigma_bench.escaping import shortened
from zigma_bench.records.record import Stage
from zigma_bench.records.store import write_json
from zigma_bench.system.json_files import check_finite, parse_json, read_text

TABLE = "table.json"
FORMAT = 1

Whole = Annotated[int, Interval(ge=0, le=10**30)]
Amount = Annotated[float, Interval(ge=0, le=1e30)]
Folder = Annotated[str, pydantic.StringConstraints(pattern=r"^[^/\\\\\x00.][^/\\\\\x00]{0,254}$")]
Identity = Annotated[str, pydantic.StringConstraints(pattern=r"^[^/\\\\\x00]{1,200}$")]
Sha256 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Len(max_length=10_000)]
RunName = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
Time = Annotated[str, pydantic.StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]


class TablePart(pydantic.BaseModel):
    """A part of the table file. Unknown keys, which other versions may have written, are ignored."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class TimedSetting(TablePart):
    """The setting in which a cell of an efficiency suite is timed."""

    backend: Text
    tokens: Whole
    batch: Whole


class MatchedSize(TablePart):
    """How size matching changed a cell's network; the fields are those of `plan.cells.Match`."""

    by: Literal["parameters", "flops"]
    reference: Text
    target: Annotated[int, Interval(ge=1, le=10**30)]
    achieved: Whole
    given: dict[Text, Whole]
    chosen: dict[Text, Whole]


class TableCell(TablePart):
    """A cell: the name of its folder, the identity of each of its stages, and the values that its row shows."""

    folder: Folder
    stages: dict[Stage, Identity]
    role: Literal["floor", "reconstruction", "cell", "ceiling"]
    seed: Whole
    backbone: Text | None
    scan: Text | None
    smoke: bool
    data: Text | None
    parameters: Whole
    forward_flops: Whole
    flops_by: Literal["formula", "counter"]
    scanned_ratio: Amount
    tokens: Whole
    size_match: MatchedSize | None
    setting: TimedSetting | None
    varied: dict[Text, Text] = pydantic.Field(default_factory=dict)
    selected: Text | None = None
    tunes: bool = False


class SelectedValue(TablePart):
    """The choice of a row's value on the tuning part: the words of each candidate, its mean loss, and which was
    chosen."""

    row: Text
    losses: dict[Text, Annotated[float, Interval(ge=-1e30, le=1e30)] | None]
    chosen: Text | None
    at_edge: bool


class BaselineRow(TablePart):
    """The backbone and the scan of the row that all other rows are compared with."""

    backbone: Text | None
    scan: Text | None


class TableFile(TablePart):
    """The run and its cells.

    `content`: the suite with the settings of the run, without values that equal the default. Commands with equal
    content belong to the same run. `options`: the settings or edits that distinguish the run from the plain suite, as
    KEY=VALUE. `selected`: the values that were chosen for rows on the tuning part. `waiting`: for each row whose value
    is not chosen yet, the number of cells that wait for it. `suite_sha256`: the hash of the suite's file. `updated`:
    when a command last started work on a cell of the run; the run with the largest value is the latest one.
    `statistics`: the tests that the suite declares (`suite.Statistics`), which are no part of the content because they
    change no figure.
    """

    format: Literal[1]
    suite: Text
    run: RunName
    created: Time
    updated: Time
    options: Annotated[list[Text], Len(max_length=1_000)]
    suite_sha256: Sha256
    content: dict[Text, Any]
    question: Text
    smoke: bool
    budget: dict[Text, Whole | Amount]
    reference: Text
    sample_count: Whole
    residual: list[Text]
    baseline: BaselineRow
    statistics: dict[Text, Any] | None = None
    cells: Annotated[list[TableCell], Len(max_length=100_000)]
    selected: Annotated[list[SelectedValue], Len(max_length=100_000)] = pydantic.Field(default_factory=list)
    waiting: dict[Text, Whole] = pydantic.Field(default_factory=dict)


def time_now() -> str:
    """The time now in UTC, to the microsecond; such texts sort by time."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_table_file(folder: Path, table: TableFile) -> None:
    """Write the table file of the run in `folder`. Keys keep their order, such as that of declared contrasts."""
    write_json(folder / TABLE, table.model_dump(mode="json"), sort_keys=False)


def read_table_file(folder: Path) -> TableFile | None:
    """The table file of the run in `folder`, or None if it is missing.

    NewerFormat for a file of a later version. ComparisonRefused, naming the wrong key, for any other invalid content.
    """
    path = folder / TABLE
    try:
        data = _read_json(path)
    except FileNotFoundError:
        return None
    try:
        return TableFile.model_validate(data)
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        key = shortened(".".join(map(str, fault["loc"])))
        got = None if fault["type"] == "missing" else fault["input"]
        what = f"this is not a table file of zigma-bench ({fault['msg']})"
        raise ComparisonRefused(what, where=f"{path}, key {key}", got=got, do="move the file away") from None


def require_table_file(folder: Path) -> TableFile:
    """The table file of the run in `folder`; UsageError if it is missing."""
    table = read_table_file(folder)
    if table is None:
        raise UsageError("this folder doesn't contain the results of a run", where=str(folder), do="run a suite first")
    return table


def _read_json(path: Path) -> dict[str, Any]:
    """The mapping in a table file of a known format."""
    try:
        data = parse_json(read_text(path))
        check_finite(data)
        version = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        what = f"this is not a table file of zigma-bench ({error!r})"
        raise ComparisonRefused(what, where=str(path), do="move the file away") from None
    if version != FORMAT:
        raise NewerFormat(
            "the table file has a format that this version can't read",
            where=str(path),
            expected=f"format {FORMAT}",
            got=version,
            do="update zigma-bench, or move the file away",
        )
    return dict(data)
