"""Print a plan on a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from zigma_bench.escaping import visible
from zigma_bench.plan import Cell, Plan, describe_matches
from zigma_bench.reports.figures import COUNTED
from zigma_bench.reports.render import COUNTED_FLOPS
from zigma_bench.reports.terminal import print_wide
from zigma_bench.run.encode import cache_state, cached_cells, text_cells, text_state
from zigma_bench.run.estimate import NOTHING, Estimate, Estimator
from zigma_bench.run.prepare import image_counts
from zigma_bench.run.runs import find_run
from zigma_bench.run.selection import with_choices_made
from zigma_bench.suite import Train
from zigma_bench.system.device import Device

DAY = 86_400.0  # seconds


def show_plan(plan: Plan, results: Path, device: Device, name: str | None = None) -> None:
    """Print the cells of a plan, one per row, the meaning of the columns, and the run that they belong to."""
    run = find_run(plan, results, name)
    plan = with_choices_made(plan, results / plan.suite.name / run.name, device)
    title = visible(f"{plan.suite.name}: {plan.question}")
    estimator = Estimator(results, device)
    guesses = [estimator(cell) for cell in plan.cells]
    rows = []
    for cell, guess in zip(plan.cells, guesses, strict=True):
        network = cell.backbone is not None
        images = (
            f"{cell.train_images:,}" if cell.train_images else f"{cell.train_seconds} s" if cell.train_seconds else ""
        )
        rows.append([
            cell.label, "x".join(map(str, cell.shape)), f"{cell.tokens:,}" if network else "",
            f"{cell.scanned_ratio:g}" if cell.scanned_ratio else "", f"{cell.parameters / 1e6:.2f}" if network else "",
            f"{sum(cell.forward_flops.values()) / 1e9:.3g}{_mark(cell)}" if network else "",
            scan_share(cell.forward_flops), images,
            "?" if guess.seconds is None else format_duration(guess.seconds),
            "" if guess.bytes is None else f"{guess.bytes / 2**30:.2g}",
        ])  # fmt: skip
    headings = ("cell", "grid px", "tokens", "scanned", "params M", "GFLOP", "scan", "images", "about", "GiB")
    shown = RichTable(title=Text(title), title_justify="left")
    for heading, *column in zip(headings, *rows, strict=True):
        widest = (
            None if sys.stdout.isatty() else max(map(len, (heading, *column)))
        )  # so that rich needn't measure every cell
        shown.add_column(heading, justify="left" if heading == "cell" else "right", width=widest)
    for row in rows:
        shown.add_row(*(Text(visible(text)) for text in row))
    print_wide(shown)
    print(visible(str(run)))
    for note in plan.notes:
        print(visible(f"note: {note}"))
    if plan.suite.timed_alone:
        _print_timing(plan, device)
        return
    assert plan.suite.budget is not None
    spent = ", ".join(f"{value:,} {key}" for key, value in plan.suite.budget.model_dump(exclude_none=True).items())
    if any(key.partition(".")[0] == "budget" for key in plan.suite.vary):
        spent = "as in its label"
    print(f"per cell: budget {spent}, {plan.suite.sample.count:,} samples; device {device.name} ({device.model_name})")
    print(f"training: {plan.cells[0].objective}; sampling: {plan.cells[0].sampler}")
    if augmentation := describe_augmentation(plan.suite.train):
        print(f"training images: {augmentation}; all other images are cropped at the centre")
    for label, counts in image_counts(plan.cells):
        print(f"data {label}: {counts}")
    for data in cached_cells(plan.cells):
        assert data.latents is not None, "cached cells have latents"
        print(f"latents: {data.latents}; {cache_state(data.latents, results)}")
    for reader in text_cells(plan.cells):
        assert reader.text is not None, "text cells have text features"
        print(f"texts: {reader.text}; {text_state(reader.text)}")
    for line in describe_matches(
        {cell.row: cell.size_match for cell in plan.cells if cell.role == "cell" and cell.size_match}
    ):
        print(line)
    _print_what_flops_are(plan)
    print(_estimate_sources(guesses))
    for line in long_plan_lines(guesses, device):
        print(line)
    if plan.waiting:
        print(_describe_waiting(plan, estimator))


def _describe_waiting(plan: Plan, estimator: Estimator) -> str:
    """The cells that wait for the choice of a value, with their estimated time."""
    waiting = plan.waiting
    seconds = [estimator(cell).seconds for cell in waiting]
    known = [second for second in seconds if second is not None]
    about = f", in all about {format_duration(sum(known))}" if len(known) == len(waiting) else ""
    over = plan.selections[0].over
    return f"{len(waiting)} more cells wait for the choice of {over} in {len(plan.selections)} rows{about}"


def describe_augmentation(recipe: Train) -> str:
    """The random augmentation of the training images; empty without any."""
    crop = f"resized to a short side of {recipe.random_crop} and cropped at random"
    words = {crop: recipe.random_crop is not None, "half of them mirrored": recipe.flip}
    return ", ".join(word for word, is_on in words.items() if is_on)


def _estimate_sources(guesses: Sequence[Estimate]) -> str:
    """The total estimated time, and the sources of the estimates with their numbers of cells."""
    known = [guess.seconds for guess in guesses if guess.seconds is not None]
    total = f", in all about {format_duration(sum(known))}" if len(known) == len(guesses) else ""
    sources = Counter(guess.source for guess in guesses if guess.source != NOTHING)
    named = "; ".join(f"{source} ({count} cells)" for source, count in sources.items())
    return f"about: training and sampling{total}; GiB: peak memory. Estimated from {named}"


def long_plan_lines(guesses: Sequence[Estimate], device: Device) -> list[str]:
    """What the estimate of a plan assumes, if it exceeds a day; empty for a shorter one."""
    known = [guess for guess in guesses if guess.seconds is not None]
    total = sum(guess.seconds or 0.0 for guess in known)
    if total <= DAY:
        return []
    ranges = [found for guess in known if (found := guess.range_seconds) is not None]
    low, high = (sum(found[end] for found in ranges) for end in (0, 1))
    unknown = len(guesses) - len(known)
    more = f"; {unknown} cells without an estimate come on top" if unknown else ""
    records = max(guess.records for guess in known)
    behind = f"{records} record{'' if records == 1 else 's'}" if records else "no record"
    return [
        f"more than a day: {format_duration(total)}, between {format_duration(low)} and {format_duration(high)}{more}",
        f"it assumes one cell after another on {device.name} ({device.model_name}), with nothing else running there; "
        f"behind an estimate: at most {behind}; a run of one cell, then plan again, makes it exact",
    ]


def _print_timing(plan: Plan, device: Device) -> None:
    timed = plan.suite.efficiency
    assert timed is not None
    print(
        f"timed: {', '.join(timed.stages)}, {timed.repeats} calls in each of {timed.rounds} round(s), each in its own "
        f"process; nothing is trained; device {device.name} ({device.model_name})"
    )
    _print_what_flops_are(plan)


def _mark(cell: Cell) -> str:
    """The mark of FLOPs that PyTorch's counter measured."""
    return f" {COUNTED}" if cell.flops_by == "counter" else ""


def _print_what_flops_are(plan: Plan) -> None:
    print("GFLOP: one forward pass of one image; scan: its percentage of them")
    if any(cell.flops_by == "counter" for cell in plan.cells):
        print(f"{COUNTED} {COUNTED_FLOPS}")


def scan_share(forward_flops: Mapping[str, int]) -> str:
    """The scan's percentage of all FLOPs; empty for a network without a scan."""
    return f"{forward_flops['scan'] / sum(forward_flops.values()):.0%}" if forward_flops.get("scan") else ""


def format_duration(seconds: float) -> str:
    """A duration in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"
