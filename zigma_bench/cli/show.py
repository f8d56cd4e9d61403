"""How plans look on a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from zigma_bench.escaping import visible
from zigma_bench.plan import Cell, Plan, told
from zigma_bench.reports.figures import COUNTED
from zigma_bench.reports.render import COUNTED_FLOPS
from zigma_bench.reports.terminal import print_wide
from zigma_bench.run.encode import cached_cells, state, text_cells, text_state
from zigma_bench.run.estimate import NOTHING, Estimate, Estimator
from zigma_bench.run.prepare import image_counts
from zigma_bench.suite import Train
from zigma_bench.system.device import Device


def show_plan(plan: Plan, results: Path, device: Device) -> None:
    """The cells of a plan, a row each."""
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
            "?" if guess.seconds is None else duration(guess.seconds),
            "" if guess.bytes is None else f"{guess.bytes / 2**30:.2g}",
        ])  # fmt: skip
    headings = ("cell", "grid px", "tokens", "scanned", "params M", "GFLOP", "scan", "images", "about", "GiB")
    shown = RichTable(title=Text(title), title_justify="left")
    for heading, *column in zip(headings, *rows, strict=True):
        widest = None if sys.stdout.isatty() else max(map(len, (heading, *column)))  # spares rich measuring every cell
        shown.add_column(heading, justify="left" if heading == "cell" else "right", width=widest)
    for row in rows:
        shown.add_row(*(Text(visible(text)) for text in row))
    print_wide(shown)
    if plan.suite.timed_alone:
        _say_what_is_timed(plan, device)
        return
    assert plan.suite.budget is not None
    spent = ", ".join(f"{value:,} {key}" for key, value in plan.suite.budget.model_dump(exclude_none=True).items())
    print(
        f"budget {spent} a cell; {plan.suite.sample.count:,} images drawn a cell; device {device.name} ({device.card})"
    )
    print(f"trained: {plan.cells[0].objective}; drawn: {plan.cells[0].sampler}")
    if told_of_images := augmented(plan.suite.train):
        print(f"training images: {told_of_images}; all others are as they are, cut at the centre")
    for label, counts in image_counts(plan.cells):
        print(f"data {label}: {counts}")
    for data in cached_cells(plan.cells):
        assert data.latents is not None, "it has a cache"
        print(f"latents: {data.latents}; {state(data.latents, results)}")
    for reader in text_cells(plan.cells):
        assert reader.text is not None, "it reads texts"
        print(f"texts: {reader.text}; {text_state(reader.text)}")
    for line in told({cell.row: cell.size_match for cell in plan.cells if cell.role == "cell" and cell.size_match}):
        print(line)
    _print_what_flops_are(plan)
    print(_what_guesses_stand_on(guesses))


def augmented(recipe: Train) -> str:
    """What is done to training images at each use; nothing where nothing is."""
    crop = f"scaled to a short side of {recipe.random_crop} and cut at a random place"
    words = {crop: recipe.random_crop is not None, "mirrored half of the time": recipe.flip}
    return ", ".join(word for word, said in words.items() if said)


def _what_guesses_stand_on(guesses: Sequence[Estimate]) -> str:
    """The total, and the sources of the guesses, each with how many cells it serves."""
    known = [guess.seconds for guess in guesses if guess.seconds is not None]
    total = f", in all about {duration(sum(known))}" if len(known) == len(guesses) else ""
    sources = Counter(guess.source for guess in guesses if guess.source != NOTHING)
    told = "; ".join(f"{source} ({count} cells)" for source, count in sources.items())
    return f"about: training and sampling{total}; GiB: at the peak. From {told}"


def _say_what_is_timed(plan: Plan, device: Device) -> None:
    timed = plan.suite.efficiency
    assert timed is not None
    print(
        f"timed: {', '.join(timed.stages)}, {timed.repeats} calls in each of {timed.rounds} round(s), a process each; "
        f"nothing is trained; device {device.name} ({device.card})"
    )
    _print_what_flops_are(plan)


def _mark(cell: Cell) -> str:
    """The mark of FLOPs that PyTorch's counter measured."""
    return f" {COUNTED}" if cell.flops_by == "counter" else ""


def _print_what_flops_are(plan: Plan) -> None:
    print("GFLOP: one forward pass of one image, and what part of it is the scan")
    if any(cell.flops_by == "counter" for cell in plan.cells):
        print(f"{COUNTED} {COUNTED_FLOPS}")


def scan_share(forward_flops: Mapping[str, int]) -> str:
    """The scan's part of all FLOPs; nothing for a network without one."""
    return f"{forward_flops['scan'] / sum(forward_flops.values()):.0%}" if forward_flops.get("scan") else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"
