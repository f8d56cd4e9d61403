"""Names and options of a suite, resolved with the registries; and the toy version of a suite for smoke runs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError, nearest
from zigma_bench.plan.cells import Resolved
from zigma_bench.plan.space import TOY
from zigma_bench.plugins.discovery import BUILTIN, Catalogue, find_spec
from zigma_bench.plugins.registry import DataFacts, Spec
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import fresh_routes, layer_routes
from zigma_bench.scans.route import BrokenScan, Route
from zigma_bench.suite import (
    Budget,
    Choice,
    Data,
    During,
    Efficiency,
    Latents,
    OwnRecipe,
    Reference,
    SizeMatch,
    Suite,
    YamlSource,
)

TOY_TOKENS = 8  # tokens of a text in a smoke run
TOY_LOSS_IMAGES = 64
TOY_CROP = 10  # pixels of the short side, from which 8 x 8 are cropped
MAX_PLACES = 2**27  # tokens x layers of a network, because all orders are in memory
LONGEST_WORD = 40  # characters of an option's value in a label
DIGITS = 12  # digits of a digest in an error


def smoke_suite(suite: Suite, catalogue: Catalogue, source: YamlSource) -> Suite:
    """The same comparison at toy scale on the embedded data: every stage runs, but no figure means anything.

    It runs on any device: `compile` and `graph`, which need a GPU, are off.
    """
    compare = []
    for index, item in enumerate(suite.compare):
        spec = catalogue.get("backbone", item.backbone.name, where=source.where("compare", index, "backbone"))
        resolve_option(
            catalogue, "backbone", item.backbone, source.where("compare", index, "backbone")
        )  # find typos here too
        options = _expand_size(spec, item.backbone.options, source.where("compare", index, "backbone"))
        if options.get("condition") == "class":
            options = {**options, "classes": 10}  # the embedded data has 10 classes
        if options.get("condition") == "text" and not suite.timed_alone:
            options = {**options, "text_width": encoders.RANDOM_WORDS_WIDTH, "text_tokens": TOY_TOKENS}
        toy = Choice.model_validate({"name": item.backbone.name, **options, **spec.facts.smoke})
        own = item.train and OwnRecipe(**item.train.model_dump(exclude_unset=True, exclude={"warmup_images"}))
        toy_item = item.model_copy(update={"backbone": toy, "train": own})
        if toy_item not in compare:  # all sizes of a backbone have the same toy
            compare.append(toy_item)
    solver, plain = suite.sample.solver, {"compile": False, "graph": False}
    evaluations = None if solver == "dopri5" else 4 + suite.sample.last_evaluations
    sample = suite.sample.model_copy(update={"count": 32, "batch": 16, "evaluations": evaluations, **plain})
    train = suite.train.model_copy(update={"batch": 16, "warmup_images": 0, **plain})
    if train.random_crop is not None:
        train = train.model_copy(update={"random_crop": TOY_CROP})
    return suite.model_copy(
        update={
            "data": None if suite.timed_alone else toy_data(suite, catalogue, source),
            "compare": tuple(compare),
            "baseline": None,
            "seeds": suite.seeds[:1],
            "budget": None if suite.timed_alone else Budget(images=64),
            "sample": sample,
            "train": train,
            "quality": tuple(
                _toy_metric(metric, catalogue, source.where("quality", i)) for i, metric in enumerate(suite.quality)
            ),
            "efficiency": suite.efficiency and _toy_efficiency(suite.efficiency),
            "reference": Reference(split="train", images=suite.reference.images),
            "during": suite.during and _toy_during(suite.during, catalogue, source),
            "tuning": suite.tuning and suite.tuning.model_copy(update={"loss_images": TOY_LOSS_IMAGES}),
            "size_match": SizeMatch(by="none"),  # the size of a toy means nothing
        }
    )


def _toy_metric(metric: Choice, catalogue: Catalogue, where: str) -> Choice:
    """A metric with its options for smoke runs, such as fewer images."""
    smoke = catalogue.get("metric", metric.name, where=where).facts.smoke
    return Choice.model_validate({"name": metric.name, **metric.options, **smoke})


def _toy_during(during: During, catalogue: Catalogue, source: YamlSource) -> During:
    """The quality during training twice, on few images."""
    metrics = tuple(
        _toy_metric(metric, catalogue, source.where("during", "metrics", index))
        for index, metric in enumerate(during.metrics)
    )
    return during.model_copy(update={"every": 32, "images": TOY_LOSS_IMAGES, "samples": 16, "metrics": metrics})


def _toy_efficiency(timed: Efficiency) -> Efficiency:
    """Three repeats in one round; in an efficiency suite, on 64 tokens and two images."""
    if timed.tokens is None:
        return timed.model_copy(update={"repeats": 3, "rounds": 1, "sample_batch": 16})
    return timed.model_copy(update={"repeats": 3, "rounds": 1, "tokens": (64,), "batch": (2,)})


def data_entries(suite: Suite) -> list[tuple[tuple[str | int, ...], Data]]:
    """The data sets of a suite, each with its place in the file; an efficiency suite has none."""
    if suite.data is None:
        return []
    if isinstance(suite.data, Data):
        return [(("data",), suite.data)]
    return [(("data", index), entry) for index, entry in enumerate(suite.data)]


def toy_data(suite: Suite, catalogue: Catalogue, source: YamlSource) -> tuple[Data, ...]:
    """Versions of a suite's data sets and transforms for smoke runs, without files: the digits or another toy."""
    return tuple(_toy_entry(entry, place, catalogue, source) for place, entry in data_entries(suite))


def _toy_entry(entry: Data, place: tuple[str | int, ...], catalogue: Catalogue, source: YamlSource) -> Data:
    where = source.where(*place)
    facts = catalogue.get("dataset", entry.name, where=where).facts
    resolve_option(catalogue, "dataset", entry, where)  # find typos here too
    transforms = []
    for index, choice in enumerate(entry.transforms):
        where = source.where(*place, "transforms", index)
        resolve_option(catalogue, "transform", choice, where)
        toy = catalogue.get("transform", choice.name).facts.smoke
        transforms.append({"name": choice.name, **choice.options, **toy})
    base: dict[str, Any]
    if facts.smoke is None:
        base = {"name": facts.toy, **(catalogue.get("dataset", facts.toy).facts.smoke or {})}
    else:
        base = {"name": entry.name, **entry.options, **facts.smoke}
    if entry.text is not None:  # the digits have captions and need no file
        toy_text = entry.text.model_dump() | {"encoder": encoders.RANDOM_WORDS, "revision": None, "tokens": TOY_TOKENS}
        base = {"name": "digits", "caption": "several", "text": toy_text}
    if entry.latents is not None:
        base |= {"resolution": 2 * base.get("resolution", 8), "latents": _toy_latents(entry.latents)}
    return Data.model_validate({**base, "transforms": tuple(transforms)})


def _toy_latents(latents: Latents) -> dict[str, Any]:
    """The toy autoencoder. It halves the side, so the images are twice as large and latents have the usual 8 x 8."""
    options = latents.model_dump(include={"posterior", "precision", "dtype"})
    return {"autoencoder": TOY, "batch": 128, **options}


def resolve_option(catalogue: Catalogue, kind: str, choice: Choice, where: str) -> Resolved:
    """A registered object of a `kind` with all of its options checked; `where` is its place in the suite."""
    spec = catalogue.get(kind, choice.name, where=where)
    written = _expand_size(spec, choice.options, where) if kind == "backbone" else choice.options
    options = spec.resolve({key: _plain(value) for key, value in written.items()}, where=where)
    if kind == "backbone" and "mixer" in options:
        options["mixer"] = _resolve_mixer(catalogue, options["mixer"], where)
    return Resolved(name=spec.name, owner=spec.owner, options=options)


def with_options(catalogue: Catalogue, choice: Choice, values: Mapping[str, Any], where: str) -> Choice:
    """A backbone of a suite with other values of some options; a named size becomes width, depth and patch."""
    options = _expand_size(catalogue.get("backbone", choice.name), choice.options, where)
    return Choice.model_validate({"name": choice.name, **options, **values})


def _resolve_mixer(catalogue: Catalogue, value: Any, where: str) -> dict[str, Any]:
    """The resolved mixer of a backbone: its owner and all of its options are part of the cell's identity."""
    try:
        choice = Choice.model_validate(value)
    except pydantic.ValidationError:
        raise UsageError(
            "not a mixer", where=where, expected="a name, or a mapping with a name and its options", got=value
        ) from None
    return resolve_option(catalogue, "mixer", choice, where).model_dump()


def _expand_size(spec: Spec, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Backbone options in which a named size, such as `size: B/2`, is replaced by its width, depth and patch."""
    options = dict(options)
    size = options.pop("size", None)
    if size is None:
        return options
    sizes = spec.facts.sizes
    name, _, patch = str(size).partition("/")
    if name not in sizes or not (patch.isascii() and patch.isdigit() and int(patch) > 0):
        known = [f"{key}/2" for key in sizes]
        raise UsageError(
            f"backbone {spec.name!r} has no size {size!r}",
            where=where,
            expected=f"NAME/PATCH with a name of {', '.join(sizes) or '(it has no named sizes)'}",
            nearest=nearest(str(size), known),
        )
    named = {**sizes[name], "patch": int(patch)}
    if clash := sorted(set(named) & set(options)):
        raise UsageError(f"size {size!r} already sets {', '.join(clash)}", where=where, do="set only one of them")
    return {**named, **options}


def describe_source(catalogue: Catalogue, data: Resolved, where: str) -> DataFacts:
    """The facts of a data set before its transforms."""
    spec = catalogue.get("dataset", data.name)
    try:
        return spec.facts.describe(spec.make_options(data.options))  # type: ignore[no-any-return]
    except ZigmaBenchError as error:
        raise error.at(where) from None


def option_label(value: Any) -> str:
    """An option's value in a label: a mixer as its name and the options that differ from their defaults, a long value
    as its start and a hash."""
    if isinstance(value, dict):
        defaults = {option.name: option.default for option in find_spec("mixer", value["name"]).options}
        known = {key: item for key, item in sorted(value["options"].items()) if item != defaults.get(key)}
        options = " ".join(f"{key}={option_label(item)}" for key, item in known.items())
        return f"{value['name']}({options})" if options else str(value["name"])
    text = str(value)
    if len(text) <= LONGEST_WORD:
        return text
    return f"{text[: LONGEST_WORD - 10]}...{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def cell_routes(
    scan: Resolved | None,
    *,
    grid: Grid,
    depth: int,
    seed: int,
    catalogue: Catalogue,
    planned: Sequence[str] | None = None,
) -> tuple[Route, ...]:
    """The route of every layer; none for an order-free backbone.

    With `planned`, the order digests of a plan, raises BrokenScan if the orders differ from the plan's. Without it,
    raises BrokenScan if a plugin's scan returns other orders when it is called again.
    """
    if scan is None:
        return ()
    if depth * grid.tokens > MAX_PLACES:
        raise NotReady(
            "the orders of all layers are too long to plan", expected=f"at most {MAX_PLACES:,} tokens over all layers",
            got=f"{depth} layers of {grid.tokens:,} tokens", do="use a larger patch, a smaller image or fewer layers",
        )  # fmt: skip
    spec = catalogue.get("scan", scan.name)
    found = layer_routes(spec, grid=grid, depth=depth, seed=seed, options=scan.options)
    digests = [route.digest for route in found]
    if planned is not None:
        _check_same(spec, list(planned), digests, "returns an order that differs from the planned one")
    elif spec.owner != BUILTIN:
        again = fresh_routes(spec, grid=grid, depth=depth, seed=seed, options=scan.options)
        _check_same(spec, digests, [route.digest for route in again], "returns another order when it is called again")
    return found


def _check_same(spec: Spec, expected: Sequence[str], found: Sequence[str], what: str) -> None:
    """Raise BrokenScan for the first layer with another order digest."""
    for layer, (wanted, got) in enumerate(itertools.zip_longest(expected, found, fillvalue="none")):
        if wanted != got:
            raise BrokenScan(
                f"the scan {what}: the same arguments must give the same order, in every process",
                where=f"scan {spec.name!r} of {spec.owner}, layer {layer}",
                expected=f"the order with the digest {wanted[:DIGITS]}", got=got[:DIGITS],
                do="draw random numbers from np.random.default_rng([seed, layer]), and don't use a clock, hash() or "
                "state between calls",
            )  # fmt: skip


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
