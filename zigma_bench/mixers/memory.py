"""Activation memory: the bytes that a training step saves of one image for its backward pass, by operator. No torch.

This is an estimate by formula of what autograd saves for the operators of this package, uncompiled: the inputs that a
backward pass reads, once each. Left out: weights and their copies, gradients, the optimizer, what an operator needs
only while it runs, and what is small (means and rates of norms, the embedding of time, indices).
tests/backbones/test_memory.py counts the saved tensors.

`fused` recomputes u, delta and, for a sum of paths, y, and stores the state every 64 steps; `cpu` stores it every 8
steps and `torch` every 16. On a GPU a norm is one kernel; elsewhere it also saves its normalized input, except `cpu`
where the scale of the stream is part of it. Under bfloat16 the portable backends save float32 copies.

L tokens, D width, E inner channels, N state, R rank of dt, F channels and S steps of a path, n bytes of a number.
"""

from __future__ import annotations

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.ops.backend import SavedMemory
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.plugins.registry import sum_by_name
from zigma_bench.scans.route import Route

NUMBER_BYTES = {"fp32": 4, "bf16": 2}
WIDE = 4  # float32


def number_bytes(precision: str, backend: str) -> int:
    """n, the bytes of a number; UsageError for a precision or a backend without a formula."""
    described = [name for name, known in BACKENDS.items() if known.memory is not None]
    for kind, value, known in (("precision", precision, list(NUMBER_BYTES)), ("backend", backend, described)):
        if value not in known:
            raise UsageError(
                f"there is no estimate of the memory of this {kind}", expected=f"one of {', '.join(known)}", got=value
            )
    return NUMBER_BYTES[precision]


def saved_memory(backend: str) -> SavedMemory:
    """What the operators of a backend save, which `number_bytes` has checked."""
    memory = BACKENDS[backend].memory
    assert memory is not None
    return memory


def refuse_learned_order(route: Route) -> None:
    """Raise NotReady for a route whose module saves tensors that no formula counts."""
    if route.learned is not None:
        raise NotReady("there is no estimate of the memory of a learned order: its module saves tensors of its own")


def gathers_rows(route: Route) -> bool:
    """Whether rows are gathered before the operators and put back behind them: pads, and parts of the tokens."""
    return route.pad_count > 0 or route.merge_facts.splits_tokens


def is_one_operator(route: Route) -> bool:
    """Whether `fused` takes the layer as one operator, which computes u and delta again."""
    return gates_in_scan(route) and not (route.learned or route.features or route.merge_facts.splits_channels)


def gates_in_scan(route: Route) -> bool:
    """Whether the gate acts in the scan of each path."""
    return route.merge_facts.gate == "path" and not gathers_rows(route)


def gate_memory(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """y and SiLU(z) of a gate behind the scan: once for all, or for each path."""
    times = 1 if route.merge_facts.gate == "merged" else route.K
    return {"out_proj": 2 * times * n * L * E}


def merge_memory(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """Rows before they are put back, and what the merge itself saves; NotReady where its plugin has no estimate."""
    facts = route.merge_facts
    if facts.memory is None:
        raise NotReady(f"there is no estimate of the memory of the merge {route.merge!r}")
    rows = (1 if facts.splits_tokens else route.K) * n * L * E if gathers_rows(route) else 0
    return sum_by_name([{"merge": rows}, facts.memory(paths=route.K, channels=E, tokens=L, value_bytes=n)])
