"""Every hook of zigma-bench on one page: what a plugin can add.

A plugin is a module with functions of these names, marked with `zigma_bench.hookimpl`, and named by an entry point in
the group `zigma_bench`. The built-in scans, backbones, datasets and metrics come in through the same hooks.

    @zigma_bench.hookimpl
    def register_scans(register):
        register("rings", rings)

What is registered imports without torch: a target is a `"module:attribute"` string that is imported where it runs. A
plain `nn.Module` is the exception, and brings torch into every command.
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

PROJECT = "zigma_bench"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_scans(register: Callable[..., None]) -> None:
    """Add scan orders: `register(name, function)`.

    `function(grid, layer, depth, seed, *, options...)` takes those of the four reserved arguments that it names and
    returns NumPy ints [L] (one path), [K, L] (several) or a `Route`. Keyword-only parameters are its options.
    An order learned from the features is `register(name, "module:class", options=Dataclass, facts=LearnedScan(...))`;
    the class is an `nn.Module`, called as `scans.route.LearnedOrder` says.
    """


@hookspec
def register_backbones(register: Callable[..., None]) -> None:
    """Add denoising networks: `register(name, Module)`, or all that a plan can know of one:
    `register(name, "module:class", options=Dataclass, facts=BackboneFacts(...))`.

    `Module` is a class of `nn.Module`, or a function that returns one. The parameters of its constructor are its
    options, except those that the framework fills in (`registry.modules.FILLED`): `channels`, `height`, `width`,
    `frames`, `grid`, `routes`, `backend`, and from the data `classes`, `text_width`, `text_tokens`. It is called as
    `module(x [B, C, H, W], t [B], condition) -> [B, C, H, W]`; the condition is None unless its constructor takes
    `classes` or `text_width`.

    A class with facts is called as `Class(options, *, grid, channels, routes, backend)` and is an `nn.Module` with
    `forward(x [B, C, H, W], t [B]) -> [B, C, H, W]`: what the recipe's `prediction` is, the velocity unless a
    suite says else; t = 0 is noise, t = 1 data. A conditional one, whose facts have a `condition`, is called with a
    third argument y: labels int64 [B], or text features [B, S, C].
    """


@hookspec
def register_mixers(register: Callable[..., None]) -> None:
    """Add sequence operators of a block: `register(name, "module:class", options=Dataclass, facts=MixerFacts(...))`.

    The class is called as `Class(options, *, block, grid, route, backend)` with the backbone's options as `block` and
    is an `nn.Module` with `forward(x [B, L, D]) -> [B, L, D]`. The stream is in raster order before and after.
    """


@hookspec
def register_datasets(register: Callable[..., None]) -> None:
    """Add sources of images: `register(name, "module:function", options=Dataclass, facts=DatasetFacts(...))`.

    The function is called as `function(options)` and returns `Splits` of uint8 images [N, C, H, W]. Images of classes
    have a method `labels(indices)`, and those beside texts, whose facts say `captions`, a method `captions(indices)`.
    Those whose `take` decodes or computes have a property `decodes` that is true, and pickle: processes then take them
    ahead.
    """


@hookspec
def register_transforms(register: Callable[..., None]) -> None:
    """Add what is done to images: `register(name, "module:function", options=Dataclass, facts=TransformFacts(...))`.

    The function is called as `function(options, pixels)` with uint8 [n, C, H, W] and returns new ones of that shape.
    Each image is changed alone and always alike, whatever stands beside it.
    """


@hookspec
def register_metrics(register: Callable[..., None]) -> None:
    """Add measures of quality: `register(name, "module:function", options=Dataclass, facts=MetricFacts(...))`.

    The function is called as `function(options, subject)` with a `Subject` and returns a `Measurement`.
    """


@hookspec
def register_extractors(register: Callable[..., None]) -> None:
    """Add extractors of features: `register(name, "module:function", options=Dataclass, facts=ExtractorFacts(...))`.

    The function is called as `function(options)` and returns an `nn.Module`, or a function, that makes features
    [B, dimensions] of uint8 images [B, 3, H, W]. All measures on features are registered with it: `fd-NAME`,
    `kid-NAME`, `precision-NAME` and so on.
    """


@hookspec
def register_report_formats(register: Callable[..., None]) -> None:
    """Add formats of reports: `register(name, function)`.

    The function is called as `function(tables)` with `reports.table.Table` objects and returns a text, or bytes.
    """
