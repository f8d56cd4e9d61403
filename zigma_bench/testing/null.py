"""Find the routes for which attention must give the same output as for raster."""

from __future__ import annotations

import numpy as np

from zigma_bench.scans.route import Route


def order_matters(route: Route) -> str | None:
    """Why the output of attention may differ between this route and raster; None if it must be the same.

    Along paths that visit every token once in one segment, every token attends to all tokens.
    """
    reasons = {
        "its order is learned from the features": route.learned is not None,
        "tokens only attend to their own segment": route.segments is not None,
        "tokens also attend to pads": route.pad_count > 0,
        "each path attends to its own part of the tokens": route.merge_facts.splits_tokens,
        "the id of a step is added to its key": route.step_feature is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def in_raster(route: Route) -> Route:
    """The same route with raster as each path; merge, parameter sharing and stages stay the same."""
    raster = np.arange(route.tokens)
    if route.merge_facts.splits_tokens:  # together, the parts visit every token once
        return Route(raster)
    return Route(np.tile(raster, (route.K, 1)), merge=route.merge, share=route.share, stages=route.stages)
