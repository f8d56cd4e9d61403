"""Launches of scan.cu and scan_backward.cu, which read and write rows through the path on an NVIDIA card.

Only the state before every 64th step is kept for the backward, which computes the others again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.cuda.program import Kernel, Layout, Setting, kernel, most_shared_bytes, readable_by

FORWARD, BACKWARD = (Path(__file__).with_name(name) for name in ("scan.cu", "scan_backward.cu"))
SAVE = 64  # steps between saved states; parts of a path are multiples of it
OUTPUTS, END_STATES, ADJOINTS = range(3)
MOST_STATES = 64
SETTINGS = ("IO", "BC", "VECTOR", "VECTOR_BC", "GATED", "SOFTPLUS", "SEGMENTS")  # of both
SCAN, SCAN_BACKWARD = Layout(7, 9, 6), Layout(10, 13, 6)  # `Scan` of scan.cu, `ScanBackward` of scan_backward.cu
SHAPES = {1: (128, 5), 2: (64, 4), 4: (64, 3), 8: (32, 2)}  # channels of a block and resident blocks, by lanes


@dataclass(frozen=True)
class Plan:
    """How a pass is spread: lanes that share a channel, channels and resident blocks, parts of the path."""

    lanes: int
    channels: int
    blocks: int
    parts: int


@dataclass(frozen=True)
class Inputs:
    """The operator's arguments: u, delta, z [K, B, L, E] of one dtype, B and C [K, B, L, N] of one, with their numbers
    side by side; A [K, E, N], D and bias [K, E] and the state before the first step [K, B, E, N] in float32. These and
    path and since [K, L] are contiguous."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    bias: Tensor
    softplus: bool
    path: Tensor | None
    since: Tensor | None
    initial: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Paths (of rows that have them), batch, length, channels, states."""
        return (*self.u.shape, self.A.shape[-1])

    def empty(self, *shape: int) -> Tensor:
        """An empty float32 tensor beside u."""
        return torch.empty(*shape, dtype=torch.float32, device=self.u.device)

    def settings(self, *written: Tensor | None) -> tuple[torch.dtype, torch.dtype, bool, bool, bool, bool, bool]:
        """IO, BC, VECTOR, VECTOR_BC, GATED, SOFTPLUS, SEGMENTS of the sources; `written`: more rows."""
        return (
            self.u.dtype,
            self.B.dtype,
            readable_by(16, self.u, self.delta, self.z, *written),
            self.A.shape[2] % 16 == 0 and readable_by(16, self.B, self.C),
            self.z is not None,
            self.softplus,
            self.since is not None,
        )


def part_length(length: int, parts: int) -> int:
    """Steps of a part, a multiple of SAVE."""
    return max(SAVE, -(-length // (parts * SAVE)) * SAVE)


def whole_parts(length: int, parts: int) -> int:
    """The number of parts, none of them empty, that `parts` of equal length make of a path."""
    return -(-length // part_length(length, parts))


def padded(states: int) -> int:
    """The next power of two."""
    return 1 << (states - 1).bit_length()


@functools.cache
def plan_pass(batch: int, length: int, channels: int, states: int, processors: int) -> Plan:
    """A plan that fills the card: one lane a channel where there are channels enough, else two, else parts of the path.

    The bounds were measured on an H100 (132 processors), at 16,384 tokens and 1,536 channels of 16 states.
    """
    least, most = max(1, padded(states) // 16), min(8, padded(states))
    warps = batch * channels / 32  # with one lane a channel
    if warps * least >= 16 * processors:
        return Plan(least, *SHAPES[least], 1)
    if warps * 2 >= 10 * processors and least <= 2 <= most:
        return Plan(2, *SHAPES[2], 1)
    parts = whole_parts(length, max(1, round(12 * processors / (warps * least))))
    lanes = least
    while lanes < most and warps * lanes * parts < 6 * processors:  # the path is too short for so many parts
        lanes *= 2
    return Plan(lanes, *SHAPES[lanes], parts)


def run_pass(
    given: Inputs,
    mode: int,
    plan: Plan,
    *,
    out: Tensor | None = None,
    grad: Tensor | None = None,
    saved: Tensor | None = None,
    ends: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """Launch scan.cu in one of its modes."""
    paths, batch, length, channels, states = given.sizes
    settings = given.settings(out, grad)
    if mode == END_STATES:
        settings = (*settings[:4], False, *settings[5:])
    built = _scan_kernel(given.u.get_device(), mode, plan, padded(states), settings)
    call = SCAN.pack(
        (given.u, given.delta, given.z, given.B, given.C, out, grad),
        (given.A, given.D, given.bias, given.path, given.since, given.initial, saved, ends, sums),
        (batch, length, channels, states, plan.parts, part_length(length, plan.parts)),
    )
    parts = plan.parts if mode == OUTPUTS else plan.parts - 1  # nothing follows the last part
    built.launch((-(-channels // plan.channels), paths * batch, parts), (plan.channels * plan.lanes, 1, 1), call)


@functools.cache
def _scan_kernel(index: int, mode: int, plan: Plan, states: int, settings: tuple[Setting, ...]) -> Kernel:
    return kernel(
        FORWARD, "scan", index, MODE=mode, S=states // plan.lanes, G=plan.lanes, CHANNELS=plan.channels,
        BLOCKS=plan.blocks, **dict(zip(SETTINGS, settings, strict=True)),
    )  # fmt: skip


@functools.cache
def _backward_kernel(
    index: int, size: int, groups: int, plan: BackwardPlan, outputs: bool, settings: tuple[Setting, ...]
) -> Kernel:
    return kernel(
        BACKWARD, "scan_backward", index, S=size, GROUPS=groups, WARPS=plan.warps, BLOCKS=plan.blocks, OUTPUTS=outputs,
        EXACT=settings[0] == torch.float32, **dict(zip(SETTINGS, settings, strict=True)),
    )  # fmt: skip


def forward(given: Inputs, *, save: bool, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """Outputs [K, B, L, E] and, with `save`, states before every SAVE-th step [K, B, L / SAVE, E, N] (else empty)."""
    paths, batch, length, channels, states = given.sizes
    if plan is None:
        plan = plan_pass(paths * batch, length, channels, states, _processors(given.u.get_device()))
    out = torch.empty_like(given.u, memory_format=torch.contiguous_format)
    saved = given.empty(*((paths, batch, -(-length // SAVE), channels, states) if save else (0,)))
    ends = sums = None
    if plan.parts > 1:
        ends, sums = _carried(given, END_STATES, plan)
    run_pass(given, OUTPUTS, plan, out=out, saved=saved if save else None, ends=ends, sums=sums)
    return out, saved


def _carried(given: Inputs, mode: int, plan: Plan, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What each part hands on: its end state (or adjoint) from zero [K, B, parts, E, N] and its sum of step sizes."""
    paths, batch, _, channels, states = given.sizes
    ends = given.empty(paths, batch, plan.parts, channels, states)
    sums = given.empty(paths, batch, plan.parts, channels)
    run_pass(given, mode, plan, grad=grad, ends=ends, sums=sums)
    return ends, sums


@dataclass(frozen=True)
class BackwardPlan:
    """How the backward is spread: warps and resident blocks, parts of the path and how these are passed first."""

    warps: int
    blocks: int
    parts: int
    first: Plan


def backward_shared_bytes(warps: int, states: int, bytes_each: int) -> int:
    """Bytes of `Shared` of scan_backward.cu, with a gate and with B and C of the rows' dtype."""
    groups, size = max(1, padded(states) // 16), 1 if states <= 8 else 2
    width, columns = 8 * warps // groups, 8 * size * groups
    members = (
        6 * SAVE * (width * bytes_each + 16),  # ahead, late
        2 * SAVE * columns * bytes_each,  # projected
        2 * SAVE * columns * 4,  # BC_
        8 * 32 * warps * 2 * size * 4,  # before
        warps * 16 * 32 * 4,  # d
        warps * 2 * 8 * 5 * 16,  # flow
        warps * 2 * 8 * 4 * 2 * 4,  # out
        2 * warps * 16 * size * 10 * 4,  # sums
        2 * 6 * 4 * (32 * warps if groups > 1 else 1),  # shares
        2 * 4 * SAVE * 4,  # row, fresh
        8,  # written
    )
    return -(-sum(members) // 16) * 16


@functools.cache
def plan_backward(
    batch: int, length: int, channels: int, states: int, processors: int, bytes_each: int, shared: int
) -> BackwardPlan:
    """A plan that fills the card with one block a processor, measured as `plan_pass`.

    `shared`: bytes of shared memory that a block may have; NotReady if the smallest block needs more.
    """
    groups = max(1, padded(states) // 16)
    wanted = min(12, -(-channels // 8)) if groups == 1 else 8
    fitting = [
        warps
        for warps in range(groups, wanted + 1, groups)
        if backward_shared_bytes(warps, states, bytes_each) <= shared
    ]
    if not fitting:
        raise NotReady(
            "the backward of the backend 'fused' needs more shared memory than this card has",
            where="selective_scan",
            expected=f"{backward_shared_bytes(groups, states, bytes_each)} bytes a block",
            got=shared,
            do="take the backend 'torch'",
        )
    warps = fitting[-1]
    blocks = -(-channels // (8 * warps // groups)) * batch
    parts = whole_parts(length, max(1, processors // blocks))
    lanes, most = max(1, padded(states) // 16), min(8, padded(states))
    while lanes < most and batch * channels / 32 * (parts - 1) * lanes < 10 * processors:
        lanes *= 2
    first = Plan(lanes, *SHAPES[lanes], parts)
    return BackwardPlan(warps, 1, parts, first)


@dataclass(frozen=True)
class Gradients:
    """Of each argument, shaped like it (B and C: [K, B, L, 2, N]): in u's dtype those of rows, else float32."""

    u: Tensor
    delta: Tensor
    A: Tensor
    BC: Tensor
    D: Tensor
    z: Tensor | None
    bias: Tensor
    initial: Tensor | None = None


def backward(
    given: Inputs,
    grad: Tensor,
    saved: Tensor,
    *,
    grad_z: Tensor | None = None,
    grad_delta: Tensor | None = None,
    y: Tensor | None = None,
    plan: BackwardPlan | None = None,
) -> Gradients:
    """Gradients from that of the output; `grad_z` and `grad_delta` may be given to be written, and `y` for the output
    itself again. A row is written once it is read, so that grad_delta may be delta, and y the output's gradient."""
    paths, batch, length, channels, states = given.sizes
    if plan is None:
        index, bytes_each = given.u.get_device(), max(given.u.element_size(), given.B.element_size())
        shared = most_shared_bytes(index)
        plan = plan_backward(paths * batch, length, channels, states, _processors(index), bytes_each, shared)
    groups = max(1, padded(states) // 16)
    size = 1 if states <= 8 else 2
    width, columns = 8 * plan.warps // groups, 8 * size * groups
    grad_u = torch.empty_like(given.u, memory_format=torch.contiguous_format)
    grad_delta = torch.empty_like(grad_u) if grad_delta is None else grad_delta
    if given.z is not None and grad_z is None:
        grad_z = torch.empty_like(grad_u)

    grad_BC = given.empty(-(-channels // width), paths, batch, length, 2, columns)
    grad_A = given.empty(paths, batch, plan.parts, channels, states)
    grad_D, grad_bias = (given.empty(paths, batch, plan.parts, channels) for _ in range(2))
    grad_initial = None if given.initial is None else torch.empty_like(given.initial)
    adjoints = sums = None
    if plan.parts > 1:
        adjoints, sums = _carried(given, ADJOINTS, plan.first, grad)
    call = SCAN_BACKWARD.pack(
        (given.u, given.delta, given.z, given.B, given.C, grad, grad_u, grad_delta, grad_z, y),
        (
            given.A, given.D, given.bias, given.path, given.since, saved, adjoints, sums,
            grad_BC, grad_A, grad_D, grad_bias, grad_initial,
        ),
        (batch, length, channels, states, plan.parts, part_length(length, plan.parts)),
    )  # fmt: skip
    settings = given.settings(grad, grad_u, grad_delta, grad_z, y)
    built = _backward_kernel(given.u.get_device(), size, groups, plan, y is not None, settings)
    built.launch((grad_BC.shape[0], paths * batch, plan.parts), (32 * plan.warps, 1, 1), call)
    return Gradients(
        grad_u,
        grad_delta,
        grad_A.sum((1, 2)),
        grad_BC.sum(0)[..., :states],
        grad_D.sum((1, 2)),
        grad_z,
        grad_bias.sum((1, 2)),
        grad_initial,
    )


@functools.cache
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
