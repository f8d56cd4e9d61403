"""Options that several backbones share, and the bounds of their numbers. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval, Lt

from zigma_bench.errors import NotReady

Positive = Annotated[int, Interval(ge=1, le=65_536)]  # a plan counts in these, and must end in good time
Depth = Annotated[int, Interval(ge=1, le=512)]  # layers, each with its own order
Classes = Annotated[int, Interval(ge=1, le=10_000_000)]
Rate = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class Conditioned:
    """What an image is drawn under, and whether blocks are computed again in the backward pass.

    `classes` labels and, with `null_class`, one more, the last, for the dropped class.
    """

    condition: Literal["none", "class", "text"] = "none"
    classes: Classes = 1000
    null_class: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class WithText(Conditioned):
    """Or a text of `text_tokens` tokens (which the costs count) with features of `text_width` channels."""

    takes_mask: ClassVar[bool] = False  # whether `forward` takes a mask of the text tokens that count

    text_width: Positive = 768
    text_tokens: Positive = 77


@dataclass(frozen=True, kw_only=True)
class Labelled(Conditioned):
    """Published with classes, one of them dropped, and no text."""

    condition: Literal["none", "class"] = "none"
    null_class: bool = True


def head_count(width: int, heads: int | None) -> int:
    """The heads given, else one for every 64 channels, else one for every 32; NotReady where they don't divide."""
    if heads is not None:
        if width % heads:
            raise NotReady(f"{heads} heads do not divide a width of {width}", do="choose other heads")
        return heads
    for size in (64, 32):
        if width % size == 0:
            return width // size
    raise NotReady(f"a width of {width} is no multiple of 32, so the number of heads must be given", do="set heads")
