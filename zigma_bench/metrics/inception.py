"""torch-fidelity's Inception v3 with a weights file at hand: read without running what a pickle could hold."""

from __future__ import annotations

import functools
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch_fidelity.utils import create_feature_extractor

from zigma_bench.errors import NotReady
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.weights import INCEPTION_FILE, file_sha256

NAME = "inception-v3-compat"
LAYER = "2048"
DIMENSIONS = 2048


def inception(path: Path) -> Extractor:
    """The extractor with the weights of a file; NotReady when they are not those of an Inception v3."""
    return Extractor(
        name=NAME,
        layer=LAYER,
        dimensions=DIMENSIONS,
        weights_sha256=file_sha256(path),
        resize="bilinear of TensorFlow 1.x, float, to 299x299",
        build=functools.partial(_build, path),
    )


def _build(path: Path) -> Any:
    weights = _safe_weights(path)
    try:
        return create_feature_extractor(
            NAME, [LAYER], cuda=False, feature_extractor_weights_path=weights, verbose=False
        )
    except RuntimeError as error:  # what load_state_dict says of unlike names or shapes
        raise _unfit(path, str(error)) from error


def _safe_weights(path: Path) -> io.BytesIO:
    """The tensors of a file, written anew: torch-fidelity loads with weights_only=False, so it never sees the file."""
    try:
        with warnings.catch_warnings():  # what the reader does not support, it refuses
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _unfit(path, f"{type(error).__name__} {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _unfit(path, type(state).__name__)
    clean = io.BytesIO()
    torch.save(state, clean)
    clean.seek(0)
    return clean


def _unfit(path: Path, got: str) -> NotReady:
    return NotReady(
        "these are no weights of torch-fidelity's Inception v3",
        where=str(path),
        expected="a state dict of tensors under its names",
        got=got.strip().splitlines()[0],
        do=f"use {INCEPTION_FILE}, or leave the metric out",
    )
