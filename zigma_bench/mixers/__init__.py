"""Register the built-in mixers and merges with the hooks that plugins use. This module doesn't import torch."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.mixers.attention import facts as attention
from zigma_bench.mixers.identity import facts as identity
from zigma_bench.mixers.linear_attention import facts as linear_attention
from zigma_bench.mixers.mamba import facts as mamba
from zigma_bench.mixers.mamba2 import facts as mamba2
from zigma_bench.mixers.merge_facts import register_built_in_merges
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import MixerFacts


@hookimpl
def register_mixers(register: Callable[..., None]) -> None:
    register(
        "mamba",
        "zigma_bench.mixers.mamba.mixer:MambaMixer",
        options=mamba.MambaOptions,
        facts=MixerFacts(cost=mamba.mamba_cost, check=mamba.check_mamba, memory=mamba.mamba_memory),
    )
    register(
        "mamba-2",
        "zigma_bench.mixers.mamba2.mixer:Mamba2Mixer",
        options=mamba2.Mamba2Options,
        facts=MixerFacts(cost=mamba2.mamba2_cost, check=mamba2.check_mamba2, memory=mamba2.mamba2_memory),
    )
    register(
        "attention",
        "zigma_bench.mixers.attention.mixer:AttentionMixer",
        options=attention.AttentionOptions,
        facts=MixerFacts(cost=attention.attention_cost, check=attention.check_attention),
    )
    register(
        "linear-attention",
        "zigma_bench.mixers.linear_attention.mixer:LinearAttentionMixer",
        options=linear_attention.LinearAttentionOptions,
        facts=MixerFacts(
            cost=linear_attention.linear_attention_cost,
            check=linear_attention.check_linear_attention,
            memory=linear_attention.linear_attention_memory,
        ),
    )
    register(
        "identity",
        "zigma_bench.mixers.identity.mixer:IdentityMixer",
        options=identity.IdentityOptions,
        facts=MixerFacts(cost=identity.identity_cost, check=identity.check_identity, mixes_tokens=False),
    )


@hookimpl
def register_merges(register: Callable[..., None]) -> None:
    register_built_in_merges(register)
