"""The built-in backbones and mixers, registered by the same hooks as a plugin's; this page imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.hookspecs import hookimpl
from zigma_bench.models import costs, kept
from zigma_bench.models.options import DitOptions, Mamba2Options, MambaOptions, VisionMambaOptions, ZigmaOptions
from zigma_bench.registry import BackboneFacts, MixerFacts

# Widths and depths of the official factory functions (CompVis/zigma model_zigma.py; its S has width 368).
ZIGMA_SIZES = {
    "S": {"width": 368, "depth": 24},
    "B": {"width": 768, "depth": 24},
    "M": {"width": 768, "depth": 48},
    "L": {"width": 1024, "depth": 48},
    "H": {"width": 1536, "depth": 48},
}
# Table 1 of the DiT paper.
DIT_SIZES = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}


@hookimpl
def register_mixers(register: Callable[..., None]) -> None:
    register(
        "mamba",
        "zigma_bench.models.mixer:MambaMixer",
        options=MambaOptions,
        facts=MixerFacts(cost=costs.mamba_cost, check=costs.check_mamba, kept=kept.mamba_kept),
    )
    register(
        "mamba-2",
        "zigma_bench.models.mamba2:Mamba2Mixer",
        options=Mamba2Options,
        facts=MixerFacts(cost=costs.mamba2_cost, check=costs.check_mamba2, kept=kept.mamba2_kept),
    )


@hookimpl
def register_backbones(register: Callable[..., None]) -> None:
    register(
        "zigma",
        "zigma_bench.models.zigma:Zigma",
        options=ZigmaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=costs.zigma_cost,
            kept=kept.zigma_kept,
            check=costs.check_zigma,
            sizes=ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
        ),
    )
    register(
        "vision-mamba",
        "zigma_bench.models.vision_mamba:VisionMamba",
        options=VisionMambaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=costs.zigma_cost,
            kept=kept.zigma_kept,
            check=costs.check_vision_mamba,
            default_scan="bidirectional",
            sizes=ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
        ),
    )
    register(
        "dit",
        "zigma_bench.models.dit:Dit",
        options=DitOptions,
        facts=BackboneFacts(
            order="free",
            cost=costs.dit_cost,
            kept=kept.dit_kept,
            check=costs.check_dit,
            sizes=DIT_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1, "heads": 1},
        ),
    )
