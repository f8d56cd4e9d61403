"""DINOv2 as it is usually used for metrics: ViT-L/14, images resized to 224 x 224 by Pillow's bicubic filter, and the
class token after the last norm.

The network is from Oquab 2023 (arXiv:2304.07193). Its use as an extractor follows Stein 2023 (arXiv:2306.04675,
layer6ai-labs/dgm-eval).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from zigma_bench.metrics.extractors.transformer_features import CLASS_TOKEN, TransformerFeatures, resize_square
from zigma_bench.metrics.extractors.weights import weights_path
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.options import WeightsOptions
from zigma_bench.metrics.state import State, read_state, unfit_weights
from zigma_bench.pretrained.files import file_sha256

SIDE, PATCH = 224, 14
HEAD = 64  # channels of an attention head, the same in all sizes
OFFSET = 0.1  # tokens that the authors add to a side before the positions are resized
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dinov2(path: Path) -> Extractor:
    """The extractor with the weights of a file that uses the authors' names. Any size of plain ViT works."""
    sha256 = file_sha256(path)
    width = _width(path, sha256)
    return Extractor(
        name=f"dinov2-{width}",
        layer=CLASS_TOKEN,
        dimensions=width,
        weights_sha256=sha256,
        resize=f"bicubic of Pillow, uint8, to {SIDE}x{SIDE}",
        build=functools.partial(_build, path),
        prepare=functools.partial(resize_square, size=SIDE),
    )


def open_dinov2(options: WeightsOptions) -> Extractor:
    """The extractor with the weights that the options name."""
    return dinov2(weights_path("dinov2", options))


@functools.lru_cache(maxsize=4)
def _width(path: Path, sha256: str) -> int:
    return _positions(path, read_state("dinov2", path)).shape[2]


def _positions(path: Path, state: State) -> Tensor:
    """The positions [1, 1 + n * n, d] of a file; NotReady if the file has none."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or positions.shape[2] % HEAD:
        raise unfit_weights("dinov2", path, f"pos_embed {None if positions is None else list(positions.shape)}")
    return positions


def _build(path: Path) -> TransformerFeatures:
    from timm.models.vision_transformer import VisionTransformer

    state = read_state("dinov2", path)
    width = _positions(path, state).shape[2]
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    network = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=width, depth=depth, num_heads=width // HEAD, num_classes=0,
        init_values=1.0, global_pool="token", weight_init="skip",
    )  # fmt: skip
    resized = {
        name: value for name, value in state.items() if name != "mask_token"
    }  # the mask token is only used in training
    resized["pos_embed"] = resized_positions(state["pos_embed"], SIDE // PATCH)
    try:
        network.load_state_dict(resized)
    except RuntimeError as error:
        raise unfit_weights("dinov2", path, str(error)) from error
    return TransformerFeatures(f"dinov2-{width}", CLASS_TOKEN, network, MEAN, STD)


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Resize the positions [1, 1 + n * n, d] of n x n patches to side x side patches, as the authors' code does.

    That code passes the scale (side + 0.1) / n instead of a size, which shifts the sampling points a little.
    """
    count = math.isqrt(positions.shape[1] - 1)
    if count == side:
        return positions
    grid = positions[:, 1:].reshape(1, count, count, -1).permute(0, 3, 1, 2).float()
    scale = (side + OFFSET) / count
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert grid.shape[2:] == (side, side), grid.shape
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)
