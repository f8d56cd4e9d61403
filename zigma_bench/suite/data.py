"""The section `data`: a data set or several, transforms, latents and texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.suite.base import Batch, Choice, Name, Strict


class Latents(Strict):
    """The autoencoder (diffusers' AutoencoderKL) whose latents networks see in the place of pixels.

    `autoencoder` is a folder, or owner/name on the Hub at the full commit `revision`; its files may lie in a
    `subfolder` of either. `posterior`: training draws from each image's posterior anew at every step, as DiT, SiT and
    ZigMa do, or takes its mean. `precision` is that of encoding and decoding, `batch` the images of one pass of either.
    The cache keeps means and log-variances in `dtype`, in the folder `cache` or else below the results.
    """

    autoencoder: Annotated[Name, Len(min_length=1)]
    revision: Name | None = None
    subfolder: Name | None = None
    posterior: Literal["sample", "mean"] = "sample"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    dtype: Literal["float32", "float16"] = "float32"
    batch: Batch = 16
    cache: Name | None = None


class TextEncoder(Strict):
    """What makes features of captions: a built-in `encoder` (minilm, random-words), a folder, or owner/name on the Hub
    at the commit `revision`.

    `tokens` of every text: a longer one is cut, a shorter one padded. With a `mask` networks pass over the padding;
    without one they read it too, as ZigMa's code does. The features are kept in the folder `cache`, or else below
    ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench.
    """

    encoder: Annotated[Name, Len(min_length=1)]
    revision: Name | None = None
    tokens: Annotated[int, Interval(ge=2, le=4096)] = 77
    mask: bool = False
    cache: Name | None = None


class Data(Choice):
    """A data set with its options, the transforms that all of its images go through, in order, the autoencoder that
    encodes what they give, and what reads the images' captions."""

    transforms: Annotated[tuple[Choice, ...], Len(max_length=100)] = ()
    latents: Latents | None = None
    text: TextEncoder | None = None


def _how_many(value: Any) -> str:
    return "[several]" if isinstance(value, list | tuple) else "[one]"


# the tags are no places of a suite: see `_is_place`
One = Annotated[Data, pydantic.Tag("[one]")]
Several = Annotated[tuple[Data, ...], Len(1, 100), pydantic.Tag("[several]")]
DataSets = Annotated[One | Several, pydantic.Discriminator(_how_many)]
