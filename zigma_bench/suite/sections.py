"""The other sections: what is compared, spent, matched, timed and judged by."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.suite.base import Batch, Choice, Images, Name, Positive, Side, Strict
from zigma_bench.suite.recipe import OwnRecipe

MAX_LIST = 1_000  # entries of a list of a suite
Tokens = Annotated[int, Interval(ge=1, le=2**24)]  # of a grid
TimedStage = Literal["latency", "forward", "sample", "forward-backward", "train-step"]


class Comparison(Strict):
    """One backbone with the scans that it is compared under; without scans it takes its own.

    `train`: keys of the recipe that are its own; its rows say them.
    """

    backbone: Choice
    scans: Annotated[tuple[Choice, ...], Len(1, MAX_LIST)] | None = None
    train: OwnRecipe | None = None


class Baseline(Strict):
    """The row that the others are read against; the ceiling is its network, untrained."""

    backbone: Name
    scan: Name | None = None


class Budget(Strict):
    """What all cells spend alike: exactly one of images, flops (of training) and seconds (of training)."""

    images: Images | None = None
    flops: Positive | None = None
    seconds: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if sum(value is not None for value in (self.images, self.flops, self.seconds)) != 1:
            raise ValueError("exactly one of images, flops and seconds")
        return self


class SizeMatch(Strict):
    """What is equal among backbones, to 2%: the word alone, or with what is solved for it.

    `either`: the depth, to a half or twice at most, where that can't be the width, and where neither can be the width
    at other depths; `both`: that at once.
    """

    by: Literal["none", "parameters", "flops"]
    solve: Literal["either", "depth", "width", "both"] = "either"

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
    """What samples are compared with: the training split, or the held-out images that are not the floor's.

    `images`: as they are, or, where networks see latents, as the autoencoder gives them back.
    """

    split: Literal["train", "validation"] = "validation"
    images: Literal["pixels", "reconstructions"] = "pixels"

    @property
    def label(self) -> str:
        """`train`, or `reconstructed train`."""
        return self.split if self.images == "pixels" else f"reconstructed {self.split}"


class Efficiency(Strict):
    """What is timed, how often after warm-up, and in how many `rounds`, each of a fresh process, the cells alternating.

    `latency` is a forward pass of one image, `forward` and `forward-backward` are passes of `train.batch` images,
    `train-step` and `sample` all that a step and a sampling do.

    `tokens` makes it an efficiency suite, which has no data and trains nothing: each of its cells is a backbone, a
    scan, one of `backends` (absent: the suite's), a length of square grids of `tokens`, and one of `batch` (absent:
    that of `train`) for images of `channels`; sampling takes that batch too, and latency is timed beside the first.
    """

    stages: Annotated[tuple[TimedStage, ...], Len(1, MAX_LIST)] = ("train-step", "sample")
    repeats: Annotated[int, Interval(ge=3, le=1000)] = 10
    rounds: Annotated[int, Interval(ge=1, le=100)] = 1
    sample_batch: Batch = 64
    tokens: Annotated[tuple[Tokens, ...], Len(1, MAX_LIST)] | None = None
    batch: Annotated[tuple[Batch, ...], Len(1, MAX_LIST)] | None = None
    backends: Annotated[tuple[Name, ...], Len(1, MAX_LIST)] | None = None
    channels: Side = 4

    @pydantic.field_validator("stages", "tokens", "batch", "backends")
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None, info: pydantic.ValidationInfo) -> tuple[Any, ...] | None:
        if values is not None and len(set(values)) != len(values):
            names = {"stages": "a stage", "tokens": "a number of tokens", "batch": "a batch", "backends": "a backend"}
            raise ValueError(f"{names[str(info.field_name)]} stands twice")
        return values

    @pydantic.field_validator("tokens")
    @classmethod
    def _squares(cls, tokens: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if wrong := [count for count in tokens or () if math.isqrt(count) ** 2 != count]:
            raise ValueError(f"tokens are those of square grids, such as 256 and 1024; {wrong[0]} is no square")
        return tokens

    def check_keys(self) -> None:
        """ValueError for a key that was given in vain; a cell's has all of them."""
        given = sorted({"batch", "backends", "channels"} & self.model_fields_set)
        if self.tokens is None and given:
            raise ValueError(f"efficiency.{given[0]} is that of an efficiency suite, which lists efficiency.tokens")
        if self.tokens is not None and "sample_batch" in self.model_fields_set:
            raise ValueError("an efficiency suite samples the images of efficiency.batch; leave sample_batch out")
