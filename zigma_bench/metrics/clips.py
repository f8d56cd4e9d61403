"""Metrics of clips: image metrics on their frames, each under its own name, and FVD."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from zigma_bench.data.images import Frames, Images, pixels_digest
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics import measure
from zigma_bench.metrics.extractors.i3d import clip_features, i3d_facts
from zigma_bench.metrics.extractors.i3d_weights import FVD_MINIMUM, SHORTEST_CLIP, i3d_missing, i3d_path, is_published
from zigma_bench.metrics.on_features import FRAME
from zigma_bench.metrics.options import I3dOptions
from zigma_bench.metrics.quality import frechet_distance
from zigma_bench.metrics.subject import Subject
from zigma_bench.plugins.registry import Spec
from zigma_bench.records.record import Measurement

PROTOCOL = 1


def measure_frames(kind: str, extractor: Spec, options: Any, subject: Subject) -> Measurement:
    """Measure all frames of clips as single images. The name of the result begins with `frame-`."""
    samples, reference, frames = _clips(subject)
    flat = replace(
        subject,
        samples=_frames_of_clips(samples, frames),
        reference=_frames_of_clips(reference, frames),
        reference_facts={**subject.reference_facts, "frames": frames},
    )
    found = measure.measure_features(kind, extractor, options, flat)
    return replace(found, name=FRAME + found.name)


def _frames_of_clips(clips: Images, frames: int) -> Frames:
    """The frames of clips. All metrics of a process get the same object, so that its features are computed once."""
    for known in _frames:
        if known.clips is clips:
            return known
    _frames.append(Frames(clips, frames))
    return _frames[-1]


_frames: deque[Frames] = deque(maxlen=2)  # of the samples and of the reference


def fvd(options: I3dOptions, subject: Subject) -> Measurement:
    """FVD with the published I3D (Unterthiner 2018, arXiv 1812.01717); with another file the name is
    `fd-i3d-<sha8>`."""
    for missing in i3d_missing(options):
        raise NotReady(missing.what, do=missing.do)
    path = i3d_path(options)
    samples, reference, frames = _clips(subject)
    facts = i3d_facts(path)
    published = is_published(path)
    name = "fvd" if published else f"fd-i3d-{facts['weights_sha256'][:8]}"
    described = {**subject.reference_facts, "frames": frames, "sha256": pixels_digest(reference)}
    facts |= {"protocol": PROTOCOL, "n_samples": len(samples), "n_reference": len(reference), "reference": described}
    if reason := _why_too_few(min(len(samples), len(reference)), frames, published):
        return Measurement.refused(name, "1", f"{name} {reason}", facts)
    a = clip_features(samples, path, device=subject.device)
    b = clip_features(reference, path, device=subject.device, cache=subject.cache)
    return Measurement.of(name, frechet_distance(a, b), "1", fingerprint=facts)


def _why_too_few(clips: int, frames: int, published: bool) -> str | None:
    """Why there are too few clips or the clips are too short; None if they are enough."""
    if published and frames < SHORTEST_CLIP:
        return f"needs clips of at least {SHORTEST_CLIP} frames and these have {frames}"
    least = FVD_MINIMUM if published else 2
    return f"needs at least {least:,} clips on both sides and there are {clips:,}" if clips < least else None


def _clips(subject: Subject) -> tuple[Images, Images, int]:
    """Samples, reference and the number of frames per clip; UsageError for single images."""
    samples, reference = subject.compared()
    shape = samples.take([0]).shape[1:]
    if len(shape) != 4:
        raise UsageError("this metric compares clips", expected="[T, C, H, W]", got=list(shape))
    return samples, reference, int(shape[0])
