"""The input of a metric: the images and the network of one cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zigma_bench.data.images import Images
from zigma_bench.errors import NotReady, UsageError

if TYPE_CHECKING:
    from zigma_bench.diffusion.convert import Network
    from zigma_bench.metrics.moments import Moments


@dataclass(frozen=True)
class Subject:
    """The samples of a cell, the reference that they are compared with, and the network. Missing parts are None.

    `reference_facts` (dataset, split, ...) goes into the fingerprint. `validation`: images that `network` was not
    trained on. `network(x [B, C, H, W] in [-1, 1], t [B])` is the velocity on the linear path, [B, C, H, W], for every
    prediction that the recipe may train. If it is `labelled`, it is `network(x, t, y)` with the classes y int64 [B]
    of the validation images (`images.labels_of`). `cache`: a folder for features of the reference. `moments`: the mean
    and covariance of the reference from a file, for one extractor.
    """

    samples: Images | None = None
    reference: Images | None = None
    reference_facts: dict[str, Any] = field(default_factory=dict)
    validation: Images | None = None
    network: Network | None = None
    labelled: bool = False
    device: str = "cpu"
    cache: Path | None = None
    moments: Moments | None = None

    def drawn(self) -> Images:
        """The samples; UsageError if there are none."""
        if self.samples is None or not len(self.samples):
            raise UsageError("this metric measures samples", got="no samples")
        return self.samples

    def compared(self) -> tuple[Images, Images]:
        """Samples and reference; UsageError if one is missing or their shapes differ.

        NotReady if the reference consists only of a mean and a covariance.
        """
        samples, reference = self.samples, self.reference
        if reference is None and self.moments is not None:
            raise NotReady(
                "this metric compares single images, and the reference contains only a mean and a covariance",
                do="use images as the reference",
            )
        if samples is None or reference is None:
            raise UsageError(
                "this metric compares samples with a reference", got=_missing_parts(self, "samples", "reference")
            )
        if not len(samples) or not len(reference):
            raise UsageError(
                "there is nothing to compare", got=f"{len(samples)} samples and {len(reference)} reference images"
            )
        shapes = [images.take([0]).shape[1:] for images in (samples, reference)]
        if shapes[0] != shapes[1]:
            raise UsageError("samples and reference differ in shape", expected=str(shapes[1]), got=shapes[0])
        return samples, reference

    def held_out(self) -> tuple[Images, Network]:
        """Validation images and the network; UsageError if one is missing."""
        if self.validation is None or self.network is None:
            raise UsageError("this metric runs the network", got=_missing_parts(self, "validation", "network"))
        if not len(self.validation):
            raise UsageError("there are no validation images")
        return self.validation, self.network


def _missing_parts(subject: Subject, *names: str) -> str:
    return "no " + " and no ".join(name for name in names if getattr(subject, name) is None)
