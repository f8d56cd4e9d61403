"""Open the reference of a quality measurement: images, a file of statistics, both, or the reference of a suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.images import Images
from zigma_bench.errors import UsageError
from zigma_bench.metrics.moments import Moments, read_moments
from zigma_bench.plan import Cell, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling.images import contains_images, open_images
from zigma_bench.suite import load_suite

OPTION = "--data"


@dataclass(frozen=True)
class QualityReference:
    """Images, the mean and covariance of features, or both. `facts` describes them in the fingerprint of a metric."""

    images: Images | None
    moments: Moments | None
    facts: dict[str, Any]

    @property
    def count(self) -> int | None:
        if self.images is not None:
            return len(self.images)
        return None if self.moments is None else self.moments.count


def open_reference(path: Path, *, data: str | None = None) -> QualityReference:
    """Open a folder, .zip, .npz or suite file. `data` selects one of several data sets of a suite.

    Raises UsageError and NotReady for unreadable files, and for an ambiguous or missing data set.
    """
    if path.suffix in (".yaml", ".yml"):
        cell = _cell_of_suite(path, data)
        if cell.reference.images != "pixels":
            raise UsageError(
                "the suite's reference images are reconstructions by an autoencoder", where=str(path),
                expected="images: pixels",
                do="set reference.images to pixels, or give a folder of images",
            )  # fmt: skip
        return QualityReference(
            load_cell_images(cell).reference, None, {"data": cell.data_text, "split": cell.reference.split}
        )
    if data is not None:
        raise UsageError("only a suite has data sets to choose from", where=OPTION, got=data, do=f"omit {OPTION}")
    moments = read_moments(path) if path.suffix == ".npz" and path.is_file() else None
    if moments is not None and not contains_images(path):
        return QualityReference(None, moments, {"data": path.name})
    return QualityReference(open_images(path), moments, {"data": path.name})


def _cell_of_suite(path: Path, data: str | None) -> Cell:
    """Any cell on the data set. All cells on a data set have the same reference."""
    suite, source = load_suite(path)
    if suite.timed_alone:
        raise UsageError("an efficiency suite has no data", where=str(path), expected="a suite with a reference")
    if suite.reference.images != "pixels":
        raise UsageError(
            "the suite's reference images are reconstructions by an autoencoder", where=str(path),
            expected="images: pixels",
            do="set reference.images to pixels, or give a folder of images",
        )  # fmt: skip
    cells = {cell.data_label or cell.data_set.name: cell for cell in make_plan(suite, source, catalogue()).cells}
    if data is None and len(cells) == 1:
        return next(iter(cells.values()))
    if data not in cells:
        named = " or ".join(f'{OPTION} "{name}"' for name in cells)
        raise UsageError(
            "the suite has several data sets" if data is None else "the suite has no such data set",
            where=str(path), expected=named, got=data,
        )  # fmt: skip
    return cells[data]
