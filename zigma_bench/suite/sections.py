"""The sections `compare`, `baseline`, `budget`, `size_match`, `reference`, `tuning`, `during` and `efficiency`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Gt, Interval, Len, Lt

from zigma_bench.suite.base import Batch, Choice, Drawn, Images, Name, Positive, Side, Strict
from zigma_bench.suite.recipe import OwnRecipe

MAX_LIST = 1_000  # entries of a list in a suite
Tokens = Annotated[int, Interval(ge=1, le=2**24)]  # of a grid
TimedStage = Literal["latency", "forward", "sample", "forward-backward", "train-step"]


class Comparison(Strict):
    """An entry of `compare`: one backbone with its scans."""

    backbone: Choice
    """The network and its options; `zigma-bench backbones list` prints them."""
    scans: Annotated[tuple[Choice, ...], Len(1, MAX_LIST)] | None = None
    """The scans along which the network is trained, a row for each. Default: the backbone's own scan."""
    train: OwnRecipe | None = None
    """Keys of the suite's recipe that this backbone overrides; the labels of its rows show them."""


class Baseline(Strict):
    """The row to which the others are compared; its untrained network is the ceiling."""

    backbone: Name
    """The name of the backbone."""
    scan: Name | None = None
    """The name of the scan, if the backbone is compared along several."""


class Budget(Strict):
    """The training budget of every cell: exactly one of images, flops and seconds."""

    images: Images | None = None
    """Training images, counted with repetition: steps times `train.batch`."""
    flops: Positive | None = None
    """Training FLOPs: three forward passes for each image, by formula."""
    seconds: Positive | None = None
    """Seconds of training."""

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if sum(value is not None for value in (self.images, self.flops, self.seconds)) != 1:
            raise ValueError("should be exactly one of images, flops and seconds")
        return self


class Select(Strict):
    """How the value of a varied key is chosen for each row, by the loss on the tuning part."""

    by: Literal["tuning-loss"] = "tuning-loss"
    """The loss: the mean over the tuning seeds of the velocity loss on the tuning part (the section `tuning`)."""
    over: Name
    """The key of `vary` whose best value each row gets."""
    seeds: Annotated[tuple[Annotated[int, Interval(ge=0, le=2**31 - 1)], ...], Len(1, MAX_LIST)]
    """The tuning seeds, which the table doesn't use."""


class SizeMatch(Strict):
    """The size in which all backbones must agree within 2%: a word, or a mapping of `by` and `solve`."""

    by: Literal["none", "parameters", "flops"]
    """What must be equal."""
    solve: Literal["either", "depth", "width", "both"] = "either"
    """The option that is changed. `either` tries the depth (from half to twice the suite's), then the width, then
    both."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | SizeMatch):
            raise ValueError("should be none, parameters, flops, or a mapping of by and solve")
        return {"by": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["none", "parameters", "flops"]}, handler(core)]}


class Reference(Strict):
    """The images that samples are compared with."""

    split: Literal["train", "validation"] = "validation"
    """The training images, or the held-out images except those of the floor."""
    images: Literal["pixels", "reconstructions"] = "pixels"
    """The images themselves, or, for networks trained on latents, the images encoded and decoded by the autoencoder."""

    @property
    def label(self) -> str:
        """`train`, or `reconstructed train`."""
        return self.split if self.images == "pixels" else f"reconstructed {self.split}"


class Tuning(Strict):
    """The tuning part: training images on which no cell trains and which no table uses, to choose a learning rate.

    With it, the images of the validation loss, the floor and the reference are disjoint too.
    """

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.05
    """The share of the training images that is cut; of each class alike if the images have classes."""
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    """The seed with which all parts are drawn."""
    loss_images: Drawn = 512
    """Held-out images of the validation loss. The tuning loss is measured on as many images of the tuning part, or on
    the whole part if it has fewer."""


class During(Strict):
    """The quality during training, with the averaged weights: at every `every` training images, and at the end.

    It is the validation loss, the loss on as many training images at the same times and with the same noise, and the
    `metrics`. The training itself doesn't change, and its seconds don't include it.
    """

    every: Images
    """Training images between two points of the curve."""
    images: Drawn = 512
    """Held-out images, and training images, on which the losses are measured."""
    metrics: Annotated[tuple[Choice, ...], Len(max_length=MAX_LIST)] = ()
    """Metrics of samples, such as kid-efflite0."""
    samples: Drawn = 1000
    """Samples for `metrics` at every point. The noise of each is always the same."""


class Efficiency(Strict):
    """What is timed.

    A suite with `tokens` is an efficiency suite: it has no data and trains nothing. It has a cell for each backbone,
    scan, backend, length and batch size.
    """

    stages: Annotated[tuple[TimedStage, ...], Len(1, MAX_LIST)] = ("train-step", "sample")
    """`latency`: a forward pass of one image. `forward`, `forward-backward`: passes of `train.batch` images.
    `train-step`: a whole training step. `sample`: a whole sampling of `sample_batch` images."""
    repeats: Annotated[int, Interval(ge=3, le=1000)] = 10
    """Timed calls of each stage, after the warm-up."""
    rounds: Annotated[int, Interval(ge=1, le=100)] = 1
    """How often everything is timed. Each round is a new process, and the cells alternate."""
    sample_batch: Batch = 64
    """Images of a timed sampling."""
    tokens: Annotated[tuple[Tokens, ...], Len(1, MAX_LIST)] | None = None
    """Lengths, as numbers of tokens of square grids. Makes this an efficiency suite."""
    batch: Annotated[tuple[Batch, ...], Len(1, MAX_LIST)] | None = None
    """Batch sizes of an efficiency suite, also for sampling; latency is timed with the first. Default:
    `train.batch`."""
    backends: Annotated[tuple[Name, ...], Len(1, MAX_LIST)] | None = None
    """Backends of an efficiency suite. Default: the suite's `backend`."""
    channels: Side = 4
    """Image channels of an efficiency suite."""

    @pydantic.field_validator("stages", "tokens", "batch", "backends")
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None, info: pydantic.ValidationInfo) -> tuple[Any, ...] | None:
        if values is not None and len(set(values)) != len(values):
            names = {"stages": "a stage", "tokens": "a number of tokens", "batch": "a batch", "backends": "a backend"}
            raise ValueError(f"{names[str(info.field_name)]} is listed twice")
        return values

    @pydantic.field_validator("tokens")
    @classmethod
    def _squares(cls, tokens: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if wrong := [count for count in tokens or () if math.isqrt(count) ** 2 != count]:
            raise ValueError(f"grids are square, so tokens must be square numbers (256, 1024); {wrong[0]} is not one")
        return tokens

    def check_keys(self) -> None:
        """Raise ValueError for a key that has no effect in this kind of suite; not for a cell, which sets all keys."""
        unused = sorted({"batch", "backends", "channels"} & self.model_fields_set)
        if self.tokens is None and unused:
            raise ValueError(f"efficiency.{unused[0]} needs an efficiency suite, which lists efficiency.tokens")
        if self.tokens is not None and "sample_batch" in self.model_fields_set:
            raise ValueError("an efficiency suite samples the images of efficiency.batch; leave sample_batch out")
