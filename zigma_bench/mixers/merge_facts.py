"""The facts about the built-in merges, and their registration. This module doesn't import torch.

K paths, L tokens, E channels of the mixer.
"""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import Cost, MergeFacts
from zigma_bench.scans.route import Route


def weights_of_paths_cost(*, paths: int, channels: int, tokens: int) -> Cost:
    """The cost of `gate`: a linear map with a bias from K E means to K weights."""
    return Cost.of({"merge": paths * paths * channels + paths}, {"merge": 2 * paths * paths * channels})


def weights_of_channels_cost(*, paths: int, channels: int, tokens: int) -> Cost:
    """The cost of `channel-attention`: for each channel, a linear map with a bias from K means to K weights."""
    return Cost.of({"merge": paths * paths * channels + paths * channels}, {"merge": 2 * paths * paths * channels})


def saves_nothing(*, paths: int, channels: int, tokens: int, value_bytes: int) -> dict[str, int]:
    """The memory of a sum or a concatenation: the backward pass reads no output."""
    return {}


def saves_outputs(*, paths: int, channels: int, tokens: int, value_bytes: int) -> dict[str, int]:
    """The memory of a merge with weights: the output of each path."""
    return {"merge": paths * value_bytes * tokens * channels}


def check_channel_groups(*, route: Route, channels: int) -> None:
    """NotReady unless the number of paths divides the number of channels."""
    if channels % route.K:
        raise NotReady(
            f"each of the scan's {route.K} paths needs its own group of channels, and {channels} inner channels are "
            f"not a multiple of {route.K}",
            do="choose another width, or fewer paths",
        )


MERGES = {
    "sum": ("SumMerge", "The sum of the paths' outputs.", MergeFacts(memory=saves_nothing, is_sum=True)),
    "mean": ("MeanMerge", "The mean of the paths' outputs.", MergeFacts(memory=saves_nothing)),
    "concat": (
        "ConcatMerge",
        "Each path processes its own group of channels, and the groups are concatenated.",
        MergeFacts(memory=saves_nothing, check=check_channel_groups, splits_channels=True),
    ),
    "gate": (
        "GateMerge",
        "A sum with a weight for each sample and path, by a softmax over the paths.",
        MergeFacts(cost=weights_of_paths_cost, memory=saves_outputs),
    ),
    "channel-attention": (
        "ChannelAttentionMerge",
        "A sum with a weight for each sample, path and channel.",
        MergeFacts(cost=weights_of_channels_cost, memory=saves_outputs),
    ),
    "scatter": (
        "ScatterMerge",
        "The tokens are divided among the paths, and each path writes its own tokens.",
        MergeFacts(memory=saves_nothing, gate="merged", splits_tokens=True),
    ),
    "cascade": (
        "SumMerge",
        "The paths form stages, and each stage reads the sum of the previous one.",
        MergeFacts(memory=saves_nothing, gate="merged", has_stages=True),
    ),
}


def register_built_in_merges(register: Callable[..., None]) -> None:
    """Register every merge above."""
    for name, (module, doc, facts) in MERGES.items():
        register(name, f"zigma_bench.mixers.merges:{module}", doc=doc, facts=facts)
