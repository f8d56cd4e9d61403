"""The distances as the suite names them: features of both sets, the figure, and everything that it depends on."""

from __future__ import annotations

from typing import Any

from zigma_bench.images import Images, digest
from zigma_bench.metrics.features import Extractor, features
from zigma_bench.metrics.options import Efflite0Options, InceptionOptions
from zigma_bench.metrics.quality import SEED, SUBSETS, frechet, kid, kid_subset_size
from zigma_bench.metrics.subject import Subject
from zigma_bench.metrics.weights import FID_MINIMUM, inception_path, is_published
from zigma_bench.record import Measurement

PROTOCOL = 1
UNIT = "1"


def fd_efflite0(options: Efflite0Options, subject: Subject) -> Measurement:
    """The Frechet distance on EfficientNet-Lite0 features."""
    from zigma_bench.metrics.efflite0 import efflite0

    return _frechet("fd-efflite0", efflite0(options.size), subject, minimum=2)


def kid_efflite0(options: Efflite0Options, subject: Subject) -> Measurement:
    """The kernel distance on EfficientNet-Lite0 features."""
    from zigma_bench.metrics.efflite0 import efflite0

    return _kid("kid-efflite0", efflite0(options.size), subject)


def fid(options: InceptionOptions, subject: Subject) -> Measurement:
    """FID with the published weights; with other weights `fd-inception-<sha8>`, which has no minimum of 2,048."""
    extractor, published = _inception(options)
    name = "fid" if published else f"fd-inception-{extractor.weights_sha256[:8]}"
    return _frechet(name, extractor, subject, minimum=FID_MINIMUM if published else 2)


def kid_inception(options: InceptionOptions, subject: Subject) -> Measurement:
    """KID with the published weights; with other weights `kid-inception-<sha8>`."""
    extractor, published = _inception(options)
    return _kid("kid" if published else f"kid-inception-{extractor.weights_sha256[:8]}", extractor, subject)


def _inception(options: InceptionOptions) -> tuple[Extractor, bool]:
    from zigma_bench.errors import NotReady
    from zigma_bench.metrics.inception import inception
    from zigma_bench.metrics.weights import inception_missing

    for missing in inception_missing(options):
        raise NotReady(missing.what, do=missing.do)
    path = inception_path(options)
    return inception(path), is_published(path)


def _frechet(name: str, extractor: Extractor, subject: Subject, *, minimum: int) -> Measurement:
    samples, reference = subject.compared()
    facts = _fingerprint(extractor, samples, reference, subject)
    if (least := min(len(samples), len(reference))) < minimum:
        return Measurement.refused(name, UNIT, _too_few(name, minimum, least), facts)
    a, b = _both(samples, reference, extractor, subject)
    return Measurement.of(name, frechet(a, b), UNIT, fingerprint=facts)


def _kid(name: str, extractor: Extractor, subject: Subject) -> Measurement:
    samples, reference = subject.compared()
    size = kid_subset_size(len(samples), len(reference))
    facts = _fingerprint(extractor, samples, reference, subject)
    facts |= {"kid_subset_size": size, "kid_subsets": SUBSETS, "kid_seed": SEED}
    if size < 2:
        return Measurement.refused(name, UNIT, _too_few(name, 4, min(len(samples), len(reference))), facts)
    found = kid(*_both(samples, reference, extractor, subject))
    measured = Measurement.of(name, found.mean, UNIT, fingerprint=facts, raw=found.values)
    return measured if measured.status == "ok" else Measurement.of(name, found.mean, UNIT, fingerprint=facts)


def _both(samples: Images, reference: Images, extractor: Extractor, subject: Subject) -> tuple[Any, Any]:
    """Features of both sets; only the reference's are worth keeping for another cell."""
    return (
        features(samples, extractor, device=subject.device),
        features(reference, extractor, device=subject.device, cache=subject.cache),
    )


def _fingerprint(extractor: Extractor, samples: Images, reference: Images, subject: Subject) -> dict[str, Any]:
    """Everything that two figures must share to stand in one column."""
    return {
        "protocol": PROTOCOL,
        **extractor.fingerprint(),
        "n_samples": len(samples),
        "n_reference": len(reference),
        "reference": {**subject.reference_facts, "sha256": _digest(reference)},
    }


def _digest(reference: Images) -> str:
    """The digest of a reference, once for all metrics of a process: a large one is decoded for it."""
    if not _digested or _digested[0][0] is not reference:
        _digested[:] = [(reference, digest(reference))]
    return _digested[0][1]


_digested: list[tuple[Images, str]] = []


def _too_few(name: str, minimum: int, got: int) -> str:
    return f"{name} needs at least {minimum:,} images in the samples and in the reference, and the smaller has {got:,}"
