"""What a plugin says of a name that it registers, beside its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zigma_bench.errors import UsageError
from zigma_bench.plugins.registry.costs import Condition, Cost, Missing


@dataclass(frozen=True)
class BackboneFacts:
    """What a plan must know of a backbone without building it.

    `order`: `scan` (the order of tokens matters) or `free` (one cell, whatever the scans).
    `default_scan`: the scan that it takes when a suite names none.
    `sizes`: named sizes to option values. `cost(options, grid=, channels=, routes=) -> Cost`; without it the network is
    built, its parameters are counted, and PyTorch's counter measures its FLOPs.
    `check(options, grid=, routes=)` raises NotReady for a geometry that does not fit.
    `smoke`: the option values of a toy. `condition(options)`: what the network is given as y beside x and t, or None.
    `kept(options, grid=, channels=, routes=, backend=, precision=)`: bytes that a training step keeps of one image, by
    operator, for a resolved backend and fp32 or bf16; without it nobody knows.
    `fill(options, data)`: the option values that the suite leaves out and the `DataFacts` of its images determine.
    """

    order: Literal["scan", "free"]
    cost: Callable[..., Cost] | None = None
    default_scan: str | None = None
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    condition: Callable[[Any], Condition | None] = lambda options: None
    kept: Callable[..., Mapping[str, int]] | None = None
    fill: Callable[[Mapping[str, Any], DataFacts], Mapping[str, Any]] = lambda options, data: {}


@dataclass(frozen=True)
class MixerFacts:
    """What a plan must know of a mixer without building it.

    `cost(options, block=, grid=, route=) -> Cost` of one layer. `check(options, block=, grid=, route=)` raises NotReady
    for a route that the mixer can't follow; without it the mixer must follow any. `kept(options, block=, grid=, route=,
    backend=, precision=)`: the bytes that a training step keeps of one layer and image, by operator.
    """

    cost: Callable[..., Cost]
    check: Callable[..., None] | None = None
    kept: Callable[..., Mapping[str, int]] | None = None


@dataclass(frozen=True)
class LearnedScan:
    """A scan whose order a module makes of each sample's features: `paths` of them in a layer.

    `cost(options, width=, grid=) -> Cost` of the module in one layer. `check(options, grid=)` raises NotReady for a
    geometry that does not fit.
    """

    cost: Callable[..., Cost]
    paths: int = 1
    check: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise UsageError("a learned scan has at least one path a layer", got=self.paths)


@dataclass(frozen=True)
class DataFacts:
    """What a plan must know of a resolved data source without decoding an image.

    `held_out`: the number of validation images, where the options or the source tell it; None where only loading does.
    `conditions`: what it gives beside each image that a network can be conditioned on. `captions`: whether a text is
    beside each image, which becomes a condition where the suite names an encoder.
    `frames`: of a clip; its images are those of [n, T, C, H, W]. `crops`: whether its training images can be cut at
    other places than their centre: they then have a method `cropped` (images.py).
    """

    channels: int
    height: int
    width: int
    fingerprint: str
    missing: tuple[Missing, ...] = ()
    held_out: int | None = None
    conditions: tuple[Condition, ...] = ()
    captions: bool = False
    frames: int = 1
    crops: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W], or of one clip, [T, C, H, W]."""
        image = (self.channels, self.height, self.width)
        return image if self.frames == 1 else (self.frames, *image)


@dataclass(frozen=True)
class DatasetFacts:
    """`describe(options) -> DataFacts` looks at files but decodes none.

    `smoke`: the option values of a toy of few pixels that needs no file; without it a smoke run takes the `toy`, an
    embedded data set, in its place.
    `check`: `"module:function"` that gives the parts of a check of all files (data/checks/dataset.py); without it a
    check takes every image of what the data set loads.
    `places`: the options that only say where the files are. They are no part of a cell's identity, so the fingerprint
    must hold the files' contents.
    `count`: `"module:function"` that gives the `Counts` of some options (images.py) and decodes none; without it a plan
    doesn't know how many images there are.
    """

    describe: Callable[[Any], DataFacts]
    smoke: Mapping[str, Any] | None = None
    toy: str = "digits"
    check: str | None = None
    places: tuple[str, ...] = ()
    count: str | None = None


@dataclass(frozen=True)
class TransformFacts:
    """What a plan must know of a transform without taking an image.

    `check(options, channels=, height=, width=)` raises NotReady for images that it can't take. `digest(options,
    channels=, height=, width=)`: what the pixels depend on beyond the options, such as a permutation that was drawn; it
    stands in the record and in the fingerprint of the images. `smoke`: the option values of a toy of 8 x 8 pixels.
    """

    check: Callable[..., None] | None = None
    digest: Callable[..., str] = lambda options, **shape: ""
    smoke: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricFacts:
    """What a plan must know of a metric.

    `smoke`: the option values of a toy. `of`: what it measures: single `images`, the `frames` of clips, whole `clips`,
    or `either` images or clips. `needs`: `samples` (images against a reference) or `network` (the trained network on
    held-out images).
    `missing(options) -> tuple[Missing, ...]`; `minimum_images`: fewer are refused. `fingerprint(options)`: what the
    figure depends on beyond its options, such as the hash of a weights file; it enters the quality stage's identity.
    `beside`: metrics that a suite must list with it, since it can't be read alone. `compares`: False for a figure of
    the samples alone, which no reference enters.
    """

    unit: str
    better: Literal["lower", "higher"]
    needs: Literal["samples", "network"]
    missing: Callable[[Any], tuple[Missing, ...]] = lambda options: ()
    minimum_images: Callable[[Any], int] = lambda options: 2
    fingerprint: Callable[[Any], str] = lambda options: ""
    of: Literal["images", "frames", "clips", "either"] = "images"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    compares: bool = True


@dataclass(frozen=True)
class ExtractorFacts:
    """What a plan must know of an extractor, which makes a vector of features of each image.

    `dimensions`: the number of features. `network`: its name in words, for lists. `source`: who published the weights,
    and under which license. `missing(options)`, `fingerprint(options)` and `smoke` are those of `MetricFacts`.
    `variant(options)`: the ending of the names of figures on weights other than the published ones; None for those.
    `plain_names`: its figures have the field's plain names, such as fid and kid. Inception v3 alone has them.
    `distance_minimum(options)`: a Frechet distance refuses fewer images.
    `class_weight`: `"module:function"` that gives, for some options, the weight [classes, dimensions] of the layer that
    makes class scores of the features. An extractor that has it has an Inception score.
    `golden(options)`: the features of eight fixed images (metrics/golden.py), which those of a run are compared with.
    Without it the first features in a cache are recorded, and later ones compared with them.
    """

    dimensions: int
    network: str = ""
    source: str = ""
    missing: Callable[[Any], tuple[Missing, ...]] = lambda options: ()
    fingerprint: Callable[[Any], str] = lambda options: ""
    variant: Callable[[Any], str | None] = lambda options: None
    plain_names: bool = False
    distance_minimum: Callable[[Any], int] = lambda options: 2
    class_weight: str | None = None
    golden: Callable[[Any], Any] | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.dimensions) is not int or self.dimensions < 1:
            raise UsageError("an extractor has at least one feature", where="dimensions", got=self.dimensions)


@dataclass(frozen=True)
class ReportFormatFacts:
    """What becomes of the text or bytes that a report format returns.

    `escaped`: the function itself escapes control characters (`zigma_bench.escaping.visible`), as one that colours its
    text must. The text of any other format is escaped before it is printed.
    """

    escaped: bool = False
