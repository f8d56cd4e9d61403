"""CLIP as it is usually used for metrics: ViT-B/32, the shorter side resized to 224 by Pillow's bicubic filter, and the
image embedding.

The network is from Radford 2021 (arXiv:2103.00020). Its use as an extractor follows Kynkaanniemi 2023
(arXiv:2203.06026) and clean-fid. We use torch-fidelity's network class, but not its rounding of the weights to 16 bits
nor its resize without a filter.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

from torch import nn

from zigma_bench.metrics.extractors.transformer_features import EMBEDDING, TransformerFeatures, resize_and_crop
from zigma_bench.metrics.extractors.weights import weights_path
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.options import WeightsOptions
from zigma_bench.metrics.state import State, read_state, unfit_weights
from zigma_bench.pretrained.files import file_sha256

PREFIX = "visual."
SHAPES = {
    "conv1.weight": 4,
    "positional_embedding": 2,
    "proj": 2,
}  # tensors that determine the sizes, with their numbers of axes
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip(path: Path) -> Extractor:
    """The extractor with the weights of a file that uses openai/CLIP's names. Any of its vision transformers works."""
    sha256 = file_sha256(path)
    name, dimensions, side = _sizes(path, sha256)
    return Extractor(
        name=name,
        layer=EMBEDDING,
        dimensions=dimensions,
        weights_sha256=sha256,
        resize=f"bicubic of Pillow, uint8, shorter side to {side}, middle {side}x{side}",
        build=functools.partial(_build, path),
        prepare=functools.partial(resize_and_crop, size=side),
    )


def open_clip(options: WeightsOptions) -> Extractor:
    """The extractor with the weights that the options name."""
    return clip(weights_path("clip", options))


@functools.lru_cache(maxsize=4)
def _sizes(path: Path, sha256: str) -> tuple[str, int, int]:
    """The network's name, the length of its embedding, and the side of its images in pixels."""
    state = _visual_tensors(path)
    patch, tokens = state["conv1.weight"].shape[-1], state["positional_embedding"].shape[0]
    return f"clip-{patch}", state["proj"].shape[1], patch * math.isqrt(tokens - 1)


def _visual_tensors(path: Path) -> State:
    """The tensors of the vision transformer, without the prefix of their names. NotReady if there are none."""
    state = {name.removeprefix(PREFIX): v for name, v in read_state("clip", path).items() if name.startswith(PREFIX)}
    for name, axes in SHAPES.items():
        if name not in state or state[name].ndim != axes:
            raise unfit_weights("clip", path, f"{PREFIX}{name} {list(state[name].shape) if name in state else None}")
    return state


def _build(path: Path) -> TransformerFeatures:
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    state = {name: value.float() for name, value in _visual_tensors(path).items()}
    name, dimensions, side = _sizes(path, file_sha256(path))
    width, _, _, patch = state["conv1.weight"].shape
    layers = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})
    network: nn.Module = CLIPVisual(dimensions, side, layers, width, patch).visual
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise unfit_weights("clip", path, str(error)) from error
    return TransformerFeatures(name, EMBEDDING, network, MEAN, STD)
