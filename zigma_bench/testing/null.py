"""The null test of an order: the routes along which attention must have the same output as along raster."""

from __future__ import annotations

import numpy as np

from zigma_bench.scans.route import Route


def order_matters(route: Route) -> str | None:
    """Why the output of attention may differ between this route and raster; None where it must not.

    Along paths that visit every token once in one segment, every token attends to all tokens.
    """
    reasons = {
        "its order is learned from the features": route.learned is not None,
        "tokens attend within their segment alone": route.segments is not None,
        "pads are tokens that are attended to": route.pad_count > 0,
        "each path attends to its own part of the tokens": route.merge_facts.splits_tokens,
        "a step's id adds to its key": route.step_feature is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def in_raster(route: Route) -> Route:
    """The route with raster instead of each path, and with the same merge, parameter sharing and stages."""
    raster = np.arange(route.tokens)
    if route.merge_facts.splits_tokens:  # the parts together are the tokens once
        return Route(raster)
    return Route(np.tile(raster, (route.K, 1)), merge=route.merge, share=route.share, stages=route.stages)
