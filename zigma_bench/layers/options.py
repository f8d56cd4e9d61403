"""Options that several backbones share, and their bounds. This module doesn't import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval, Lt

from zigma_bench.errors import NotReady

Positive = Annotated[int, Interval(ge=1, le=65_536)]  # bounded, so that counting costs in a plan stays fast
Depth = Annotated[int, Interval(ge=1, le=512)]  # layers, each with its own order
Classes = Annotated[int, Interval(ge=1, le=10_000_000)]
PositionKind = Literal["none", "sincos", "learned"]
Rate = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class Conditioned:
    """The conditioning of a backbone, and whether blocks are recomputed in the backward pass.

    There are `classes` labels; with `null_class` one more, the last, for dropped labels.
    """

    condition: Literal["none", "class", "text"] = "none"
    classes: Classes = 1000
    null_class: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class WithText(Conditioned):
    """A backbone that also supports text: `text_tokens` tokens (used for the costs) with `text_width` channels."""

    takes_mask: ClassVar[bool] = False  # whether `forward` takes a mask of the visible text tokens

    text_width: Positive = 768
    text_tokens: Positive = 77


@dataclass(frozen=True, kw_only=True)
class Labelled(Conditioned):
    """A backbone without text. As published, it has classes and a null class."""

    condition: Literal["none", "class"] = "none"
    null_class: bool = True


def head_count(width: int, heads: int | None) -> int:
    """`heads`, or by default one head per 64 channels, else per 32. NotReady if the heads don't divide the width."""
    if heads is not None:
        if width % heads:
            raise NotReady(f"{heads} heads do not divide a width of {width}", do="choose another number of heads")
        return heads
    for size in (64, 32):
        if width % size == 0:
            return width // size
    raise NotReady(f"a width of {width} isn't a multiple of 32, so heads has no default", do="set heads")
