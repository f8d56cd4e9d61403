"""All hooks of zigma-bench: the kinds of objects that a plugin can add.

A plugin is a module with functions of these names, marked with `zigma_bench.hookimpl`. An entry point in the group
`zigma_bench` names the module. The built-in scans, backbones, datasets and metrics are registered by the same hooks.

    @zigma_bench.hookimpl
    def register_scans(register):
        register("rings", rings)

Registering must not import torch, so a target is a `"module:attribute"` string, which is imported when it is used. The
exception is a plain `nn.Module`, with which every command imports torch.
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

    `function(grid, layer, depth, seed, *, options...)` returns NumPy ints [L] (one path), [K, L] (several) or a
    `Route`. It gets only those of the four reserved arguments that its signature names. Keyword-only parameters are its
    options. An order learned from the features is registered with
    `register(name, "module:class", options=Dataclass, facts=LearnedScan(...))`; the class is an `nn.Module`, called as
    `scans.route.LearnedOrder` describes.
    """


@hookspec
def register_backbones(register: Callable[..., None]) -> None:
    """Add denoising networks: `register(name, Module)`, or, with the facts that a plan uses,
    `register(name, "module:class", options=Dataclass, facts=BackboneFacts(...))`.

    `Module` is a subclass of `nn.Module`, or a function that returns a module. The parameters of the constructor are
    the options, except those that the framework fills in (`registry.modules.FILLED`): `channels`, `height`, `width`,
    `frames`, `grid`, `routes`, `backend`, and from the data `classes`, `text_width`, `text_tokens`. The module is
    called as `module(x [B, C, H, W], t [B], condition) -> [B, C, H, W]`; the condition is None unless the constructor
    has the parameter `classes` or `text_width`.

    A class with facts is called as `Class(options, *, grid, channels, routes, backend)` and is an `nn.Module` with
    `forward(x [B, C, H, W], t [B]) -> [B, C, H, W]`, where t = 0 is noise and t = 1 data. It returns the recipe's
    `prediction`, by default the velocity. If its facts have a `condition`, it gets a third argument y: labels int64
    [B], or text features [B, S, C].
    """


@hookspec
def register_mixers(register: Callable[..., None]) -> None:
    """Add sequence operators of a block: `register(name, "module:class", options=Dataclass, facts=MixerFacts(...))`.

    The class is called as `Class(options, *, block, grid, route, backend)`, where `block` is the backbone's options.
    It is an `nn.Module` with `forward(x [B, L, D]) -> [B, L, D]`; input and output are in raster order.
    """


@hookspec
def register_merges(register: Callable[..., None]) -> None:
    """Add ways to merge the outputs of a layer's paths.

    `register(name, "module:class", doc="...", facts=MergeFacts(...))`; lists show the line `doc`.
    The class is called as `Class(paths=, channels=)` and is an `nn.Module` with `forward(outputs) -> [B, L, E]`, where
    `outputs` is the list of the paths' outputs [B, L, E]. A route names the merge: `Route(paths, merge="name")`. With
    `splits_channels` the outputs are [B, L, E / K]. With `has_stages` it is called once per stage. With
    `splits_tokens` it is `forward(parts, x)`: for each path its tokens [V] and its rows [B, V, E], and the layer's
    input x [B, L, E].
    """


@hookspec
def register_datasets(register: Callable[..., None]) -> None:
    """Add sources of images: `register(name, "module:function", options=Dataclass, facts=DatasetFacts(...))`.

    The function is called as `function(options)` and returns `Splits` of uint8 images [N, C, H, W]. Images with classes
    have a method `labels(indices)`; images with captions (`captions` in the facts) have a method `captions(indices)`.
    If `take` decodes or computes images, they have a property `decodes` that is true, and they must pickle, because
    worker processes then load them in advance.
    """


@hookspec
def register_transforms(register: Callable[..., None]) -> None:
    """Add transforms of images: `register(name, "module:function", options=Dataclass, facts=TransformFacts(...))`.

    The function is called as `function(options, pixels)` with uint8 [n, C, H, W] and returns new pixels of that shape.
    The result for an image depends only on that image and the options, not on the other images of the call.
    """


@hookspec
def register_metrics(register: Callable[..., None]) -> None:
    """Add quality metrics: `register(name, "module:function", options=Dataclass, facts=MetricFacts(...))`.

    The function is called as `function(options, subject)` with a `Subject` and returns a `Measurement`.
    """


@hookspec
def register_extractors(register: Callable[..., None]) -> None:
    """Add feature extractors: `register(name, "module:function", options=Dataclass, facts=ExtractorFacts(...))`.

    The function is called as `function(options)` and returns an `nn.Module`, or a function, that computes features
    [B, dimensions] from uint8 images [B, 3, H, W]. All metrics on features are registered with it: `fd-NAME`,
    `kid-NAME`, `precision-NAME` and so on.
    """


@hookspec
def register_report_formats(register: Callable[..., None]) -> None:
    """Add formats of reports: `register(name, function)`.

    The function is called as `function(tables)` with `reports.table.Table` objects and returns text or bytes.
    """


@hookspec
def register_executors(register: Callable[..., None]) -> None:
    """Add places where cells run: `register(name, "module:class", options=Dataclass, facts=ExecutorFacts(...))`.

    The class is called as `Class(options)` and has the method `run_cells(cells, place)` of
    `run.executors.executor.Executor`: it runs cells until the records of their due stages exist.
    """
