"""Write the feature mean and covariance of any images as a .npz file in the usual format (`mu`, `sigma`)."""

from __future__ import annotations

from pathlib import Path

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics.extractors.open_extractor import open_extractor
from zigma_bench.metrics.moments import write_moments
from zigma_bench.metrics.on_features import distances
from zigma_bench.metrics.reference import reference_gaussian
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.sampling.image_quality import QualityRequest, check_metrics, frames_of
from zigma_bench.sampling.images import open_images


def save_statistics(samples: Path, asked: QualityRequest, out: Path, *, device: str, cache: Path | None = None) -> int:
    """Write `mu` and `sigma` of the features of a Frechet distance, and return the number of images.

    Raises UsageError if the metric isn't a Frechet distance or the file isn't .npz, and NotReady if weights are missing
    or there are too few images.
    """
    known = distances(list(catalogue().extractors))
    if asked.name not in known:
        raise UsageError(
            f"{asked.name} has no mean and covariance", where="--metrics", expected=" or ".join(known)
        )  # fmt: skip
    if out.suffix != ".npz":
        raise UsageError("statistics are written as .npz", where="--save-statistics", got=str(out))
    (asked,) = check_metrics([asked])
    spec = catalogue().get("metric", asked.name)
    options = spec.make_options(asked.options)
    for missing in spec.facts.missing(options):
        raise NotReady(missing.what, do=missing.do)
    images, minimum = open_images(samples), spec.facts.minimum_images(options)
    if frames_of(images) is not None:
        raise UsageError(
            "statistics can't be written for clips", where=str(samples), expected="single images", got="clips",
            do="compare two folders of clips with --samples and --reference",
        )  # fmt: skip
    if len(images) < minimum:
        raise NotReady(
            f"{asked.name} needs at least {minimum:,} images", where=str(samples), got=f"{len(images):,}",
        )  # fmt: skip
    extractor = open_extractor(known[asked.name], options)
    write_moments(out, reference_gaussian(images, extractor, device=device, cache=cache), extractor.fingerprint())
    return len(images)
