"""The Gaussian of a reference's features, cached by a hash of the pixels in order, their count, the resize and
extractor.

The mean and the root of the covariance are stored exactly as computed, so that a metric is the same to the last bit
with and without the cache.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from zigma_bench.data.images import Images
from zigma_bench.metrics.features import Extractor, content_key, features_of_images
from zigma_bench.metrics.gaussian import Gaussian, fit_gaussian
from zigma_bench.records.sealed import read_entry, write_entry


def reference_gaussian(
    images: Images, extractor: Extractor, *, device: str = "cpu", cache: Path | None = None
) -> Gaussian:
    """The Gaussian of all images, at least two. `cache`: a folder that stores it for later processes."""
    folder = None if cache is None else cache / "statistics"
    key = content_key(images, extractor, device)
    data = None if folder is None else read_entry(folder, key, ".npz")
    if data is not None:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return Gaussian(stored["mean"], stored["root"], len(images))
    found = fit_gaussian(features_of_images(images, extractor, device=device, cache=cache))
    if folder is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, mean=found.mean, root=found.root)
        write_entry(folder, key, ".npz", buffer.getvalue())
    return found
