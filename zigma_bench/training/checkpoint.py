"""Atomic checkpoints: the files are written to a temporary folder with a manifest of their hashes, then renamed.

    checkpoint-<step>/  network.safetensors  ema.safetensors  optimizer.safetensors  state.json  manifest.json

The newest two checkpoints stay on disk. A resumed training loads the newest one whose hashes match its manifest.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from zigma_bench.errors import CellFailed
from zigma_bench.records.sealed import altered_notice, file_hashes, file_sha256
from zigma_bench.records.store import CHECKPOINTS, sync_folder, temporary_folder, write_atomic
from zigma_bench.system.notices import report_notice

CHECKPOINTS_ON_DISK = 2


def save_checkpoint(
    folder: Path, step: int, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write the checkpoint of a step and delete all but the newest two."""
    final = folder / f"checkpoint-{step:09d}"
    with temporary_folder(final) as temporary:
        save_weights(temporary / "network.safetensors", network)
        save_weights(temporary / "ema.safetensors", ema)
        save_file(_flatten(optimizer), temporary / "optimizer.safetensors")
        write_atomic(temporary / "state.json", json.dumps({**state, "step": step}, allow_nan=False))
        names = sorted(path.name for path in temporary.iterdir())
        write_atomic(temporary / "manifest.json", json.dumps(file_hashes(temporary, names)))
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    sync_folder(folder)
    for old in _checkpoints(folder)[:-CHECKPOINTS_ON_DISK]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load the newest intact checkpoint into all three, in place, and return its state; None if there is none.

    A checkpoint whose hashes don't match is reported and deleted.
    """
    for path in reversed(_checkpoints(folder)):
        if not _is_intact(path):
            report_notice(altered_notice(path))
            shutil.rmtree(path)
            continue
        load_weights(path / "network.safetensors", network)
        load_weights(path / "ema.safetensors", ema)
        _unflatten(optimizer, load_file(path / "optimizer.safetensors"))
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        return state
    return None


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the network's state dict as safetensors, atomically."""
    weights = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
    with temporary_folder(path) as temporary:
        save_file(weights, temporary / path.name)
        with (temporary / path.name).open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary / path.name, path)
    sync_folder(path.parent)


def load_weights(path: Path, network: nn.Module, *, sha256: str | None = None) -> None:
    """Load safetensors into a network; the names must match exactly. CellFailed if the file's hash isn't `sha256`."""
    if sha256 is not None and (got := file_sha256(path)) != sha256:
        raise CellFailed(
            "the weights have changed since the training", where=str(path), expected=f"sha256 {sha256}", got=got,
            do="run the suite again, which trains the cell again",
        )  # fmt: skip
    network.load_state_dict(load_file(path), strict=True)


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value.detach().cpu() for i, entry in state.items() for key, value in entry.items()}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(CHECKPOINTS))


def _is_intact(path: Path) -> bool:
    try:
        manifest: dict[str, str] = json.loads((path / "manifest.json").read_text())
        return all(file_sha256(path / name) == sha for name, sha in manifest.items())
    except (OSError, ValueError):
        return False
