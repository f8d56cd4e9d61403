"""A cell, the unit that runs, resumes and fails, and the identity of each of its stages.

The identity of a stage is a hash of everything that can change its result; labels, times and file locations never
enter it. An option that equals its registered default is left out, so adding an option changes no identity.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic_core import to_jsonable_python

from zigma_bench.plan.diffusion import LINEAR_VELOCITY, Objective, Sampler, objective_of, sampler_of
from zigma_bench.plan.parts import TuningCut
from zigma_bench.plan.space import LatentSpace
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import FlopsBy
from zigma_bench.pretrained.text_encoders import features_folder
from zigma_bench.records.record import Stage
from zigma_bench.suite import During, Efficiency, Reference, Sample, Strict, Train

LONGEST_SLUG = 100
SIZE_TOLERANCE = 0.02
PROTOCOL = 2  # incremented when the same suite would give other figures, as when a default changes
Role = Literal["cell", "floor", "reconstruction", "ceiling"]
DROP_RATE = 0.1  # as in DiT, ADM and ZigMa
OBJECTIVE_KEYS = {"path", "prediction", "weighting", "interval"}  # keys of `train` that `Cell.objective_facts` replaces


class Resolved(Strict):
    """A registered object: its name, its owner and all of its options, including defaults."""

    name: str
    owner: str
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """`zigzag paths=8`."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in sorted(self.options.items()))])


class Transform(Resolved):
    """A transform of images; `digest` covers what it draws in addition to its options, such as a random permutation."""

    digest: str


class DuringTraining(During):
    """The suite's section `during` with its metrics resolved; `fingerprints`: those of the files that they use."""

    metrics: tuple[Resolved, ...] = ()  # type: ignore[assignment]
    fingerprints: tuple[str, ...] = ()


class Match(Strict):
    """How size_match changed the options of a cell's network.

    The network has the size `achieved` (parameters or FLOPs); its `target` is the size of the row `reference`. `given`
    contains the suite's values of the changed options and `chosen` the new values; both are empty if nothing changed.
    Heads that the suite left open are only in `chosen`. The field names are keys of records.
    """

    by: Literal["parameters", "flops"]
    reference: str
    target: int
    achieved: int
    given: dict[str, int]
    chosen: dict[str, int]

    @property
    def summary(self) -> str:
        """`width 96 -> 104, heads 13 (+1.2%)`; empty for an unchanged network of exactly the target size."""
        if not self.chosen and self.achieved == self.target:
            return ""
        before = {name: f"{value} -> " for name, value in self.given.items()}
        words = [f"{name} {before.get(name, '')}{value}" for name, value in self.chosen.items()] or ["unchanged"]
        far = "" if sizes_match(self.achieved, self.target) else ": this scan changes its size"
        return f"{', '.join(words)} ({self.achieved / self.target - 1:+.1%}{far})"


def sizes_match(size: int, target: int) -> bool:
    """Whether a size is within SIZE_TOLERANCE of the target."""
    return abs(size - target) <= SIZE_TOLERANCE * target


class NetworkCondition(Strict):
    """The condition y of the network.

    A class: a label from 0 to size - 1; if `droppable`, the label `size` is the null class. A text: its features
    [tokens, size], with a mask of the tokens that are not padding if `masked`; the null condition is an empty text.
    """

    kind: Literal["class", "text"]
    size: int
    droppable: bool
    tokens: int = 0
    masked: bool = False

    def drop_rate(self, train: Train) -> float:
        """The probability with which the condition of a training image is dropped."""
        if train.drop_condition is not None:
            return train.drop_condition
        return DROP_RATE if self.droppable else 0.0


class TextFeatures(Strict):
    """The features of captions: their encoder as the suite names it, and everything that they depend on.

    `fingerprint` is that of the encoder, `images` that of the data set before its transforms. `width` is the number of
    channels, None if neither the encoder nor its features are on this machine. `cache` is the suite's folder for the
    features, if it names one.
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
        """The folder of the cached features."""
        return features_folder(self.images, self.fingerprint, self.tokens, self.cache)

    def __str__(self) -> str:
        revision = f" at {self.revision[:8]}" if self.revision else ""
        mask = ", padding masked" if self.mask else ""
        return f"{self.encoder}{revision}, {self.tokens} tokens of {self.width or 'unknown'} channels{mask}"


class Cell(Strict):
    """One backbone x scan x data x recipe x seed.

    Cells of other roles are anchors of the table. `floor` is a set of held-out images, and `ceiling` is the baseline's
    untrained network. If networks are trained on latents, `reconstruction` is the floor's images encoded and decoded.
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
    condition: NetworkCondition | None = None
    transforms: tuple[Transform, ...] = ()
    data_label: str | None = None
    latents: LatentSpace | None = None
    frames: int = 1
    text: TextFeatures | None = None  # if the condition is a text
    flops_by: FlopsBy = "formula"
    data_places: tuple[str, ...] = ()  # options of the data that only locate its files
    varied: Mapping[str, str] = pydantic.Field(
        default_factory=dict
    )  # the words of each key of `vary`, such as learning_rate=0.001
    selected: str | None = None  # the words of the value that was selected for the row
    tunes: bool = False  # whether the cell only decides a selection
    tuning: TuningCut | None = None
    during: DuringTraining | None = None

    @property
    def label(self) -> str:
        """The label of the cell: its row, after its role if that isn't `cell`, and its seed."""
        role = "tuning" if self.tunes else self.role if self.role != "cell" else None
        seed = None if self.timed_alone else f"seed {self.seed}"
        return _joined(self.data_label, role, *self._row, seed)

    @property
    def row(self) -> str:
        """The label that all seeds share: `zigma · raster`, after the data set if the suite has several.

        In an efficiency suite, backend, tokens and batch follow; then the values of varied keys.
        """
        return _joined(self.data_label, *self._row)

    @property
    def _row(self) -> list[str | None]:
        timed = [self.backend, f"{self.tokens} tokens", f"batch {self.train.batch}"] if self.timed_alone else []
        return [self.backbone_label, self.scan_label, *timed, *self.varied.values()]

    @property
    def scan_words(self) -> str:
        """The scan with the values of varied keys, as the row of a table shows them."""
        return ", ".join(filter(None, (self.scan_label, *self.varied.values())))

    @property
    def setting(self) -> dict[str, str | int] | None:
        """The backend, tokens and batch of a cell of an efficiency suite; None in another suite."""
        if not self.timed_alone:
            return None
        return {"backend": self.backend, "tokens": self.tokens, "batch": self.train.batch}

    @property
    def data_set(self) -> Resolved:
        """The data set; cells of an efficiency suite have none."""
        assert self.data is not None, "a cell of an efficiency suite has no data"
        return self.data

    @property
    def data_text(self) -> str:
        """The data set and its transforms, with all of their options."""
        return ", ".join(item.label for item in (self.data_set, *self.transforms))

    @property
    def slug(self) -> str:
        """The label as the name of a folder; it may be truncated, because a hash follows it."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.label)[:LONGEST_SLUG].strip("-.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that this cell goes through."""
        if self.timed_alone:
            return ("efficiency",)
        if self.tunes:
            return ("train",)
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
        """The number of training steps, where the last batch counts as full; None for a budget in seconds."""
        return None if self.train_images is None else math.ceil(self.train_images / self.train.batch)

    @property
    def objective(self) -> Objective:
        """The training objective."""
        return objective_of(self.train)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the images."""
        return sampler_of(self.train, self.sample)

    @property
    def objective_facts(self) -> dict[str, Any]:
        """The objective as part of identities and fingerprints; empty for the default, velocity on the linear path."""
        return {} if self.objective == LINEAR_VELOCITY else {"objective": asdict(self.objective)}

    def identity(self, stage: Stage, *, device_model: str) -> str:
        """The sha256 of everything that can change a stage's record; `device_model` enters only efficiency's."""
        return facts_digest(self._facts(stage, device_model))

    def identity_facts(self, stage: Stage, *, device_model: str) -> dict[str, Any]:
        """Everything that the identity of a stage is the hash of, as JSON."""
        facts: dict[str, Any] = json.loads(json.dumps(self._facts(stage, device_model)))
        return facts

    def _timed(self) -> Any:
        """The section `efficiency` without its lists, because each cell has one value of each list."""
        lists = {"tokens", "batch", "backends", "channels"}
        return None if self.efficiency is None else _set_keys(self.efficiency, exclude=lists)

    def _speedups(self) -> list[str]:
        """The keys that are set and make calls faster without changing a figure."""
        values = {
            "compile": self.train.compile, "graph": self.train.graph, "sample.graph": self.sample.graph,
            "sample.compile": self.sample.compile,
        }  # fmt: skip
        return [key for key, value in values.items() if value]

    def _solver(self) -> list[Any]:
        """Everything about sampling that the images depend on; for dopri5 also the batch, which shares its steps."""
        s = self.sampler
        adaptive = [s.rtol, s.atol, self.sample.batch] if s.solver == "dopri5" else []
        guidance = [] if self.sample.guidance is None else [_set_keys(self.sample.guidance)]
        return [s.solver, s.evaluations, *adaptive, *([s.facts()] if s.facts() else []), *guidance]

    def _data(self) -> Any:
        """The data set's options without those that locate its files, which the fingerprint identifies."""
        return _chosen("dataset", self.data, exclude=self.data_places)

    def _parts(self) -> dict[str, Any]:
        """How the images are divided into parts; empty without a tuning part."""
        return {} if self.tuning is None else {"tuning": _set_keys(self.tuning)}

    def _during(self) -> dict[str, Any]:
        """Everything that the quality during training depends on; empty without it."""
        if self.during is None:
            return {}
        facts = _set_keys(self.during, exclude={"metrics", "samples", "fingerprints"})
        if self.during.metrics:
            facts["metrics"] = _metric_facts(self.during.metrics, self.during.fingerprints)
            facts["sample"] = [self.during.samples, *self._solver()]
            facts["reference"] = [_set_keys(self.reference), self.sample.count]
        return {"during": facts}

    def _facts(self, stage: Stage, device_model: str) -> dict[str, Any]:
        data = {"protocol": PROTOCOL, "smoke": self.smoke, "data": [self._data(), self.data_fingerprint]}
        if self.latents is not None:
            data["latents"] = self.latents.facts
        metrics = _metric_facts(self.quality, self.metric_fingerprints)
        judged = {"reference": _set_keys(self.reference), "quality": metrics}
        if self.role in ("floor", "reconstruction"):
            drawn = {**data, "role": self.role, "count": self.sample.count, "reference": self.reference.split}
            drawn |= self._parts()
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
        trained = {**network, "role": self.role, "seed": self.seed, **self._parts()}
        if self.role == "cell":
            left_out = {"checkpoint_seconds", "workers", "drop_condition", *OBJECTIVE_KEYS}
            trained["train"] = _set_keys(self.train, exclude=left_out)
            if self.condition is not None:
                trained["drop_condition"] = self.condition.drop_rate(self.train)
            trained["budget"] = [self.train_images, self.train_seconds]
            trained |= self._during()
        if stage == "train":
            return trained
        if stage == "efficiency":
            recipe = [self.train.batch, self.train.gradient_clip, self.train.flip, *self._speedups()]
            return {
                **network,
                "efficiency": self._timed(),
                "train": recipe,
                "sample": self._solver(),
                "card": device_model,
            }
        drawn = {**trained, "sample": [self.sample.count, *self._solver()]}
        if stage == "sample":
            return drawn
        return {**drawn, **judged}


def _joined(*names: str | None) -> str:
    return " · ".join(name for name in names if name)


def _set_keys(model: Strict, *, exclude: set[str] | None = None) -> dict[str, Any]:
    """The keys of a section that differ from their defaults."""
    return model.model_dump(mode="json", exclude=exclude, exclude_defaults=True)


def _metric_facts(metrics: Sequence[Resolved], fingerprints: Sequence[str]) -> list[list[Any]]:
    """Each metric, followed by the fingerprint of the files that it uses, if it uses any."""
    files = ([text] if text else [] for text in fingerprints)
    return [[_chosen("metric", metric), *used] for metric, used in zip(metrics, files, strict=True)]


def _chosen(kind: str, item: Resolved | None, *, exclude: tuple[str, ...] = ()) -> Any:
    """A registered name with its owner and the options that differ from their defaults; likewise a backbone's mixer."""
    if item is None:
        return None
    options = item.model_dump(mode="json")["options"]
    if kind == "backbone" and isinstance(options.get("mixer"), dict):
        options["mixer"] = _chosen("mixer", Resolved.model_validate(options["mixer"]))
    for option in catalogue().get(kind, item.name).options:
        is_default = not option.required and options.get(option.name) == to_jsonable_python(option.default)
        if is_default or option.name in exclude:
            options.pop(option.name, None)
    return {"name": item.name, "owner": item.owner, "options": options}


def facts_digest(facts: Mapping[str, Any]) -> str:
    """The sha256 of facts as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()
