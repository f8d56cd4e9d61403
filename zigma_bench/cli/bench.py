"""`bench`: the speed of operators and of whole steps, compared with other implementations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zigma_bench.bench.ops import OperatorTiming
    from zigma_bench.bench.step import StepRow
    from zigma_bench.system.device import Device


def bench_operators(
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    op: Annotated[list[str] | None, typer.Option("--op", help="scan or conv.")] = None,
    shape: Annotated[list[str] | None, typer.Option("--shape", help="BxLxE.")] = None,
    path: Annotated[list[str] | None, typer.Option("--path", help="A scan with one path.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time per backend and case.", min=0.01)] = 1.0,
    results: Annotated[Path, typer.Option("--results", help="The folder for the record.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Time the kernels of every backend and their peers.

    Scan and convolution, forward and forward+backward. A backend with wrong results is not timed.
    """
    from zigma_bench.bench.cases import OPS, Shape
    from zigma_bench.bench.ops import bench_ops
    from zigma_bench.bench.record import open_bench_record
    from zigma_bench.errors import UnknownName
    from zigma_bench.records.store import check_writable
    from zigma_bench.system.device import find_device

    for name in op or ():
        if name not in OPS:
            raise UnknownName("operator", name, OPS, where="--op")
    found = find_device(device)
    check_writable(results)
    with open_bench_record("ops", found, results) as (file, save_rows):
        rows = bench_ops(
            found,
            ops=op or OPS,
            shapes=[Shape.parse(text) for text in shape or ()],
            paths=path or ("raster", "random"),
            seconds=seconds,
            on_progress=lambda text: print(text, file=sys.stderr),
            save_rows=save_rows,
        )
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        _print_operators(rows, found)
        print(f"record: {file}")


def bench_whole_steps(
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    shape: Annotated[list[str] | None, typer.Option("--shape", help="BxL, where L is a square number.")] = None,
    path: Annotated[list[str] | None, typer.Option("--path", help="raster, zigzag or random.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Timings per case.", min=3)] = 12,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the blocks (on a GPU).")] = True,
    results: Annotated[Path, typer.Option("--results", help="The folder for the record.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Time whole training steps of ZigMa and of DiT.

    ZigMa on several paths, and a DiT with as many parameters. Results are checked first.
    """
    from zigma_bench.bench.record import open_bench_record
    from zigma_bench.bench.step import PATHS, StepShape, bench_step
    from zigma_bench.records.store import check_writable
    from zigma_bench.system.device import find_device

    found = find_device(device)
    check_writable(results)
    with open_bench_record("step", found, results) as (file, save_rows):
        rows = bench_step(
            found,
            shapes=[StepShape.parse(text) for text in shape or ()],
            paths=path or tuple(PATHS),
            repeats=repeats,
            compiled=compiled,
            on_progress=lambda text: print(text, file=sys.stderr),
            save_rows=save_rows,
        )
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        _print_steps(rows, found)
        print(f"record: {file}")


def _print_steps(rows: list[StepRow], device: Device) -> None:
    from rich.table import Table
    from rich.text import Text

    from zigma_bench.reports.terminal import print_wide

    peers = sorted({peer for row in rows for peer in row.ratio})
    table = Table(title=Text(f"steps on {device.model_name}; peers: their median time / ours"), title_justify="left")
    for heading in ("network", "direction", "B x L", "path", "backend"):
        table.add_column(heading)
    for heading in ("median ms", "spread ms", "peak GiB", *peers):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = [f"{row.ratio[peer]:.2f}" if peer in row.ratio else "" for peer in peers]
        memory = "" if row.memory_gib is None else f"{row.memory_gib:.2f}"
        times = [f"{row.median_ms:.2f}", f"{row.spread_ms:.2f}", memory]
        table.add_row(row.op, row.direction, row.shape, row.path, row.backend, *times, *ratios)
    print_wide(table)


def _print_operators(rows: list[OperatorTiming], device: Device) -> None:
    from rich.table import Table
    from rich.text import Text

    from zigma_bench.bench.ops import PEERS
    from zigma_bench.reports.terminal import print_wide

    peers = [peer for peer in PEERS if any(peer in row.ratio for row in rows)]
    title = f"operators on {device.model_name}; peers: their median time / ours"
    table = Table(title=Text(title), title_justify="left")
    for heading in ("op", "direction", "B x L x E", "path", "backend"):
        table.add_column(heading)
    for heading in ("median ms", "spread ms", *peers, "x copy floor"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = [f"{row.ratio[peer]:.2f}" if peer in row.ratio else "" for peer in peers]
        times = [f"{row.median_ms:.3f}", f"{row.spread_ms:.3f}"]
        table.add_row(row.op, row.direction, row.shape, row.path, row.backend, *times, *ratios, f"{row.floor:.1f}")
    print_wide(table)
