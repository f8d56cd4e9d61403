"""The space that networks see in the place of pixels: what an autoencoder makes of images, as a cell states it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from zigma_bench.suite import Latents, Strict

TOY = "toy"  # of smoke runs alone: small, with weights drawn from a fixed seed


class LatentSpace(Strict):
    """`given` as the suite has it. The autoencoder is known by the sha256 of its weights and of its configuration.

    An image [channels, height, width] becomes a latent z [latent_channels, height / factor, width / factor], of which
    networks see (z - shift) * scale; of a clip's `frames` each one by itself. `images` is the fingerprint of the
    pixels, `mirrored` whether the cache also holds each image's mirror image, encoded: a mirrored latent is not the
    latent of the mirrored image. `reconstructed` is the split whose images the cache also holds decoded, as the
    suite's reference.
    """

    given: Latents
    weights_sha256: str
    config_sha256: str
    latent_channels: int
    factor: int
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    images: str
    channels: int
    height: int
    width: int
    mirrored: bool
    reconstructed: Literal["train", "validation"] | None = None
    frames: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, height, width] of a latent, of a clip's that of one frame."""
        return self.latent_channels, self.height // self.factor, self.width // self.factor

    @property
    def cached(self) -> dict[str, Any]:
        """All that the cache's content depends on: the posterior is kept whole, so how it is used is no part of it."""
        return {
            "images": self.images,
            "weights_sha256": self.weights_sha256,
            "config_sha256": self.config_sha256,
            "scale": list(self.scale),
            "shift": list(self.shift),
            "precision": self.given.precision,
            "dtype": self.given.dtype,
            "mirrored": self.mirrored,
        }

    @property
    def decoding(self) -> dict[str, Any]:
        """All that the pictures of latents depend on."""
        keys = ("weights_sha256", "config_sha256", "scale", "shift", "precision")
        return {key: self.cached[key] for key in keys}

    @property
    def facts(self) -> dict[str, Any]:
        """All that training and sampling depend on."""
        return {**self.cached, "posterior": self.given.posterior}

    @property
    def folder_name(self) -> str:
        """A name for the cache's folder that another content does not have."""
        return hashlib.sha256(json.dumps(self.cached, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        c, h, w = self.shape
        clip = f", {self.frames} frames each" if self.frames > 1 else ""
        flips = ", mirror images encoded" if self.mirrored else ""
        return (
            f"{c} x {h} x {w} of {self.channels} x {self.height} x {self.width} through {self.given.autoencoder} "
            f"({self.weights_sha256[:8] or 'absent'}), {self.given.precision}, "
            f"posterior: {self.given.posterior}{flips}{clip}"
        )
