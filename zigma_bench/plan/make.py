"""Make the plan of a suite: backbones x scans x seeds with their costs and labels, the anchors, and what is missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError
from zigma_bench.ops.backends import check_backend_name
from zigma_bench.plan.cells import Cell, DuringTraining, NetworkCondition, Resolved
from zigma_bench.plan.data import DataSet, data_sets
from zigma_bench.plan.diffusion import check_diffusion
from zigma_bench.plan.match import Solved, match_sizes, with_match
from zigma_bench.plan.metrics import (
    check_metrics,
    metric_fingerprint,
    missing_metrics,
    resolve_during,
    resolve_metrics,
)
from zigma_bench.plan.part_checks import check_parts
from zigma_bench.plan.parts import held_out_needed, too_few_held_out, tuning_cut
from zigma_bench.plan.plan import Plan
from zigma_bench.plan.resolve import cell_routes, resolve_option, smoke_suite, with_options
from zigma_bench.plan.rows import anchors_of, find_baseline, label_all
from zigma_bench.plan.selection import RowSelection, selections_of, without_key
from zigma_bench.plan.settings import settings_of
from zigma_bench.plan.statistics import check_statistics
from zigma_bench.plan.variation import Variation, variations_of
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import Cost, DataFacts, Missing, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import MOST_LAYERS
from zigma_bench.scans.route import Route
from zigma_bench.suite import Choice, Comparison, Suite, YamlSource

MAX_CELLS = 10_000


def make_plan(suite: Suite, source: YamlSource, catalogue: Catalogue, *, smoke: bool = False) -> Plan:
    """Resolve a suite; the first fault is raised with its place in the file."""
    made = [_plan_variation(one, suite, source, catalogue, smoke) for one in variations_of(suite, source)]
    cells = _unique_cells([cell for one in made for cell in one.cells], source, smoke)
    tuning = _unique_cells([cell for one in made for cell in one.tuning], source, smoke)
    _check_number([*cells, *tuning], source)
    selections: tuple[RowSelection, ...] = ()
    baseline = made[0].baseline
    if suite.select is not None:
        finals = [cell for cell in cells if cell.role == "cell"]
        selections = selections_of(tuning, finals, suite.select.over)
        baseline = without_key(baseline, suite.select.over)
        anchors = [without_key(cell, suite.select.over) for cell in cells if cell.role != "cell"]
        cells = [*tuning, *anchors]
    plan = Plan(
        suite=made[0].suite if smoke else suite,
        question=source.question,
        file=source.file,
        cells=tuple(cells),
        missing=tuple(dict.fromkeys(item for one in made for item in one.missing)),
        smoke=smoke,
        all_cells=tuple(cells),
        baseline=baseline,
        suite_sha256=source.sha256,
        selections=selections,
    )
    if not smoke:
        check_statistics(suite, plan.final_cells, plan.baseline, source)
    return plan


@dataclass(frozen=True)
class _PlannedVariation:
    """The cells of a variation with the seeds of the table, those with the tuning seeds, and what is missing."""

    suite: Suite
    cells: list[Cell]
    tuning: list[Cell]
    baseline: Cell
    missing: list[Missing]


def _plan_variation(
    variation: Variation, whole: Suite, source: YamlSource, catalogue: Catalogue, smoke: bool
) -> _PlannedVariation:
    """The cells of one variation of the suite `whole`."""
    suite = variation.suite
    _check_backends(suite, source)
    check_diffusion(suite, source)
    if smoke:
        suite = smoke_suite(suite, catalogue, source)
    sets = data_sets(suite, catalogue, source, smoke=smoke)
    metrics = resolve_metrics(suite.quality, catalogue, source)
    during = resolve_during(suite, catalogue, source)
    made = [_cells_on(data, suite, metrics, during, source, catalogue, smoke) for data in sets]
    tuning: list[Cell] = []
    if whole.select is not None:
        tuned = suite.model_copy(update={"seeds": whole.select.seeds[: 1 if smoke else None], "efficiency": None})
        for data in sets:
            cells, _ = _cells_on(data, tuned, metrics, None, source, catalogue, smoke)
            tuning += [cell.model_copy(update={"tunes": True}) for cell in cells if cell.role == "cell"]
    missing = [item for data in sets for item in data.facts.missing]
    frames = min(data.facts.frames for data in sets)
    missing += missing_metrics(catalogue, suite.sample.count, metrics, frames, smoke)
    if during is not None:
        missing += missing_metrics(catalogue, during.samples, during.metrics, frames, smoke, "during.samples")
    return _PlannedVariation(
        suite=suite,
        cells=[_with_words(cell, variation) for cells, _ in made for cell in cells],
        tuning=[_with_words(cell, variation) for cell in tuning],
        baseline=_with_words(made[0][1], variation),
        missing=missing,
    )


def _with_words(cell: Cell, variation: Variation) -> Cell:
    """A cell with the words of its variation in its label."""
    return cell.model_copy(update={"varied": dict(sorted(variation.words.items()))})


def _unique_cells(cells: Sequence[Cell], source: YamlSource, smoke: bool) -> list[Cell]:
    """Cells without repetitions: the anchors of several variations are often equal, and in a smoke run the toys too.

    An anchor shows the varied values on which all variations that share it agree. UsageError for equal cells of rows.
    """
    found: dict[tuple[str, ...], Cell] = {}
    for cell in cells:
        key = tuple(cell.identity(stage, device_model="") for stage in cell.stages)  # efficiency's has no seed
        if key not in found:
            found[key] = cell
        elif cell.role != "cell":
            agreed = dict(found[key].varied.items() & cell.varied.items())
            found[key] = found[key].model_copy(update={"varied": dict(sorted(agreed.items()))})
        elif not smoke:
            raise UsageError(
                "two variations give the same cell", where=source.where("vary"),
                expected="values that change the cells of every row", got=f"{found[key].label} and {cell.label}",
                do="remove the key, or the row's own value of it",
            )  # fmt: skip
    return list(found.values())


def _cells_on(
    data: DataSet,
    suite: Suite,
    metrics: tuple[Resolved, ...],
    during: DuringTraining | None,
    source: YamlSource,
    catalogue: Catalogue,
    smoke: bool,
) -> tuple[list[Cell], Cell]:
    """All cells on one data set, including the anchors, and a cell of the baseline's row."""
    _check_listed(suite, source)
    _check_held_out(suite, data.facts, source)
    check_metrics(catalogue, metrics, data.facts, source)
    check_parts(suite, data, metrics, during, source, catalogue)

    def entry(index: int, comparison: Comparison) -> list[Cell]:
        return _make_cells(suite, comparison, index, data, metrics, during, source, catalogue, smoke)

    groups = [entry(index, comparison) for index, comparison in enumerate(suite.compare)]
    cells = [cell for group in groups for cell in group]
    cells = _without_duplicates(cells) if smoke else cells  # all sizes of a backbone have the same toy
    _refuse_duplicates(cells, source)
    cells = label_all(cells, catalogue, suite.train)
    baseline = find_baseline(suite, cells, source)
    if suite.size_match.by != "none":
        position = cells.index(baseline)
        cells = _match_cell_sizes(suite, groups, baseline, entry, data.facts, source, catalogue)
        baseline = cells[position]
    return [*cells, *(anchors_of(baseline) if metrics else ())], baseline


def _check_number(cells: Sequence[Cell], source: YamlSource) -> None:
    """Raise UsageError for a suite whose variations have more than MAX_CELLS cells in all."""
    if len(cells) > MAX_CELLS:
        where, expected = source.where("vary"), f"at most {MAX_CELLS:,}"
        raise UsageError("the suite has too many cells", where=where, expected=expected, got=len(cells))


def _check_listed(suite: Suite, source: YamlSource) -> None:
    """Raise UsageError for a suite with more than MAX_CELLS cells, since planning each of them takes time."""
    timed = suite.efficiency
    settings = [len(values or "_") for values in ((timed.tokens, timed.batch, timed.backends) if timed else ())]
    rows = sum(len(comparison.scans or "_") for comparison in suite.compare)
    count = rows * len(suite.seeds) * math.prod(settings)
    if count > MAX_CELLS:
        raise UsageError(
            "the suite has too many cells", where=source.where("compare"), expected=f"at most {MAX_CELLS:,}", got=count
        )


def _check_backends(suite: Suite, source: YamlSource) -> None:
    check_backend_name(suite.backend, where=source.where("backend"))
    for index, name in enumerate((suite.efficiency and suite.efficiency.backends) or ()):
        check_backend_name(name, where=source.where("efficiency", "backends", index))


def _match_cell_sizes(
    suite: Suite,
    groups: Sequence[list[Cell]],
    baseline: Cell,
    entry: Callable[[int, Comparison], list[Cell]],
    facts: DataFacts,
    source: YamlSource,
    catalogue: Catalogue,
) -> list[Cell]:
    """The cells with matched sizes, in the same order."""

    def where(index: int) -> str:
        return source.where("compare", index, "backbone")

    def price(spec: Spec, backbone: Resolved, cell: Cell) -> Cost:
        return _price_cell(spec, backbone, cell.scan, facts, cell.seed, catalogue)[2]

    def spec_of(name: str) -> Spec:
        return catalogue.get("backbone", name)

    all_solved = match_sizes(groups, baseline, wanted=suite.size_match, price=price, spec_of=spec_of, where=where)
    found: list[tuple[Cell, Solved]] = []
    for index, (comparison, solved) in enumerate(zip(suite.compare, all_solved, strict=True)):
        backbone = with_options(catalogue, comparison.backbone, solved.chosen, where(index))
        cells = entry(index, comparison.model_copy(update={"backbone": backbone}))
        found += [(cell, solved) for cell in cells]
    _refuse_duplicates([cell for cell, _ in found], source)
    labelled = label_all([cell for cell, _ in found], catalogue, suite.train)
    same = next(
        cell
        for cell in labelled
        if cell.identity("train", device_model="") == baseline.identity("train", device_model="")
    )
    return [with_match(cell, same, suite.size_match, found[i][1]) for i, cell in enumerate(labelled)]


def _make_cells(
    suite: Suite,
    comparison: Comparison,
    index: int,
    data: DataSet,
    metrics: tuple[Resolved, ...],
    during: DuringTraining | None,
    source: YamlSource,
    catalogue: Catalogue,
    smoke: bool,
) -> list[Cell]:
    """All cells of one entry of `compare`: its scans x the suite's seeds."""
    where = source.where("compare", index, "backbone")
    backbone = resolve_option(catalogue, "backbone", comparison.backbone, where)
    spec = catalogue.get("backbone", backbone.name)
    backbone = _fill_options(spec, backbone, data.facts)
    condition = _network_condition(spec, backbone, suite, data, source)
    settings = settings_of(suite, data.facts, spec, spec.make_options(backbone.options))
    cells = []
    for scan, scan_where in _scans_of(spec, comparison, index, source, catalogue):
        for setting, seed in itertools.product(settings, suite.seeds):
            facts = setting.facts
            try:
                grid, orders, cost = _price_cell(spec, backbone, scan, facts, seed, catalogue)
            except ZigmaBenchError as error:
                error.where = f"{scan_where}: {error.where}" if error.where else scan_where
                raise
            images, seconds = _training_budget(suite, cost)
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
                    tuning=tuning_cut(suite, data.facts),
                    during=during,
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
                    condition=condition,
                    text=data.text if condition is not None and condition.kind == "text" else None,
                )
            )
    return cells


def _fill_options(spec: Spec, backbone: Resolved, facts: DataFacts) -> Resolved:
    """The backbone with the options that the data determines, such as a number of classes."""
    values = spec.facts.fill(backbone.options, facts)
    return backbone.model_copy(update={"options": {**backbone.options, **values}})


def _scans_of(
    spec: Spec, comparison: Comparison, index: int, source: YamlSource, catalogue: Catalogue
) -> Iterable[tuple[Resolved | None, str]]:
    """The scans of one entry with their places in the file; an order-free backbone has none, whatever is listed."""
    where = source.where("compare", index)
    choices = comparison.scans
    for position, choice in enumerate(choices or ()):
        resolve_option(catalogue, "scan", choice, source.where("compare", index, "scans", position))
    if spec.facts.order == "free":
        yield None, where
    elif choices is None:
        if spec.facts.default_scan is None:
            raise UsageError(
                f"backbone {spec.name!r} has no default scan, and the suite names none", where=where, do="add scans"
            )
        yield resolve_option(catalogue, "scan", Choice(name=spec.facts.default_scan), where), where
    else:
        for position, choice in enumerate(choices):
            place = source.where("compare", index, "scans", position)
            yield resolve_option(catalogue, "scan", choice, place), place


def _price_cell(
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


def _network_condition(
    spec: Spec, backbone: Resolved, suite: Suite, data: DataSet, source: YamlSource
) -> NetworkCondition | None:
    """The condition of the network; UsageError if the suite guides or drops a condition that the network can't drop."""
    wanted = spec.facts.condition(spec.make_options(backbone.options))
    uses = {
        ("sample", "guidance"): ("guide", suite.sample.guidance is not None),
        ("train", "drop_condition"): ("drop", bool(suite.train.drop_condition)),
    }
    for key, (verb, is_used) in uses.items():
        if is_used and wanted is None:
            raise UsageError(
                f"there is nothing to {verb}: the backbone {spec.name!r} is unconditional",
                where=source.where(*key), do=f"leave {key[1]} out, or give every backbone a condition",
            )  # fmt: skip
        if is_used and wanted.kind == "class" and not wanted.droppable:
            raise UsageError(
                f"the backbone {spec.name!r} has no null class, so its condition can't be dropped",
                where=source.where(*key), do=f"set its option null_class to true, or leave {key[1]} out",
            )  # fmt: skip
    if wanted is None:
        return None
    if wanted.kind == "class":
        return NetworkCondition(kind="class", size=wanted.size, droppable=wanted.droppable)
    masked = data.text is not None and data.text.mask
    return NetworkCondition(kind="text", size=wanted.size, droppable=True, tokens=wanted.tokens, masked=masked)


def _check_condition(spec: Spec, options: Any, facts: DataFacts) -> None:
    """Raise NotReady if the data doesn't have the condition of the network."""
    wanted = spec.facts.condition(options)
    if wanted is not None and not any(condition.serves(wanted) for condition in facts.conditions):
        got = " and ".join(map(str, facts.conditions)) or "images only"
        if wanted.kind == "text" and facts.captions and "text" not in (c.kind for c in facts.conditions):
            got += ", with captions that are not encoded: set data.text.encoder"
        if wanted.kind == "text" and not wanted.masked and any(condition.masked for condition in facts.conditions):
            got += " with a mask, which this backbone does not support: leave data.text.mask out"
        raise NotReady(
            f"the backbone {spec.name!r} is conditioned on {wanted}, which the data does not have",
            expected=f"data with {wanted}",
            got=got,
            do="use data that has them, or leave the backbone's option condition out",
        )


def _training_budget(suite: Suite, cost: Cost) -> tuple[int | None, float | None]:
    """The training budget as images or as seconds; a training step is counted as three forward passes."""
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
            raise UsageError("the budget is too small for one image", got=budget.flops, do="raise budget.flops")
        return images, None
    return budget.images, budget.seconds


def _check_held_out(suite: Suite, facts: DataFacts, source: YamlSource) -> None:
    """Raise NotReady for too few held-out images for the floor and the reference, if their number is known."""
    needed = held_out_needed(suite.sample, suite.reference)
    if suite.quality and facts.held_out is not None and facts.held_out < needed:
        raise too_few_held_out(suite.sample, suite.reference, facts.held_out).at(source.where("sample", "count"))


def _without_duplicates(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.identity("train", device_model=""): cell for cell in cells}.values())


def _refuse_duplicates(cells: Sequence[Cell], source: YamlSource) -> None:
    seen: set[str] = set()
    for cell in cells:
        key = cell.identity("train", device_model="")
        if key in seen:
            assert cell.backbone is not None
            scan = f" with the scan {cell.scan.label!r}" if cell.scan else ""
            raise UsageError(
                f"the backbone {cell.backbone.name!r}{scan} is listed twice", where=source.where("compare")
            )
        seen.add(key)
