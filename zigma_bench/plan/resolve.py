"""Names and options of a suite, looked up in the registries and filled in; and the toy that stands for a suite."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError, nearest
from zigma_bench.plan.cells import Resolved
from zigma_bench.plan.space import TOY
from zigma_bench.plugins.discovery import BUILTIN, Catalogue
from zigma_bench.plugins.registry import DataFacts, Spec
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import fresh_routes, routes
from zigma_bench.scans.route import BrokenScan, Route
from zigma_bench.suite import Budget, Choice, Data, Efficiency, Latents, OwnRecipe, Reference, SizeMatch, Source, Suite

TOY_TOKENS = 8  # of a text in a smoke run
TOY_CROP = 10  # of which 8 x 8 pixels are cut
MAX_PLACES = 2**27  # tokens of all layers of a network, whose orders are computed in memory
LONGEST_WORD = 40  # of an option's value in a label
DIGITS = 12  # of a digest in an error


def smoke_suite(suite: Suite, catalogue: Catalogue, source: Source) -> Suite:
    """The same comparison at toy scale on the embedded data: every stage runs, no figure means anything.

    It runs on any device: what only a card can do (compile, graph) is left out.
    """
    compare = []
    for index, item in enumerate(suite.compare):
        spec = catalogue.get("backbone", item.backbone.name, where=source.where("compare", index, "backbone"))
        resolve(catalogue, "backbone", item.backbone, source.where("compare", index, "backbone"))  # typos die here too
        options = _expand_size(spec, item.backbone.options, source.where("compare", index, "backbone"))
        if options.get("condition") == "class":
            options = {**options, "classes": 10}  # those of the embedded data
        if options.get("condition") == "text" and not suite.timed_alone:
            options = {**options, "text_width": encoders.RANDOM_WORDS_WIDTH, "text_tokens": TOY_TOKENS}
        toy = Choice.model_validate({"name": item.backbone.name, **options, **spec.facts.smoke})
        own = item.train and OwnRecipe(**item.train.model_dump(exclude_unset=True, exclude={"warmup_images"}))
        toy_item = item.model_copy(update={"backbone": toy, "train": own})
        if toy_item not in compare:  # two sizes of one backbone have one toy
            compare.append(toy_item)
    solver, plain = suite.sample.solver, {"compile": False, "graph": False}
    evaluations = None if solver == "dopri5" else 4 + suite.sample.last_evaluations
    sample = suite.sample.model_copy(update={"count": 32, "batch": 16, "evaluations": evaluations, **plain})
    train = suite.train.model_copy(update={"batch": 16, "warmup_images": 0, **plain})
    if train.random_crop is not None:
        train = train.model_copy(update={"random_crop": TOY_CROP})
    return suite.model_copy(
        update={
            "data": None if suite.timed_alone else toys(suite, catalogue, source),
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
            "size_match": SizeMatch(by="none"),  # toys are of no size that means anything
        }
    )


def _toy_metric(metric: Choice, catalogue: Catalogue, where: str) -> Choice:
    """A metric on fewer images, where it says how."""
    smoke = catalogue.get("metric", metric.name, where=where).facts.smoke
    return Choice.model_validate({"name": metric.name, **metric.options, **smoke})


def _toy_efficiency(timed: Efficiency) -> Efficiency:
    """Three calls, in one round; an efficiency suite's on 64 tokens and two images."""
    if timed.tokens is None:
        return timed.model_copy(update={"repeats": 3, "rounds": 1, "sample_batch": 16})
    return timed.model_copy(update={"repeats": 3, "rounds": 1, "tokens": (64,), "batch": (2,)})


def entries(suite: Suite) -> list[tuple[tuple[str | int, ...], Data]]:
    """The data sets of a suite, each with its place in the file; an efficiency suite has none."""
    if suite.data is None:
        return []
    if isinstance(suite.data, Data):
        return [(("data",), suite.data)]
    return [(("data", index), given) for index, given in enumerate(suite.data)]


def toys(suite: Suite, catalogue: Catalogue, source: Source) -> tuple[Data, ...]:
    """What stands for the data of a suite: the digits, or a toy that needs no file, under toys of the transforms."""
    return tuple(_toy(given, place, catalogue, source) for place, given in entries(suite))


def _toy(given: Data, place: tuple[str | int, ...], catalogue: Catalogue, source: Source) -> Data:
    where = source.where(*place)
    facts = catalogue.get("dataset", given.name, where=where).facts
    resolve(catalogue, "dataset", given, where)  # typos die here too
    transforms = []
    for index, choice in enumerate(given.transforms):
        where = source.where(*place, "transforms", index)
        resolve(catalogue, "transform", choice, where)
        toy = catalogue.get("transform", choice.name).facts.smoke
        transforms.append({"name": choice.name, **choice.options, **toy})
    base: dict[str, Any]
    if facts.smoke is None:
        base = {"name": facts.toy, **(catalogue.get("dataset", facts.toy).facts.smoke or {})}
    else:
        base = {"name": given.name, **given.options, **facts.smoke}
    if given.text is not None:  # the digits have texts, which no file is needed to read
        toy_text = given.text.model_dump() | {"encoder": encoders.RANDOM_WORDS, "revision": None, "tokens": TOY_TOKENS}
        base = {"name": "digits", "caption": "several", "text": toy_text}
    if given.latents is not None:
        base |= {"resolution": 2 * base.get("resolution", 8), "latents": _toy_latents(given.latents)}
    return Data.model_validate({**base, "transforms": tuple(transforms)})


def _toy_latents(given: Latents) -> dict[str, Any]:
    """The toy autoencoder, which halves the side: the images are twice as large, so networks see the usual 8 x 8."""
    kept = given.model_dump(include={"posterior", "precision", "dtype"})
    return {"autoencoder": TOY, "batch": 128, **kept}


def resolve(catalogue: Catalogue, kind: str, choice: Choice, where: str) -> Resolved:
    spec = catalogue.get(kind, choice.name, where=where)
    given = _expand_size(spec, choice.options, where) if kind == "backbone" else choice.options
    options = spec.resolve({key: _plain(value) for key, value in given.items()}, where=where)
    if kind == "backbone" and "mixer" in options:
        options["mixer"] = _mixer(catalogue, options["mixer"], where)
    return Resolved(name=spec.name, owner=spec.owner, options=options)


def with_options(catalogue: Catalogue, choice: Choice, values: Mapping[str, Any], where: str) -> Choice:
    """A backbone as a suite writes it, its size written out, with other values of some options."""
    options = _expand_size(catalogue.get("backbone", choice.name), choice.options, where)
    return Choice.model_validate({"name": choice.name, **options, **values})


def _mixer(catalogue: Catalogue, value: Any, where: str) -> dict[str, Any]:
    """A backbone's mixer, resolved: its owner and all of its options belong to the cell's identity."""
    try:
        choice = Choice.model_validate(value)
    except pydantic.ValidationError:
        raise UsageError(
            "this is no mixer", where=where, expected="a name, or a mapping with a name and its options", got=value
        ) from None
    return resolve(catalogue, "mixer", choice, where).model_dump()


def _expand_size(spec: Spec, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`size: B/2` as the width, depth and patch that it stands for."""
    given = dict(given)
    size = given.pop("size", None)
    if size is None:
        return given
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
    if clash := sorted(set(named) & set(given)):
        raise UsageError(f"size {size!r} already says {', '.join(clash)}", where=where, do="give one or the other")
    return {**named, **given}


def describe(catalogue: Catalogue, data: Resolved, where: str) -> DataFacts:
    """The facts of a data source, before any transform."""
    spec = catalogue.get("dataset", data.name)
    try:
        return spec.facts.describe(spec.make_options(data.options))  # type: ignore[no-any-return]
    except ZigmaBenchError as error:
        raise error.at(where) from None


def word(value: Any) -> str:
    """An option's value as a label shows it: a mixer by its name and options, a long value by its start and a hash."""
    if isinstance(value, dict):
        given = {key: item for key, item in sorted(value["options"].items()) if item is not None}
        options = " ".join(f"{key}={word(item)}" for key, item in given.items())
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

    `planned`: the digests of the orders that a plan holds; BrokenScan where today's are others. Without it these orders
    are for a plan, and BrokenScan is raised where a plugin's scan, called again, gives others.
    """
    if scan is None:
        return ()
    if depth * grid.tokens > MAX_PLACES:
        raise NotReady(
            "the orders of all layers are too long to plan", expected=f"at most {MAX_PLACES:,} tokens over all layers",
            got=f"{depth} layers of {grid.tokens:,} tokens", do="take a larger patch, a smaller image or fewer layers",
        )  # fmt: skip
    spec = catalogue.get("scan", scan.name)
    found = routes(spec, grid=grid, depth=depth, seed=seed, options=scan.options)
    digests = [route.digest for route in found]
    if planned is not None:
        _check_same(spec, list(planned), digests, "gives another order than the one that was planned")
    elif spec.owner != BUILTIN:
        again = fresh_routes(spec, grid=grid, depth=depth, seed=seed, options=scan.options)
        _check_same(spec, digests, [route.digest for route in again], "gives another order when it is called again")
    return found


def _check_same(spec: Spec, expected: Sequence[str], found: Sequence[str], what: str) -> None:
    """BrokenScan for the first layer whose order has another digest."""
    for layer, (wanted, got) in enumerate(itertools.zip_longest(expected, found, fillvalue="none")):
        if wanted != got:
            raise BrokenScan(
                f"the scan {what}: the same arguments must give the same order, in every process",
                where=f"scan {spec.name!r} of {spec.owner}, layer {layer}",
                expected=f"the order with the digest {wanted[:DIGITS]}", got=got[:DIGITS],
                do="draw random numbers from np.random.default_rng([seed, layer]), and let nothing else enter the "
                "order: no clock, no hash() and no state between calls",
            )  # fmt: skip


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
