"""A diffusers AutoencoderKL as it is used here: uint8 images to the moments of their posterior, latents to images.

Weights come from safetensors alone, every name must fit, and they must be those that the plan has named. In `fp32` no
TF32 is used, `tf32` lets an NVIDIA card use it, `bf16` runs under autocast; moments and images leave as float32.
"""

from __future__ import annotations

import contextlib
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zigma_bench.data.images import Pixels
from zigma_bench.errors import NotFinite, NotReady
from zigma_bench.plan.latents import TOY_CONFIG, WEIGHTS, pretrained
from zigma_bench.plan.space import TOY, LatentSpace
from zigma_bench.pretrained.files import file_sha256

Moments = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Autoencoder:
    """The network of a space, on a device."""

    network: Any
    space: LatentSpace
    device: str

    def moments(self, pixels: Pixels) -> Moments:
        """uint8 [n, C, H, W] -> float32 [n, 2c, h, w]: the posterior's means, then its log-variances, not scaled.

        The frames of clips [n, T, C, H, W] go through it one by one.
        """
        if pixels.ndim == 5:
            flat = self.moments(pixels.reshape(-1, *pixels.shape[2:]))
            return flat.reshape(*pixels.shape[:2], *flat.shape[1:])
        parts = []
        with torch.no_grad(), arithmetic(self.space.given.precision, self.device):
            for start in range(0, len(pixels), self.space.given.batch):
                part = np.ascontiguousarray(pixels[start : start + self.space.given.batch])
                x = torch.from_numpy(part).to(self.device).float().div_(127.5).sub_(1)
                posterior = self.network.encode(x).latent_dist
                parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu())
        found: Moments = torch.cat(parts).numpy()
        if not np.isfinite(found).all():
            raise NotFinite("the autoencoder encodes an image as what is not finite", do="take precision fp32")
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """What networks draw, [n, c, h, w], as images [n, C, H, W] with values about [-1, 1], float32 on the CPU.

        The frames of clips [n, T, c, h, w] come back one by one.
        """
        if latents.ndim == 5:
            flat = self.decode(latents.flatten(0, 1))
            return flat.reshape(*latents.shape[:2], *flat.shape[1:])
        parts = []
        scale, shift = scaling(self.space, self.device)
        with torch.no_grad(), arithmetic(self.space.given.precision, self.device):
            for z in torch.split(latents.float(), self.space.given.batch):
                parts.append(self.network.decode(z.to(self.device) / scale + shift).sample.float().cpu())
        images = torch.cat(parts)
        if not bool(images.isfinite().all()):
            raise NotFinite("the autoencoder decodes a latent to what is not finite", do="take precision fp32")
        return images

    def pixels(self, latents: npt.NDArray[np.float32]) -> Pixels:
        """Latents as networks see them, float32 [n, c, h, w], as images uint8 [n, C, H, W], rounded and clamped."""
        values = (self.decode(torch.from_numpy(latents)) + 1) * 127.5
        decoded: Pixels = values.round().clamp(0, 255).to(torch.uint8).numpy()
        return decoded


def scaling(space: LatentSpace, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift of a space, [1 or c, 1, 1] each."""
    scale, shift = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (space.scale, space.shift))
    return scale, shift


def open_autoencoder(space: LatentSpace, device: str) -> Autoencoder:
    """The network of a space; NotReady where it can't be read, or is another one than was planned with."""
    network = _toy(space) if space.given.autoencoder == TOY else _trained(space)
    return Autoencoder(network.to(device).eval().requires_grad_(False), space, device)


@contextlib.contextmanager
def arithmetic(precision: str, device: str) -> Iterator[None]:
    """Float32 as it is written, or TF32, or bf16 under autocast; no kernel is chosen by a race."""
    tf32 = precision == "tf32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
            torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _trained(space: LatentSpace) -> nn.Module:
    """The weights of the planned file, whose older names (`query`, `proj_attn`) diffusers knows."""
    files = pretrained(space.given)
    where = str(files.folder / WEIGHTS)
    if files.absent:
        raise NotReady(f"the autoencoder lacks {' and '.join(files.absent)}", where=str(files.folder), do=files.get())
    if (found := file_sha256(files.folder / WEIGHTS)) != space.weights_sha256:
        raise NotReady(
            "the autoencoder is another than the run was planned with", where=where, expected=space.weights_sha256,
            got=found, do="run again, and everything is made anew with the one that is there",
        )  # fmt: skip
    kl = _autoencoder_kl()
    options = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False, "torch_dtype": None}
    try:
        network, told = kl.from_pretrained(files.folder, output_loading_info=True, **options)
    except Exception as error:  # a broken file raises whatever its reader runs into
        raise NotReady(f"the autoencoder can't be read ({type(error).__name__}: {error})", where=where) from error
    if wrong := [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]:
        raise NotReady(
            "the weights are not those of the configuration", where=where,
            got=f"{len(wrong)} names that don't fit, such as {wrong[0]}", do="get both files from one place",
        )  # fmt: skip
    return network.float()  # type: ignore[no-any-return]


def _toy(space: LatentSpace) -> nn.Module:
    """The toy: each weight is drawn from its own name and no bias is set, so that the toy is the same everywhere."""
    network: nn.Module = _autoencoder_kl().from_config(
        {**TOY_CONFIG, "in_channels": space.channels, "out_channels": space.channels}
    )
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(weight.shape))
                weight.copy_(torch.from_numpy(draw) * (2 / weight[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                weight.zero_()
    return network


def _autoencoder_kl() -> Any:
    """diffusers' class, imported where it is used; what it prints about optional packages is kept quiet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries that it imports
            from diffusers import AutoencoderKL
            from diffusers.utils import logging
    except ImportError as error:
        raise NotReady(f"diffusers can't be imported: {error}", do='pip install "zigma-bench[latents]"') from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoencoderKL
