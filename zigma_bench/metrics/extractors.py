"""An extractor by its name and options, opened with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

from zigma_bench.errors import NotReady
from zigma_bench.metrics.features import Extractor
from zigma_bench.metrics.names import Family
from zigma_bench.metrics.weights import Given, is_published, weights_missing, weights_path


def opened(family: Family, options: Any) -> tuple[Extractor, Path | None, str | None]:
    """An extractor with the weights that the options name, their file, and the start of the file's sha256.

    The file is None where the weights come with the installation, and the sha256 where they are the published ones.
    NotReady where they are missing or damaged.
    """
    if family == "efflite0" or family == "efflite2":
        from zigma_bench.metrics.efflite import efflite

        return efflite(family, options.size), None, None
    for missing in weights_missing(family, options):
        raise NotReady(missing.what, do=missing.do)
    path = weights_path(family, options)
    extractor = _opener(family)(path)
    return extractor, path, None if is_published(family, path) else extractor.weights_sha256[:8]


def _opener(given: Given) -> Callable[[Path], Extractor]:
    if given == "inception":
        from zigma_bench.metrics.inception import inception

        return inception
    if given == "dinov2":
        from zigma_bench.metrics.dinov2 import dinov2

        return dinov2
    if given == "clip":
        from zigma_bench.metrics.openai_clip import clip

        return clip
    assert_never(given)
