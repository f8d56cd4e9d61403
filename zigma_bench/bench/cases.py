"""The cases of the operator benchmark: inputs of a shape along a scan path, one call per backend, and the gate.

The gate checks a backend's outputs and gradients before it is timed. B batch, L tokens, E channels, N = 16 states,
W = 4 taps: the sizes of a Mamba layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import CellFailed, UsageError
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.selective_scan import selective_scan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Ints

STATES, TAPS = 16, 4
OPERATORS = {"scan": "selective_scan", "conv": "causal_conv"}  # by the names of the benchmark
OPS = tuple(OPERATORS)
PEER = "pscan"
GATE_SHAPES = ((2, 63, 40), (1, 500, 24))
BOUNDS = {torch.float32: 5e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Shape:
    """B x L x E."""

    batch: int
    length: int
    channels: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            raise UsageError("not a shape", where="--shape", expected="BxLxE, such as 8x256x512", got=text)
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}x{self.channels}"


def runnable_backends(op: str, device: str) -> list[str]:
    """All backends and peers that can run an operator on this device."""
    found = [
        name
        for name, backend in BACKENDS.items()
        if OPERATORS[op] in backend.operators and backend.runs_on(device) and backend.find_problem() is None
    ]
    return found + ([PEER] if op == "scan" else [])


def is_loop(backend: str) -> bool:
    """Whether a backend or peer is a loop over time in Python."""
    return backend in BACKENDS and BACKENDS[backend].loops_in_python


def find_path(kind: str, length: int) -> Ints:
    """The scan path `kind` on the most square grid of `length` tokens. UsageError unless it is one path over all."""
    height = next(side for side in range(int(length**0.5), 0, -1) if length % side == 0)
    spec = catalogue().get("scan", kind, where="--path")
    options = spec.resolve({}, where=f"--path {kind}")
    route = layer_routes(spec, grid=Grid(height, length // height), depth=1, options=options)[0]
    if route.K != 1 or not route.bijective:
        raise UsageError(
            "the benchmark needs one path over all tokens",
            where=f"--path {kind}",
            expected="raster, zigzag, hilbert, ...",
        )
    path: Ints = route.paths[0].copy()
    return path


def random_inputs(op: str, shape: Shape, *, device: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs as in a network at initialization. Parameters are float32."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    B, L, E = shape.batch, shape.length, shape.channels
    if op == "conv":
        rows, parameters = {"x": normal(B, L, E)}, {"weight": normal(E, TAPS), "bias": normal(E)}
    else:
        rows = {"u": normal(B, L, E), "delta": normal(B, L, E), "z": normal(B, L, E)}
        rows |= {"B": normal(B, L, STATES), "C": normal(B, L, STATES)}
        A = -torch.arange(1.0, STATES + 1).expand(E, STATES).contiguous()
        parameters = {"A": A, "D": torch.ones(E), "delta_bias": normal(E) * 0.5 - 4}
    made = {name: tensor.to(device, dtype) for name, tensor in rows.items()}
    return made | {name: tensor.to(device) for name, tensor in parameters.items()}


def operator_call(op: str, backend: str, tensors: dict[str, Tensor], path: Tensor) -> Tensor:
    """Run the operator once along the path."""
    arguments: dict[str, Any] = tensors
    if op == "conv":
        return causal_conv(**arguments, path=path, backend=backend)
    if backend == PEER:
        from zigma_bench.bench.pscan import scan

        return scan(**arguments, path=path)
    return selective_scan(**arguments, path=path, backend=backend)


def with_gradients(op: str, backend: str, tensors: dict[str, Tensor], path: Tensor, grad: Tensor) -> list[Tensor]:
    """The output and the gradient of every input."""
    out = operator_call(op, backend, tensors, path)
    return [out, *torch.autograd.grad(out, list(tensors.values()), grad)]


def check_against_naive(op: str, backend: str, *, device: str, dtype: torch.dtype) -> None:
    """CellFailed unless outputs and gradients agree with the naive loop in float64, along random paths."""
    for seed, sizes in enumerate(GATE_SHAPES):
        shape = Shape(*sizes)
        tensors = random_inputs(op, shape, device=device, dtype=dtype, seed=seed)
        path = torch.randperm(shape.length, generator=torch.Generator().manual_seed(seed))
        out_grad = torch.randn(sizes, generator=torch.Generator().manual_seed(seed + 9)).to(device, dtype)
        mine = _detached(lambda i, p, g: with_gradients(op, backend, i, p, g), tensors, path.to(device), out_grad)
        exact = {name: tensor.detach().cpu().double() for name, tensor in tensors.items()}
        right = _detached(lambda i, p, g: with_gradients(op, "naive", i, p, g), exact, path, out_grad.cpu().double())
        for name, found, expected in zip(("the output", *tensors), mine, right, strict=True):
            error = float((found.cpu().double() - expected).norm() / expected.norm().clamp_min(1e-30))
            if not error <= BOUNDS[dtype]:
                raise CellFailed(
                    f"the backend {backend!r} is wrong, so its speed is not reported: {name} of {op} at {shape}",
                    expected=f"a relative error of at most {BOUNDS[dtype]:g} against float64",
                    got=error,
                )


def _detached(
    run: Callable[[dict[str, Tensor], Tensor, Tensor], list[Tensor]],
    tensors: dict[str, Tensor],
    path: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    return [tensor.detach() for tensor in run(leaves, path, grad)]
