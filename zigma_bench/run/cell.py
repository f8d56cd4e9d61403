"""The life of one cell: train, sample, quality, efficiency, and a record of each."""

from __future__ import annotations

import contextlib
import functools
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zigma_bench.data.images import Images, Pixels, Splits, Subset
from zigma_bench.errors import CellFailed, Interrupted, NotReady
from zigma_bench.plan import Cell, Stage, cell_routes, held_out_needed, too_few_held_out
from zigma_bench.plugins.discovery import catalogue, reason_of
from zigma_bench.records.provenance import provenance
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.sealed import Parts, hashes_of
from zigma_bench.records.store import (
    EMA,
    SAMPLES,
    SPEC,
    clear_finished,
    read_record,
    stage_folder,
    write_json,
    write_record,
)
from zigma_bench.run.due import find_due, hashes_read, inputs_of, reads_network
from zigma_bench.system.device import Device
from zigma_bench.system.interrupts import contained
from zigma_bench.system.notices import notice

NETWORK = "network.safetensors"  # the weights without averaging

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zigma_bench.conditioning.text_features import TextTable
    from zigma_bench.data.transforms.apply import Step
    from zigma_bench.sampling.cell_images import Under

Tell = Callable[[int, str], None]


@dataclass
class Life:
    """What every stage of a cell is given."""

    cell: Cell
    folder: Path
    cache: Path
    device: Device
    emit: Callable[[dict[str, Any]], None]
    stopped: Callable[[], bool]

    def stage_folder(self, stage: Stage) -> Path:
        return stage_folder(self.folder, stage, self.identity(stage))

    def identity(self, stage: Stage) -> str:
        return self.cell.identity(stage, card=self.device.card)

    def record(self, stage: Stage) -> Record | None:
        """The record of a stage of this cell that is done."""
        record = read_record(self.stage_folder(stage), self.identity(stage))
        return record if record is not None and record.status == "done" else None

    def inputs(self, stage: Stage) -> dict[str, str]:
        """The sha256 of each file of an earlier stage that a stage reads, by STAGE/FILE."""
        records = {source: self.record(source) for source in inputs_of(self.cell, stage)}
        return hashes_read(self.cell, stage, {source: found for source, found in records.items() if found is not None})

    def teller(self, stage: Stage, total: int | None) -> Tell:
        base = {"event": "progress", "stage": stage, "total": total}
        return lambda done, text: self.emit({**base, "done": done, "text": text})


@dataclass(frozen=True)
class Result:
    """What a stage has found: its figures, details for the record, and the files that later stages read."""

    measurements: list[Measurement]
    details: dict[str, Any]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageParts:
    """The images of a cell by use: no image of `train` is in `validation`, and none of `floor` in `reference`."""

    train: Images
    validation: Images
    floor: Subset
    reference: Images
    texts: TextTable | None = None  # of a cell that is conditioned on a text: the features that its labels number


class StageFailed(Exception):
    """A stage left a failed record; the later ones of the cell can't run."""


def run_due(life: Life, wanted: Sequence[Stage]) -> None:
    """Do the stages among `wanted` that are due, and those before them whose files are lost; hold the cell's lock.

    What is due is read again after each stage, for it depends on the files that the stage has written. Of an efficiency
    stage with rounds to come, one round is done.
    """
    done: list[Stage] = []
    while True:
        due = find_due(life.cell, life.folder, life.device, wanted)
        for text in due.altered:
            notice(text)
        left = [stage for stage in due.stages if stage != "efficiency" or stage not in done]
        if not left:
            return
        if left[0] in done:
            raise CellFailed(
                f"the stage {left[0]} is due again right after it was done: its files change under the run",
                where=str(life.stage_folder(left[0])), do="look for another program that writes there",
            )  # fmt: skip
        run_stage(life, left[0])
        done.append(left[0])


def run_stage(life: Life, stage: Stage) -> None:
    """Do one stage and leave its record; a failure leaves a record with the reason and ends the cell.

    An efficiency stage with rounds to come leaves none yet.
    """
    folder, started, identity = life.stage_folder(stage), time.time(), life.identity(stage)
    facts = life.cell.model_dump(mode="json")
    life.emit({"event": "start", "stage": stage})
    try:
        write_json(folder / SPEC, {"stage": stage, "identity": identity, "cell": facts})
        inputs = life.inputs(stage)
        with contained():  # exit() in a plugin is a failed cell too
            found = STAGES[stage](life, folder)
        if found is not None:
            write_record(folder, _record_of(life, stage, found, inputs, started))
            clear_finished(folder)  # not before the record: until then it is all that a kill would leave
    except Interrupted:
        raise
    except Exception as error:  # whatever it was, it is this cell's row, and the other cells go on
        traceback.print_exc()
        reason = reason_of(error)
        life.emit({"event": "failed", "stage": stage, "text": reason})
        origin = provenance(life.cell, life.device, started)
        with contextlib.suppress(OSError):  # on a full disk the event alone reports it
            write_record(folder, Record(stage, identity, facts, "failed", reason=reason, provenance=origin))
        raise StageFailed from None
    life.emit({"event": "done", "stage": stage, "seconds": time.time() - started})


def _record_of(life: Life, stage: Stage, found: Result, inputs: dict[str, str], started: float) -> Record:
    """The record of a stage that is done."""
    return Record(
        stage=stage,
        identity=life.identity(stage),
        cell=life.cell.model_dump(mode="json"),
        status="done",
        measurements=tuple(found.measurements),
        provenance=provenance(life.cell, life.device, started),
        details=found.details,
        files=hashes_of(life.stage_folder(stage), found.files),
        inputs=inputs,
    )


def train_stage(life: Life, folder: Path) -> Result:
    """Train to the budget and keep the weights and their EMA."""
    import torch

    from zigma_bench.data.reading.counts import facts_of_images
    from zigma_bench.training.checkpoint import save_weights
    from zigma_bench.training.loop import Goal, train

    cell, parts = life.cell, _parts_of(life, "train")
    classes = cell.condition.size if cell.condition is not None and cell.condition.kind == "class" else None
    available = facts_of_images(Splits(parts.train, parts.validation), classes)
    network = build(cell, life.device.type).to(life.device.name)
    goal = Goal(cell.train_steps, cell.train_seconds)
    total = None if cell.train_steps is None else cell.train_steps * cell.train.batch
    ema, progress = train(
        network,
        seen(life, parts).train,
        recipe=cell.train,
        goal=goal,
        seed=cell.seed,
        device=torch.device(life.device.name),
        folder=folder,
        tell=life.teller("train", total),
        stopped=life.stopped,
        given=cell.condition,
        texts=parts.texts,
    )
    save_weights(folder / EMA, ema)
    save_weights(folder / NETWORK, network)
    images = progress.step * cell.train.batch
    loss = Measurement.of(
        "train-loss", progress.curve[-1][1], "1", fingerprint={"images": images, **cell.objective_facts}
    )
    details = {"images": images, "steps": progress.step, "seconds": progress.seconds, "curve": progress.curve}
    details |= available
    details |= {
        "input_wait": progress.waited / progress.seconds,
        "input_workers": progress.workers,
    }  # a share of seconds
    return Result([loss], details | ({"scaling": progress.scaling} if progress.scaling else {}), (EMA, NETWORK))


def sample_stage(life: Life, folder: Path) -> Result:
    """Draw the images, a part at a time, and sheets of the first; the floor's are held-out images.

    Latents become pixels through the autoencoder, those that were drawn as those of the held-out images.
    """
    from zigma_bench.sampling.cell_images import CAPTIONS, draw_images, in_parts, save_array
    from zigma_bench.sampling.sheets import write_sheets

    cell, tell = life.cell, life.teller("sample", life.cell.sample.count)
    parts = Parts(folder, life.inputs("sample"))
    if cell.role == "floor":
        pixels, evaluations = load_parts(cell).floor.take(range(cell.sample.count)), 0
        save_array(folder / SAMPLES, pixels)
    elif cell.role == "reconstruction":
        given_back = _reconstructed(life)
        pixels, evaluations = in_parts(cell, parts, lambda rows: (given_back(rows), 0), tell, life.stopped)
    else:
        network, finish, under = _network_of(life), _finish(life), _under(life, folder)
        pixels, evaluations = draw_images(cell, parts, network, life.device, tell, life.stopped, finish, under)
    write_sheets(folder, pixels)
    files = (SAMPLES,) if cell.text is None or cell.role != "cell" else (SAMPLES, CAPTIONS)
    return Result([], {"count": len(pixels), "evaluations": evaluations}, files)


def _under(life: Life, folder: Path) -> Under | None:
    """The text that each image is drawn under, written down beside the images: the same for all scans and seeds.

    Texts are those of the held-out images in a fixed order. Other conditions are known to `sampling` itself.
    """
    from zigma_bench.conditioning.captioned import CaptionedImages
    from zigma_bench.sampling.cell_images import CAPTIONS, Under, sample_rows

    if life.cell.text is None:
        return None
    parts = _parts_of(life, "sample")
    held = parts.validation
    assert isinstance(held, CaptionedImages) and parts.texts is not None
    rows, turns = sample_rows(life.cell.sample.count, len(held))
    texts = [found[turn % len(found)] for found, turn in zip(held.captions(rows), turns.tolist(), strict=True)]
    write_json(folder / CAPTIONS, texts)
    return Under(held.turn_labels(rows, turns), parts.texts.null, parts.texts)


def quality_stage(life: Life, folder: Path) -> Result:
    """Every metric of the suite, each refused or measured under its own name."""
    from zigma_bench.diffusion.convert import linear_velocity_of
    from zigma_bench.diffusion.guidance import reading
    from zigma_bench.metrics.subject import Subject
    from zigma_bench.sampling.cell_images import load_images

    cell, parts = life.cell, _parts_of(life, "quality")
    network = None
    if reads_network(cell):
        said = _network_of(life) if parts.texts is None else reading(_network_of(life), parts.texts)
        network = linear_velocity_of(said, cell.objective.path, cell.objective.prediction)
    subject = Subject(
        samples=load_images(life.stage_folder("sample"), sha256=life.inputs("quality")[f"sample/{SAMPLES}"]),
        reference=_compared_with(life, parts),
        reference_facts={"data": cell.data_text, "split": cell.reference.label},
        validation=seen(life, parts).validation,
        network=network,
        labelled=cell.condition is not None,
        device=life.device.name,
        cache=life.cache,
    )
    found = []
    for index, metric in enumerate(cell.quality):
        if life.stopped():
            raise Interrupted("stopped between two metrics; the same command measures them again")
        life.teller("quality", len(cell.quality))(index, metric.name)
        found.append(measure(metric.name, metric.options, subject))
    return Result(found, {})


def measure(name: str, options: dict[str, Any], subject: Any) -> Measurement:
    """One metric on one subject; what it lacks is a refusal with the reason."""
    spec = catalogue().get("metric", name)
    chosen = spec.make_options(options)
    if missing := spec.facts.missing(chosen):
        return Measurement.refused(name, spec.facts.unit, "; ".join(f"{m.what}: {m.do}" for m in missing))
    if spec.facts.needs == "network" and subject.network is None:
        return Measurement.refused(name, spec.facts.unit, "there is no network to measure")
    try:
        measurement: Measurement = spec.load()(chosen, subject)
    except NotReady as error:  # weights that are no weights, or an extractor that gives other features than it did
        return Measurement.refused(name, spec.facts.unit, str(error))
    return measurement


def efficiency_stage(life: Life, folder: Path) -> Result | None:
    """One round of speed and memory of a fresh network of the same shape; the last round makes the figures."""
    from zigma_bench.efficiency import combine, measure_round

    assert life.cell.efficiency is not None
    names = tuple(f"round-{number}.json" for number in range(life.cell.efficiency.rounds))
    parts = Parts(folder, {})
    due = next((name for name in names if name not in parts), None)
    if due is not None:
        network = build(life.cell, life.device.type)
        found = measure_round(life.cell, network, life.device, life.teller("efficiency", None), life.stopped)
        write_json(folder / due, found)
        parts.add(due)
    if any(name not in parts for name in names):
        return None
    rounds = [json.loads((folder / name).read_bytes()) for name in names]
    return Result(*combine(life.cell, life.device, rounds), names)


STAGES: dict[Stage, Callable[[Life, Path], Result | None]] = {
    "train": train_stage,
    "sample": sample_stage,
    "quality": quality_stage,
    "efficiency": efficiency_stage,
}


def build(cell: Cell, device_type: str) -> nn.Module:
    """The cell's network with its first weights, on the CPU, in float32."""
    from zigma_bench.layers.init import initialise
    from zigma_bench.ops.backends import resolve
    from zigma_bench.scans.grid import Grid

    assert cell.backbone is not None, "a floor has no network"
    spec = catalogue().get("backbone", cell.backbone.name)
    options = spec.make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    planned, known = cell.order_digests, catalogue()
    orders = cell_routes(cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=known, planned=planned)
    backend = resolve(cell.backend, device_type)
    network: nn.Module = spec.load()(options, grid=grid, channels=cell.channels, routes=orders, backend=backend)
    initialise(network, cell.seed)
    return network


def _parts_of(life: Life, stage: Stage) -> ImageParts:
    return load_parts(life.cell, life.device.name, life.teller(stage, None))


def load_parts(cell: Cell, device: str = "cpu", tell: Tell = lambda done, text: None) -> ImageParts:
    """The images of a cell; too few for what the suite asks is said before anything is trained.

    Of a cell with texts their features too, on the device, where they are made now if they aren't kept.
    """
    import numpy as np

    splits, texts = load_splits(cell), None
    if cell.text is not None:
        from zigma_bench.conditioning.text_features import check_width, with_texts

        assert cell.condition is not None, "a cell has texts for its condition"
        splits, texts = with_texts(splits, cell.text, device=device, tell=tell)
        check_width(texts, cell.condition.size)
    count, held = cell.sample.count, len(splits.validation)
    order = np.random.default_rng(0).permutation(held)
    if cell.quality and held < held_out_needed(cell.sample, cell.reference):
        raise too_few_held_out(cell.sample, cell.reference, held)
    floor = Subset(splits.validation, order[:count])
    rest = splits.train if cell.reference.split == "train" else Subset(splits.validation, order[count:])
    return ImageParts(splits.train, splits.validation, floor, rest, texts)


def load_splits(cell: Cell) -> Splits:
    """The images of a cell's data set after its transforms, as pixels."""
    from zigma_bench.data.reading.planned import check_planned
    from zigma_bench.data.transforms.apply import transformed

    check_planned(cell)
    data = cell.data_set
    spec = catalogue().get("dataset", data.name)
    return transformed(spec.load()(spec.make_options(data.options)), _steps(cell))


def seen(life: Life, parts: ImageParts) -> Splits:
    """What the network sees: the images themselves, or their latents; NotReady where those are not encoded."""
    from zigma_bench.data.latents.cache import latents_of

    pixels, space = Splits(parts.train, parts.validation), life.cell.latents
    return pixels if space is None else latents_of(pixels, space, life.cache)


def _compared_with(life: Life, parts: ImageParts) -> Images:
    """The reference: its images themselves, or as the autoencoder gives them back."""
    from zigma_bench.data.latents.cache import reconstructions_of

    cell = life.cell
    if cell.reference.images == "pixels":
        return parts.reference
    assert cell.latents is not None, "the plan refuses reconstructions without an autoencoder"
    if cell.reference.split == "train":
        return reconstructions_of(parts.train, cell.latents, life.cache)
    assert isinstance(parts.reference, Subset), "a part of the held-out images"
    return Subset(reconstructions_of(parts.validation, cell.latents, life.cache), parts.reference.indices)


def _finish(life: Life) -> Callable[[torch.Tensor], Pixels]:
    """From what a network draws to pixels."""
    from zigma_bench.data.latents.autoencoder import open_autoencoder
    from zigma_bench.sampling.cell_images import to_pixels

    if life.cell.latents is None:
        return to_pixels
    autoencoder = open_autoencoder(life.cell.latents, life.device.name)
    return lambda latents: to_pixels(autoencoder.decode(latents))


def _reconstructed(life: Life) -> Callable[[range], Pixels]:
    """The floor's images as the autoencoder gives them back, from the latents that networks are judged on."""
    import torch

    parts, finish = load_parts(life.cell), _finish(life)
    latents = Subset(seen(life, parts).validation, parts.floor.indices)
    return lambda rows: finish(torch.from_numpy(latents.take(rows)))


def _steps(cell: Cell) -> list[Step]:
    """The transforms of a cell's images, ready to be called."""
    steps: list[Step] = []
    for transform in cell.transforms:
        spec = catalogue().get("transform", transform.name)
        steps.append(functools.partial(spec.load(), spec.make_options(transform.options)))
    return steps


def _network_of(life: Life) -> Callable[..., torch.Tensor]:
    """The network that images are drawn from: the EMA of a trained cell, the first weights of a ceiling.

    It says what the recipe's `prediction` is, in float32.
    """
    import torch

    from zigma_bench.layers.speed import Graphed, compile_network
    from zigma_bench.training.checkpoint import load_weights
    from zigma_bench.training.step import autocast

    network = build(life.cell, life.device.type)
    if life.cell.role == "cell":
        trained = life.record("train")
        assert trained is not None, "a stage follows training"
        load_weights(life.stage_folder("train") / EMA, network, sha256=trained.files[EMA])
    network.to(life.device.name).eval().requires_grad_(False)
    device = torch.device(life.device.name)
    if life.cell.sample.compile:
        compile_network(network, device.type, "sample.compile")

    def said(x: torch.Tensor, t: torch.Tensor, *y: torch.Tensor) -> torch.Tensor:
        with autocast(life.cell.train, device):
            return network(x, t, *y).float()  # type: ignore[no-any-return]

    return Graphed(said, device.type) if life.cell.sample.graph else said
