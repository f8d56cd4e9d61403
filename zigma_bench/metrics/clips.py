"""The distances of clips: those of images on their frames, each under a name of its own, and FVD."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from zigma_bench.data.images import Frames, Images, digest
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.metrics import measure
from zigma_bench.metrics.i3d import clip_features, i3d_facts
from zigma_bench.metrics.i3d_weights import FVD_MINIMUM, SHORTEST_CLIP, i3d_missing, i3d_path, is_published
from zigma_bench.metrics.names import Efflite, Kind
from zigma_bench.metrics.options import EffliteOptions, I3dOptions, InceptionOptions
from zigma_bench.metrics.quality import frechet
from zigma_bench.metrics.subject import Subject
from zigma_bench.records.record import Measurement

PROTOCOL = 1


def frame_fid(options: InceptionOptions, subject: Subject) -> Measurement:
    """FID of all frames; with other weights `frame-fd-inception-<sha8>`."""
    return _of_frames(measure.fid, options, subject)


def frame_kid(options: InceptionOptions, subject: Subject) -> Measurement:
    """KID of all frames; with other weights `frame-kid-inception-<sha8>`."""
    return _of_frames(functools.partial(measure.measured, "kid", "inception"), options, subject)


def _frame_efflite(kind: Kind, family: Efflite, options: EffliteOptions, subject: Subject) -> Measurement:
    """A distance of all frames on the features of an EfficientNet-Lite."""
    return _of_frames(functools.partial(measure.measured, kind, family), options, subject)


frame_fd_efflite0 = functools.partial(_frame_efflite, "fd", "efflite0")
frame_kid_efflite0 = functools.partial(_frame_efflite, "kid", "efflite0")
frame_fd_efflite2 = functools.partial(_frame_efflite, "fd", "efflite2")
frame_kid_efflite2 = functools.partial(_frame_efflite, "kid", "efflite2")


def _of_frames(metric: Callable[[Any, Subject], Measurement], options: Any, subject: Subject) -> Measurement:
    samples, reference, frames = _clips(subject)
    flat = replace(
        subject,
        samples=_taken_apart(samples, frames),
        reference=_taken_apart(reference, frames),
        reference_facts={**subject.reference_facts, "frames": frames},
    )
    measured = metric(options, flat)
    return replace(measured, name=f"frame-{measured.name}")


def _taken_apart(clips: Images, frames: int) -> Frames:
    """The frames of clips, the same object for all metrics of a process: what is known of it is found again."""
    for known in _frames:
        if known.clips is clips:
            return known
    _frames.append(Frames(clips, frames))
    return _frames[-1]


_frames: deque[Frames] = deque(maxlen=2)  # of the samples and of the reference


def fvd(options: I3dOptions, subject: Subject) -> Measurement:
    """FVD with the published I3D (Unterthiner 2018, arXiv 1812.01717); with another file `fd-i3d-<sha8>`."""
    for missing in i3d_missing(options):
        raise NotReady(missing.what, do=missing.do)
    path = i3d_path(options)
    samples, reference, frames = _clips(subject)
    facts = i3d_facts(path)
    published = is_published(path)
    name = "fvd" if published else f"fd-i3d-{facts['weights_sha256'][:8]}"
    judged = {**subject.reference_facts, "frames": frames, "sha256": digest(reference)}
    facts |= {"protocol": PROTOCOL, "n_samples": len(samples), "n_reference": len(reference), "reference": judged}
    if reason := _too_little(min(len(samples), len(reference)), frames, published):
        return Measurement.refused(name, "1", f"{name} {reason}", facts)
    a = clip_features(samples, path, device=subject.device)
    b = clip_features(reference, path, device=subject.device, cache=subject.cache)
    return Measurement.of(name, frechet(a, b), "1", fingerprint=facts)


def _too_little(clips: int, frames: int, published: bool) -> str | None:
    """Why there are too few clips, or too short ones."""
    if published and frames < SHORTEST_CLIP:
        return f"needs clips of at least {SHORTEST_CLIP} frames and these have {frames}"
    least = FVD_MINIMUM if published else 2
    return f"needs at least {least:,} clips on both sides and there are {clips:,}" if clips < least else None


def _clips(subject: Subject) -> tuple[Images, Images, int]:
    """Samples, reference and the number of their frames; UsageError for single images."""
    samples, reference = subject.compared()
    shape = samples.take([0]).shape[1:]
    if len(shape) != 4:
        raise UsageError("this metric compares clips", expected="[T, C, H, W]", got=list(shape))
    return samples, reference, int(shape[0])
