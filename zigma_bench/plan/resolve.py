"""Names and options of a suite, looked up in the registries and filled in; and the toy that stands for a suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from zigma_bench.errors import UsageError, ZigmaBenchError, nearest
from zigma_bench.grid import Grid
from zigma_bench.plan.cells import Resolved
from zigma_bench.plugins import Catalogue
from zigma_bench.registry import DataFacts, Spec
from zigma_bench.scans.layers import routes
from zigma_bench.scans.route import Route
from zigma_bench.suite import Budget, Choice, Reference, SizeMatch, Source, Suite


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
        toy = Choice.model_validate({"name": item.backbone.name, **options, **spec.facts.smoke})
        toy_item = item.model_copy(update={"backbone": toy})
        if toy_item not in compare:  # two sizes of one backbone have one toy
            compare.append(toy_item)
    resolve(catalogue, "dataset", suite.data, source.where("data"))
    solver = suite.sample.solver
    evaluations = None if solver == "dopri5" else 4 + suite.sample.last_evaluations
    sample = suite.sample.model_copy(update={"count": 32, "batch": 16, "evaluations": evaluations, "graph": False})
    train = suite.train.model_copy(update={"batch": 16, "warmup_images": 0, "compile": False, "graph": False})
    efficiency = suite.efficiency and suite.efficiency.model_copy(update={"repeats": 3, "sample_batch": 16})
    return suite.model_copy(
        update={
            "data": Choice(name="digits"),
            "compare": tuple(compare),
            "baseline": None,
            "seeds": suite.seeds[:1],
            "budget": Budget(images=64),
            "sample": sample,
            "train": train,
            "efficiency": efficiency,
            "reference": Reference(split="train"),
            "size_match": SizeMatch(by="none"),  # toys are of no size that means anything
        }
    )


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


def describe(catalogue: Catalogue, data: Resolved, source: Source) -> DataFacts:
    spec = catalogue.get("dataset", data.name)
    try:
        return spec.facts.describe(spec.make_options(data.options))  # type: ignore[no-any-return]
    except ZigmaBenchError as error:
        raise error.at(source.where("data")) from None


def cell_routes(scan: Resolved | None, *, grid: Grid, depth: int, seed: int, catalogue: Catalogue) -> tuple[Route, ...]:
    """The route of every layer; none for an order-free backbone."""
    if scan is None:
        return ()
    return routes(catalogue.get("scan", scan.name), grid=grid, depth=depth, seed=seed, options=scan.options)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
