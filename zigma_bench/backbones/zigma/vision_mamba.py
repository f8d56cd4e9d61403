"""VisionMamba: the bidirectional baseline that ZigMa is compared with (its `scan_type v2`, after Vim).

Each layer walks the raster forwards and backwards with own convolution, projections, A and D, one shared in_proj and
out_proj, and sums both (hustvl/Vim mamba_simple.py). It scans twice the tokens of a single path. The backward branch
starts like the forward one; `init: official` zeroes its dt bias as upstream does, which puts its first dt near 0.69,
far outside [1e-3, 0.1]. Differences from Vim: ZigMa's conditioning and residual, no class token.
"""

from __future__ import annotations

from zigma_bench.backbones.zigma.network import Zigma


class VisionMamba(Zigma):
    """x [B, C, H, W] and t [B] in [0, 1] -> the velocity [B, C, H, W]; every route has two paths."""
