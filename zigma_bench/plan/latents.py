"""The autoencoder of a suite, resolved from its configuration file: the shape and scaling of the latents."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from typing import Any

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import facts_digest
from zigma_bench.plan.space import TOY, LatentSpace
from zigma_bench.plugins.registry import DataFacts, Missing
from zigma_bench.pretrained.files import Pretrained, file_sha256
from zigma_bench.suite import Latents

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
SCALE = 0.18215  # the default of diffusers, as in Stable Diffusion
INSTALL = Missing("diffusers is not installed", 'pip install "zigma-bench[latents]"')
# The smallest possible autoencoder: it halves the side once; data/latents/autoencoder.py draws its weights
TOY_CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "scaling_factor": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The shape and scaling of the latents; `channels` is that of the images, None if any number is allowed."""

    channels: int | None
    latent_channels: int
    factor: int
    scale: tuple[float, ...]
    shift: tuple[float, ...]


# The plan assumes this for a missing autoencoder: that of Stable Diffusion, DiT, SiT and ZigMa
ASSUMED = Architecture(None, 4, 8, (SCALE,), (0.0,))


def autoencoder_files(latents: Latents) -> Pretrained:
    """The files of the autoencoder; UsageError for an invalid revision or subfolder."""
    return Pretrained("autoencoder", latents.autoencoder, latents.revision, latents.subfolder, (CONFIG, WEIGHTS))


def latent_space(
    latents: Latents, facts: DataFacts, *, mirrored: bool, smoke: bool, where: str
) -> tuple[LatentSpace, DataFacts]:
    """The latent space of images, and the data facts of the latents.

    If the autoencoder is not on this machine, it is listed in `missing`, and the plan assumes the shape of Stable
    Diffusion's latents (4 channels, an eighth of the side).
    """
    missing: tuple[Missing, ...] = () if importlib.util.find_spec("diffusers") else (INSTALL,)
    if latents.autoencoder == TOY:
        if not smoke:
            raise UsageError("the toy autoencoder is only for smoke runs", where=where, do="name a trained one")
        known, hashes = latent_architecture(TOY_CONFIG, where), (f"{TOY} 1", facts_digest(TOY_CONFIG))
    else:
        files = autoencoder_files(latents)
        missing += files.missing()
        known, hashes = ASSUMED, ("", "")
        if not files.absent:
            config = read_config(files)
            known, hashes = (
                latent_architecture(config, str(files.folder)),
                (_weights_sha256(files), _config_sha256(config)),
            )
    _check_fits(known, facts, where)
    space = LatentSpace(
        given=latents, weights_sha256=hashes[0], config_sha256=hashes[1], latent_channels=known.latent_channels,
        factor=known.factor, scale=known.scale, shift=known.shift, images=facts.fingerprint, channels=facts.channels,
        height=facts.height, width=facts.width, mirrored=mirrored, frames=facts.frames,
    )  # fmt: skip
    channels, height, width = space.shape
    fingerprint = facts_digest({"latents": space.facts})
    return space, replace(
        facts,
        channels=channels,
        height=height,
        width=width,
        fingerprint=fingerprint,
        missing=(*facts.missing, *missing),
    )


def space_of_latents(latents: Latents, *, channels: int, height: int, width: int, where: str) -> LatentSpace:
    """The space of latents [channels, height, width] without a data set; downloads an autoencoder of the Hub.

    Raises NotReady if the autoencoder is missing, or its latents have another number of channels.
    """
    files = autoencoder_files(latents)
    files.fetch()
    if missing := files.missing() + (() if importlib.util.find_spec("diffusers") else (INSTALL,)):
        raise NotReady("; ".join(f"{item.what}: {item.do}" for item in missing), where=where)
    config = read_config(files)
    known = latent_architecture(config, str(files.folder))
    if known.latent_channels != channels:
        raise NotReady(
            "the autoencoder's latents don't fit the model", where=where, expected=f"{channels} channels",
            got=known.latent_channels, do="use the one that the model was trained with",
        )  # fmt: skip
    return LatentSpace(
        given=latents, weights_sha256=_weights_sha256(files), config_sha256=_config_sha256(config),
        latent_channels=channels,
        factor=known.factor, scale=known.scale, shift=known.shift, images="", channels=known.channels or 3,
        height=height * known.factor, width=width * known.factor, mirrored=False,
    )  # fmt: skip


def read_config(files: Pretrained) -> dict[str, Any]:
    """The configuration of a diffusers model; NotReady for another kind of model."""
    path = files.folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise NotReady(f"the configuration can't be read: {error}", where=str(path)) from None
    if kind != "AutoencoderKL":
        raise NotReady(
            "not an AutoencoderKL", where=str(path), expected="AutoencoderKL of diffusers", got=kind,
            do="name the autoencoder's folder, or its subfolder (vae)",
        )  # fmt: skip
    return dict(config)


def latent_architecture(config: dict[str, Any], where: str) -> Architecture:
    """The latents of a configuration; scale and shift include the mean and deviation per channel, if it has them."""
    try:
        blocks = config.get("block_out_channels", (64,))
        latent, channels = int(config.get("latent_channels", 4)), config.get("in_channels")
        scale, shift = float(config.get("scaling_factor", SCALE)), float(config.get("shift_factor") or 0.0)
        means, deviations = (config.get(key) for key in ("latents_mean", "latents_std"))
        scales = (scale,) if deviations is None else tuple(scale / float(value) for value in deviations)
        shifts = (shift,) if means is None else tuple(float(value) for value in means)
        if not all(len(values) in (1, latent) for values in (scales, shifts)) or min(scales) <= 0 or latent < 1:
            raise ValueError(f"the scale or shift is invalid for {latent} channels")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise NotReady(f"the configuration is invalid: {error}", where=f"{where}, {CONFIG}") from None
    image_channels = None if config is TOY_CONFIG else 3 if channels is None else int(channels)
    return Architecture(image_channels, latent, 2 ** (len(blocks) - 1), scales, shifts)


def _check_fits(known: Architecture, facts: DataFacts, where: str) -> None:
    if known.channels not in (None, facts.channels):
        raise NotReady(
            "the autoencoder doesn't fit the images", where=where, expected=f"{known.channels} channels",
            got=facts.channels, do="use data with as many channels, or another autoencoder",
        )  # fmt: skip
    if facts.height % known.factor or facts.width % known.factor:
        raise NotReady(
            f"the autoencoder halves the side {known.factor.bit_length() - 1} times", where=where,
            expected=f"a height and width divisible by {known.factor}", got=f"{facts.height} x {facts.width}",
            do="choose another resolution",
        )  # fmt: skip


def _weights_sha256(files: Pretrained) -> str:
    return file_sha256(files.folder / WEIGHTS)


def _config_sha256(config: dict[str, Any]) -> str:
    """The sha256 of the keys that define the network; keys with an underscore (names and versions) are left out."""
    return facts_digest({key: value for key, value in config.items() if not key.startswith("_")})
