"""The options of every built-in backbone: plain data, importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

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

    text_width: Positive = 768
    text_tokens: Positive = 77


@dataclass(frozen=True)
class ZigmaOptions(WithText):
    """ZigMa: adaLN blocks of Mamba, each layer reading the tokens along its own path (arXiv 2403.13802)."""

    width: Positive
    depth: Depth
    patch: Positive
    expand: Positive = 2
    state: Annotated[int, Interval(ge=1, le=64)] = 16
    conv: Annotated[int, Interval(ge=1, le=8)] = 4
    positions: Literal["none", "sincos", "learned"] = "learned"
    residual: Literal["official", "textbook"] = "official"
    drop_path: Rate = 0.1
    mixer: str | dict[str, Any] = "mamba"

    @property
    def inner(self) -> int:
        """E, the channels inside a mixer."""
        return self.expand * self.width

    @property
    def dt_rank(self) -> int:
        return math.ceil(self.width / 16)

    @property
    def zero_backward_dt_bias(self) -> bool:
        """Whether all branches but the first start with a dt bias of zero."""
        return False

    def layer(self, number: int) -> ZigmaOptions:
        """The options of one layer."""
        return self


@dataclass(frozen=True)
class VisionMambaOptions(ZigmaOptions):
    """VisionMamba: ZigMa's two-branch baseline, raster forwards and backwards with own parameters (its `v2`)."""

    init: Literal["like-forward", "official"] = "like-forward"

    @property
    def zero_backward_dt_bias(self) -> bool:
        return self.init == "official"


@dataclass(frozen=True)
class HybridOptions(ZigmaOptions):
    """Hybrid: ZigMa with softmax attention as the mixer of every `every`-th layer, and Mamba between."""

    every: Positive = 4
    heads: Positive | None = None

    def attends(self, number: int) -> bool:
        """Whether a layer is one of attention: the last of every `every`."""
        return (number + 1) % self.every == 0

    def layer(self, number: int) -> ZigmaOptions:
        if not self.attends(number):
            return self
        default = ZigmaOptions  # attention has no use for what the other layers' mixer is given
        attention = {"name": "attention", "options": {"heads": self.heads}}
        return replace(self, mixer=attention, expand=default.expand, state=default.state, conv=default.conv)


@dataclass(frozen=True)
class MambaOptions:
    """Mamba's mixer: a causal convolution and a selective scan (S6) along each path of the layer's route."""


@dataclass(frozen=True)
class Mamba2Options:
    """Mamba-2's mixer: a causal convolution and a scan by matrix products (SSD) along each path of the layer's route.

    `head_dim` channels are a head, `state` numbers the state of each of its channels; B and C are one set for each of
    `groups` groups of heads.
    """

    head_dim: Positive = 64
    state: Positive = 128
    groups: Positive = 1

    def heads(self, channels: int) -> int:
        """H, the heads of so many channels; NotReady where they or the groups don't divide."""
        if channels % self.head_dim:
            raise NotReady(
                f"heads of {self.head_dim} channels do not divide the {channels} inner channels of a path",
                expected=f"a divisor of {channels}",
                got=self.head_dim,
                do="choose another head_dim of the mixer mamba-2, or another width",
            )
        heads = channels // self.head_dim
        if heads % self.groups:
            raise NotReady(
                f"{self.groups} groups do not divide the {heads} heads of a path",
                expected=f"a divisor of {heads}",
                got=self.groups,
                do="choose other groups of the mixer mamba-2",
            )
        return heads


@dataclass(frozen=True)
class AttentionOptions:
    """Softmax attention along each path of the layer's route: one that visits every token once does not matter to it.

    `heads` of a path; without it one for every 64 channels, else one for every 32.
    """

    heads: Positive | None = None


@dataclass(frozen=True)
class IdentityOptions:
    """Mamba's mixer without its convolution and its scan: a control in which no token learns of another."""


@dataclass(frozen=True, kw_only=True)
class Labelled(Conditioned):
    """Published with classes, one of them dropped, and no text."""

    condition: Literal["none", "class"] = "none"
    null_class: bool = True


@dataclass(frozen=True)
class DitOptions(Labelled):
    """DiT: adaLN-Zero blocks of softmax attention and an MLP, the order-free control (arXiv 2212.09748)."""

    width: Positive
    depth: Depth
    patch: Positive
    heads: Positive | None = None
    mlp_ratio: Positive = 4
    learn_sigma: bool = False

    @property
    def head_count(self) -> int:
        """The heads given, else one for every 64 channels, else one for every 32."""
        return head_count(self.width, self.heads)


@dataclass(frozen=True)
class SitOptions(DitOptions):
    """SiT: DiT as the network of an interpolant, which is given t itself (arXiv 2401.08740)."""


@dataclass(frozen=True, kw_only=True)
class UvitOptions(WithText):
    """U-ViT: attention over patches, time and condition as tokens, with long skips (arXiv 2209.12152)."""

    width: Positive
    depth: Depth
    patch: Positive
    heads: Positive | None = None
    mlp_ratio: Positive = 4
    null_class: bool = True

    @property
    def head_count(self) -> int:
        return head_count(self.width, self.heads)

    @property
    def prefix(self) -> int:
        """Tokens before those of the grid: time, and a class or a text."""
        return 1 + {"none": 0, "class": 1, "text": self.text_tokens}[self.condition]


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
