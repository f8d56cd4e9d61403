"""torch-fidelity's Inception v3 with the weights of a local file."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch_fidelity.utils import create_feature_extractor

from zigma_bench.metrics.extractors.weights import weights_path
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.options import WeightsOptions
from zigma_bench.metrics.state import read_state, unfit_weights
from zigma_bench.pretrained.files import file_sha256

NAME = "inception-v3-compat"
LAYER = "2048"
DIMENSIONS = 2048
LAST = "fc.weight"


def inception(path: Path) -> Extractor:
    """The extractor with the weights of a file; NotReady if they aren't those of an Inception v3."""
    return Extractor(
        name=NAME,
        layer=LAYER,
        dimensions=DIMENSIONS,
        weights_sha256=file_sha256(path),
        resize="bilinear of TensorFlow 1.x, float, to 299x299",
        build=functools.partial(_build, path),
    )


def open_inception(options: WeightsOptions) -> Extractor:
    """The extractor with the weights that the options name."""
    return inception(weights_path("inception", options))


def class_weight(options: WeightsOptions) -> npt.NDArray[np.float64]:
    """The weight [1008, 2048] of the layer that computes class scores, from the file that the options name."""
    return last_weight(weights_path("inception", options))


def last_weight(path: Path) -> npt.NDArray[np.float64]:
    """The weight [1008, 2048] of the layer that computes class scores from the pooled features."""
    weight = read_state("inception", path).get(LAST)
    if weight is None or weight.ndim != 2 or weight.shape[1] != DIMENSIONS:
        raise unfit_weights("inception", path, f"{LAST} {None if weight is None else list(weight.shape)}")
    return np.asarray(weight.numpy(), np.float64)


def _build(path: Path) -> Any:
    """Build the module. torch-fidelity loads with weights_only=False, so it only gets tensors that we saved, not the
    file."""
    clean = io.BytesIO()
    torch.save(read_state("inception", path), clean)
    clean.seek(0)
    try:
        return create_feature_extractor(NAME, [LAYER], cuda=False, feature_extractor_weights_path=clean, verbose=False)
    except RuntimeError as error:  # from load_state_dict, for wrong names or shapes
        raise unfit_weights("inception", path, str(error)) from error
