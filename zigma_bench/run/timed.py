"""Read the timed calls in the efficiency records of a results folder: their seconds, peak memory and features."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from zigma_bench.errors import ComparisonRefused
from zigma_bench.escaping import visible
from zigma_bench.records.record import Record, Stage
from zigma_bench.records.store import RECORD, read_record, record_folders

CallName = Literal["train-step", "forward"]
CALLS: Mapping[str, CallName] = {"train-step": "train-step", "forward": "forward", "sample": "forward"}
FEATURES = ("call", "layers", "dense", "attention", "scan", "activations", "parameters", "longest path")


@dataclass(frozen=True)
class CallKind:
    """Calls that can be fitted together: the same device, precision and kind of launch, and networks that run the same
    operators (`network_of`)."""

    call: CallName
    card: str
    precision: str
    network: str
    recorded: bool
    compiled: bool


@dataclass(frozen=True)
class MeasuredCall:
    """One timed call: its features in the order of FEATURES, its seconds and its peak memory in bytes.

    `cell`: the identity for cross-validation, which leaves out one cell at a time. `backends`: the requested and the
    resolved backend.
    """

    kind: CallKind
    backends: frozenset[str]
    cell: str
    features: tuple[float, ...]
    seconds: float
    peak: float | None


def timed_calls(results: Path, card: str) -> list[MeasuredCall]:
    """All calls of this device in the efficiency records of a results folder, except unstable ones.

    A record that several runs share counts once. A record that can't be read is skipped and named in one line on
    standard error.
    """
    return collect_from_records(results, "efficiency", card, _calls)


Found = TypeVar("Found")


def collect_from_records(
    results: Path, stage: Stage, card: str, collect: Callable[[Record], Iterable[Found]]
) -> list[Found]:
    """What `collect` finds in every finished record of a stage on this device.

    A record that several runs share counts once. A record that can't be read is skipped and named in one line on
    standard error.
    """
    found = dict[tuple[str, str], list[Found]]()  # by the identity of the record and when it was measured
    for folder in _stage_folders(results, stage):
        try:
            record = _read_record(folder)
            if record.status == "done" and record.provenance.get("card") == card:
                found[record.identity, str(record.provenance.get("started"))] = list(collect(record))
        except ComparisonRefused as error:
            print(f"zigma-bench: left out of the estimates: {error}", file=sys.stderr)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            what = f"unknown format ({visible(repr(error))})"
            print(f"zigma-bench: left out of the estimates: {visible(str(folder / RECORD))}: {what}", file=sys.stderr)
    return [item for items in found.values() for item in items]


def features_of(cell: Mapping[str, Any], batch: int) -> tuple[float, ...]:
    """The features of one call on `batch` images, in the order of FEATURES. `cell`: the JSON of a cell."""
    flops, tokens, layers = cell["forward_flops"], int(cell["tokens"]), layers_of(cell)
    scan, attention = flops.get("scan", 0), flops.get("attention", 0)
    width = math.sqrt(cell["parameters"] / layers)  # up to a factor of the architecture
    longest = layers * tokens * max(1.0, float(cell["scanned_ratio"])) if scan else 0.0
    return (
        1.0, float(layers), float(batch * (sum(flops.values()) - scan - attention)), float(batch * attention),
        float(batch * scan), batch * tokens * layers * width, float(cell["parameters"]), longest,
    )  # fmt: skip


def layers_of(cell: Mapping[str, Any]) -> int:
    """The number of orders; without orders, the option `depth`, or else 1."""
    return len(cell["order_digests"]) or int(cell["backbone"]["options"].get("depth", 1))


def kind_of(cell: Mapping[str, Any], call: CallName, card: str, precision: str) -> CallKind:
    """The kind of a cell's calls on a device. `precision`: the cell's precision resolved for that device."""
    settings = cell["train"] if call == "train-step" else cell["sample"]
    return CallKind(
        call=call,
        card=card,
        precision=precision,
        network=network_of(cell),
        recorded=settings["graph"],
        compiled=settings["compile"],
    )


def network_of(cell: Mapping[str, Any]) -> str:
    """The operators of a network: its mixer; without one, `attention` if it has attention FLOPs, else its own name."""
    mixer = cell["backbone"]["options"].get("mixer")
    if mixer is not None:
        return str(mixer["name"] if isinstance(mixer, Mapping) else mixer)
    return "attention" if cell["forward_flops"].get("attention") else str(cell["backbone"]["name"])


def _stage_folders(results: Path, stage: Stage) -> Iterator[Path]:
    """The folders of all stages of a kind with a record. A run with damaged packed records is named and skipped."""
    for run in sorted(results.glob("*/*")):
        try:
            yield from record_folders(run, stage)
        except ComparisonRefused as error:
            print(f"zigma-bench: left out of the estimates: {error}", file=sys.stderr)


def _read_record(folder: Path) -> Record:
    found = read_record(folder)
    if found is None:
        raise ComparisonRefused("the record has been removed", where=str(folder / RECORD), do="plan again")
    return found


def _calls(record: Record) -> Iterator[MeasuredCall]:
    """The training steps and evaluations of a record. The time of a sampling is divided by its forward passes."""
    cell, origin = record.cell, record.provenance
    unstable = {m.name for m in record.measurements if m.status != "ok" or m.reason is not None}
    for number, measured in enumerate(record.details["rounds"]):
        for stage, call in CALLS.items():
            one = measured["stages"].get(stage)
            if one is None or "why_not" in one or _speed_name(stage) in unstable:
                continue
            passes = one["passes"] if stage == "sample" else 1
            seconds = sorted(one["timing"]["seconds"])
            yield MeasuredCall(
                kind=kind_of(cell, call, origin["card"], origin["precision"]),
                backends=frozenset((cell["backend"], origin["backend"])),
                cell=record.identity,
                features=features_of(cell, one["batch"]),
                seconds=seconds[len(seconds) // 2] / passes,
                peak=one["memory"].get("peak-memory") if number == 0 else None,
            )


def _speed_name(stage: str) -> str:
    return "train-images-per-second" if stage == "train-step" else f"{stage}-images-per-second"
