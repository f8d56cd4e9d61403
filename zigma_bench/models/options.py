"""The options of every built-in backbone: plain data, importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, Lt

from zigma_bench.errors import NotReady

Positive = Annotated[int, Ge(1)]
Rate = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class ZigmaOptions:
    """ZigMa: adaLN blocks of Mamba, each layer reading the tokens along its own path (arXiv 2403.13802)."""

    width: Positive
    depth: Positive
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


@dataclass(frozen=True)
class VisionMambaOptions(ZigmaOptions):
    """VisionMamba: ZigMa's two-branch baseline, raster forwards and backwards with own parameters (its `v2`)."""

    init: Literal["like-forward", "official"] = "like-forward"

    @property
    def zero_backward_dt_bias(self) -> bool:
        return self.init == "official"


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
class DitOptions:
    """DiT: adaLN-Zero blocks of softmax attention and an MLP, the order-free control (arXiv 2212.09748)."""

    width: Positive
    depth: Positive
    patch: Positive
    heads: Positive | None = None
    mlp_ratio: Positive = 4

    @property
    def head_count(self) -> int:
        """The heads given, else one for every 64 channels, else one for every 32."""
        if self.heads is not None:
            if self.width % self.heads:
                raise NotReady(f"{self.heads} heads do not divide a width of {self.width}", do="choose other heads")
            return self.heads
        for size in (64, 32):
            if self.width % size == 0:
                return self.width // size
        raise NotReady(
            f"a width of {self.width} is no multiple of 32, so the number of heads must be given", do="set heads"
        )
