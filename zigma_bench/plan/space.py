"""The latent space of an autoencoder, in which networks work instead of in pixels."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from zigma_bench.suite import Latents, Strict

TOY = "toy"  # the small autoencoder of smoke runs, with weights drawn from a fixed seed


class LatentSpace(Strict):
    """The latent space of a cell; `given` is the suite's section `latents` (the field names are keys of records).

    The sha256 of its weights and of its configuration identify the autoencoder. It encodes an image [channels, height,
    width] to a latent z [latent_channels, height / factor, width / factor], and each of the `frames` of a clip
    separately. The input of networks is (z - shift) * scale. `images` is the fingerprint of the images.

    With `mirrored` the cache also contains the latents of the mirrored images, because mirroring a latent doesn't give
    the latent of the mirrored image. If the suite's reference is reconstructions, the cache also contains the decoded
    images of the split `reconstructed`.
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
        """The shape [channels, height, width] of a latent, or of one frame of a clip's latent."""
        return self.latent_channels, self.height // self.factor, self.width // self.factor

    @property
    def cached(self) -> dict[str, Any]:
        """Everything that the content of the cache depends on; not `posterior`: the cache stores both moments."""
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
        """Everything that the decoded images of latents depend on."""
        keys = ("weights_sha256", "config_sha256", "scale", "shift", "precision")
        return {key: self.cached[key] for key in keys}

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that training and sampling depend on."""
        return {**self.cached, "posterior": self.given.posterior}

    @property
    def folder_name(self) -> str:
        """A folder name that is unique to the content of the cache."""
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
