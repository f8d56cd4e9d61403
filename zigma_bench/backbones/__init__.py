"""The built-in backbones and mixers, registered by the same hooks as a plugin's; this page imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.backbones import attention_costs, costs
from zigma_bench.backbones import memory as kept
from zigma_bench.backbones.options import (
    AttentionOptions,
    DitOptions,
    HybridOptions,
    IdentityOptions,
    Mamba2Options,
    MambaOptions,
    SitOptions,
    UvitOptions,
    VisionMambaOptions,
    ZigmaOptions,
)
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import BackboneFacts, MixerFacts

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
# Table 1 of the U-ViT paper.
UVIT_SIZES = {
    "S": {"width": 512, "depth": 13, "heads": 8},
    "M": {"width": 768, "depth": 17, "heads": 12},
    "L": {"width": 1024, "depth": 21, "heads": 16},
    "H": {"width": 1152, "depth": 29, "heads": 16},
}


@hookimpl
def register_mixers(register: Callable[..., None]) -> None:
    register(
        "mamba",
        "zigma_bench.mixers.mamba:MambaMixer",
        options=MambaOptions,
        facts=MixerFacts(cost=costs.mamba_cost, check=costs.check_mamba, kept=kept.mamba_kept),
    )
    register(
        "mamba-2",
        "zigma_bench.mixers.mamba2:Mamba2Mixer",
        options=Mamba2Options,
        facts=MixerFacts(cost=costs.mamba2_cost, check=costs.check_mamba2, kept=kept.mamba2_kept),
    )
    register(
        "attention",
        "zigma_bench.mixers.attention:AttentionMixer",
        options=AttentionOptions,
        facts=MixerFacts(cost=attention_costs.attention_cost, check=attention_costs.check_attention),
    )
    register(
        "identity",
        "zigma_bench.mixers.identity:IdentityMixer",
        options=IdentityOptions,
        facts=MixerFacts(cost=attention_costs.identity_cost, check=attention_costs.check_identity),
    )


@hookimpl
def register_backbones(register: Callable[..., None]) -> None:
    register(
        "zigma",
        "zigma_bench.backbones.zigma.network:Zigma",
        options=ZigmaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=costs.zigma_cost,
            kept=kept.zigma_kept,
            check=costs.check_zigma,
            sizes=ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
            condition=costs.condition_of,
        ),
    )
    register(
        "vision-mamba",
        "zigma_bench.backbones.zigma.vision_mamba:VisionMamba",
        options=VisionMambaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=costs.zigma_cost,
            kept=kept.zigma_kept,
            check=costs.check_vision_mamba,
            default_scan="bidirectional",
            sizes=ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
            condition=costs.condition_of,
        ),
    )
    register(
        "hybrid",
        "zigma_bench.backbones.zigma.hybrid:Hybrid",
        options=HybridOptions,
        facts=BackboneFacts(
            order="scan",
            cost=costs.zigma_cost,
            kept=kept.zigma_kept,
            check=attention_costs.check_hybrid,
            sizes=ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1, "every": 2, "heads": 1},
            condition=costs.condition_of,
        ),
    )
    for name, target, options in (
        ("dit", "zigma_bench.backbones.dit.network:Dit", DitOptions),
        ("sit", "zigma_bench.backbones.dit.sit:Sit", SitOptions),
    ):
        register(
            name,
            target,
            options=options,
            facts=BackboneFacts(
                order="free",
                cost=costs.dit_cost,
                kept=kept.dit_kept,
                check=costs.check_dit,
                sizes=DIT_SIZES,
                smoke={"width": 32, "depth": 2, "patch": 1, "heads": 1},
                condition=costs.condition_of,
            ),
        )
    register(
        "u-vit",
        "zigma_bench.backbones.u_vit.network:Uvit",
        options=UvitOptions,
        facts=BackboneFacts(
            order="free",
            cost=attention_costs.uvit_cost,
            check=attention_costs.check_uvit,
            sizes=UVIT_SIZES,
            smoke={"width": 32, "depth": 3, "patch": 1, "heads": 1},
            condition=costs.condition_of,
        ),
    )
