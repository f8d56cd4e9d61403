"""Register the built-in backbones with the hook that plugins use. This module doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.backbones.dit import facts as dit
from zigma_bench.backbones.u_vit import facts as u_vit
from zigma_bench.backbones.zigma import facts as zigma
from zigma_bench.layers.costs import condition_of
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import BackboneFacts


@hookimpl
def register_backbones(register: Callable[..., None]) -> None:
    register(
        "zigma",
        "zigma_bench.backbones.zigma.network:Zigma",
        options=zigma.ZigmaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=zigma.zigma_cost,
            memory=zigma.zigma_memory,
            check=zigma.check_zigma,
            sizes=zigma.ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
            condition=condition_of,
        ),
    )
    register(
        "vision-mamba",
        "zigma_bench.backbones.zigma.network:VisionMamba",
        options=zigma.VisionMambaOptions,
        facts=BackboneFacts(
            order="scan",
            cost=zigma.zigma_cost,
            memory=zigma.zigma_memory,
            check=zigma.check_vision_mamba,
            default_scan="bidirectional",
            sizes=zigma.ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1},
            condition=condition_of,
        ),
    )
    register(
        "hybrid",
        "zigma_bench.backbones.zigma.network:Hybrid",
        options=zigma.HybridOptions,
        facts=BackboneFacts(
            order="scan",
            cost=zigma.zigma_cost,
            memory=zigma.zigma_memory,
            check=zigma.check_hybrid,
            sizes=zigma.ZIGMA_SIZES,
            smoke={"width": 32, "depth": 2, "patch": 1, "every": 2, "heads": 1},
            condition=condition_of,
        ),
    )
    for name, target, options in (
        ("dit", "zigma_bench.backbones.dit.network:Dit", dit.DitOptions),
        ("sit", "zigma_bench.backbones.dit.network:Sit", dit.SitOptions),
    ):
        register(
            name,
            target,
            options=options,
            facts=BackboneFacts(
                order="free",
                cost=dit.dit_cost,
                memory=dit.dit_memory,
                check=dit.check_dit,
                sizes=dit.DIT_SIZES,
                smoke={"width": 32, "depth": 2, "patch": 1, "heads": 1},
                condition=condition_of,
            ),
        )
    register(
        "u-vit",
        "zigma_bench.backbones.u_vit.network:Uvit",
        options=u_vit.UvitOptions,
        facts=BackboneFacts(
            order="free",
            cost=u_vit.uvit_cost,
            check=u_vit.check_uvit,
            sizes=u_vit.UVIT_SIZES,
            smoke={"width": 32, "depth": 3, "patch": 1, "heads": 1},
            condition=condition_of,
        ),
    )
