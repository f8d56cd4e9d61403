"""The options of the built-in metrics, as a suite may give them; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Interval

Efflite = Literal["efflite0", "efflite2"]  # the extractors whose weights come with an installation
EFFLITES: tuple[Efflite, ...] = get_args(Efflite)
EffliteSize = Literal[64, 128, 160, 224]  # as large as Lite0 was trained with


@dataclass(frozen=True)
class ValLossOptions:
    """`images`: the first so many held-out images are measured, or all where there are fewer."""

    images: Annotated[int, Interval(ge=1, le=10**9)] = 512


@dataclass(frozen=True)
class EffliteOptions:
    """`size`: the side in pixels that every image is resized to before the extractor sees it.

    64 is for images as small as the digits: of photographs it shows texture and little of what is in them.
    """

    size: EffliteSize = 128


@dataclass(frozen=True)
class WeightsOptions:
    """`weights`: the path of a weights file for the extractor; null looks in the usual places."""

    weights: str | None = None


@dataclass(frozen=True)
class InceptionOptions(WeightsOptions):
    """`weights`: the path of a weights file for torch-fidelity's Inception v3; null looks in the usual places."""


@dataclass(frozen=True)
class Dinov2Options(WeightsOptions):
    """`weights`: the path of a weights file of DINOv2's authors; null looks in the usual places."""


@dataclass(frozen=True)
class ClipOptions(WeightsOptions):
    """`weights`: the path of a weights file of CLIP's authors; null looks in the usual places."""


@dataclass(frozen=True)
class I3dOptions(WeightsOptions):
    """`weights`: the path of a TorchScript file of an I3D for FVD; null looks in the usual places."""
