"""Run a cell again from its record alone, and compare the figures.

A record holds the resolved cell: nothing of the suite is needed. What the cell was made of must still be the same here:
the images, the scan orders, the weights of metrics and autoencoders, the plugins and their versions. That is checked
before anything runs.

The tolerance. On the same CPU with the same number of threads and the same torch, figures are equal to the bit, so no
difference is allowed (EXACT). Elsewhere sums are added in another order, and training amplifies the difference, at most
to that of another seed: in `results/orders-cifar`, the standard deviation over seeds is 0.1 to 0.7% of the mean for the
validation loss, and 0.2 to 2.2% for Frechet and kernel distances (OTHER_MACHINE). Timings differ by more (TIMED).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zigma_bench.errors import Busy, CellFailed, NotReady, UsageError
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Cell, cell_routes, fingerprint_after
from zigma_bench.plan.cells import Resolved, facts_digest
from zigma_bench.plan.latents import latent_space
from zigma_bench.plan.metrics import metric_fingerprint
from zigma_bench.plan.resolve import describe_source
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import DataFacts, Missing
from zigma_bench.pretrained.text_encoders import describe_encoder
from zigma_bench.records.record import Measurement, Record, Stage
from zigma_bench.records.runs import find_differences
from zigma_bench.records.store import RECORD, check_writable, clear_leftovers, has_writer, read_record, stage_folder
from zigma_bench.run.due import cell_folder, find_due
from zigma_bench.run.encode import encode_latents
from zigma_bench.run.executors.executor import RunPlace, Watcher
from zigma_bench.run.executors.local import LocalExecutor
from zigma_bench.run.executors.options import LocalOptions
from zigma_bench.run.why import facts_of
from zigma_bench.scans.grid import Grid
from zigma_bench.suite.base import NAME
from zigma_bench.system.device import Device

RUN = "reproduced"
EXACT, OTHER_MACHINE, TIMED = 0.0, 0.02, 0.1

Verdict = Literal["equal", "agrees", "differs"]


@dataclass(frozen=True)
class MeasurementPair:
    """A measurement in the record and in the new one. `difference` is relative to the record; `reason` says more."""

    name: str
    unit: str
    old: float | None
    new: float | None
    difference: float | None
    verdict: Verdict
    reason: str | None = None


@dataclass(frozen=True)
class Reproduction:
    """The comparison of a record with the one of the new run. `files`: whether each file of the stages has the same
    content. `machines`: what differs between the two machines, as KEY: old -> new."""

    label: str
    stage: str
    old: Path
    new: Path
    tolerance: float
    tolerance_from: str
    pairs: tuple[MeasurementPair, ...]
    files: Mapping[str, bool]
    machines: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether no measurement differs."""
        return all(pair.verdict != "differs" for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON document."""
        return {**asdict(self), "old": str(self.old), "new": str(self.new), "agrees": self.agrees}


@dataclass(frozen=True)
class ReproducibleRecord:
    """A record of a finished stage with figures, the cell in it, and its file."""

    file: Path
    record: Record
    cell: Cell
    stage: Stage


def read_reproducible(path: Path) -> ReproducibleRecord:
    """The record in a file or in the folder of a stage.

    UsageError if it has no figures, and NotReady if its cell isn't one of this version.
    """
    folder = path.parent if path.name == RECORD else path
    record = read_record(folder)
    if record is None:
        raise UsageError("there is no record here", where=str(path), expected=f"{RECORD}, or the folder of a stage")
    if record.status != "done":
        raise UsageError("the stage failed, so there is nothing to compare", where=str(path), do="run its suite again")
    if not record.measurements:
        do = "name the record of the cell's stage quality, which samples again too"
        raise UsageError("this record has no figures", where=str(path), got=f"stage {record.stage}", do=do)
    if isinstance(found := facts_of(record), str):
        raise NotReady(found, where=str(path), do="run the record's own version of zigma-bench and of its plugins")
    stage: Any = record.stage
    cell = Cell.model_validate_json(json.dumps(record.cell))
    if not re.fullmatch(NAME, cell.suite):  # it becomes the name of a folder
        raise NotReady("the cell has a suite name that isn't allowed", where=str(path), got=cell.suite)
    return ReproducibleRecord(folder / RECORD, record, cell, stage)


# What must be here


def check_reproducible(source: ReproducibleRecord, device: Device) -> None:
    """NotReady, with all problems, unless everything that the record was made of is here and the same."""
    problems = list(dict.fromkeys(_problems(source, device)))
    if problems:
        what = problems[0] if len(problems) == 1 else f"{len(problems)} things are missing or not the same as then"
        raise NotReady(what, where=str(source.file), problems=problems if len(problems) > 1 else ())


def _problems(source: ReproducibleRecord, device: Device) -> Iterator[str]:
    for check in CHECKS:
        try:
            yield from check(source.cell)
        except (NotReady, UsageError) as error:
            yield str(error)
    cell = source.cell
    try:
        resolve(cell.backend, device.type)
    except NotReady as error:
        yield str(error)
    launches = {"compile": cell.train.compile or cell.sample.compile, "graph": cell.train.graph or cell.sample.graph}
    if device.type != "cuda" and (names := [name for name, is_on in launches.items() if is_on]):
        yield f"the cell needs an NVIDIA GPU for {' and '.join(names)}, and the device is {device.name}"
    card = source.record.provenance.get("card")
    if source.stage == "efficiency" and card != device.model_name:
        yield f"speed and memory were measured on {card}, and the device is {device.model_name}"


def _owner_problems(cell: Cell) -> Iterator[str]:
    """The registered objects that come from another plugin, or another version of it, than those of the cell."""
    named: dict[str, Sequence[Resolved | None]] = {
        "backbone": [cell.backbone], "scan": [cell.scan], "dataset": [cell.data],
        "transform": [*cell.transforms], "metric": [*cell.quality],
    }  # fmt: skip
    for kind, items in named.items():
        for item in (one for one in items if one is not None):
            owner = catalogue().get(kind, item.name).owner
            if owner != item.owner:
                yield f"the {kind} {item.name!r} is of {owner} here, and was of {item.owner}"
    mixer = None if cell.backbone is None else cell.backbone.options.get("mixer")
    if isinstance(mixer, Mapping):
        owner = catalogue().get("mixer", mixer["name"]).owner
        if owner != mixer["owner"]:
            yield f"the mixer {mixer['name']!r} is of {owner} here, and was of {mixer['owner']}"


def _data_problems(cell: Cell) -> Iterator[str]:
    if cell.data is None:
        return
    facts = describe_source(catalogue(), cell.data, f"data {cell.data.name}")
    fingerprint = fingerprint_after(facts.fingerprint, cell.transforms)
    missing: tuple[Missing, ...] = facts.missing
    if cell.text is not None:
        encoder = describe_encoder(cell.text.encoder, cell.text.revision, cell.text.cache)
        missing += encoder.missing
        if encoder.fingerprint != cell.text.fingerprint:
            yield f"the text encoder {cell.text.encoder!r} has other files than it had"
    if cell.latents is not None and not missing:
        fingerprint, missing = _latent_fingerprint(cell, facts)
    yield from (f"{item.what}: {item.do}" for item in missing)
    if not missing and fingerprint != cell.data_fingerprint:
        yield (
            f"the data set {cell.data.name!r} has other images than it had: its fingerprint is {fingerprint[:8]}, and "
            f"was {cell.data_fingerprint[:8]}"
        )


def _latent_fingerprint(cell: Cell, facts: DataFacts) -> tuple[str, tuple[Missing, ...]]:
    """The fingerprint of the latents of images here, and what is missing to encode them."""
    assert cell.latents is not None, "the cell has latents"
    images = replace(facts, fingerprint=fingerprint_after(facts.fingerprint, cell.transforms))
    space, found = latent_space(
        cell.latents.given, images, mirrored=cell.latents.mirrored, smoke=cell.smoke, where="latents"
    )
    return facts_digest({"latents": space.facts}), found.missing


def _order_problems(cell: Cell) -> Iterator[str]:
    """Raises BrokenScan, which is NotReady, if the scan returns other orders than then."""
    if cell.backbone is not None and cell.scan is not None:
        options = catalogue().get("backbone", cell.backbone.name).make_options(cell.backbone.options)
        cell_routes(
            cell.scan, grid=Grid.of_image(cell.height, cell.width, options.patch, cell.frames), depth=options.depth,
            seed=cell.seed, catalogue=catalogue(), planned=cell.order_digests,
        )  # fmt: skip
    yield from ()


def _metric_problems(cell: Cell) -> Iterator[str]:
    for metric, planned in zip(cell.quality, cell.metric_fingerprints, strict=True):
        spec = catalogue().get("metric", metric.name)
        missing = () if cell.smoke else spec.facts.missing(spec.make_options(metric.options))
        yield from (f"{metric.name}: {item.what}: {item.do}" for item in missing)
        if not missing and metric_fingerprint(catalogue(), Resolved(**metric.model_dump())) != planned:
            yield f"the weights of the metric {metric.name} are not the same as then"


CHECKS: tuple[Callable[[Cell], Iterator[str]], ...] = (
    _owner_problems, _data_problems, _order_problems, _metric_problems,
)  # fmt: skip


# The run


def reproduce(
    source: ReproducibleRecord, out: Path, device: Device, watcher: Watcher, tolerance: float | None = None
) -> Reproduction:
    """Run the cell of a record again in a results folder of its own, and compare the figures.

    A repeated call resumes the run, or compares again. `tolerance`: the largest relative difference; by default it
    depends on the machines. Raises NotReady if the cell can't run, CellFailed if it fails, and Interrupted.
    """
    check_reproducible(source, device)
    check_writable(out)
    clear_leftovers(out)
    folder = run_alone(source.cell, source.stage, out, device, watcher)
    identity = source.cell.identity(source.stage, device_model=device.model_name)
    place = stage_folder(folder, source.stage, identity)
    new = read_record(place, identity)
    if new is None:
        raise CellFailed("the new record was removed during the run", where=str(place), do="run the command again")
    return compare_records(source, new, place / RECORD, tolerance)


def run_alone(cell: Cell, stage: Stage, out: Path, device: Device, watcher: Watcher) -> Path:
    """Bring a stage of one cell, and the stages before it, up to date in a results folder. Returns the cell's folder.

    Raises Busy if another process works on the cell there, CellFailed if it fails, and Interrupted.
    """
    earlier = () if stage == "efficiency" else cell.stages[: cell.stages.index(stage)]
    stages = (*(one for one in earlier if one != "efficiency"), stage)
    place = RunPlace(out, out / cell.suite / RUN, (device,), watcher, stages)
    folder = cell_folder(place.folder, cell)
    if cell.latents is not None and find_due(cell, folder, device, stages).stages:
        encode_latents([cell], out, device, watcher.event)
    if has_writer(folder):
        raise Busy("another process runs this cell", where=str(folder), do="wait until it has finished")
    (outcome,) = LocalExecutor(LocalOptions()).run_cells([cell], place)
    if outcome.status == "failed":
        raise CellFailed(f"the cell failed: {outcome.reason}", where=str(outcome.folder))
    return folder


# The comparison


def compare_records(
    source: ReproducibleRecord, new: Record, new_file: Path, tolerance: float | None = None
) -> Reproduction:
    """Compare every measurement of a record with that of a new one."""
    old = source.record
    allowed, reason = (tolerance, "--tolerance") if tolerance is not None else default_tolerance(source, new)
    by_name = {measurement.name: measurement for measurement in new.measurements}
    pairs = [_compare(measurement, by_name.pop(measurement.name, None), allowed) for measurement in old.measurements]
    more = by_name.values()
    pairs += [MeasurementPair(m.name, m.unit, None, m.value, None, "differs", "not in the record") for m in more]
    hashes = {**old.inputs, **{f"{old.stage}/{name}": sha256 for name, sha256 in old.files.items()}}
    new_hashes = {**new.inputs, **{f"{new.stage}/{name}": sha256 for name, sha256 in new.files.items()}}
    return Reproduction(
        label=source.cell.label,
        stage=source.stage,
        old=source.file,
        new=new_file,
        tolerance=allowed,
        tolerance_from=reason,
        pairs=tuple(pairs),
        files={name: new_hashes.get(name) == sha256 for name, sha256 in hashes.items() if source.stage != "efficiency"},
        machines=_machine_differences(old, new),
    )


def default_tolerance(source: ReproducibleRecord, new: Record) -> tuple[float, str]:
    """The largest relative difference that is allowed by default, and its reason (see the top of this file)."""
    if source.stage == "efficiency":
        return TIMED, "timings"
    if source.cell.train_seconds is not None:
        return OTHER_MACHINE, "the cell trains for a time, not for a number of images"
    if str(new.provenance.get("device", "")).partition(":")[0] != "cpu":
        return OTHER_MACHINE, "a GPU adds in another order each time"
    if found := _machine_differences(source.record, new):
        return OTHER_MACHINE, f"another machine or software ({found[0].partition(':')[0]})"
    return EXACT, "the same CPU, threads and torch"


def _machine_differences(old: Record, new: Record) -> tuple[str, ...]:
    """What differs in the two provenances and can change a figure."""
    keys = ("card", "threads", "precision", "backend", "cuda")
    found = [f"{key}: {old.provenance.get(key)} -> {new.provenance.get(key)}" for key in keys
             if old.provenance.get(key) != new.provenance.get(key)]  # fmt: skip
    before, now = (one.provenance.get("versions") or {} for one in (old, new))
    names = ("torch", "numpy", "torch-fidelity")
    found += [f"{name}: {before.get(name)} -> {now.get(name)}" for name in names if before.get(name) != now.get(name)]
    return tuple(found)


def _compare(old: Measurement, new: Measurement | None, tolerance: float) -> MeasurementPair:
    """A measurement and the new one of the same name."""
    if new is None:
        return MeasurementPair(old.name, old.unit, old.value, None, None, "differs", "not measured now")
    if differing := find_differences(old.fingerprint, new.fingerprint):
        reason = f"measured against something else ({', '.join(key for key, _, _ in differing[:3])})"
        return MeasurementPair(old.name, old.unit, old.value, new.value, None, "differs", reason)
    if old.value is None or new.value is None:
        same = old.status == new.status
        reason = f"{old.status}: {old.reason}" if same else f"{old.status} then, {new.status} now"
        return MeasurementPair(old.name, old.unit, old.value, new.value, None, "equal" if same else "differs", reason)
    if old.value == new.value:
        return MeasurementPair(old.name, old.unit, old.value, new.value, 0.0, "equal")
    difference = (new.value - old.value) / abs(old.value) if old.value else math.inf
    verdict: Verdict = "agrees" if abs(difference) <= tolerance else "differs"
    shown = difference if math.isfinite(difference) else None
    return MeasurementPair(old.name, old.unit, old.value, new.value, shown, verdict)
