"""The mean and covariance of features in a .npz file, as the field keeps them: `mu` [d] and `sigma` [d, d].

pytorch-fid, clean-fid and ADM write these two, of Inception's pooled features. What is written here says besides how
many images there were and which extractor it was, so that it is used for no other.
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
from zigma_bench.metrics.gaussian import Gaussian, of_moments
from zigma_bench.records.store import write_atomic

MEAN, COVARIANCE = "mu", "sigma"
COUNT, MAKER = "count", "extractor"  # beside the field's two, in files that are written here
FIELD = 2048  # features of the Inception network that the field's files are of

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """A file's mean [d] and covariance [d, d], of `count` images under the extractor `maker`; None where unsaid."""

    mean: Matrix
    covariance: Matrix
    count: int | None
    maker: Mapping[str, Any] | None
    sha256: str

    def gaussian(self) -> Gaussian:
        return of_moments(self.mean, self.covariance, self.count)

    def unfit(self, extractor: Mapping[str, Any], *, field: bool) -> str | None:
        """Why they are not an extractor's, by its fingerprint; None where they are.

        `field`: whether it is the network that the field's files are of, Inception v3 with the published weights.
        """
        if self.maker is not None:
            unlike = sorted(key for key in extractor if self.maker.get(key) != extractor[key])
            if not unlike:
                return None
            return f"the reference's statistics differ in {', '.join(unlike)}: {self.maker.get(unlike[0])!r} made them"
        if field and len(self.mean) == FIELD:
            return None
        return (
            f"the reference's statistics are of {len(self.mean)} features of an extractor that the file does not name"
        )


def read_moments(path: Path) -> Moments | None:
    """The moments in a .npz, None where it has neither; UsageError for one of the two, or for what can't be theirs."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            found = {name: held[name] for name in (MEAN, COVARIANCE, COUNT, MAKER) if name in held}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"the .npz can't be read: {error}", where=str(path)) from None
    if not found.keys() & {MEAN, COVARIANCE}:
        return None
    mean, covariance = (_numbers(found, name, path) for name in (MEAN, COVARIANCE))
    size = mean.size
    if mean.shape != (size,) or covariance.shape != (size, size) or not np.allclose(covariance, covariance.T):
        raise UsageError(
            "these are no mean and covariance", where=str(path),
            expected=f"{MEAN} [d] and {COVARIANCE} [d, d], symmetric",
            got=f"{MEAN} {list(mean.shape)} and {COVARIANCE} {list(covariance.shape)}",
        )  # fmt: skip
    sha256 = hashlib.sha256(mean.tobytes() + covariance.tobytes()).hexdigest()
    return Moments(mean, covariance, *_said(found, path), sha256)


def _numbers(found: Mapping[str, npt.NDArray[Any]], name: str, path: Path) -> Matrix:
    array = found.get(name)
    if array is None or array.dtype.kind != "f" or not np.isfinite(array).all():
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}, not all finite"
        raise UsageError(f"the .npz holds no {name}", where=str(path), expected="finite numbers", got=got)
    return np.ascontiguousarray(array, np.float64)


def _said(found: Mapping[str, npt.NDArray[Any]], path: Path) -> tuple[int | None, dict[str, Any] | None]:
    """How many images, and which extractor, where the file was written here."""
    if MAKER not in found:
        return None, None
    try:
        maker = json.loads(str(found[MAKER]))
        if not isinstance(maker, dict):
            raise ValueError(f"{MAKER} is no mapping")
        return int(found[COUNT]), maker
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the .npz does not say what made it: {error!r}", where=str(path)) from None


def write_moments(path: Path, gaussian: Gaussian, maker: Mapping[str, Any]) -> None:
    """A Gaussian and the fingerprint of the extractor that made it, for this program and for any other."""
    buffer = io.BytesIO()
    arrays = {MEAN: gaussian.mean, COVARIANCE: gaussian.covariance}
    said = {COUNT: np.array(gaussian.count), MAKER: np.array(json.dumps(maker, sort_keys=True))}
    np.savez(buffer, allow_pickle=False, **arrays, **said)
    write_atomic(path, buffer.getvalue())
