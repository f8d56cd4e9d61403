"""A suite to a plan: backbones by scans by seeds, priced and labelled, with the two anchors and what is missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zigma_bench.errors import NotReady, UnknownName, UsageError, ZigmaBenchError
from zigma_bench.plan.cells import Cell, Given, Resolved, held_out_needed, too_few_held_out
from zigma_bench.plan.data import DataSet, data_sets
from zigma_bench.plan.diffusion import check_diffusion
from zigma_bench.plan.match import Solved, match_sizes, noted
from zigma_bench.plan.metrics import check_metrics, metric_fingerprint, missing_metrics, refuse_doubles, require_beside
from zigma_bench.plan.plan import Plan
from zigma_bench.plan.resolve import cell_routes, resolve, smoke_suite, with_options
from zigma_bench.plan.rows import anchors_of, find_baseline, label_all
from zigma_bench.plan.settings import settings_of
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import Cost, DataFacts, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import MOST_LAYERS
from zigma_bench.scans.route import Route
from zigma_bench.suite import Choice, Comparison, Source, Suite

MAX_CELLS = 10_000
BACKENDS = ("auto", "naive", "torch", "cpu", "fused", "triton", "mamba-ssm")


def make_plan(suite: Suite, source: Source, catalogue: Catalogue, *, smoke: bool = False) -> Plan:
    """Resolve a suite; the first fault is raised with the place in the file where it stands."""
    _check_backends(suite, source)
    check_diffusion(suite, source)
    if smoke:
        suite = smoke_suite(suite, catalogue, source)
    sets = data_sets(suite, catalogue, source, smoke=smoke)
    metrics = tuple(
        resolve(catalogue, "metric", metric, source.where("quality", i)) for i, metric in enumerate(suite.quality)
    )
    refuse_doubles([metric.name for metric in metrics], source)
    require_beside([metric.name for metric in metrics], catalogue, source)
    made = [_cells_on(data, suite, metrics, source, catalogue, smoke) for data in sets]
    all_cells = tuple(cell for cells, _ in made for cell in cells)
    missing = [item for data in sets for item in data.facts.missing]
    frames = min(data.facts.frames for data in sets)
    missing += missing_metrics(catalogue, suite, metrics, frames, smoke)
    missing = list(dict.fromkeys(missing))
    return Plan(suite, source.question, source.file, all_cells, tuple(missing), smoke, all_cells, made[0][1])


def _cells_on(
    data: DataSet,
    suite: Suite,
    metrics: tuple[Resolved, ...],
    source: Source,
    catalogue: Catalogue,
    smoke: bool,
) -> tuple[list[Cell], Cell]:
    """All cells on one data set, its two anchors among them, and a cell of the baseline's row."""
    _check_number(suite, source)
    _check_held_out(suite, data.facts, source)
    check_metrics(catalogue, metrics, data.facts, source)

    def entry(index: int, comparison: Comparison) -> list[Cell]:
        return _cells(suite, comparison, index, data, metrics, source, catalogue, smoke)

    groups = [entry(index, comparison) for index, comparison in enumerate(suite.compare)]
    cells = [cell for group in groups for cell in group]
    cells = _without_twins(cells) if smoke else cells  # two sizes of one backbone have one toy
    _refuse_twins(cells, source)
    cells = label_all(cells, catalogue, suite.train)
    baseline = find_baseline(suite, cells, source)
    if suite.size_match.by != "none":
        position = cells.index(baseline)
        cells = _matched(suite, groups, baseline, entry, data.facts, source, catalogue)
        baseline = cells[position]
    return [*cells, *(anchors_of(baseline) if metrics else ())], baseline


def _check_number(suite: Suite, source: Source) -> None:
    """Refuse a suite of more cells than anybody runs: each of them is planned."""
    timed = suite.efficiency
    settings = [len(values or "_") for values in ((timed.tokens, timed.batch, timed.backends) if timed else ())]
    rows = sum(len(comparison.scans or "_") for comparison in suite.compare)
    count = rows * len(suite.seeds) * math.prod(settings)
    if count > MAX_CELLS:
        raise UsageError(
            "the suite has too many cells", where=source.where("compare"), expected=f"at most {MAX_CELLS:,}", got=count
        )


def _check_backends(suite: Suite, source: Source) -> None:
    if suite.backend not in BACKENDS:
        raise UnknownName("backend", suite.backend, BACKENDS, where=source.where("backend"))
    for index, name in enumerate((suite.efficiency and suite.efficiency.backends) or ()):
        if name not in BACKENDS:
            raise UnknownName("backend", name, BACKENDS, where=source.where("efficiency", "backends", index))


def _matched(
    suite: Suite,
    groups: Sequence[list[Cell]],
    baseline: Cell,
    entry: Callable[[int, Comparison], list[Cell]],
    facts: DataFacts,
    source: Source,
    catalogue: Catalogue,
) -> list[Cell]:
    """The cells at one size, in the same order."""

    def where(index: int) -> str:
        return source.where("compare", index, "backbone")

    def price(spec: Spec, backbone: Resolved, cell: Cell) -> Cost:
        return _price(spec, backbone, cell.scan, facts, cell.seed, catalogue)[2]

    def spec_of(name: str) -> Spec:
        return catalogue.get("backbone", name)

    all_solved = match_sizes(groups, baseline, wanted=suite.size_match, price=price, spec_of=spec_of, where=where)
    found: list[tuple[Cell, Solved]] = []
    for index, (comparison, solved) in enumerate(zip(suite.compare, all_solved, strict=True)):
        backbone = with_options(catalogue, comparison.backbone, solved.chosen, where(index))
        cells = entry(index, comparison.model_copy(update={"backbone": backbone}))
        found += [(cell, solved) for cell in cells]
    _refuse_twins([cell for cell, _ in found], source)
    labelled = label_all([cell for cell, _ in found], catalogue, suite.train)
    same = next(cell for cell in labelled if cell.identity("train", card="") == baseline.identity("train", card=""))
    return [noted(cell, same, suite.size_match, found[i][1]) for i, cell in enumerate(labelled)]


def _cells(
    suite: Suite,
    comparison: Comparison,
    index: int,
    data: DataSet,
    metrics: tuple[Resolved, ...],
    source: Source,
    catalogue: Catalogue,
    smoke: bool,
) -> list[Cell]:
    """All cells of one entry of `compare`: its scans by the suite's seeds."""
    where = source.where("compare", index, "backbone")
    backbone = resolve(catalogue, "backbone", comparison.backbone, where)
    spec = catalogue.get("backbone", backbone.name)
    backbone = _filled(spec, backbone, data.facts)
    given = _given(spec, backbone, suite, data, source)
    settings = settings_of(suite, data.facts, spec, spec.make_options(backbone.options))
    cells = []
    for scan, scan_where in _scans_of(spec, comparison, index, source, catalogue):
        for setting, seed in itertools.product(settings, suite.seeds):
            facts = setting.facts
            try:
                grid, orders, cost = _price(spec, backbone, scan, facts, seed, catalogue)
            except ZigmaBenchError as error:
                error.where = f"{scan_where}: {error.where}" if error.where else scan_where
                raise
            images, seconds = _budget(suite, cost)
            cells.append(
                Cell(
                    suite=suite.name,
                    role="cell",
                    smoke=smoke,
                    backbone_label=None,
                    scan_label=None,
                    backbone=backbone,
                    scan=scan,
                    data=data.data,
                    transforms=data.transforms,
                    data_label=data.label,
                    data_places=data.places,
                    latents=data.space,
                    data_fingerprint=facts.fingerprint,
                    channels=facts.channels,
                    height=facts.height,
                    width=facts.width,
                    frames=facts.frames,
                    seed=seed,
                    order_digests=tuple(route.digest for route in orders),
                    scanned_ratio=sum(r.scanned_ratio for r in orders) / len(orders) if orders else 0.0,
                    backend=setting.backend,
                    train=setting.train if comparison.train is None else comparison.train.over(setting.train),
                    train_images=images,
                    train_seconds=seconds,
                    sample=suite.sample,
                    reference=suite.reference,
                    quality=metrics,
                    efficiency=setting.efficiency,
                    parameters=cost.parameters,
                    forward_flops=dict(cost.forward_flops),
                    flops_by=cost.flops_by,
                    tokens=grid.tokens,
                    metric_fingerprints=tuple(metric_fingerprint(catalogue, metric) for metric in metrics),
                    timed_alone=suite.timed_alone,
                    condition=given,
                    text=data.text if given is not None and given.kind == "text" else None,
                )
            )
    return cells


def _filled(spec: Spec, backbone: Resolved, facts: DataFacts) -> Resolved:
    """The backbone with the options that the data determines, such as a number of classes."""
    values = spec.facts.fill(backbone.options, facts)
    return backbone.model_copy(update={"options": {**backbone.options, **values}})


def _scans_of(
    spec: Spec, comparison: Comparison, index: int, source: Source, catalogue: Catalogue
) -> Iterable[tuple[Resolved | None, str]]:
    """The scans of one entry; an order-free backbone has none, whatever the suite lists."""
    where = source.where("compare", index)
    choices = comparison.scans
    for position, choice in enumerate(choices or ()):
        resolve(catalogue, "scan", choice, source.where("compare", index, "scans", position))
    if spec.facts.order == "free":
        yield None, where
    elif choices is None:
        if spec.facts.default_scan is None:
            raise UsageError(
                f"backbone {spec.name!r} has no scan of its own, and the suite names none", where=where, do="add scans"
            )
        yield resolve(catalogue, "scan", Choice(name=spec.facts.default_scan), where), where
    else:
        for position, choice in enumerate(choices):
            place = source.where("compare", index, "scans", position)
            yield resolve(catalogue, "scan", choice, place), place


def _price(
    spec: Spec, backbone: Resolved, scan: Resolved | None, facts: DataFacts, seed: int, catalogue: Catalogue
) -> tuple[Grid, tuple[Route, ...], Cost]:
    """The grid, the checked orders and the cost of one cell's network."""
    options = spec.make_options(backbone.options)
    if options.depth > MOST_LAYERS:
        most = f"a depth of at most {MOST_LAYERS:,}"
        raise UsageError(f"backbone {spec.name!r} is too deep", expected=most, got=options.depth)
    grid = Grid.of_image(facts.height, facts.width, options.patch, facts.frames)
    orders = cell_routes(scan, grid=grid, depth=options.depth, seed=seed, catalogue=catalogue)
    if spec.facts.check is not None:
        spec.facts.check(options, grid=grid, routes=orders)
    _check_condition(spec, options, facts)
    return grid, orders, spec.facts.cost(options, grid=grid, channels=facts.channels, routes=orders)


def _given(spec: Spec, backbone: Resolved, suite: Suite, data: DataSet, source: Source) -> Given | None:
    """What the network is given as y; the suite must not drop or guide what isn't there."""
    wanted = spec.facts.condition(spec.make_options(backbone.options))
    asked = {
        ("sample", "guidance"): ("guide", suite.sample.guidance is not None),
        ("train", "drop_condition"): ("drop", bool(suite.train.drop_condition)),
    }
    for key, (verb, is_asked) in asked.items():
        if is_asked and wanted is None:
            raise UsageError(
                f"there is nothing to {verb}: the backbone {spec.name!r} is drawn from under no condition",
                where=source.where(*key), do=f"leave {key[1]} out, or give every backbone a condition",
            )  # fmt: skip
        if is_asked and wanted.kind == "class" and not wanted.droppable:
            raise UsageError(
                f"the backbone {spec.name!r} has no label for none of its classes, so nothing can {verb} its condition",
                where=source.where(*key), do=f"set its option null_class to true, or leave {key[1]} out",
            )  # fmt: skip
    if wanted is None:
        return None
    if wanted.kind == "class":
        return Given(kind="class", size=wanted.size, droppable=wanted.droppable)
    masked = data.text is not None and data.text.mask
    return Given(kind="text", size=wanted.size, droppable=True, tokens=wanted.tokens, masked=masked)


def _check_condition(spec: Spec, options: Any, facts: DataFacts) -> None:
    """The data must give what the network is conditioned on."""
    wanted = spec.facts.condition(options)
    if wanted is not None and not any(given.serves(wanted) for given in facts.conditions):
        given = " and ".join(map(str, facts.conditions)) or "images alone"
        if wanted.kind == "text" and facts.captions and "text" not in (c.kind for c in facts.conditions):
            given += ", whose captions nothing encodes: give data.text an encoder"
        if wanted.kind == "text" and not wanted.masked and any(condition.masked for condition in facts.conditions):
            given += " with a mask, which this backbone does not take: leave data.text.mask out"
        raise NotReady(
            f"the backbone {spec.name!r} is conditioned on {wanted}, which the data does not give",
            expected=f"data with {wanted}",
            got=given,
            do="take data that gives them, or leave the backbone's option condition out",
        )


def _budget(suite: Suite, cost: Cost) -> tuple[int | None, float | None]:
    """Training images, or seconds. A training step costs three forward passes."""
    budget = suite.budget
    if budget is None:
        return None, None
    if budget.flops is not None:
        if not cost.total_flops:
            raise UsageError(
                "a budget of FLOPs needs a network whose FLOPs can be counted", got="0 FLOPs", do="set budget.images"
            )
        images = int(budget.flops / (3 * cost.total_flops))
        if images < 1:
            raise UsageError("the budget does not pay for one image", got=budget.flops, do="raise budget.flops")
        return images, None
    return budget.images, budget.seconds


def _check_held_out(suite: Suite, facts: DataFacts, source: Source) -> None:
    """The floor's images and the reference's must be there, as far as the source tells how many it has."""
    needed = held_out_needed(suite.sample, suite.reference)
    if suite.quality and facts.held_out is not None and facts.held_out < needed:
        raise too_few_held_out(suite.sample, suite.reference, facts.held_out).at(source.where("sample", "count"))


def _without_twins(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.identity("train", card=""): cell for cell in cells}.values())


def _refuse_twins(cells: Sequence[Cell], source: Source) -> None:
    seen: set[str] = set()
    for cell in cells:
        key = cell.identity("train", card="")
        if key in seen:
            assert cell.backbone is not None
            scan = f" with the scan {cell.scan.label!r}" if cell.scan else ""
            raise UsageError(f"the backbone {cell.backbone.name!r}{scan} stands twice", where=source.where("compare"))
        seen.add(key)
