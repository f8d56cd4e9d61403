"""No network, and the caches of `datasets` in a temporary folder, for every test of the data sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture(autouse=True)
def quiet_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("huggingface")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cifar() -> Path:
    """The folder of real JPEGs beside the project."""
    folder = SHARED / "cifar10-jpeg"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds CIFAR-10 as JPEG in parquet")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of `count` different PNGs of random pixels."""

    def make(name: str = "pictures", count: int = 6, size: int = 16, seed: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        generator = np.random.RandomState(seed)
        for index in range(count):
            pixels = generator.randint(0, 256, (size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
        return folder

    return make
