"""Launches of the Triton kernels of the selective scan: how a pass is spread over a card, and the memory it writes.

Only the state before every 64th step is kept for the backward, which computes the others again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.selective_scan.launch import SAVE, Gradients, Inputs, padded, part_length, whole_parts
from zigma_bench.ops.selective_scan.triton_backward import gradients
from zigma_bench.ops.selective_scan.triton_kernels import hand_on, outputs, stage
from zigma_bench.ops.triton_device import card, current, strides

AHEAD, AHEAD_BACKWARD = 8, 4  # steps whose rows are read before they are computed; those whose states are in registers
STAGED = 32  # steps of a program that stages B and C
STATES_OF_A_WARP = 16
RESIDENT = 8  # warps that a processor holds in the backward, by its registers on NVIDIA's cards


@dataclass(frozen=True)
class Plan:
    """How a pass is spread: channels and warps of a program, parts of the path."""

    channels: int
    warps: int
    parts: int


@functools.cache
def plan_pass(batch: int, length: int, channels: int, states: int, processors: int, lanes: int) -> Plan:
    """A plan that fills the card: a lane a channel, 16 states a warp, and parts of the path where channels are few."""
    warps = max(1, padded(states) // STATES_OF_A_WARP)
    wanted = batch * -(-channels // lanes) * warps
    return Plan(lanes, warps, whole_parts(length, max(1, round(RESIDENT * processors / wanted))))


def _plan(given: Inputs) -> Plan:
    return plan_pass(*given.sizes, *card(given.u.device))


def _floats(given: Inputs, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=given.u.device)


def staged(given: Inputs) -> Tensor:
    """B and C in the order of the steps: [B, L, 2, NB], float32."""
    batch, length, _, states = given.sizes
    pairs = _floats(given, batch, length, 2, padded(states))
    stage[(-(-length // STAGED), batch)](
        given.B, given.C, given.path, pairs, length, *strides(given.B, given.C),
        N=states, NB=padded(states), T=STAGED,
    )  # fmt: skip
    return pairs


def _launch(
    kernel: Any, given: Inputs, plan: Plan, parts: int, out: Tensor, *tensors: Tensor | None, **fixed: int
) -> None:
    """Launch a kernel over channels, samples and so many of the parts."""
    batch, length, channels, states = given.sizes
    kernel[(-(-channels // plan.channels), batch, parts)](
        given.u, given.delta, given.z, out, *tensors, *strides(given.u, given.delta, given.z, out),
        length, channels, plan.parts, part_length(length, plan.parts),
        N=states, NB=padded(states), E=plan.channels, SOFTPLUS=given.softplus, num_warps=plan.warps, **fixed,
    )  # fmt: skip


def _carried(
    given: Inputs, plan: Plan, out: Tensor, A: Tensor, pairs: Tensor, *, back: bool
) -> tuple[Tensor | None, Tensor | None]:
    """What each part hands on, or back: its state (adjoint) from zero [B, parts, N, E] and its sum of step sizes."""
    if plan.parts == 1:
        return None, None
    batch, _, channels, states = given.sizes
    ends = _floats(given, batch, plan.parts, states, channels)
    sums = _floats(given, batch, plan.parts, channels)
    tensors = (A, given.bias, given.path, given.since, pairs, ends, sums)
    _launch(hand_on, given, plan, plan.parts - 1, out, *tensors, T=AHEAD, BACK=int(back))
    return ends, sums


def forward(given: Inputs, *, save: bool) -> tuple[Tensor, Tensor]:
    """The output [B, L, E] and, with `save`, the state before every SAVE-th step [B, L / SAVE, N, E] (else empty)."""
    batch, length, channels, states = given.sizes
    plan = _plan(given)
    out = torch.empty_like(given.u, memory_format=torch.contiguous_format)
    saved = _floats(given, *((batch, -(-length // SAVE), states, channels) if save else (0,)))
    with current(given.u.device):
        A, pairs = given.A.t().contiguous(), staged(given)
        ends, sums = _carried(given, plan, out, A, pairs, back=False)
        initial = None if given.initial is None else given.initial.mT.contiguous()
        kept = saved if save else None
        tensors = (A, given.D, given.bias, given.path, given.since, pairs, initial, kept, ends, sums)
        _launch(outputs, given, plan, plan.parts, out, *tensors, T=AHEAD, SAVE=SAVE)
    return out, saved


def backward(given: Inputs, grad: Tensor, saved: Tensor) -> Gradients:
    """Gradients from that of the output; `BC` is float32 here."""
    batch, length, channels, states = given.sizes
    plan = _plan(given)
    blocks, NB = -(-channels // plan.channels), padded(states)
    of_u, of_delta = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (given.u, given.delta)
    )
    of_z = None if given.z is None else torch.empty_like(given.z, memory_format=torch.contiguous_format)
    kept = _floats(given, blocks * batch * plan.parts, SAVE // AHEAD_BACKWARD, NB, plan.channels)
    of_BC = _floats(given, blocks, batch, length, 2, NB)
    of_A = _floats(given, batch, plan.parts, states, channels)
    of_D, of_bias = (_floats(given, batch, plan.parts, channels) for _ in range(2))
    of_initial = None if given.initial is None else _floats(given, batch, states, channels)
    with current(given.u.device):
        A, pairs = given.A.t().contiguous(), staged(given)
        ends, sums = _carried(given, plan, grad, A, pairs, back=True)
        tensors = (
            A, given.D, given.bias, given.path, given.since, pairs, saved, ends, sums, kept,
            of_u, of_delta, of_z, of_BC, of_A, of_D, of_bias, of_initial,
        )  # fmt: skip
        _launch(gradients, given, plan, plan.parts, grad, *tensors, T=AHEAD_BACKWARD, SAVE=SAVE)
    return Gradients(
        of_u,
        of_delta,
        of_A.sum((0, 1)).t().contiguous(),
        of_BC.sum(0)[..., :states],
        of_D.sum((0, 1)),
        of_z,
        of_bias.sum((0, 1)),
        None if of_initial is None else of_initial.mT.contiguous(),
    )
