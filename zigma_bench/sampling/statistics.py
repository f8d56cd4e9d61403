"""The mean and covariance of anybody's images under one extractor, as a .npz file of the field."""

from __future__ import annotations

from pathlib import Path

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics.extractors import open_extractor
from zigma_bench.metrics.moments import write_moments
from zigma_bench.metrics.on_features import distances
from zigma_bench.metrics.reference import reference_gaussian
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling.images import open_images
from zigma_bench.sampling.judge import Asked, checked, frames_of


def save_statistics(samples: Path, asked: Asked, out: Path, *, device: str, cache: Path | None = None) -> int:
    """Write `mu` and `sigma` of the features that a Frechet distance looks at, and give the number of images.

    Raises UsageError for another metric or file, NotReady where the weights or enough images are missing.
    """
    known = distances(list(catalogue().extractors))
    if asked.name not in known:
        raise UsageError(
            f"{asked.name} has no mean and covariance", where="--metrics", expected=" or ".join(known)
        )  # fmt: skip
    if out.suffix != ".npz":
        raise UsageError("statistics are kept as .npz", where="--save-statistics", got=str(out))
    (asked,) = checked([asked])
    spec = catalogue().get("metric", asked.name)
    options = spec.make_options(asked.options)
    for missing in spec.facts.missing(options):
        raise NotReady(missing.what, do=missing.do)
    images, minimum = open_images(samples), spec.facts.minimum_images(options)
    if frames_of(images) is not None:
        raise UsageError(
            "statistics are of single images", where=str(samples), got="clips",
            do="give both folders of clips, with --reference",
        )  # fmt: skip
    if len(images) < minimum:
        raise NotReady(
            f"{asked.name} needs at least {minimum:,} images", where=str(samples), got=f"{len(images):,}",
        )  # fmt: skip
    extractor = open_extractor(known[asked.name], options)
    write_moments(out, reference_gaussian(images, extractor, device=device, cache=cache), extractor.fingerprint())
    return len(images)
