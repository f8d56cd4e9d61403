"""Check that an extractor still computes the same features, on eight fixed images.

Their features change if the weights, the resize or the arithmetic change.

EfficientNet-Lite0 and -Lite2, whose weights come with the installation, have golden features of every size in
`golden.json`: every 40th feature of each image, computed once in float64 by `tests/metrics/golden_features.py`. The
features of any other extractor are stored in the cache at its first use and compared with them afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zigma_bench.data.images import Pixels
from zigma_bench.errors import NotReady
from zigma_bench.records.sealed import read_entry, write_entry

if TYPE_CHECKING:
    from zigma_bench.metrics.features import Extractor
    from zigma_bench.metrics.options import Efflite, EffliteOptions

COUNT, SIDE = 8, 32
STEP = 40  # every 40th feature is golden
# The largest allowed difference, relative to the largest feature of the image. Float32 differs from float64 by 3e-6.
# TensorFloat-32 differs by 2e-3 to 2e-2; 16 bits, another resize and other weights differ at least as much.
TOLERANCE = 5e-4

Matrix = npt.NDArray[Any]


def golden_images() -> Pixels:
    """The eight images, uint8 [8, 3, 32, 32]: slopes and waves in integer arithmetic, so that every machine gets the
    same."""
    i, c, y, x = np.ogrid[:COUNT, :3, :SIDE, :SIDE]
    wave = (x + 1) * (3 * i + 1) + (y + 1) * (5 * i + 2) + 40 * c + x * y * (i + c) // 7
    return np.asarray(wave % 256, np.uint8)


def check_golden(run: Callable[[Pixels], Matrix], extractor: Extractor, cache: Path | None) -> None:
    """NotReady if the features `run(pixels)` differ from the golden ones, or else from those of the first use."""
    if extractor.golden is not None:
        found = _require_finite(run(golden_images()), extractor.name)
        _require_equal(
            found[:, ::STEP], np.asarray(extractor.golden()), extractor.name, "the golden ones of this installation"
        )
    elif cache is not None:  # without a cache there are no earlier features
        found = _require_finite(run(golden_images()), extractor.name)
        folder, key = cache / "golden", f"{extractor.name}-{_cache_key(extractor)}"
        data = read_entry(folder, key, ".npy")
        if data is None:
            buffer = io.BytesIO()
            np.save(buffer, found, allow_pickle=False)
            data = buffer.getvalue()
            write_entry(folder, key, ".npy", data)
        first = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        _require_equal(found, first, extractor.name, str(folder / f"{key}-*.npy"))


@functools.cache
def golden_values() -> dict[str, Matrix]:
    """The golden features [8, d / 40] by the extractor's name."""
    text = (importlib.resources.files("zigma_bench.metrics.extractors") / "golden.json").read_text()
    return {name: np.array(rows) for name, rows in json.loads(text).items()}


def golden_features(name: Efflite, options: EffliteOptions) -> Matrix:
    """The golden features of an EfficientNet-Lite at a size."""
    return golden_values()[f"{name}-{options.size}"]


def _cache_key(extractor: Extractor) -> str:
    """The hash of what features depend on, without the device, because devices differ by less than the tolerance."""
    return hashlib.sha256(json.dumps(extractor.fingerprint(), sort_keys=True).encode()).hexdigest()[:16]


def _require_finite(found: Matrix, name: str) -> Matrix:
    if not np.isfinite(found).all():
        raise NotReady(f"the features of {name} for eight fixed images are not finite")
    return found


def _require_equal(found: Matrix, golden: Matrix, name: str, where: str) -> None:
    if found.shape != golden.shape:
        raise NotReady(
            f"the features of {name} have another size than at its first use", where=where,
            expected=str(list(golden.shape)), got=list(found.shape),
        )  # fmt: skip
    off = float((np.abs(found - golden).max(1) / np.abs(golden).max(1)).max())
    if not off <= TOLERANCE:
        raise NotReady(
            f"{name} no longer computes the same features of eight fixed images", where=where,
            expected=f"a difference of at most {TOLERANCE:g} of the largest feature", got=f"{off:.2g}",
            do="find what has changed (torch, drivers, the GPU); its values are not comparable with earlier ones",
        )  # fmt: skip
