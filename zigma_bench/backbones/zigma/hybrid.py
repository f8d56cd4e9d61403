"""Hybrid: ZigMa's block with softmax attention in the place of Mamba in every k-th layer (after Jamba).

Source: the idea is Jamba's (arXiv 2403.19887), which has MLPs beside both; here every block is ZigMa's, adaLN, residual
and all, so that the mixer alone differs. It is no published diffusion network.
Layers of attention see every token, whatever the order; those of Mamba follow the scan.
"""

from __future__ import annotations

from zigma_bench.backbones.zigma.network import Zigma


class Hybrid(Zigma):
    """As ZigMa; `options.layer(i)` says which mixer layer i has."""
