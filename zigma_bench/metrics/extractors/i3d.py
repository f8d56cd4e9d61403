"""Compute features of clips with a TorchScript file such as StyleGAN-V's I3D. The file itself resizes the clips.

The file is called as `file(clips, rescale=True, resize=True, return_features=True)` with clips float32 [B, 3, T, H, W]
from 0 to 255, as StyleGAN-V calls it. The file rescales them to [-1, 1], resizes them to 224 x 224 (bilinear) and
returns features from before the last softmax. ZigMa's code passes `rescale=False`, so its network saw numbers up to
255; its FVD is not comparable with that of other papers.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zigma_bench.data.images import Images, pixels_digest
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics.extractors.i3d_weights import I3D_FILE
from zigma_bench.metrics.features import FEATURES, Features, exact_float32
from zigma_bench.pretrained.files import file_sha256
from zigma_bench.records.sealed import read_entry, write_entry

CLIP_BATCH = 8  # fixed: kernels are chosen by batch size, and features differ in the last digits


def i3d_facts(path: Path) -> dict[str, Any]:
    """Everything that the features depend on, except the clips and the device."""
    return {
        "extractor": "i3d-torchscript",
        "weights_sha256": file_sha256(path),
        "resize": "the file's own, bilinear to 224x224, from [-1, 1]",
        "feature_batch": CLIP_BATCH,
    }


def clip_features(clips: Images, path: Path, *, device: str = "cpu", cache: Path | None = None) -> Features:
    """The features of all clips in order, float32 [N, d]; `cache`: a folder that stores them for later processes."""
    facts = {**i3d_facts(path), "pixels": pixels_digest(clips), "device": device.partition(":")[0]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    data = None if cache is None else read_entry(cache / FEATURES, key, ".npy")
    if data is not None:
        known: Features = np.load(io.BytesIO(data), allow_pickle=False)
        return known
    found = _extract(clips, path, device)
    if cache is not None:
        buffer = io.BytesIO()
        np.save(buffer, found, allow_pickle=False)
        write_entry(cache / FEATURES, key, ".npy", buffer.getvalue())
    return found


def _extract(clips: Images, path: Path, device: str) -> Features:
    network = _load(path, device)
    parts = []
    with torch.no_grad(), exact_float32(device):
        for start in range(0, len(clips), CLIP_BATCH):
            pixels = clips.take(range(start, min(start + CLIP_BATCH, len(clips))))  # [B, T, C, H, W]
            inputs = np.repeat(pixels, 3 // pixels.shape[2], axis=2).transpose(0, 2, 1, 3, 4)
            parts.append(_run_i3d(network, torch.from_numpy(inputs.astype(np.float32)).to(device), path))
    return np.concatenate(parts)


def _load(path: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():  # TorchScript is deprecated, but the published file uses it
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", message=".*torch.jit", category=category)
            return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise _unfit_file(path, str(error)) from error


def _run_i3d(network: Any, clips: torch.Tensor, path: Path) -> Features:
    try:
        found = network(clips, rescale=True, resize=True, return_features=True)
    except RuntimeError as error:  # TorchScript's own errors are RuntimeErrors
        raise _unfit_file(path, str(error)) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(clips):
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(
            "the file doesn't return features of clips", where=str(path), expected=f"[{len(clips)}, d]", got=got
        )
    return found.float().cpu().numpy()


def _unfit_file(path: Path, got: str) -> NotReady:
    lines = [line for line in got.strip().splitlines() if line]
    return NotReady(
        "this isn't a TorchScript file that accepts clips",
        where=str(path),
        expected="file(clips [B, 3, T, H, W], rescale=True, resize=True, return_features=True)",
        got=lines[-1] if lines else "",
        do=f"use {I3D_FILE}, or omit the metric",
    )
