"""The section `data`: one or several data sets with their transforms, latents and text encoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Interval, Len

from zigma_bench.suite.base import Batch, Choice, Name, Strict


class Latents(Strict):
    """The autoencoder (diffusers' AutoencoderKL) whose latents the networks are trained on instead of pixels.

    `autoencoder` is a folder, or owner/name on the Hub at the full commit `revision`; its files may be in a `subfolder`
    of either. `posterior`: training draws a new sample from each image's posterior at every step, as DiT, SiT and ZigMa
    do, or uses its mean. Encoding and decoding run in `precision`, on `batch` images per pass. The cache stores means
    and log-variances in `dtype`, in the folder `cache`, or below the results by default.
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
    """The text encoder of the captions: a built-in `encoder` (minilm, random-words), a folder, or owner/name on the Hub
    at the commit `revision`.

    Every text has `tokens` tokens: a longer text is truncated, a shorter one padded. With `mask`, networks ignore the
    padding; without it they attend to the padding too, as in ZigMa's code. The features are cached in the folder
    `cache`, or by default below ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench.
    """

    encoder: Annotated[Name, Len(min_length=1)]
    revision: Name | None = None
    tokens: Annotated[int, Interval(ge=2, le=4096)] = 77
    mask: bool = False
    cache: Name | None = None


class Data(Choice):
    """A data set with its options, the transforms of its images, in order, the autoencoder that encodes the transformed
    images, and the text encoder of the captions."""

    transforms: Annotated[tuple[Choice, ...], Len(max_length=100)] = ()
    latents: Latents | None = None
    text: TextEncoder | None = None


def _union_tag(value: Any) -> str:
    return "[several]" if isinstance(value, list | tuple) else "[one]"


# `_is_place` in read.py strips these pydantic tags from the locations of errors
One = Annotated[Data, pydantic.Tag("[one]")]
Several = Annotated[tuple[Data, ...], Len(1, 100), pydantic.Tag("[several]")]
DataSets = Annotated[One | Several, pydantic.Discriminator(_union_tag)]
