"""Read the tensors of a weights file without running code that a pickle may contain."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.layers.tensors import faults_of, list_faults, not_finite
from zigma_bench.metrics.extractors.weights import PUBLISHED, WeightsName, is_published

State = dict[str, Tensor]


def read_state(extractor: WeightsName, path: Path) -> State:
    """The tensors by name, on the CPU; NotReady if the file contains anything else.

    It can be a .safetensors file, or a state dict written by `torch.save`. A TorchScript program is only opened if its
    hash is that of the published file.
    """
    try:
        state = _read_tensors(extractor, path)
    except Exception as error:  # the readers raise many types for other files
        raise unfit_weights(extractor, path, f"{type(error).__name__} {error}") from error
    if not isinstance(state, dict):
        raise unfit_weights(extractor, path, type(state).__name__)
    if faults := faults_of(state, floating=False) or not_finite(state):
        raise unfit_weights(extractor, path, list_faults(faults))
    return state


def _read_tensors(extractor: WeightsName, path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        if extractor == "clip" and is_published(
            extractor, path
        ):  # openai/CLIP publishes TorchScript programs, not state dicts
            warnings.filterwarnings("ignore", message=".*torch.jit", category=Warning)
            return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
        # the reader refuses what it does not support
        warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*TorchScript archive", category=UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def unfit_weights(extractor: WeightsName, path: Path, got: str) -> NotReady:
    """The error for a file with tensors that don't fit the extractor."""
    published = PUBLISHED[extractor]
    return NotReady(
        f"these aren't weights of {published.network.split()[0]}",
        where=str(path),
        expected=f"a state dict of tensors under the names of {published.file}",
        got=got.strip().splitlines()[0],
        do=f"use {published.file}, or omit the metric",
    )
