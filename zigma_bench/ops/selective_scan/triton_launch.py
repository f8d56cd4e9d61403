"""Launches of the Triton kernels of the selective scan: how a pass is distributed over a GPU, and its output memory.

Only the state before every 64th step is saved; the backward pass recomputes the others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zigma_bench.ops.selective_scan import SelectiveScanArguments
from zigma_bench.ops.selective_scan.launch import SAVE, ScanGradients, pad_states, part_length, whole_parts
from zigma_bench.ops.selective_scan.triton_backward import scan_gradients_kernel
from zigma_bench.ops.selective_scan.triton_kernels import (
    carry_states_kernel,
    scan_outputs_kernel,
    stage_projections_kernel,
)
from zigma_bench.ops.triton_device import gpu_parallelism, strides, use_gpu

AHEAD, AHEAD_BACKWARD = 8, 4  # steps that are loaded before they are computed, forward and backward
STAGED = 32  # steps per program that stages B and C
STATES_PER_WARP = 16
RESIDENT = 8  # resident warps per multiprocessor in the backward pass, limited by registers on NVIDIA GPUs


@dataclass(frozen=True)
class TritonScanLaunchConfig:
    """How a pass is distributed: channels and warps per program, parts of the path."""

    channels: int
    warps: int
    parts: int


@functools.cache
def choose_triton_launch_config(
    batch: int, length: int, channels: int, states: int, processors: int, lanes: int
) -> TritonScanLaunchConfig:
    """A config that fills the GPU: one lane per channel, 16 states per warp, and parts of the path if there are few
    channels."""
    warps = max(1, pad_states(states) // STATES_PER_WARP)
    wanted = batch * -(-channels // lanes) * warps
    return TritonScanLaunchConfig(lanes, warps, whole_parts(length, max(1, round(RESIDENT * processors / wanted))))


def _config_for(a: SelectiveScanArguments) -> TritonScanLaunchConfig:
    batch, length, channels, states = a.sizes
    return choose_triton_launch_config(batch, length, channels, states, *gpu_parallelism(a.u.device))


def _empty(a: SelectiveScanArguments, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=a.u.device)


def _stage_projections(a: SelectiveScanArguments) -> Tensor:
    """B and C in scan order: [B, L, 2, NB], float32."""
    batch, length, _, states = a.sizes
    pairs = _empty(a, batch, length, 2, pad_states(states))
    stage_projections_kernel[(-(-length // STAGED), batch)](
        a.B, a.C, a.path, pairs, length, *strides(a.B, a.C), N=states, NB=pad_states(states), T=STAGED
    )
    return pairs


def _launch(
    kernel: Any,
    a: SelectiveScanArguments,
    config: TritonScanLaunchConfig,
    parts: int,
    out: Tensor,
    tensors: Mapping[str, Tensor | None],
    **constants: int,
) -> None:
    """Launch a kernel over channels, samples and parts.

    `out`: the output or its gradient; `tensors`: the kernel's other tensors by parameter name.
    """
    batch, length, channels, states = a.sizes
    rows = {"u": a.u, "delta": a.delta, "z": a.z, "out": out}
    values: dict[str, Any] = {
        **rows,
        "D": a.D,
        "bias": a.delta_bias,
        "path": a.path,
        "segment_starts": a.segment_starts,
        **tensors,
    }
    for name, tensor in rows.items():
        values[f"{name}_batch"], values[f"{name}_row"] = strides(tensor)
    part = part_length(length, config.parts)
    values |= {"length": length, "channels": channels, "parts": config.parts, "part": part}
    kernel[(-(-channels // config.channels), batch, parts)](
        *(values[name] for name in kernel.arg_names if name in values),
        N=states, NB=pad_states(states), E=config.channels, SOFTPLUS=a.delta_softplus, num_warps=config.warps,
        **constants,
    )  # fmt: skip


def _carry_states(
    a: SelectiveScanArguments,
    config: TritonScanLaunchConfig,
    out: Tensor,
    inputs: Mapping[str, Tensor | None],
    *,
    back: bool,
) -> dict[str, Tensor | None]:
    """The end state (or adjoint) of each part from zero, [B, parts, N, E], and its sum of step sizes."""
    if config.parts == 1:
        return {"ends": None, "sums": None}
    batch, _, channels, states = a.sizes
    ends = _empty(a, batch, config.parts, states, channels)
    sums = _empty(a, batch, config.parts, channels)
    tensors = {**inputs, "ends": ends, "sums": sums}
    _launch(carry_states_kernel, a, config, config.parts - 1, out, tensors, T=AHEAD, BACK=int(back))
    return {"ends": ends, "sums": sums}


def run_triton_forward(a: SelectiveScanArguments, *, save: bool) -> tuple[Tensor, Tensor]:
    """The output [B, L, E] and, with `save`, the state before every SAVE-th step [B, L / SAVE, N, E] (else empty)."""
    batch, length, channels, states = a.sizes
    config = _config_for(a)
    out = torch.empty_like(a.u, memory_format=torch.contiguous_format)
    saved = _empty(a, *((batch, -(-length // SAVE), states, channels) if save else (0,)))
    with use_gpu(a.u.device):
        inputs: dict[str, Tensor | None] = {"A": a.A.t().contiguous(), "staged": _stage_projections(a)}
        carried = _carry_states(a, config, out, inputs, back=False)
        initial = None if a.initial is None else a.initial.mT.contiguous()
        tensors = {**inputs, **carried, "initial": initial, "saved": saved if save else None}
        _launch(scan_outputs_kernel, a, config, config.parts, out, tensors, T=AHEAD, SAVE=SAVE)
    return out, saved


def run_triton_backward(a: SelectiveScanArguments, grad: Tensor, saved: Tensor) -> ScanGradients:
    """Gradients of the arguments from that of the output; `BC` is float32."""
    config, states = _config_for(a), a.A.shape[1]
    grads = _empty_gradients(a, config)
    blocks, batch = -(-a.u.shape[2] // config.channels), a.u.shape[0]
    shape = (blocks * batch * config.parts, SAVE // AHEAD_BACKWARD, pad_states(states), config.channels)
    with use_gpu(a.u.device):
        inputs: dict[str, Tensor | None] = {"A": a.A.t().contiguous(), "staged": _stage_projections(a)}
        carried = _carry_states(a, config, grad, inputs, back=True)
        tensors = {**inputs, **carried, **grads, "saved": saved, "scratch": _empty(a, *shape)}
        _launch(scan_gradients_kernel, a, config, config.parts, grad, tensors, T=AHEAD_BACKWARD, SAVE=SAVE)
    return _summed(grads, states)


def _empty_gradients(a: SelectiveScanArguments, config: TritonScanLaunchConfig) -> dict[str, Tensor | None]:
    """Memory for the gradients, by the kernel's parameter names; those of A, D and bias have one slice per part."""
    batch, length, channels, states = a.sizes
    blocks = -(-channels // config.channels)
    rows = {"grad_u": a.u, "grad_delta": a.delta, "grad_z": a.z}
    grads = {
        name: None if tensor is None else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for name, tensor in rows.items()
    }
    return grads | {
        "grad_pairs": _empty(a, blocks, batch, length, 2, pad_states(states)),
        "grad_A": _empty(a, batch, config.parts, states, channels),
        "grad_D": _empty(a, batch, config.parts, channels),
        "grad_bias": _empty(a, batch, config.parts, channels),
        "grad_initial": None if a.initial is None else _empty(a, batch, states, channels),
    }


def _summed(grads: Mapping[str, Tensor | None], states: int) -> ScanGradients:
    """The gradients of the arguments, summed over parts and blocks of channels."""
    made = {name: grad for name, grad in grads.items() if grad is not None}
    initial = made.get("grad_initial")
    return ScanGradients(
        made["grad_u"],
        made["grad_delta"],
        made["grad_A"].sum((0, 1)).t().contiguous(),
        made["grad_pairs"].sum(0)[..., :states],
        made["grad_D"].sum((0, 1)),
        made.get("grad_z"),
        made["grad_bias"].sum((0, 1)),
        None if initial is None else initial.mT.contiguous(),
    )
