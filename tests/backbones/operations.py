"""An independent count of a network's operations: every ATen call of the plain code, by rules for each kind of call.

A call is booked under the operator in whose module or function it stands, and under one of two kinds: `counted`, the
work that formulas count (1 multiply-add = 2 FLOPs), and `left_out`, what acts on each value by itself. A call that no
rule names is an error, so nothing can be passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

# Whose work a module's is, by the end of its name; the innermost module with a rule has it.
MODULES = (
    (r"patch_embed", "patch_embed"), (r"time_embed", "time_embed"), (r"condition", "text_embed"),
    (r"modulation|\w+_modulation", "adaln"), (r"text_attention", "cross_attention"), (r"skip", "skip"),
    (r"in_proj", "in_proj"), (r"x_proj", "x_proj"), (r"bcdt_proj", "bcdt_proj"), (r"out_proj", "out_proj"),
    (r"grid_conv", "conv"), (r"routed\.branches\.\d+", "attention"), (r"branches\.\d+", "dt_proj"),
    (r"merge", "merge"), (r"order", "order"),
    (r"qkv|(?:attention|mixer)\.out", "attention_proj"), (r"attention", "attention"), (r"mlp", "mlp"),
    (r"head|smooth", "final"),
)  # fmt: skip
MOVES = """
    _reshape_alias _to_copy _unsafe_view alias arange cat clone copy detach embedding empty empty_like expand full
    gather index index_copy index_select new_empty new_zeros permute repeat repeat_interleave select slice split
    split_with_sizes squeeze stack t transpose unbind unsqueeze view zeros zeros_like
"""
VALUES = """
    _fused_rms_norm _safe_softmax _softmax add addcmul cos div elu exp gelu mean mul native_layer_norm neg pow relu
    rsqrt sigmoid silu sin softplus sub sum
"""
moves, values = MOVES.split(), VALUES.split()


class Operations(TorchDispatchMode):
    """Counts of FLOPs by operator, and the names of calls whose work is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.scopes: list[str] = []
        self.state_values: int | None = None  # numbers in the states of the scan that is running

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self._book(func.overloadpacket.__name__.rstrip("_"), args, found)
        return found

    def _book(self, name: str, args: tuple, found: object) -> None:
        scope = self.scopes[-1] if self.scopes else "between"
        if name in ("mm", "bmm"):  # [.., n, k] by [.., k, m]: n m products of k multiply-adds
            self.counted[scope] += 2 * found.numel() * args[0].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.counted[scope] += 2 * found.numel() * args[1].shape[-1]
            self.left_out[scope, "bias"] += found.numel()
        elif name == "convolution":  # [out, in, .. kernel]
            self.counted[scope] += 2 * found.numel() * args[1][0].numel()
        elif name in values:
            size = max(
                tensor.numel() for tensor in (*args, *_results(found)) if isinstance(tensor, Tensor)
            )  # a sum: of its input
            if self._of_an_operator(scope, name, size):
                self.counted[scope] += size
            else:
                self.left_out[scope, name] += size
        else:
            whole = not any(t.is_floating_point() for t in (*args, *_results(found)) if isinstance(t, Tensor))
            assert name in moves or whole, f"no rule for {name}"  # whole numbers: a path, and the checks of it

    def _of_an_operator(self, scope: str, name: str, size: int) -> bool:
        """A convolution's taps are products and sums of values, a scan's operations those on whole states."""
        if scope == "conv":
            return name in ("mul", "add")
        return scope == "scan" and size == self.state_values

    @contextmanager
    def inside(self, scope: str, states: int | None = None) -> Iterator[None]:
        self.scopes.append(scope)
        self.state_values = states
        try:
            yield
        finally:
            self.scopes.pop()
            self.state_values = None

    def follow(self, network: nn.Module) -> None:
        """Let the network's modules say whose work is done."""
        for name, module in network.named_modules():
            if type(module).__name__ == "MambaMixer":  # takes in_proj's weight in halves
                name = "in_proj"
            for pattern, operator in MODULES:
                if re.search(rf"(?:^|\.)(?:{pattern})$", name):
                    module.register_forward_pre_hook(lambda *_, operator=operator: self.scopes.append(operator))
                    module.register_forward_hook(lambda *_: self.scopes.pop() and None)
                    break


def _results(found: object) -> tuple:
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def operations(network: nn.Module, *inputs: Tensor) -> Operations:
    """The operations of one forward pass; convolution, scans and attention run as plain code."""
    from zigma_bench.mixers.mamba import mixer
    from zigma_bench.mixers.mamba2 import mixer as mamba2

    seen = Operations()
    seen.follow(network)
    with ExitStack() as stack:
        for module, name, scope, states in (
            (mixer, "causal_conv", "conv", None), (mamba2, "causal_conv", "conv", None),
            (mixer, "selective_scan", "scan", lambda u, delta, A, *_: len(u) * A.numel()),
            (mamba2, "ssd", "scan", lambda x, dt, A, B, *_: len(x) * x.shape[-1] * B.shape[-1]),
        ):  # fmt: skip
            wrapped = _watched(seen, getattr(module, name), scope, states)
            stack.enter_context(mock.patch.object(module, name, wrapped))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.no_grad())
        stack.enter_context(seen)
        network.eval()(*inputs)
    return seen


def _watched(seen: Operations, function: Callable, scope: str, states: Callable | None) -> Callable:
    def call(*args, **kwargs):
        with seen.inside(scope, states(*args) if states else None):
            return function(*args, **kwargs)

    return call
