"""The section `data`: one or several data sets with their transforms, latents and text encoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.suite.base import Batch, Choice, Name, Strict


class Latents(Strict):
    """The autoencoder (diffusers' AutoencoderKL) whose latents the networks are trained on instead of pixels."""

    autoencoder: Annotated[Name, Len(min_length=1)]
    """A folder, or owner/name on the Hub."""
    revision: Name | None = None
    """The full commit hash of an autoencoder on the Hub."""
    subfolder: Name | None = None
    """The folder of the autoencoder's files below `autoencoder`."""
    posterior: Literal["sample", "mean"] = "sample"
    """What training uses: a new sample from each image's posterior at every step, as DiT, SiT and ZigMa do, or the
    posterior's mean."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """The precision of encoding and decoding."""
    dtype: Literal["float32", "float16"] = "float32"
    """The type in which the cache stores means and log-variances."""
    batch: Batch = 16
    """Images per pass of the autoencoder."""
    cache: Name | None = None
    """The folder of the cache; below the results by default."""


class TextEncoder(Strict):
    """The text encoder of the captions."""

    encoder: Annotated[Name, Len(min_length=1)]
    """A built-in encoder (minilm, random-words), a folder, or owner/name on the Hub."""
    revision: Name | None = None
    """The full commit hash of an encoder on the Hub."""
    tokens: Annotated[int, Interval(ge=2, le=4096)] = 77
    """The length of every text: longer texts are truncated, shorter ones padded."""
    mask: bool = False
    """Whether networks ignore the padding. Without it they attend to the padding too, as in ZigMa's code."""
    cache: Name | None = None
    """The folder of the cached features; by default below ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench."""


class Data(Choice):
    """A data set: its name and options, and what is done with its images and captions."""

    transforms: Annotated[tuple[Choice, ...], Len(max_length=100)] = ()
    """Transforms of all images, applied in this order."""
    latents: Latents | None = None
    """The autoencoder that encodes the transformed images."""
    text: TextEncoder | None = None
    """The text encoder of the captions."""


def _union_tag(value: Any) -> str:
    return "[several]" if isinstance(value, list | tuple) else "[one]"


# `_is_place` in read.py strips these pydantic tags from the locations of errors
One = Annotated[Data, pydantic.Tag("[one]")]
Several = Annotated[tuple[Data, ...], Len(1, 100), pydantic.Tag("[several]")]
DataSets = Annotated[One | Several, pydantic.Discriminator(_union_tag)]
