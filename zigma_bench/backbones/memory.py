"""Bytes that a training step keeps of one image for its backward, by operator: an estimate by formula.

What autograd keeps of the operators as they are written here, uncompiled: the inputs that a backward reads, once each.
Left out: weights and their copies, gradients, the optimiser, what an operator needs only while it runs, and what is
small (means and rates of norms, the embedding of time, indices). tests/models/test_kept.py counts what is kept.

`fused` computes u, delta and, of a sum of paths, y again and keeps a state in 64 steps, `cpu` one in 8, `torch` one in
16. On a card a norm is one kernel; elsewhere it keeps its normalised input too, but for `cpu` where the scale of the
stream is part of it. Under bfloat16 the portable backends keep float32 copies.

L tokens, D width, E inner channels, N state, R rank of dt, F channels and S steps of a path, n bytes of a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zigma_bench.backbones.options import Conditioned, DitOptions, Mamba2Options, MambaOptions, ZigmaOptions
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.mixers.registered import mixer_kept
from zigma_bench.plugins.registry import sum_by_name
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

NUMBER_BYTES = {"fp32": 4, "bf16": 2}
STEPS_OF_A_STATE = {"fused": 64, "cpu": 8, "torch": 16}
WIDE = 4  # float32


def number_bytes(precision: str, backend: str) -> int:
    """n; UsageError for what no formula stands for."""
    for kind, value, known in (("precision", precision, NUMBER_BYTES), ("backend", backend, STEPS_OF_A_STATE)):
        if value not in known:
            raise UsageError(
                f"there is no estimate of the memory of this {kind}", expected=f"one of {', '.join(known)}", got=value
            )
    return NUMBER_BYTES[precision]


def mamba_kept(
    options: MambaOptions, *, block: ZigmaOptions, grid: Grid, route: Route, backend: str, precision: str
) -> dict[str, int]:
    """One Mamba mixer."""
    _refuse_learned(route)
    n, E, D, L = number_bytes(precision, backend), block.inner, block.width, grid.tokens
    paths = [_mamba_path(block, route, backend, n)] * route.K
    copied = backend != "fused" and n < WIDE and _gated(route)  # the halves of in_proj's output
    in_place = not _gathers(route) and (backend == "fused" or (backend == "cpu" and n == WIDE))
    half, again = n * L * E, backend == "fused" and _whole(route) and route.merge == "sum"  # y
    in_proj = n * L * D * (not (backend == "fused" and _whole(route)))  # else it is computed again by the norm before
    ends = {"in_proj": in_proj, "conv": half * in_place, "scan": half * (not copied), "out_proj": half * (not again)}
    return sum_by_name([ends, *paths, _behind(route, n, L, E), {} if _gated(route) else _gate(route, n, L, E)])


def _mamba_path(block: ZigmaOptions, route: Route, backend: str, n: int) -> dict[str, int]:
    """What a path adds to in_proj's output."""
    N, R, S = block.state, block.dt_rank, route.steps
    F = block.inner // route.K if route.merge == "concat" else block.inner
    states = WIDE * F * N * -(-S // STEPS_OF_A_STATE[backend])
    projected, copies = n * S * (R + 2 * N), 0 if n == WIDE else WIDE * S * F
    gathered = n * S * F if _gathers(route) and backend != "torch" else 0
    if backend == "fused":
        u = 0 if _whole(route) else n * S * F
        marked = n * S * N * bool(route.features)  # B with what is added
        return {"conv": gathered, "x_proj": u, "dt_proj": projected, "scan": u + states + marked}
    if backend == "cpu":
        x, of_scan = copies or gathered, WIDE * S * F + copies + (copies if _gated(route) else 0)
    else:  # the rows in order and the sums before SiLU; delta, d, y and SiLU(z)
        x, of_scan = 2 * WIDE * S * F, 2 * WIDE * S * F + copies
        of_scan += (2 * WIDE * S * F + copies) if _gated(route) else 0
    widened = WIDE * S * 2 * N if copies else WIDE * S * N * bool(route.features)  # B and C; B with what is added
    return {"conv": x, "x_proj": n * S * F, "dt_proj": projected, "scan": of_scan + states + widened}


def _refuse_learned(route: Route) -> None:
    if route.learned is not None:
        raise NotReady("there is no estimate of the memory of a learned order, whose module keeps what it needs")


def _gathers(route: Route) -> bool:
    """Whether rows are gathered before the operators and put back behind them: pads, and parts of the tokens."""
    return route.pad_count > 0 or route.merge == "scatter"


def _whole(route: Route) -> bool:
    """Whether `fused` takes the layer as one operator, which computes u and delta again."""
    return not (_gathers(route) or route.stages or route.features or route.merge == "concat")


def _gated(route: Route) -> bool:
    """Whether the gate acts in the scan."""
    return route.stages is None and not _gathers(route)


def _gate(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """y and SiLU(z) of a gate behind the scan: once for all, or for each path."""
    times = 1 if route.stages is not None or route.merge == "scatter" else route.K
    return {"out_proj": 2 * times * n * L * E}


def _behind(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """Rows before they are put back, and what a merge with weights multiplies."""
    rows = (1 if route.merge == "scatter" else route.K) * n * L * E if _gathers(route) else 0
    weighed = route.K * n * L * E if route.merge in ("gate", "channel-attention") else 0
    return {"merge": rows + weighed}


def mamba2_kept(
    options: Mamba2Options, *, block: ZigmaOptions, grid: Grid, route: Route, backend: str, precision: str
) -> dict[str, int]:
    """One Mamba-2 mixer, whose scan computes its chunks again."""
    _refuse_learned(route)
    n, E, D, L = number_bytes(precision, backend), block.inner, block.width, grid.tokens
    F, S = E // route.K if route.merge == "concat" else E, route.steps
    H, BC, K = options.heads(F), 2 * options.groups * options.state, route.K
    once = 1 if route.share == "shared" and route.merge != "concat" else K  # [x | B | C | dt], one for paths that share
    rows = {"conv": n * S * (F + BC + H) * (K if _gathers(route) else once)}
    if backend == "torch" or (n < WIDE and backend == "cpu"):  # float32 in order, and the sums before SiLU
        rows = {"conv": (2 if backend == "torch" else 1) * K * WIDE * S * (F + BC)}
    projected = 0 if n == WIDE else once * n * L * D  # another copy of the token in bfloat16
    projected = K * n * S * (F + D) if route.merge == "scatter" else projected
    scan = K * (n * S * (F + BC) + WIDE * S * H)
    normed = 3 if backend == "fused" else 4  # y, SiLU(z), their product
    z = 2 * n * L * E if n == WIDE else WIDE * L * E  # in_proj's output, or a copy of its half
    norm = normed * WIDE * L * E + z
    ends = {"in_proj": n * L * D, "bcdt_proj": projected, "scan": scan, "norm": norm, "out_proj": n * L * E}
    return sum_by_name([ends, rows, _behind(route, n, L, E)])


def _refuse(options: Conditioned) -> None:
    """NotReady for what keeps more, or less, than is counted here."""
    if options.condition == "text":
        raise NotReady("there is no estimate of the memory of a network that is conditioned on text")
    if options.gradient_checkpointing:
        raise NotReady("there is no estimate of the memory of gradient checkpointing")


def zigma_kept(
    options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str, precision: str
) -> dict[str, int]:
    """ZigMa: the stream stays in float32, so norms and the scaled stream are wide."""
    _refuse(options)
    n, D, L = number_bytes(precision, backend), options.width, grid.tokens
    norm = WIDE * L * D * (1 if backend == "fused" else 2)
    layer = {"norm": norm, "adaln": WIDE * L * D + n * L * D + n * 4 * D}  # what is scaled, what is gated, and by what
    if backend == "fused":  # one operator from a mixer to the next, which computes all again
        layer = {"norm": norm, "adaln": n * L * D + n * 4 * D}
    if backend == "cpu":  # norm and scale are one operator, which computes its output again
        layer = {"norm": WIDE * L * D, "adaln": n * L * D + n * 4 * D}
    given: dict[str, Any] = {"grid": grid, "backend": backend, "precision": precision}
    known: dict[tuple[str, str], dict[str, int]] = {}
    keys = [(route.digest, repr(options.layer(number).mixer)) for number, route in enumerate(routes)]
    for number, (key, route) in enumerate(zip(keys, routes, strict=True)):
        if key not in known:
            known[key] = sum_by_name([layer, mixer_kept(options.layer(number), route=route, **given)])
    ends = {"patch_embed": n * L * options.patch**2 * channels, "final": norm + WIDE * L * D + n * L * D}
    return sum_by_name([ends, *(known[key] for key in keys)])


def dit_kept(
    options: DitOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str, precision: str
) -> dict[str, int]:
    """DiT with an attention that keeps no matrix of tokens by tokens."""
    _refuse(options)
    n, D, L, M = number_bytes(precision, backend), options.width, grid.tokens, options.mlp_ratio * options.width
    layer = {
        "norm": 2 * WIDE * L * D,
        "adaln": 2 * (WIDE * L * D + n * L * D) + n * 7 * D,
        "attention_proj": n * L * D,
        "attention": n * 4 * L * D + WIDE * L * options.head_count,
        "mlp": n * L * (D + 2 * M),
    }
    ends = {
        "patch_embed": n * L * options.patch**2 * channels,
        "final": 2 * WIDE * L * D + n * L * D,
    }
    return sum_by_name([ends, *[layer] * options.depth])
