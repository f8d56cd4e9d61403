"""The life of one cell: train, sample, quality, efficiency, and a record of each."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zigma_bench.device import Device
from zigma_bench.errors import Interrupted, NotReady, reason_of
from zigma_bench.images import Images, Pixels, Splits, Subset
from zigma_bench.plan import Cell, Stage, cell_routes, held_out_needed, too_few_held_out
from zigma_bench.plugins import catalogue
from zigma_bench.record import Measurement, Record
from zigma_bench.store import SPEC, read_record, stage_folder, write_json, write_record

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zigma_bench.data.text_features import TextTable
    from zigma_bench.data.transformed import Step
    from zigma_bench.sampling import Under

Tell = Callable[[int, str], None]
EMA = "ema.safetensors"  # the weights that images are drawn from


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
        return stage_folder(self.folder, stage, self.cell.identity(stage, card=self.device.card))

    def teller(self, stage: Stage, total: int | None) -> Tell:
        base = {"event": "progress", "stage": stage, "total": total}
        return lambda done, text: self.emit({**base, "done": done, "text": text})


@dataclass(frozen=True)
class Parts:
    """The images of a cell by use: no image of `train` is in `validation`, and none of `floor` in `reference`."""

    train: Images
    validation: Images
    floor: Subset
    reference: Images
    texts: TextTable | None = None  # of a cell that is conditioned on a text: the features that its labels number


class StageFailed(Exception):
    """A stage left a failed record; the later ones of the cell can't run."""


def run_stage(life: Life, stage: Stage) -> int:
    """Do one stage and leave its record; a failure leaves a record with the reason and ends the cell.

    An efficiency stage with rounds to come leaves none yet.
    """
    from zigma_bench.provenance import provenance

    folder = life.stage_folder(stage)
    started = time.time()
    identity = life.cell.identity(stage, card=life.device.card)
    facts = life.cell.model_dump(mode="json")
    write_json(folder / SPEC, {"stage": stage, "identity": identity, "cell": facts})
    life.emit({"event": "start", "stage": stage})
    try:
        found = STAGES[stage](life, folder)
    except Interrupted:
        raise
    except Exception as error:  # whatever it was, it is this cell's row, and the other cells go on
        traceback.print_exc()
        reason = reason_of(error)
        origin = provenance(life.cell, life.device, started)
        with contextlib.suppress(OSError):  # on a full disk the event alone tells
            write_record(folder, Record(stage, identity, facts, "failed", reason=reason, provenance=origin))
        life.emit({"event": "failed", "stage": stage, "text": reason})
        raise StageFailed from None
    if found is not None:
        origin = provenance(life.cell, life.device, started)
        write_record(folder, Record(stage, identity, facts, "done", tuple(found[0]), None, origin, found[1]))
    if stage == "train":
        from zigma_bench.training.checkpoint import drop_checkpoints

        drop_checkpoints(folder)  # not before the record: until then they are all that a kill would leave
    life.emit({"event": "done", "stage": stage, "seconds": time.time() - started})
    return 0


def train_stage(life: Life, folder: Path) -> tuple[list[Measurement], dict[str, Any]]:
    """Train to the budget and keep the weights and their EMA."""
    import torch

    from zigma_bench.training.checkpoint import file_sha256, save_weights
    from zigma_bench.training.loop import Goal, train

    cell, parts = life.cell, _parts_of(life, "train")
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
    save_weights(folder / "network.safetensors", network)
    images = progress.step * cell.train.batch
    loss = Measurement.of(
        "train-loss", progress.curve[-1][1], "1", fingerprint={"images": images, **cell.objective_facts}
    )
    details = {"images": images, "steps": progress.step, "seconds": progress.seconds, "curve": progress.curve}
    details |= {
        "input_wait": progress.waited / progress.seconds,
        "input_workers": progress.workers,
    }  # a share of seconds
    details["ema_sha256"] = file_sha256(folder / EMA)
    return [loss], details | ({"scaling": progress.scaling} if progress.scaling else {})


def sample_stage(life: Life, folder: Path) -> tuple[list[Measurement], dict[str, Any]]:
    """Draw the images, a part at a time, and sheets of the first; the floor's are held-out images.

    Latents become pixels through the autoencoder, those that were drawn as those of the held-out images.
    """
    from zigma_bench.sampling import SAMPLES, draw_images, in_parts, save_array
    from zigma_bench.sheets import write_sheets

    cell, tell = life.cell, life.teller("sample", life.cell.sample.count)
    if cell.role == "floor":
        pixels, evaluations = load_parts(cell).floor.take(range(cell.sample.count)), 0
        save_array(folder / SAMPLES, pixels)
    elif cell.role == "reconstruction":
        given_back = _reconstructed(life)
        pixels, evaluations = in_parts(cell, folder, lambda rows: (given_back(rows), 0), tell, life.stopped)
    else:
        network, finish, under = _network_of(life), _finish(life), _under(life, folder)
        pixels, evaluations = draw_images(cell, folder, network, life.device, tell, life.stopped, finish, under)
    write_sheets(folder, pixels)
    return [], {"count": len(pixels), "evaluations": evaluations}


def _under(life: Life, folder: Path) -> Under | None:
    """The text that each image is drawn under, written down beside the images: the same for all scans and seeds.

    Texts are those of the held-out images in a fixed order. Other conditions are known to `sampling` itself.
    """
    from zigma_bench.data.captioned import CaptionedImages
    from zigma_bench.sampling import CAPTIONS, Under, sample_rows

    if life.cell.text is None:
        return None
    parts = _parts_of(life, "sample")
    held = parts.validation
    assert isinstance(held, CaptionedImages) and parts.texts is not None
    rows, turns = sample_rows(life.cell.sample.count, len(held))
    texts = [found[turn % len(found)] for found, turn in zip(held.captions(rows), turns.tolist(), strict=True)]
    write_json(folder / CAPTIONS, texts)
    return Under(held.turn_labels(rows, turns), parts.texts.null, parts.texts)


def quality_stage(life: Life, folder: Path) -> tuple[list[Measurement], dict[str, Any]]:
    """Every metric of the suite, each refused or measured under its own name."""
    from zigma_bench.diffusion.convert import linear_velocity_of
    from zigma_bench.diffusion.guidance import reading
    from zigma_bench.metrics.subject import Subject
    from zigma_bench.sampling import load_images

    cell, parts = life.cell, _parts_of(life, "quality")
    network = None
    if cell.backbone is not None:
        said = _network_of(life) if parts.texts is None else reading(_network_of(life), parts.texts)
        network = linear_velocity_of(said, cell.objective.path, cell.objective.prediction)
    subject = Subject(
        samples=load_images(life.stage_folder("sample")),
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
    return found, {}


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


def efficiency_stage(life: Life, folder: Path) -> tuple[list[Measurement], dict[str, Any]] | None:
    """One round of speed and memory of a fresh network of the same shape; the last round makes the figures."""
    import json

    from zigma_bench.efficiency import combine, measure_round

    assert life.cell.efficiency is not None
    files = [folder / f"round-{number}.json" for number in range(life.cell.efficiency.rounds)]
    due = next((file for file in files if not file.exists()), files[-1])
    network = build(life.cell, life.device.type)
    write_json(due, measure_round(life.cell, network, life.device, life.teller("efficiency", None), life.stopped))
    if due != files[-1]:
        return None
    return combine(life.cell, life.device, [json.loads(file.read_text()) for file in files])


STAGES: dict[Stage, Callable[[Life, Path], tuple[list[Measurement], dict[str, Any]] | None]] = {
    "train": train_stage,
    "sample": sample_stage,
    "quality": quality_stage,
    "efficiency": efficiency_stage,
}


def build(cell: Cell, device_type: str) -> nn.Module:
    """The cell's network with its first weights, on the CPU, in float32."""
    from zigma_bench.grid import Grid
    from zigma_bench.models.init import initialise
    from zigma_bench.ops.backends import resolve

    assert cell.backbone is not None, "a floor has no network"
    spec = catalogue().get("backbone", cell.backbone.name)
    options = spec.make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    orders = cell_routes(cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=catalogue())
    backend = resolve(cell.backend, device_type)
    network: nn.Module = spec.load()(options, grid=grid, channels=cell.channels, routes=orders, backend=backend)
    initialise(network, cell.seed)
    return network


def _parts_of(life: Life, stage: Stage) -> Parts:
    return load_parts(life.cell, life.device.name, life.teller(stage, None))


def load_parts(cell: Cell, device: str = "cpu", tell: Tell = lambda done, text: None) -> Parts:
    """The images of a cell; too few for what the suite asks is said before anything is trained.

    Of a cell with texts their features too, on the device, where they are made now if they aren't kept.
    """
    import numpy as np

    splits, texts = load_splits(cell), None
    if cell.text is not None:
        from zigma_bench.data.text_features import check_width, with_texts

        assert cell.condition is not None, "a cell has texts for its condition"
        splits, texts = with_texts(splits, cell.text, device=device, tell=tell)
        check_width(texts, cell.condition.size)
    count, held = cell.sample.count, len(splits.validation)
    order = np.random.default_rng(0).permutation(held)
    if cell.quality and held < held_out_needed(cell.sample, cell.reference):
        raise too_few_held_out(cell.sample, cell.reference, held)
    floor = Subset(splits.validation, order[:count])
    rest = splits.train if cell.reference.split == "train" else Subset(splits.validation, order[count:])
    return Parts(splits.train, splits.validation, floor, rest, texts)


def load_splits(cell: Cell) -> Splits:
    """The images of a cell's data set after its transforms, as pixels."""
    from zigma_bench.data.transformed import transformed

    data = cell.data_set
    spec = catalogue().get("dataset", data.name)
    return transformed(spec.load()(spec.make_options(data.options)), _steps(cell))


def seen(life: Life, parts: Parts) -> Splits:
    """What the network sees: the images themselves, or their latents; NotReady where those are not encoded."""
    from zigma_bench.data.latents import latents_of

    pixels, space = Splits(parts.train, parts.validation), life.cell.latents
    return pixels if space is None else latents_of(pixels, space, life.cache)


def _compared_with(life: Life, parts: Parts) -> Images:
    """The reference: its images themselves, or as the autoencoder gives them back."""
    from zigma_bench.data.latents import reconstructions_of

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
    from zigma_bench.data.autoencoder import open_autoencoder
    from zigma_bench.sampling import to_pixels

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

    from zigma_bench.models.speed import Graphed, compile_network
    from zigma_bench.training.checkpoint import load_weights
    from zigma_bench.training.step import autocast

    network = build(life.cell, life.device.type)
    if life.cell.role == "cell":
        trained = read_record(life.stage_folder("train"))
        assert trained is not None, "a stage follows training"
        sha256 = trained.details.get("ema_sha256")  # records of before this key have none
        load_weights(life.stage_folder("train") / EMA, network, sha256=sha256)
    network.to(life.device.name).eval().requires_grad_(False)
    device = torch.device(life.device.name)
    if life.cell.sample.compile:
        compile_network(network, device.type, "sample.compile")

    def said(x: torch.Tensor, t: torch.Tensor, *y: torch.Tensor) -> torch.Tensor:
        with autocast(life.cell.train, device):
            return network(x, t, *y).float()  # type: ignore[no-any-return]

    return Graphed(said, device.type) if life.cell.sample.graph else said
