"""Classifier-free guidance: push the prediction away from the unconditional one.

    guided = unconditional + scale (conditional - unconditional)   (Ho and Salimans 2022, arXiv 2207.12598, eq. 6,
                                                                    scale = 1 + w)

Guidance may be limited to an interval of times (Kynkaanniemi 2024, arXiv 2404.07724); outside it the prediction is the
conditional one. The interval is in our t: 0 is noise and 1 is data. Velocity, score and noise are guided in the same
way, because each is linear in the others.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from zigma_bench.diffusion.convert import Network
from zigma_bench.suite import Guidance

DIT_CHANNELS = 3  # DiT guides only the first three channels; the last of its four latent channels stays conditional


ConditionTensors = Tensor | tuple[Tensor, ...]  # labels [B], or text features [B, S, C] with an optional mask [B, S]


class TextLookup(Protocol):
    """Maps text numbers, int64 [B], to the condition inputs of a network. `null`: the number of the empty text."""

    @property
    def null(self) -> int: ...

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]: ...


def parts_of(condition: ConditionTensors) -> tuple[Tensor, ...]:
    """The inputs of a network after x and t."""
    return condition if isinstance(condition, tuple) else (condition,)


def with_text_features(network: Network, texts: TextLookup) -> Network:
    """Wrap a network that takes text features as one that takes text numbers."""
    return lambda x, t, *numbers: network(x, t, *texts(*numbers))


def with_guidance(network: Network, y: ConditionTensors, dropped: ConditionTensors, guidance: Guidance) -> Network:
    """Wrap a network as `(x, t)` -> guided prediction, with the condition y and the null condition `dropped`, [B, ...].

    One evaluation runs the network once, on a batch of twice the size. If the network has more output than input
    channels (a learned variance), the extra channels are those with the condition.
    """

    def run(x: Tensor, t: Tensor) -> Tensor:
        halves = zip(parts_of(y), parts_of(dropped), strict=True)
        both = network(torch.cat([x, x]), torch.cat([t, t]), *(torch.cat(pair) for pair in halves))
        conditional, unconditional = both.chunk(2)
        axis = x.ndim - 3  # channels of an image [B, C, H, W] or a clip [B, T, C, H, W]
        channels = x.shape[axis] if guidance.channels == "all" else min(DIT_CHANNELS, x.shape[axis])
        scale = scale_at(t, guidance).reshape(-1, *[1] * (x.ndim - 1))
        difference = (conditional - unconditional).narrow(axis, 0, channels)
        steered = unconditional.narrow(axis, 0, channels) + scale * difference
        unguided = conditional.narrow(axis, channels, conditional.shape[axis] - channels)
        return torch.cat([steered, unguided], dim=axis)

    return run


def with_condition(network: Network, y: ConditionTensors | None) -> Network:
    """Bind the condition y [B, ...] to a network; without a condition, return the network."""
    return network if y is None else lambda x, t: network(x, t, *parts_of(y))


def with_labels(
    network: Network, y: Tensor, dropped: int, guidance: Guidance | None, texts: TextLookup | None = None
) -> Network:
    """Bind labels y int64 [B] to a network; with guidance, guide away from the null label `dropped`.

    With `texts` the labels are text numbers, and the null condition is the empty text.
    """
    null = torch.full_like(y, dropped if texts is None else texts.null)
    if texts is None:
        return with_condition(network, y) if guidance is None else with_guidance(network, y, null, guidance)
    condition = texts(y)
    return (
        with_condition(network, condition)
        if guidance is None
        else with_guidance(network, condition, texts(null), guidance)
    )


def scale_at(t: Tensor, guidance: Guidance) -> Tensor:
    """The guidance scale at each time: 1 outside the closed interval."""
    if guidance.interval is None:
        return torch.full_like(t, guidance.scale)
    start, end = guidance.interval
    return torch.where((t >= start) & (t <= end), guidance.scale, 1.0)
