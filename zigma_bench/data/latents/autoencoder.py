"""The autoencoder, diffusers' AutoencoderKL: encodes uint8 images to the moments of their posterior, decodes latents.

Weights are only read from safetensors. Every name must match, and the file must be the planned one. `fp32` uses no
TF32, `tf32` allows it on an NVIDIA GPU, and `bf16` uses autocast. Moments and images are float32.
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
from zigma_bench.plan.latents import TOY_CONFIG, WEIGHTS, autoencoder_files
from zigma_bench.plan.space import TOY, LatentSpace
from zigma_bench.pretrained.files import file_sha256

Moments = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Autoencoder:
    """The network of a latent space, on a device."""

    network: Any
    space: LatentSpace
    device: str

    def moments(self, pixels: Pixels) -> Moments:
        """Encode uint8 [n, C, H, W] to float32 [n, 2c, h, w]: the means of the posterior, then its log-variances, not
        scaled. The frames of clips [n, T, C, H, W] are encoded separately.

        Raises NotFinite if a moment isn't finite.
        """
        if pixels.ndim == 5:
            flat = self.moments(pixels.reshape(-1, *pixels.shape[2:]))
            return flat.reshape(*pixels.shape[:2], *flat.shape[1:])
        parts = []
        with torch.no_grad(), float_arithmetic(self.space.given.precision, self.device):
            for start in range(0, len(pixels), self.space.given.batch):
                part = np.ascontiguousarray(pixels[start : start + self.space.given.batch])
                x = torch.from_numpy(part).to(self.device).float().div_(127.5).sub_(1)
                posterior = self.network.encode(x).latent_dist
                parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1).float().cpu())
        found: Moments = torch.cat(parts).numpy()
        if not np.isfinite(found).all():
            raise NotFinite("the autoencoder's encoding of an image is not finite", do="use precision fp32")
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """Decode samples of a network, [n, c, h, w], to images [n, C, H, W], float32 on the CPU, mostly in [-1, 1].

        The frames of clips [n, T, c, h, w] are decoded separately. Raises NotFinite if an image isn't finite.
        """
        if latents.ndim == 5:
            flat = self.decode(latents.flatten(0, 1))
            return flat.reshape(*latents.shape[:2], *flat.shape[1:])
        parts = []
        scale, shift = latent_scaling(self.space, self.device)
        with torch.no_grad(), float_arithmetic(self.space.given.precision, self.device):
            for z in torch.split(latents.float(), self.space.given.batch):
                parts.append(self.network.decode(z.to(self.device) / scale + shift).sample.float().cpu())
        images = torch.cat(parts)
        if not bool(images.isfinite().all()):
            raise NotFinite("the autoencoder's decoding of a latent is not finite", do="use precision fp32")
        return images

    def pixels(self, latents: npt.NDArray[np.float32]) -> Pixels:
        """Decode scaled latents, float32 [n, c, h, w], to images uint8 [n, C, H, W], rounded and clipped."""
        values = (self.decode(torch.from_numpy(latents)) + 1) * 127.5
        decoded: Pixels = values.round().clamp(0, 255).to(torch.uint8).numpy()
        return decoded


def latent_scaling(space: LatentSpace, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """The scale and the shift of a latent space, [1 or c, 1, 1] each."""
    scale, shift = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (space.scale, space.shift))
    return scale, shift


def open_autoencoder(space: LatentSpace, device: str) -> Autoencoder:
    """Load the network of a latent space; NotReady if it can't be read, or isn't the planned one."""
    network = _make_toy(space) if space.given.autoencoder == TOY else _load_trained(space)
    return Autoencoder(network.to(device).eval().requires_grad_(False), space, device)


@contextlib.contextmanager
def float_arithmetic(precision: str, device: str) -> Iterator[None]:
    """A context with full float32, TF32, or bf16 autocast, and deterministic kernels without benchmarking."""
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


def _load_trained(space: LatentSpace) -> nn.Module:
    """The network with the planned weights; diffusers translates older names (`query`, `proj_attn`)."""
    files = autoencoder_files(space.given)
    where = str(files.folder / WEIGHTS)
    if files.absent:
        what = f"files of the autoencoder are missing: {' and '.join(files.absent)}"
        raise NotReady(what, where=str(files.folder), do=files.get())
    if (found := file_sha256(files.folder / WEIGHTS)) != space.weights_sha256:
        raise NotReady(
            "the autoencoder changed after the plan was made", where=where, expected=space.weights_sha256,
            got=found, do="run again, to encode and train with the current one",
        )  # fmt: skip
    kl = _autoencoder_kl()
    options = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False, "torch_dtype": None}
    try:
        network, loading = kl.from_pretrained(files.folder, output_loading_info=True, **options)
    except Exception as error:  # readers raise all kinds of errors on broken files
        raise NotReady(f"the autoencoder can't be read ({type(error).__name__}: {error})", where=where) from error
    if wrong := [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]:
        raise NotReady(
            "the weights don't fit the configuration", where=where,
            got=f"{len(wrong)} names that don't fit, such as {wrong[0]}", do="get both files from the same source",
        )  # fmt: skip
    return network.float()  # type: ignore[no-any-return]


def _make_toy(space: LatentSpace) -> nn.Module:
    """The toy autoencoder: each weight depends only on its name, and biases are zero, so it is the same everywhere."""
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
    """The class AutoencoderKL of diffusers, without messages about optional packages; NotReady without diffusers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from libraries that diffusers imports
            from diffusers import AutoencoderKL
            from diffusers.utils import logging
    except ImportError as error:
        raise NotReady(f"diffusers can't be imported: {error}", do='pip install "zigma-bench[latents]"') from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoencoderKL
