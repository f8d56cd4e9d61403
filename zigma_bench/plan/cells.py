"""A cell: the unit that runs, resumes and fails, and the identity of each of its stages.

An identity is a hash of all that can change a result, stage by stage; labels, times and places never enter it. What
equals its registered default is left out, so that a new option changes no identity.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from zigma_bench.errors import NotReady
from zigma_bench.plan.diffusion import LINEAR_VELOCITY, Objective, Sampler, objective_of, sampler_of
from zigma_bench.plan.space import LatentSpace
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import FlopsBy
from zigma_bench.pretrained.text_encoders import features_folder
from zigma_bench.records.record import Stage
from zigma_bench.suite import Efficiency, Reference, Sample, Strict, Train

LONGEST_SLUG = 100
SIZE_TOLERANCE = 0.02
PROTOCOL = 2  # raised when the same plan would give other figures, as where a default changes
Role = Literal["cell", "floor", "reconstruction", "ceiling"]
DROP_RATE = 0.1  # of DiT, ADM and ZigMa
OBJECTIVE_KEYS = {"path", "prediction", "weighting", "interval"}  # of the recipe: they stand as `Cell.objective_facts`


class Resolved(Strict):
    """A name with its owner and all of its options, defaults included."""

    name: str
    owner: str
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """`zigzag paths=8`."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in sorted(self.options.items()))])


class Transform(Resolved):
    """A transform of images; `digest` is what they depend on beyond its options, such as a drawn permutation."""

    digest: str


class Match(Strict):
    """How a cell's network came to its size: what the suite gave and what was chosen, empty where nothing was; heads
    that the suite left open are chosen alone."""

    by: Literal["parameters", "flops"]
    reference: str
    target: int
    achieved: int
    given: dict[str, int]
    chosen: dict[str, int]

    @property
    def summary(self) -> str:
        """`width 96 -> 104, heads 13 (+1.2%)`; nothing for the reference itself and for what has its very size."""
        if not self.chosen and self.achieved == self.target:
            return ""
        from_ = {name: f"{value} -> " for name, value in self.given.items()}
        words = [f"{name} {from_.get(name, '')}{value}" for name, value in self.chosen.items()] or ["as it is"]
        far = "" if within(self.achieved, self.target) else ": this scan makes it another size"
        return f"{', '.join(words)} ({self.achieved / self.target - 1:+.1%}{far})"


def within(size: int, target: int) -> bool:
    """Whether a size counts as equal to another."""
    return abs(size - target) <= SIZE_TOLERANCE * target


class Given(Strict):
    """What the network is given as y: a class of `size`, and `size` itself where `droppable`, for none of them; or
    features of a text, [tokens, size], `masked` with a mask of the tokens that count, and those of an empty text for
    none."""

    kind: Literal["class", "text"]
    size: int
    droppable: bool
    tokens: int = 0
    masked: bool = False

    def drop_rate(self, train: Train) -> float:
        """How often a training image's condition is dropped."""
        asked = train.drop_condition
        return asked if asked is not None else DROP_RATE if self.droppable else 0.0


class TextFeatures(Strict):
    """Whence the features of captions come: the encoder as the suite names it, and what they depend on.

    `fingerprint`: that of the encoder. `images`: that of the data set, whatever its transforms. `width`: None where
    neither the encoder nor its features are here. `cache`: the folder of the features, where the suite names one.
    """

    encoder: str
    revision: str | None
    fingerprint: str
    images: str
    width: int | None
    tokens: int
    mask: bool
    cache: str | None

    @property
    def folder(self) -> Path:
        """Where the features are kept."""
        return features_folder(self.images, self.fingerprint, self.tokens, self.cache)

    def __str__(self) -> str:
        revision = f" at {self.revision[:8]}" if self.revision else ""
        mask = ", padding masked" if self.mask else ""
        return f"{self.encoder}{revision}, {self.tokens} tokens of {self.width or 'unknown'} channels{mask}"


class Cell(Strict):
    """One backbone x scan x data x recipe x seed; `floor` is held-out images, `ceiling` the untrained network.

    Where networks see latents there is a second floor: `reconstruction` is the floor's images, encoded and decoded.
    """

    suite: str
    role: Role
    smoke: bool
    backbone_label: str | None
    scan_label: str | None
    backbone: Resolved | None
    scan: Resolved | None
    data: Resolved | None
    data_fingerprint: str
    channels: int
    height: int
    width: int
    seed: int
    order_digests: tuple[str, ...]
    scanned_ratio: float
    backend: str
    train: Train
    train_images: int | None
    train_seconds: float | None
    sample: Sample
    reference: Reference
    quality: tuple[Resolved, ...]
    efficiency: Efficiency | None
    parameters: int
    forward_flops: dict[str, int]
    tokens: int
    metric_fingerprints: tuple[str, ...]
    size_match: Match | None = None
    timed_alone: bool = False  # a cell of an efficiency suite
    condition: Given | None = None
    transforms: tuple[Transform, ...] = ()
    data_label: str | None = None
    latents: LatentSpace | None = None
    frames: int = 1
    text: TextFeatures | None = None  # of a cell whose condition is a text
    flops_by: FlopsBy = "formula"
    data_places: tuple[str, ...] = ()  # the options of the data that only say where its files are

    @property
    def label(self) -> str:
        role, seed = self.role if self.role != "cell" else None, None if self.timed_alone else f"seed {self.seed}"
        return _joined(self.data_label, role, *self._row, seed)

    @property
    def row(self) -> str:
        """The label of all seeds: `zigma · raster`, after the data set where a suite has several.

        In an efficiency suite also what it is timed with.
        """
        return _joined(self.data_label, *self._row)

    @property
    def _row(self) -> list[str | None]:
        timed = [self.backend, f"{self.tokens} tokens", f"batch {self.train.batch}"] if self.timed_alone else []
        return [self.backbone_label, self.scan_label, *timed]

    @property
    def setting(self) -> dict[str, str | int] | None:
        """What the cells of an efficiency suite differ in beside backbone and scan; None in another suite."""
        if not self.timed_alone:
            return None
        return {"backend": self.backend, "tokens": self.tokens, "batch": self.train.batch}

    @property
    def data_set(self) -> Resolved:
        """The data set, which every cell has but those of an efficiency suite."""
        assert self.data is not None, "a cell of an efficiency suite has no data"
        return self.data

    @property
    def data_text(self) -> str:
        """The images with all options, those of the data set and of its transforms."""
        return ", ".join(item.label for item in (self.data_set, *self.transforms))

    @property
    def slug(self) -> str:
        """The label as the name of a folder; it may be cut, for the hash that follows it is what tells cells apart."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.label)[:LONGEST_SLUG].strip("-.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this cell goes through."""
        if self.timed_alone:
            return ("efficiency",)
        found: list[Stage] = ["sample"] if self.role != "cell" else ["train", "sample"]
        if self.quality:
            found.append("quality")
        if self.role == "cell" and self.efficiency is not None:
            found.append("efficiency")
        return tuple(found)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W], or of one clip, [T, C, H, W]."""
        image = (self.channels, self.height, self.width)
        return image if self.frames == 1 else (self.frames, *image)

    @property
    def train_steps(self) -> int | None:
        """Whole batches of the image budget, the last one counted in full; None under a budget of seconds."""
        return None if self.train_images is None else math.ceil(self.train_images / self.train.batch)

    @property
    def objective(self) -> Objective:
        """What the network is trained to say."""
        return objective_of(self.train)

    @property
    def sampler(self) -> Sampler:
        """How the images are drawn."""
        return sampler_of(self.train, self.sample)

    @property
    def objective_facts(self) -> dict[str, Any]:
        """The objective as identities and fingerprints hold it: nothing for the first one there was, velocity on the
        linear path, so that its records keep their names."""
        return {} if self.objective == LINEAR_VELOCITY else {"objective": asdict(self.objective)}

    def identity(self, stage: Stage, *, card: str) -> str:
        """The sha256 of all that can change a stage's record; `card` counts for efficiency alone."""
        return digest(self._facts(stage, card))

    def _timed(self) -> Any:
        """What is timed and how often; lists of an efficiency suite are resolved to one value of each cell."""
        lists = {"tokens", "batch", "backends", "channels"}
        return None if self.efficiency is None else _set_keys(self.efficiency, exclude=lists)

    def _speedups(self) -> list[str]:
        """The keys of the recipe that make calls faster and no figure another, where they are set."""
        said = {
            "compile": self.train.compile, "graph": self.train.graph, "sample.graph": self.sample.graph,
            "sample.compile": self.sample.compile,
        }  # fmt: skip
        return [key for key, value in said.items() if value]

    def _weights(self) -> list[list[str]]:
        return [[text] if text else [] for text in self.metric_fingerprints]

    def _solver(self) -> list[Any]:
        """What the images depend on; the batch counts for dopri5, whose steps are those of the whole batch."""
        s = self.sampler
        adaptive = [s.rtol, s.atol, self.sample.batch] if s.solver == "dopri5" else []
        guidance = [] if self.sample.guidance is None else [_set_keys(self.sample.guidance)]
        return [s.solver, s.evaluations, *adaptive, *([s.facts()] if s.facts() else []), *guidance]

    def _data(self) -> Any:
        """The data's options, as they count: the fingerprint stands for the files, wherever they are."""
        return _chosen("dataset", self.data, exclude=self.data_places)

    def _facts(self, stage: Stage, card: str) -> dict[str, Any]:
        data = {"protocol": PROTOCOL, "smoke": self.smoke, "data": [self._data(), self.data_fingerprint]}
        if self.latents is not None:
            data["latents"] = self.latents.facts
        metrics = [[_chosen("metric", metric), *fp] for metric, fp in zip(self.quality, self._weights(), strict=True)]
        judged = {"reference": _set_keys(self.reference), "quality": metrics}
        if self.role in ("floor", "reconstruction"):
            drawn = {**data, "role": self.role, "count": self.sample.count, "reference": self.reference.split}
            return {**drawn, **judged} if stage == "quality" else drawn
        network = {
            **data,
            "backbone": _chosen("backbone", self.backbone),
            "scan": _chosen("scan", self.scan),
            "orders": self.order_digests,
            "backend": self.backend,
            "shape": list(self.shape),
            "precision": self.train.precision,
            **self.objective_facts,
        }
        if self.text is not None:
            network["text"] = [self.text.fingerprint, self.text.tokens, self.text.mask]
        trained = {**network, "role": self.role, "seed": self.seed}
        if self.role == "cell":
            left_out = {"checkpoint_seconds", "workers", "drop_condition", *OBJECTIVE_KEYS}
            trained["train"] = _set_keys(self.train, exclude=left_out)
            if self.condition is not None:
                trained["drop_condition"] = self.condition.drop_rate(self.train)
            trained["budget"] = [self.train_images, self.train_seconds]
        if stage == "train":
            return trained
        if stage == "efficiency":
            recipe = [self.train.batch, self.train.gradient_clip, self.train.flip, *self._speedups()]
            return {
                **network,
                "efficiency": self._timed(),
                "train": recipe,
                "sample": self._solver(),
                "card": card,
            }
        drawn = {**trained, "sample": [self.sample.count, *self._solver()]}
        if stage == "sample":
            return drawn
        return {**drawn, **judged}


def held_out_needed(sample: Sample, reference: Reference) -> int:
    """Images apart from training: the floor's, and two at least where the rest of them are the reference."""
    return sample.count if reference.split == "train" else sample.count + 2


def too_few_held_out(sample: Sample, reference: Reference, held_out: int) -> NotReady:
    """The error of a source that holds fewer images out than the suite draws."""
    apart = reference.split != "train"
    others = f" and the reference at least {held_out_needed(sample, reference) - sample.count} others" if apart else ""
    return NotReady(
        f"the floor needs {sample.count:,} held-out images{others}, and there are {held_out:,}",
        do="hold out more images, or lower sample.count" + (", or set reference.split to train" if apart else ""),
    )


def _joined(*names: str | None) -> str:
    return " · ".join(name for name in names if name)


def _set_keys(model: Strict, *, exclude: set[str] | None = None) -> dict[str, Any]:
    """The keys of a part of the suite that are not what they are by default."""
    return model.model_dump(mode="json", exclude=exclude, exclude_defaults=True)


def _chosen(kind: str, item: Resolved | None, *, exclude: tuple[str, ...] = ()) -> Any:
    """A registered name with its owner and the options that are not what they are by default."""
    if item is None:
        return None
    options = item.model_dump(mode="json")["options"]
    for option in catalogue().get(kind, item.name).options:
        is_default = not option.required and options.get(option.name) == to_jsonable_python(option.default)
        if is_default or option.name in exclude:
            options.pop(option.name, None)
    return {"name": item.name, "owner": item.owner, "options": options}


def digest(facts: Mapping[str, Any]) -> str:
    """The sha256 of facts as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()
