"""A vision transformer as an extractor of torch-fidelity: it normalises images and returns one vector for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pictures

from zigma_bench.data.images import Pixels

CLASS_TOKEN, EMBEDDING = "class-token", "embedding"


class TransformerFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """Runs `network` on uint8 images [B, 3, S, S] of the right size, scaled to [0, 1] and normalised by channel."""

    def __init__(self, name: str, layer: str, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(name, [layer])
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3, (pixels.dtype, pixels.shape)
        return (self.network((pixels.float() / 255 - self.mean) / self.std),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, str]:
        return (CLASS_TOKEN, EMBEDDING)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        raise NotImplementedError("the constructor sets the layer")

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        raise NotImplementedError("this extractor is not compiled")


def resize_square(pixels: Pixels, *, size: int) -> Pixels:
    """Resize images [n, 3, H, W] to [n, 3, size, size] by Pillow's bicubic filter; the aspect ratio may change."""
    return _change_each(pixels, lambda image: pictures.resize(image, [size, size], InterpolationMode.BICUBIC))


def resize_and_crop(pixels: Pixels, *, size: int) -> Pixels:
    """Resize the shorter side of images [n, 3, H, W] to `size` by Pillow's bicubic filter, and crop the centre."""
    return _change_each(
        pixels,
        lambda image: pictures.center_crop(pictures.resize(image, [size], InterpolationMode.BICUBIC), [size, size]),
    )


def _change_each(pixels: Pixels, change: Callable[[Any], Any]) -> Pixels:
    changed = [np.asarray(change(Image.fromarray(image.transpose(1, 2, 0)))) for image in pixels]
    return np.ascontiguousarray(np.stack(changed).transpose(0, 3, 1, 2))
