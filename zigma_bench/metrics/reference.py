"""The Gaussian of a reference's features, kept by content: the pixels in order, their count, the resize, the extractor.

The mean and the root of the covariance are kept as they were computed, so that a figure is the same to the bit whether
they were read or made.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from zigma_bench.images import Images
from zigma_bench.metrics.features import Extractor, content_key, features
from zigma_bench.metrics.gaussian import Gaussian, fitted
from zigma_bench.store import write_atomic


def reference_gaussian(
    images: Images, extractor: Extractor, *, device: str = "cpu", cache: Path | None = None
) -> Gaussian:
    """The Gaussian of all images, at least two; `cache` keeps it for the next process."""
    place = None if cache is None else cache / "statistics" / f"{content_key(images, extractor, device)}.npz"
    found = None if place is None else _read(place, len(images), extractor.dimensions)
    if found is None:
        found = fitted(features(images, extractor, device=device, cache=cache))
        if place is not None:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, mean=found.mean, root=found.root)
            write_atomic(place, buffer.getvalue())
    return found


def _read(place: Path, count: int, dimensions: int) -> Gaussian | None:
    """What an earlier process left; a file that is damaged is made again."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as held:
            mean, root = held["mean"], held["root"]
    except (FileNotFoundError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return Gaussian(mean, root, count) if mean.shape == (dimensions,) and root.shape[1:] == mean.shape else None
