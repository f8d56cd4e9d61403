"""Two folders of photographs measured by the command, by torch-fidelity and by numpy, with the same results."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.metrics.extractors.efflite import efflite
from zigma_bench.metrics.features import features_of_images
from zigma_bench.sampling.images import open_images

COUNT = 400  # of 1,280 features each, so the covariances are singular
PHOTOGRAPHS = "shared/data/cifar10-jpeg/test-00000-of-00001.parquet"  # next to the repository, as in the suites
NAMES = ("fd-efflite0", "kid-efflite0", "precision-efflite0", "recall-efflite0")
KEYS = ("frechet_inception_distance", "kernel_inception_distance_mean", "precision", "recall")


@pytest.fixture
def folders(root, tmp_path):
    """Two folders of photographs as PNG, without common pictures."""
    import pandas

    file = root.parent / PHOTOGRAPHS
    if not file.is_file():
        pytest.skip(f"no photographs at ../{PHOTOGRAPHS}")
    held = pandas.read_parquet(file)["image"].iloc[: 2 * COUNT]
    for index, item in enumerate(held):
        folder = tmp_path / ("samples" if index < COUNT else "reference")
        folder.mkdir(exist_ok=True)
        Image.open(io.BytesIO(item["bytes"])).save(folder / f"{index:05}.png")
    return tmp_path / "samples", tmp_path / "reference"


def test_one_set_of_figures(folders, tmp_path):
    from torch_fidelity import calculate_metrics

    samples, reference = folders
    words = [
        "--samples",
        samples,
        "--reference",
        reference,
        "--metrics",
        ",".join(f"{name}:size=64" for name in NAMES),
        "--json",
    ]
    ran = CliRunner().invoke(app, ["quality", *map(str, words), "--device", "cpu", "--results", str(tmp_path / "r")])
    assert ran.exit_code == 0, ran.exception
    ours = json.loads(ran.stdout)
    theirs = calculate_metrics(
        input1=str(samples), input2=str(reference), feature_extractor=efflite("efflite0", 64).name, fid=True, kid=True,
        prc=True, kid_subset_size=COUNT // 2, cuda=False, cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip
    for name, key in zip(NAMES, KEYS, strict=True):
        assert ours[name]["value"] == pytest.approx(theirs[key], rel=1e-6, abs=1e-4), name
        assert (ours[name]["n_samples"], ours[name]["n_reference"]) == (COUNT, COUNT)
    a, b = (features_of_images(open_images(folder), efflite("efflite0", 64)).astype(np.float64) for folder in folders)
    root = (a - a.mean(0)) / np.sqrt(COUNT - 1) @ ((b - b.mean(0)) / np.sqrt(COUNT - 1)).T
    traces = a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * np.linalg.norm(root, "nuc")
    assert ours["fd-efflite0"]["value"] == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + traces, abs=1e-4)
    assert 0.3 < ours["precision-efflite0"]["value"] < 1  # halves of one data set
