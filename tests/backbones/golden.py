"""Weights, inputs and cases of the official ZigMa's golden forward passes, under the official names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

CASES = json.loads((Path(__file__).parent / "golden" / "zigma_forward.json").read_text())["cases"]


def official_weights(param_order: list[list[Any]], state: int = 16) -> dict[str, torch.Tensor]:
    """The closed-form weights: 0.25 sin(0.7 (i+1) + 0.37 j + 0.0113 j^2), with the special cases."""
    weights = {}
    for i, (name, shape) in enumerate(param_order):
        j = np.arange(np.prod(shape), dtype=np.float64)
        v = (0.25 * np.sin(0.7 * (i + 1) + 0.37 * j + 0.0113 * j * j)).reshape(shape)
        if name.endswith("norm.weight") or name == "norm_f.weight" or name.endswith((".D", ".D_b")):
            v = 1 + v
        elif name.endswith(("A_log", "A_b_log")):
            v = np.log(np.arange(1, state + 1)) + 0.1 * v
        weights[name] = torch.from_numpy(v.astype(np.float32))
    return weights


def golden_input(shape: list[int]) -> torch.Tensor:
    j = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(0.11 * j + 0.3).reshape(shape).astype(np.float32))


def golden_condition(case: dict[str, Any]) -> torch.Tensor | None:
    if case["y"] is None:
        return None
    if case["y"] == "labels":
        return torch.tensor(case["y_values"])
    assert case["y_values"]["formula"] == "cos(0.05*i+0.2) flat index i"
    shape = case["y_values"]["shape"]
    i = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.cos(0.05 * i + 0.2).reshape(shape).astype(np.float32))


def golden_output(case: dict[str, Any]) -> np.ndarray:
    return np.array(case["output"]).reshape(case["output_shape"])
