"""`fastest`: which mixer, backbone and backend is the fastest on this machine at one number of tokens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from zigma_bench.cli.suites import AsJson, DeviceName
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from rich.table import Table

    from zigma_bench.bench.fastest.cases import Timed
    from zigma_bench.bench.fastest.findings import Findings
    from zigma_bench.bench.fastest.search import Outcome

DEFAULT_SECONDS = 270.0  # so that the command ends within five minutes
MODES = ("inference", "training")
SHOWN_LATE = 12


def fastest(
    tokens: Annotated[int | None, typer.Option("--tokens", help="The number of tokens.", min=1)] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images per call for the latency.", min=1)] = 1,
    mode: Annotated[str, typer.Option("--mode", help="inference or training.")] = "inference",
    memory: Annotated[
        float | None, typer.Option("--memory", help="GiB that a network may use. Default: all of a GPU.", min=0.01)
    ] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", help="HxW tokens. Default: the most square grid of so many tokens.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="The time for everything.", min=1.0)] = DEFAULT_SECONDS,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank mixers, backbones and backends by speed on this machine.

    Latency at one batch, throughput at saturation, and the lengths from which linear-time mixers beat attention.
    """
    from zigma_bench.bench.fastest.run import find_fastest, find_grid
    from zigma_bench.errors import UsageError
    from zigma_bench.plugins.origins import plugin_origins
    from zigma_bench.records.provenance import run_provenance
    from zigma_bench.system.device import find_device

    if mode not in MODES:
        raise UsageError("there is no such mode", where="--mode", expected=" or ".join(MODES), got=mode)
    chosen = find_grid(tokens, grid)
    target = find_device(device)
    found = find_fastest(
        target,
        grid=chosen,
        batch=batch,
        mode=cast(Literal["inference", "training"], mode),
        memory_gib=memory,
        seconds=seconds,
        provenance=run_provenance(target, plugins=plugin_origins()),
        on_progress=lambda text: print(visible(text), file=sys.stderr),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _show(found)


def _show(found: Findings) -> None:
    """Print the two rankings, and below them everything that they don't show."""
    from zigma_bench.reports.terminal import print_wide

    print_wide(_latency_table(found))
    print_wide(_saturation_table(found))
    for line in _lines(found):
        print(visible(line))
    for name, ranked, saturated in (("latency", found.ranked, False), ("throughput", found.saturated, True)):
        _print_winner(name, found, ranked, saturated)


def _latency_table(found: Findings) -> Table:
    """A row for each network: its fastest launch with an interval, and the medians of all launches."""
    from zigma_bench.bench.fastest.cases import LAUNCHES

    launches = [launch.name for launch in LAUNCHES if any(launch.name in one.latency for one in found.outcomes)]
    title = (
        f"{found.mode} on {found.device.model_name}: {found.grid.tokens:,} tokens ({found.grid}), batch {found.batch:,}"
    )
    table = _empty_table(
        title, ("network",), ("params M", "median ms", "95% interval", *launches, "GiB"), ("launch", "attention")
    )
    before: Timed | None = None
    for number, outcome in enumerate((*found.ranked, *found.controls), 1):
        best = outcome.best
        assert best is not None
        medians = [_milliseconds(outcome.latency[name]) if name in outcome.latency else "-" for name in launches]
        rank = _rank(number, best, before, control=not outcome.network.mixes)
        table.add_row(
            rank, outcome.network.label, f"{best.parameters / 1e6:.1f}", _milliseconds(best), _interval(best), *medians,
            _gibibytes(best), f"{best.case.launch.name}{_mark(best)}", _attention(outcome),
        )  # fmt: skip
        before = best
    return table


def _saturation_table(found: Findings) -> Table:
    """A row for each network: its throughput at the batch of saturation."""
    title = "throughput at saturation, at the largest power of two that still gains"
    table = _empty_table(
        title, ("network",), ("batch", "images/s", "95% interval", "GiB"), ("launch", "no larger batch")
    )
    before: Timed | None = None
    for number, outcome in enumerate(found.saturated, 1):
        best = outcome.best_saturated
        assert best is not None
        low, high = (best.case.batch / bound for bound in reversed(best.interval))
        table.add_row(
            _rank(number, best, before), outcome.network.label, f"{best.case.batch:,}", _number(best.images_per_second),
            f"{_number(low)} to {_number(high)}", _gibibytes(best), f"{best.case.launch.name}{_mark(best)}",
            outcome.limited_by or "the largest that is tried",
        )  # fmt: skip
        before = best
    return table


def _empty_table(title: str, left: Sequence[str], right: Sequence[str], last: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    table.add_column("", justify="right")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    for heading in last:
        table.add_column(heading)
    return table


def _rank(number: int, timed: Timed, before: Timed | None, *, control: bool = False) -> str:
    from zigma_bench.bench.fastest.findings import overlaps

    if control:
        return "control"
    return f"{number}{'~' if before is not None and overlaps(timed, before) else ''}"


def _lines(found: Findings) -> Iterator[str]:
    """The lines below the tables."""
    from zigma_bench.bench.fastest.search import LATE

    yield f"{found.held_equal}; measured in {found.seconds:.0f} s"
    if found.limit_bytes is not None:
        yield f"memory limit: {found.limit_bytes / 2**30:.2f} GiB"
    yield (
        "~: its interval overlaps that of the row above. 95% intervals are of the median of repeated calls in one "
        "process. control: tokens exchange no information. attention: the backends of PyTorch's attention that ran"
    )
    if any(not timed.stable for one in found.outcomes for timed in (*one.latency.values(), *one.saturated.values())):
        yield "!: the timings did not settle; draw no conclusion from them"
    yield from found.launch_lines
    yield f"attention baseline: {found.attention or 'none was measured'}"
    yield from (f"crossing: {crossing}" for crossing in found.crossings)
    for outcome in found.outcomes:
        if outcome.best is not None:
            missing = ((what, why) for what, why in outcome.reasons.items() if why != LATE)
            yield from (f"not timed: {outcome.network.label}, {what}: {why}" for what, why in missing)
    yield from (f"refused: {'; '.join(labels)}: {reason}" for reason, labels in found.grouped)
    if found.late:
        more = f" and {len(found.late) - SHOWN_LATE} more" if len(found.late) > SHOWN_LATE else ""
        yield f"not measured in time ({len(found.late)}): {'; '.join(found.late[:SHOWN_LATE])}{more}"


def _print_winner(name: str, found: Findings, ranked: Sequence[Outcome], saturated: bool) -> None:
    from zigma_bench.bench.fastest.findings import winner_yaml

    text = winner_yaml(ranked, found.mode, saturated=saturated)
    if text is not None:
        print(f"\n# the best {name}: {visible(ranked[0].network.label)}; to paste into a suite\n{text}", end="")


def _milliseconds(timed: Timed) -> str:
    return _number(1e3 * timed.median)


def _interval(timed: Timed) -> str:
    low, high = timed.interval
    return f"{_number(1e3 * low)} to {_number(1e3 * high)}"


def _gibibytes(timed: Timed) -> str:
    return "-" if timed.peak_bytes is None else f"{timed.peak_bytes / 2**30:.2f}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}"


def _mark(timed: Timed) -> str:
    return "" if timed.stable else " !"


def _attention(outcome: Outcome) -> str:
    from zigma_bench.bench.fastest.findings import attention_of

    return ", ".join(attention_of(outcome)) or "-"
