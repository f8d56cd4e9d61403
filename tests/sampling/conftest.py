"""Released files at toy size, and models imported from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden import CASES, official_weights
from PIL import Image

TEXT = CASES["zigzagN8_text_d3"]
PLAIN = CASES["zigzagN8_uncond_d3"]
DIT = {
    "input_size": 4, "patch_size": 2, "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 4, "num_classes": 5,
}  # fmt: skip


def dit_weights(config=DIT, seed=0):
    """Random weights of DiT's and SiT's official layout."""
    from zigma_bench.backbones.official.dit import build_dit

    draw = torch.Generator().manual_seed(seed)
    layout = build_dit(config, backend="torch").layout
    return {item.name: 0.1 * torch.randn(item.shape, generator=draw) for item in layout}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    """`folder(name, pixels)`: PNGs."""

    def write(name, images):
        place = tmp_path / name
        place.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(place / f"{index:03d}.png")
        return place

    return write


@pytest.fixture
def released(tmp_path):
    """`released(kind, config, weights)`: a file and its config's, as published."""

    def write(kind: str, config=None, weights=None) -> tuple[Path, Path]:
        config = config or (PLAIN["config"] if kind == "zigma" else DIT)
        if weights is None:
            weights = official_weights(PLAIN["param_order"]) if kind == "zigma" else dit_weights(config)
        torch.save(weights, tmp_path / f"{kind}.pt")
        (tmp_path / f"{kind}.json").write_text(json.dumps(config))
        return tmp_path / f"{kind}.pt", tmp_path / f"{kind}.json"

    return write


@pytest.fixture
def model(released, tmp_path):
    """`model(kind, **config)`: the folder of an imported model."""
    from zigma_bench.backbones.official import import_checkpoint

    def make(kind: str, **changes) -> Path:
        config = (PLAIN["config"] if kind == "zigma" else DIT) | changes
        file, _ = released(kind, config)
        import_checkpoint(kind, file, config, tmp_path / f"model-{kind}")
        return tmp_path / f"model-{kind}"

    return make
