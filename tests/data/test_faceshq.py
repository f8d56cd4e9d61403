"""FacesHQ: any folders of images below one root, and the instructions if they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.sources import faceshq
from zigma_bench.data.sources.faceshq import describe, load
from zigma_bench.data.sources.options import FacesHQOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.discovery import catalogue


def test_every_image_below_the_root_is_read(pictures: Callable[..., Path], tmp_path: Path) -> None:
    pictures("faces [all]/ffhq/train", count=3, size=300, seed=1)
    pictures("faces [all]/celeba-hq/test/male", count=2, size=256, seed=2)
    root = tmp_path / "faces [all]"
    Image.fromarray(np.full((256, 256, 3), 9, np.uint8)).save(root / "one.jpg")
    (root / "licence.txt").write_text("read me")
    options = FacesHQOptions(str(root), 256, 2)
    facts, splits = describe(options), load(options)
    assert (facts.channels, facts.height, facts.width, facts.missing) == (3, 256, 256, ())
    assert (len(splits.train), len(splits.validation)) == (4, 2)
    assert splits.train.take([0, 3]).shape == (2, 3, 256, 256)


def test_without_images_the_plan_says_how_to_get_them(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        (missing,) = describe(FacesHQOptions(str(root))).missing
        assert "CC BY-NC-SA 4.0" in missing.what and f"{root}/**/*.png" in missing.do
        with pytest.raises(NotReady, match="ffhq-dataset"):
            load(FacesHQOptions(str(root)))


def test_a_check_counts_them(pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures("faces", count=3, size=256, seed=1)
    spec = catalogue().get("dataset", "faceshq")
    options = FacesHQOptions(str(tmp_path / "faces"), 256, 1)
    (problem,) = check_dataset_files(spec, options).problems
    assert "these are not all images of FacesHQ" in str(problem) and "expected 100,000 images; got 3" in str(problem)
    monkeypatch.setattr(faceshq, "IMAGES", 3)
    assert check_dataset_files(spec, options).problems == ()
