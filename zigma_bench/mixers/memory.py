"""Activation memory: the bytes per image that a training step saves for its backward pass, by operator. No torch.

This is an estimate, by formula, of what autograd saves for the operators of this package when they aren't compiled: the
inputs that the backward pass reads, once each. It omits weights and their copies, gradients, the optimizer, temporary
memory of operators, and small tensors (means and rates of norms, the time embedding, indices).
tests/backbones/test_memory.py compares it with the saved tensors.

`fused` recomputes u, delta and, for a sum of paths, y, and stores the state every 64 steps; `cpu` stores it every 8
steps and `torch` every 16. On a GPU a norm is one kernel. Elsewhere it also saves its normalized input, except with
`cpu` if the modulation of the stream is part of the same operator. In bfloat16 the portable backends save float32
copies.

L tokens, D width, E inner channels, N state size, R rank of dt, F channels and S steps of a path, n bytes per number.
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
    """n, the bytes per number; UsageError for a precision or a backend without a formula."""
    described = [name for name, known in BACKENDS.items() if known.memory is not None]
    for kind, value, known in (("precision", precision, list(NUMBER_BYTES)), ("backend", backend, described)):
        if value not in known:
            raise UsageError(
                f"there is no estimate of the memory of this {kind}", expected=f"one of {', '.join(known)}", got=value
            )
    return NUMBER_BYTES[precision]


def saved_memory(backend: str) -> SavedMemory:
    """What the operators of a backend save; the backend must be one that `number_bytes` accepts."""
    memory = BACKENDS[backend].memory
    assert memory is not None
    return memory


def refuse_learned_order(route: Route) -> None:
    """Raise NotReady for a route with a learned order, because no formula counts the tensors that its module saves."""
    if route.learned is not None:
        raise NotReady("there is no estimate of the memory of a learned order, because its module also saves tensors")


def gathers_rows(route: Route) -> bool:
    """Whether rows are gathered before the operators and scattered back after them, as for pads and parts of tokens."""
    return route.pad_count > 0 or route.merge_facts.splits_tokens


def is_one_operator(route: Route) -> bool:
    """Whether `fused` computes the layer as one operator, which recomputes u and delta in the backward pass."""
    return gates_in_scan(route) and not (route.learned or route.features or route.merge_facts.splits_channels)


def gates_in_scan(route: Route) -> bool:
    """Whether the gate acts inside the scan of each path."""
    return route.merge_facts.gate == "path" and not gathers_rows(route)


def gate_memory(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """The memory of y and SiLU(z) for a gate after the scan: once for all paths, or for each path."""
    times = 1 if route.merge_facts.gate == "merged" else route.K
    return {"out_proj": 2 * times * n * L * E}


def merge_memory(route: Route, n: int, L: int, E: int) -> dict[str, int]:
    """The memory of rows before they are scattered back, and of the merge; NotReady for a merge without an estimate."""
    facts = route.merge_facts
    if facts.memory is None:
        raise NotReady(f"there is no estimate of the memory of the merge {route.merge!r}")
    rows = (1 if facts.splits_tokens else route.K) * n * L * E if gathers_rows(route) else 0
    return sum_by_name([{"merge": rows}, facts.memory(paths=route.K, channels=E, tokens=L, value_bytes=n)])
