"""SiT: the network of DiT, trained on the velocity of an interpolant (`Linear` of the paper is the path used here).

Source: arXiv 2401.08740 and willisma/SiT (models.py). It differs from `dit` in the time that it is given: t in [0, 1]
itself, not 1000 t. The published network has a head for a sigma (`learn_sigma: true`), of which it throws the second
half away, as happens here. Differences from it: those of `dit` in the size of images and in who drops labels.
"""

from __future__ import annotations

from zigma_bench.backbones.dit.network import Dit


class Sit(Dit):
    """x [B, C, H, W] and t [B] in [0, 1], with labels int64 [B] if it has classes -> the velocity [B, C, H, W]."""

    time_scale = 1.0
