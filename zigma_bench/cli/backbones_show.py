"""`backbones show NAME/SIZE`: the cost of a network on a grid by operator, and the scan paths of each layer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zigma_bench.cli.backbones_find import ShownNetwork
from zigma_bench.reports.terminal import print_wide
from zigma_bench.scans.orders.course import Course, course
from zigma_bench.scans.route import Route

MIB = 2**20
OTHER_COLUMNS = 65  # width in characters of the table of routes without the first tokens
LAYERS_IN_A_LINE = 16


def show_network(network: ShownNetwork, *, as_json: bool) -> None:
    """Print the tables, or one JSON document."""
    if as_json:
        print(json.dumps(to_json(network), indent=1))
        return
    channels, height, width = network.image[-3:]
    frames = f" in each of {network.grid.frames} frames," if network.grid.video else " in"
    shape = ", ".join(f"{key} {value}" for key, value in network.backbone.options.items() if type(value) is int)
    print(f"{network.label}: {shape}")
    print(f"{channels} x {height} x {width} values{frames} {network.grid} = {network.grid.tokens:,} tokens")
    print_wide(_operators(network))
    if network.cost.flops_by == "counter":
        print("FLOP: one forward pass of one image, as PyTorch's counter measures it: matrix")
        print("products, convolutions and attention only; a multiply-add counts as 2.")
    else:
        print("FLOP: one forward pass of one image, by formula; a multiply-add counts as 2. Norms,")
        print("activation functions and other elementwise operations are not counted.")
    if isinstance(network.activation_bytes, str):
        print(f"MiB: {network.activation_bytes}.")
    else:
        print("MiB: the estimated activation memory of one image in a training step, in fp32 and")
        print(f"in bf16, uncompiled, with the backend {network.backend}. It doesn't include weights,")
        print("gradients, the optimizer and temporary buffers of the operators.")
    _schedule(network)


def _operators(network: ShownNetwork) -> Table:
    memory = {} if isinstance(network.activation_bytes, str) else network.activation_bytes
    scale, unit = (1e9, "GFLOP") if network.cost.total_flops >= 1e9 else (1e6, "MFLOP")
    made = Table()
    for heading in ("operator", "parameters", "%", unit, "%", *(f"{name} MiB" for name in memory)):
        made.add_column(heading, justify="left" if heading == "operator" else "right")
    parts, flops = network.cost.parts or {}, network.cost.forward_flops
    known = dict.fromkeys([*parts, *flops, *(name for column in memory.values() for name in column)])
    names = sorted(known, key=lambda name: ("final", "scan").index(name) if name in ("final", "scan") else -1)
    columns = [parts, flops, *memory.values()]
    totals = [sum(column.values()) for column in columns]
    for name in names:
        if any(column.get(name) for column in columns):
            made.add_section() if name == "scan" else None
            made.add_row(Text(name), *_figures([column.get(name, 0) for column in columns], totals, scale))
    made.add_section()
    made.add_row("all", *_figures(totals, totals, scale))
    return made


def _figures(counts: Sequence[int], totals: Sequence[int], scale: float) -> list[str]:
    """The columns of a row: parameters and FLOPs with their percentages, and MiB."""
    parameters, flops, *memory = counts
    return [
        f"{parameters:,}" if parameters else "", _share(parameters, totals[0]),
        f"{flops / scale:,.3f}" if flops else "", _share(flops, totals[1]),
        *(f"{count / MIB:,.2f}" if count else "" for count in memory),
    ]  # fmt: skip


def _share(count: int, total: int) -> str:
    percent = 100 * count / total if count else 0
    return "" if not count else "<1" if percent < 1 else f"{percent:.0f}"


def _schedule(network: ShownNetwork) -> None:
    if network.scan is None:
        print(f"\nThe order of tokens does not matter to {network.backbone.name}: its layers have no scan paths.")
        return
    numbers = {route: number for number, route in enumerate(dict.fromkeys(network.routes), 1)}
    print(f"\nscan {network.scan.label}: the route of each layer")
    for first in range(0, len(network.routes), LAYERS_IN_A_LINE):
        layers = network.routes[first : first + LAYERS_IN_A_LINE]
        shown = " ".join(f"{numbers[route]:>2}" for route in layers)
        print(f"  layers {first:>2} to {first + len(layers) - 1:>2}: {shown}")
    print_wide(_routes(network, numbers))
    for line in dict.fromkeys(_words(route) for route in numbers):
        print(line)


def _routes(network: ShownNetwork, numbers: Mapping[Route, int]) -> Table:
    """The distinct routes, with a row for each path."""
    room = Console().width if sys.stdout.isatty() else 80
    made = Table()
    for heading in ("route", "layers", "begins", "along", "first tokens", "digest"):
        made.add_column(heading, justify="right" if heading == "layers" else "left")
    for route, number in numbers.items():
        count = str(sum(other == route for other in network.routes))
        if route.learned is not None:
            made.add_row(str(number), count, "", "", "per sample", route.digest[:12])
            continue
        for k, path in enumerate(route.paths, 1):
            found = course(path, network.grid)
            head = [f"{number}.{k}" if route.K > 1 else str(number), count if k == 1 else ""]
            digest = route.digest[:12] if k == 1 else ""
            made.add_row(*head, found.begins, found.along, _first_tokens(found, room), digest)
    return made


def _first_tokens(found: Course, room: int) -> str:
    """As many of the first tokens of a path as fit, but at least three."""
    text = ""
    for number, token in enumerate(found.first):
        longer = f"{text} {token}".strip()
        if len(longer) > room - OTHER_COLUMNS and number >= 3:
            break
        text = longer
    more = " ..." if len(text.split()) < found.steps else ""
    return text + more


def _words(route: Route) -> str:
    """The properties of a route: tokens scanned, merge, parameter sharing, segments and pads."""
    if route.learned is not None:
        return "learned: each sample has its own order"
    words = []
    if route.K > 1:
        words.append(f"{route.K} paths merged by {route.merge}, parameters {route.share}")
    if route.segments is not None:
        words.append(f"{len(route.segments[0])} segments per path, each with a new state")
    if route.pad_count:
        words.append(f"{route.pad_count} pads")
    return "; ".join([f"scanned / L {route.scanned_ratio:g}", *words])


def to_json(network: ShownNetwork) -> dict[str, Any]:
    """The network with its cost by operator and the route of every layer."""
    flops, cost = dict(network.cost.forward_flops), network.cost
    memory = network.activation_bytes
    by_operator = {} if isinstance(memory, str) else {name: dict(values) for name, values in memory.items()}
    estimate = {"reason": memory} if isinstance(memory, str) else by_operator
    return {
        "backbone": network.backbone.model_dump(mode="json"),
        "scan": network.scan and network.scan.model_dump(mode="json"),
        "image": list(network.image), "grid": str(network.grid), "tokens": network.grid.tokens,
        "parameters": {"total": cost.parameters, "by_operator": dict(cost.parts or {})},
        "forward_flops": {"total": cost.total_flops, "scan": flops.get("scan", 0), "by_operator": flops,
                          "by": cost.flops_by},
        "activation_bytes": {"backend": network.backend, **estimate},
        "schedule": [
            {
                "layer": layer, "digest": route.digest, "merge": route.merge, "share": route.share,
                "scanned_ratio": route.scanned_ratio,
                "paths": [course(path, network.grid).to_json() for path in route.paths],
            }
            for layer, route in enumerate(network.routes)
        ],
    }  # fmt: skip
