"""The facts that a plugin registers with a name, in addition to its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zigma_bench.errors import UsageError
from zigma_bench.plugins.registry.costs import Condition, Cost, Missing


@dataclass(frozen=True)
class BackboneFacts:
    """The facts about a backbone that a plan needs without building it.

    `order`: `scan` (the order of tokens matters) or `free` (it doesn't, so the suite has one cell for all scans).
    `default_scan`: the scan that is used if a suite names none.
    `sizes`: the option values of each named size. `cost(options, grid=, channels=, routes=) -> Cost`; without it, the
    network is built, its parameters are counted, and PyTorch's counter measures its FLOPs.
    `check(options, grid=, routes=)` raises NotReady for a geometry that doesn't fit.
    `smoke`: the option values for smoke runs. `condition(options)`: the network's input y besides x and t, or None.
    `memory(options, grid=, channels=, routes=, backend=, precision=)`: the activation memory by operator, which is the
    number of bytes per image that a training step saves, for a resolved backend and fp32 or bf16; without it there is
    no estimate. `fill(options, data)`: values of omitted options that follow from the `DataFacts` of the images.
    """

    order: Literal["scan", "free"]
    cost: Callable[..., Cost] | None = None
    default_scan: str | None = None
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    condition: Callable[[Any], Condition | None] = lambda options: None
    memory: Callable[..., Mapping[str, int]] | None = None
    fill: Callable[[Mapping[str, Any], DataFacts], Mapping[str, Any]] = lambda options, data: {}


@dataclass(frozen=True)
class MixerFacts:
    """The facts about a mixer that a plan needs without building it.

    `cost(options, block=, grid=, route=) -> Cost` of one layer. `check(options, block=, grid=, route=)` raises NotReady
    for a route that the mixer can't follow; without it, the mixer must be able to follow any route. `memory(options,
    block=, grid=, route=, backend=, precision=)`: the activation memory by operator, which is the number of bytes that
    a training step saves per layer and image; without it there is no estimate. `mixes_tokens`: False for a control in
    which tokens exchange no information; a ranking by speed (`fastest`) never calls it the fastest.
    """

    cost: Callable[..., Cost]
    check: Callable[..., None] | None = None
    memory: Callable[..., Mapping[str, int]] | None = None
    mixes_tokens: bool = True


@dataclass(frozen=True)
class MergeFacts:
    """The facts about a merge that a plan and a mixer need without building it.

    `cost(paths=, channels=, tokens=) -> Cost` of one layer; without it, the merge has no parameters and no counted
    FLOPs. `memory(paths=, channels=, tokens=, value_bytes=)`: the activation memory of the merge by operator, in bytes
    per layer and image; without it there is no estimate. `check(route=, channels=)` raises NotReady for a route or a
    number of channels that the merge doesn't support.
    `gate`: what a mixer's gate SiLU(z) multiplies: the output of each `path`, inside its scan, or the `merged` output.
    `is_sum`: the merge is the plain sum, which one operator may compute together with the output projection.
    At most one of these three may be true: `splits_channels`: path k processes the k-th of K groups of channels;
    `splits_tokens`: the tokens are divided among the paths, so that each token is visited once; `has_stages`: the paths
    form stages, and each stage reads the output of the previous one. With the last two, only the merged output can be
    gated.
    """

    cost: Callable[..., Cost] = lambda **sizes: Cost.of({}, {})
    memory: Callable[..., Mapping[str, int]] | None = None
    check: Callable[..., None] | None = None
    gate: Literal["path", "merged"] = "path"
    is_sum: bool = False
    splits_channels: bool = False
    splits_tokens: bool = False
    has_stages: bool = False

    def __post_init__(self) -> None:
        kinds = [name for name in ("splits_channels", "splits_tokens", "has_stages") if getattr(self, name)]
        if len(kinds) > 1:
            raise UsageError("the facts of a merge contradict each other", expected="at most one", got=kinds)
        if self.gate == "path" and (self.splits_tokens or self.has_stages):
            raise UsageError(
                "a merge that splits the tokens or has stages can't gate the output of each path",
                expected="gate='merged'", got=self.gate,
            )  # fmt: skip
        if self.is_sum and (kinds or self.gate != "path"):
            raise UsageError(
                "a plain sum needs gated paths over all tokens and channels", expected="is_sum=False", got=self.is_sum
            )


@dataclass(frozen=True)
class LearnedScan:
    """A scan with a learned order: a module computes the `paths` of a layer from the features of each sample.

    `cost(options, width=, grid=) -> Cost` of the module in one layer. `check(options, grid=)` raises NotReady for a
    geometry that doesn't fit.
    """

    cost: Callable[..., Cost]
    paths: int = 1
    check: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise UsageError("a learned scan needs at least one path per layer", got=self.paths)


@dataclass(frozen=True)
class DataFacts:
    """The facts about a resolved data source that a plan needs without decoding an image.

    `held_out`: the number of validation images; None if it is only known after loading.
    `conditions`: the data of each image on which a network can be conditioned. `captions`: whether each image has a
    text, which becomes a condition if the suite names a text encoder.
    `frames`: the number of frames T of a clip [T, C, H, W]. `crops`: whether training images can be cropped anywhere;
    they then have a method `cropped` (images.py). `streams`: whether training images arrive in an order of their own.
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
    streams: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W], or of one clip, [T, C, H, W]."""
        image = (self.channels, self.height, self.width)
        return image if self.frames == 1 else (self.frames, *image)


@dataclass(frozen=True)
class DatasetFacts:
    """The facts about a data set. `describe(options) -> DataFacts` may look at files, but decodes no image.

    `smoke`: the option values of a small version for smoke runs, with few pixels and without files; without it, a smoke
    run uses the embedded data set `toy` instead.
    `check`: the `"module:function"` that returns the parts of a check of all files (data/checks/dataset.py); without
    it, a check reads every image of the loaded data set.
    `places`: the options that only locate the files. They aren't part of a cell's identity, so the fingerprint must
    depend on the files' contents.
    `count`: the `"module:function"` that returns the `Counts` (images.py) for some options without decoding images;
    without it, a plan doesn't know the number of images.
    """

    describe: Callable[[Any], DataFacts]
    smoke: Mapping[str, Any] | None = None
    toy: str = "digits"
    check: str | None = None
    places: tuple[str, ...] = ()
    count: str | None = None


@dataclass(frozen=True)
class TransformFacts:
    """The facts about a transform that a plan needs without reading an image.

    `check(options, channels=, height=, width=)` raises NotReady for images that it doesn't support. `digest(options,
    channels=, height=, width=)` identifies everything that the pixels depend on besides the options, such as a random
    permutation; it is part of the record and of the images' fingerprint. `smoke`: the option values for smoke runs,
    with images of 8 x 8 pixels.
    """

    check: Callable[..., None] | None = None
    digest: Callable[..., str] = lambda options, **shape: ""
    smoke: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricFacts:
    """The facts about a metric that a plan needs.

    `smoke`: the option values for smoke runs. `of`: what it measures: single `images`, the `frames` of clips, whole
    `clips`, or `either` images or clips. `needs`: `samples` (samples against a reference) or `network` (the trained
    network on held-out images).
    `missing(options) -> tuple[Missing, ...]`: missing files and packages. `minimum_images(options)`: with fewer images
    the metric is refused. `fingerprint(options)`: what the figure depends on besides the options, such as the hash of a
    weights file; it enters the quality stage's identity.
    `beside`: the metrics that a suite must list together with this one, which would mislead alone. `compares`: False
    for a metric that uses only the samples and no reference.
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
    """The facts about a feature extractor, which computes a vector of features from each image.

    `dimensions`: the number of features. `network`: its name in words, for lists. `source`: who published the weights,
    and under which licence. `missing(options)`, `fingerprint(options)` and `smoke` are as in `MetricFacts`.
    `variant(options)`: a suffix for the names of metrics on unpublished weights; None for the published weights.
    `plain_names`: the metrics have the usual short names, such as fid and kid. Only Inception v3 uses this.
    `distance_minimum(options)`: with fewer images the Frechet distance is refused.
    `class_weight`: the `"module:function"` that returns, for some options, the weight [classes, dimensions] of the
    layer that computes class scores from the features. With it, the extractor also has an Inception score.
    `golden(options)`: the expected features of eight fixed images (metrics/extractors/golden.py), for a check in every
    run. Without it, the first features in a cache are recorded, and later ones are compared with them.
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
            raise UsageError("an extractor needs at least one feature", where="dimensions", got=self.dimensions)


@dataclass(frozen=True)
class ReportFormatFacts:
    """How the text or bytes that a report format returns are handled.

    `escaped`: the function escapes control characters itself (`zigma_bench.escaping.visible`), which is necessary if it
    colours its text. The text of all other formats is escaped before it is printed.
    """

    escaped: bool = False


@dataclass(frozen=True)
class ExecutorFacts:
    """The facts about an executor. `local`: it runs cells on this machine, on the devices that --devices names."""

    local: bool = False
