"""Classifier-free guidance: away from what a network says without a condition, towards what it says with it.

    said = without + scale (with - without)      (Ho and Salimans 2022, arXiv 2207.12598, eq. 6, with scale = 1 + w)

It may act at times inside an interval alone (Kynkaanniemi 2024, arXiv 2404.07724); elsewhere the condition alone
speaks. The interval is of the t that the network is told, 0 noise and 1 data.
Velocity, score and noise are guided alike, for one is linear in the other.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network
from zigma_bench.suite import Guidance

DIT_CHANNELS = 3  # DiT guides the first three channels alone, and of four latent ones the last is left as it is


Told = Tensor | tuple[Tensor, ...]  # labels [B], or the features of texts [B, S, C] and, where there is one, their mask


class Texts(Protocol):
    """Texts by number, int64 [B], as what a network is given of them. `null`: the number of the empty text."""

    @property
    def null(self) -> int: ...

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]: ...


def parts_of(y: Told) -> tuple[Tensor, ...]:
    """A condition as the tensors that a network takes after x and t."""
    return y if isinstance(y, tuple) else (y,)


def reading(network: Network, texts: Texts) -> Network:
    """A network of texts' features as one of their numbers."""
    return lambda x, t, *numbers: network(x, t, *texts(*numbers))


def guided(network: Network, y: Told, dropped: Told, guidance: Guidance) -> Network:
    """A network of x and t under the condition y [B, ...]; `dropped` [B, ...] is the condition that stands for none.

    One evaluation runs the network once, on both halves of a batch of twice the size. Of a network with more channels
    out than in (a learned variance), what lies beyond the channels in is that with the condition.
    """

    def run(x: Tensor, t: Tensor) -> Tensor:
        halves = zip(parts_of(y), parts_of(dropped), strict=True)
        both = network(torch.cat([x, x]), torch.cat([t, t]), *(torch.cat(pair) for pair in halves))
        with_, without = both.chunk(2)
        axis = x.ndim - 3  # of channels, in an image [B, C, H, W] and in a clip [B, T, C, H, W]
        channels = x.shape[axis] if guidance.channels == "all" else min(DIT_CHANNELS, x.shape[axis])
        scale = scale_at(t, guidance).reshape(-1, *[1] * (x.ndim - 1))
        steered = without.narrow(axis, 0, channels) + scale * (with_ - without).narrow(axis, 0, channels)
        beyond = with_.narrow(axis, channels, with_.shape[axis] - channels)
        return torch.cat([steered, beyond], dim=axis)

    return run


def under(network: Network, y: Told | None) -> Network:
    """A network of x and t under the condition y [B, ...]; without one the network itself."""
    return network if y is None else lambda x, t: network(x, t, *parts_of(y))


def under_labels(
    network: Network, y: Tensor, dropped: int, guidance: Guidance | None, texts: Texts | None = None
) -> Network:
    """A network of x and t under labels y int64 [B], guided away from the label `dropped` where there is guidance.

    With `texts` the labels are numbers of texts, and the empty text is that which stands for none.
    """
    away = torch.full_like(y, dropped if texts is None else texts.null)
    if texts is None:
        return under(network, y) if guidance is None else guided(network, y, away, guidance)
    told = texts(y)
    return under(network, told) if guidance is None else guided(network, told, texts(away), guidance)


def scale_at(t: Tensor, guidance: Guidance) -> Tensor:
    """The scale at each time: the guidance's inside its interval, both ends included, and 1 outside."""
    if guidance.interval is None:
        return torch.full_like(t, guidance.scale)
    start, end = guidance.interval
    return torch.where((t >= start) & (t <= end), guidance.scale, 1.0)
