"""Read and write the mean and covariance of features as a .npz file with `mu` [d] and `sigma` [d, d].

pytorch-fid, clean-fid and ADM write these two arrays, for Inception's pooled features. Our files also contain the
number of images and the extractor, so that they can't be used with another extractor.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import UsageError
from zigma_bench.metrics.gaussian import Gaussian, gaussian_of_moments
from zigma_bench.records.store import write_atomic

MEAN, COVARIANCE = "mu", "sigma"
COUNT, EXTRACTOR = "count", "extractor"  # only in files that we write
INCEPTION_FEATURES = 2048  # in the files of other programs

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The mean [d] and covariance [d, d] in a file. `count` and `extractor` are None if the file doesn't contain
    them."""

    mean: Matrix
    covariance: Matrix
    count: int | None
    extractor: Mapping[str, Any] | None
    sha256: str

    def gaussian(self) -> Gaussian:
        return gaussian_of_moments(self.mean, self.covariance, self.count)

    def why_unfit(self, wanted: Mapping[str, Any], *, published_inception: bool) -> str | None:
        """Why the moments don't belong to the extractor with the fingerprint `wanted`; None if they do.

        `published_inception`: whether it is Inception v3 with the published weights, as in files of other programs.
        """
        if self.extractor is not None:
            unlike = sorted(key for key in wanted if self.extractor.get(key) != wanted[key])
            if not unlike:
                return None
            return (
                f"the reference's statistics are of another extractor: they differ in {', '.join(unlike)}, which is "
                f"{self.extractor.get(unlike[0])!r} in the file"
            )
        if published_inception and len(self.mean) == INCEPTION_FEATURES:
            return None
        return f"the reference's statistics have {len(self.mean)} features, and the file doesn't name their extractor"


def read_moments(path: Path) -> Moments | None:
    """The moments in a .npz; None if it contains neither. UsageError if only one is there or their shapes are wrong."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in (MEAN, COVARIANCE, COUNT, EXTRACTOR) if name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"the .npz can't be read: {error}", where=str(path)) from None
    if not found.keys() & {MEAN, COVARIANCE}:
        return None
    mean, covariance = (_read_numbers(found, name, path) for name in (MEAN, COVARIANCE))
    size = mean.size
    if mean.shape != (size,) or covariance.shape != (size, size) or not np.allclose(covariance, covariance.T):
        raise UsageError(
            "these aren't a mean and a covariance", where=str(path),
            expected=f"{MEAN} [d] and {COVARIANCE} [d, d], symmetric",
            got=f"{MEAN} {list(mean.shape)} and {COVARIANCE} {list(covariance.shape)}",
        )  # fmt: skip
    sha256 = hashlib.sha256(mean.tobytes() + covariance.tobytes()).hexdigest()
    return Moments(mean, covariance, *_count_and_extractor(found, path), sha256)


def _read_numbers(found: Mapping[str, npt.NDArray[Any]], name: str, path: Path) -> Matrix:
    array = found.get(name)
    if array is None or array.dtype.kind != "f" or not np.isfinite(array).all():
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}, not all finite"
        raise UsageError(f"the .npz has no valid {name}", where=str(path), expected="finite numbers", got=got)
    return np.ascontiguousarray(array, np.float64)


def _count_and_extractor(found: Mapping[str, npt.NDArray[Any]], path: Path) -> tuple[int | None, dict[str, Any] | None]:
    """The number of images and the extractor; None for both in a file of another program."""
    if EXTRACTOR not in found:
        return None, None
    try:
        extractor = json.loads(str(found[EXTRACTOR]))
        if not isinstance(extractor, dict):
            raise ValueError(f"{EXTRACTOR} is not a mapping")
        return int(found[COUNT]), extractor
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the .npz doesn't name its extractor: {error!r}", where=str(path)) from None


def write_moments(path: Path, gaussian: Gaussian, extractor: Mapping[str, Any]) -> None:
    """Write a Gaussian with the fingerprint of its extractor, in a form that other programs can read too."""
    buffer = io.BytesIO()
    arrays = {MEAN: gaussian.mean, COVARIANCE: gaussian.covariance}
    facts = {COUNT: np.array(gaussian.count), EXTRACTOR: np.array(json.dumps(extractor, sort_keys=True))}
    np.savez(buffer, allow_pickle=False, **arrays, **facts)
    write_atomic(path, buffer.getvalue())
