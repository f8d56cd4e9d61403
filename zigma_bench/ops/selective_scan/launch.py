"""Launches of scan.cu and scan_backward.cu, which read and write rows through the path on an NVIDIA GPU.

Only the state before every 64th step is saved; the backward pass recomputes the others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.cuda.program import (
    CudaKernel,
    Setting,
    StructLayout,
    get_shared_bytes_limit,
    is_readable_by,
    load_kernel,
)
from zigma_bench.ops.selective_scan import SelectiveScanArguments

FORWARD, BACKWARD = (Path(__file__).with_name(name) for name in ("scan.cu", "scan_backward.cu"))
SAVE = 64  # steps between saved states; parts of a path are multiples of it
OUTPUTS, END_STATES, ADJOINTS = range(3)
SETTINGS = ("IO", "BC", "VECTOR", "VECTOR_BC", "GATED", "SOFTPLUS", "SEGMENTS")  # settings of both sources
SCAN, SCAN_BACKWARD = StructLayout(7, 9, 6), StructLayout(10, 13, 6)  # `Scan` and `ScanBackward` of the sources
SHAPES = {1: (128, 5), 2: (64, 4), 4: (64, 3), 8: (32, 2)}  # channels and resident blocks, by lanes per channel


@dataclass(frozen=True)
class ScanLaunchConfig:
    """How a forward pass is distributed: lanes per channel, channels per block, resident blocks, parts of the path."""

    lanes: int
    channels: int
    blocks: int
    parts: int


def _empty(a: SelectiveScanArguments, *shape: int) -> Tensor:
    """An empty float32 tensor on the device of u."""
    return torch.empty(*shape, dtype=torch.float32, device=a.u.device)


def _settings(
    a: SelectiveScanArguments, *written: Tensor | None
) -> tuple[torch.dtype, torch.dtype, bool, bool, bool, bool, bool]:
    """The values of SETTINGS; `written`: the other rows that the kernel accesses."""
    return (
        a.u.dtype,
        a.B.dtype,
        is_readable_by(16, a.u, a.delta, a.z, *written),
        a.A.shape[2] % 16 == 0 and is_readable_by(16, a.B, a.C),
        a.z is not None,
        a.delta_softplus,
        a.segment_starts is not None,
    )


def part_length(length: int, parts: int) -> int:
    """Steps per part, a multiple of SAVE."""
    return max(SAVE, -(-length // (parts * SAVE)) * SAVE)


def whole_parts(length: int, parts: int) -> int:
    """The number of non-empty parts when a path is cut into `parts` of equal length."""
    return -(-length // part_length(length, parts))


def pad_states(states: int) -> int:
    """The next power of two."""
    return 1 << (states - 1).bit_length()


@functools.cache
def choose_launch_config(batch: int, length: int, channels: int, states: int, processors: int) -> ScanLaunchConfig:
    """A config that fills the GPU: one lane per channel if there are enough channels, else two, else parts of the path.

    The bounds were tuned on an H100 (132 multiprocessors), with 16,384 tokens and 1,536 channels of 16 states.
    """
    least, most = max(1, pad_states(states) // 16), min(8, pad_states(states))
    warps = batch * channels / 32  # with one lane per channel
    if warps * least >= 16 * processors:
        return ScanLaunchConfig(least, *SHAPES[least], 1)
    if warps * 2 >= 10 * processors and least <= 2 <= most:
        return ScanLaunchConfig(2, *SHAPES[2], 1)
    parts = whole_parts(length, max(1, round(12 * processors / (warps * least))))
    lanes = least
    while lanes < most and warps * lanes * parts < 6 * processors:  # the path is too short for so many parts
        lanes *= 2
    return ScanLaunchConfig(lanes, *SHAPES[lanes], parts)


def _launch_scan(
    a: SelectiveScanArguments,
    mode: int,
    config: ScanLaunchConfig,
    *,
    out: Tensor | None = None,
    grad: Tensor | None = None,
    saved: Tensor | None = None,
    ends: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """Launch scan.cu in one of its modes."""
    paths, batch, length, channels, states = a.sizes
    settings = _settings(a, out, grad)
    if mode == END_STATES:
        settings = (*settings[:4], False, *settings[5:])  # no gate
    kernel = _scan_kernel(a.u.get_device(), mode, config, pad_states(states), settings)
    call = SCAN.pack(
        (a.u, a.delta, a.z, a.B, a.C, out, grad),
        (a.A, a.D, a.delta_bias, a.path, a.segment_starts, a.initial, saved, ends, sums),
        (batch, length, channels, states, config.parts, part_length(length, config.parts)),
    )
    parts = config.parts if mode == OUTPUTS else config.parts - 1  # nothing follows the last part
    grid = (-(-channels // config.channels), paths * batch, parts)
    kernel.launch(grid, (config.channels * config.lanes, 1, 1), call)


@functools.cache
def _scan_kernel(
    index: int, mode: int, config: ScanLaunchConfig, states: int, settings: tuple[Setting, ...]
) -> CudaKernel:
    return load_kernel(
        FORWARD, "scan", index, MODE=mode, S=states // config.lanes, G=config.lanes, CHANNELS=config.channels,
        BLOCKS=config.blocks, **dict(zip(SETTINGS, settings, strict=True)),
    )  # fmt: skip


def run_forward_kernels(
    a: SelectiveScanArguments, *, save: bool, config: ScanLaunchConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs [K, B, L, E] and, with `save`, states before every SAVE-th step [K, B, L / SAVE, E, N] (else empty).

    The arguments have a leading dimension K: u, delta, z [K, B, L, E] of one dtype and B, C [K, B, L, N] of one, with
    adjacent numbers; A, D, delta_bias and initial in float32. Those and the orders are contiguous.
    """
    paths, batch, length, channels, states = a.sizes
    if config is None:
        config = choose_launch_config(paths * batch, length, channels, states, _processors(a.u.get_device()))
    out = torch.empty_like(a.u, memory_format=torch.contiguous_format)
    saved = _empty(a, *((paths, batch, -(-length // SAVE), channels, states) if save else (0,)))
    ends = sums = None
    if config.parts > 1:
        ends, sums = _carry_states(a, END_STATES, config)
    _launch_scan(a, OUTPUTS, config, out=out, saved=saved if save else None, ends=ends, sums=sums)
    return out, saved


def _carry_states(
    a: SelectiveScanArguments, mode: int, config: ScanLaunchConfig, grad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The end state (or adjoint) of each part from zero, [K, B, parts, E, N], and its sum of step sizes."""
    paths, batch, _, channels, states = a.sizes
    ends = _empty(a, paths, batch, config.parts, channels, states)
    sums = _empty(a, paths, batch, config.parts, channels)
    _launch_scan(a, mode, config, grad=grad, ends=ends, sums=sums)
    return ends, sums


@dataclass(frozen=True)
class ScanBackwardLaunchConfig:
    """How the backward pass is distributed: warps per block, resident blocks, parts of the path, the pass before it."""

    warps: int
    blocks: int
    parts: int
    first: ScanLaunchConfig

    def groups(self, states: int) -> int:
        """The number of warps that share 8 channels, with 16 states each."""
        return max(1, pad_states(states) // 16)

    def states_per_lane(self, states: int) -> int:
        return 1 if states <= 8 else 2

    def channels_per_block(self, states: int) -> int:
        return 8 * self.warps // self.groups(states)

    def padded_states(self, states: int) -> int:
        """States of grad_BC."""
        return 8 * self.states_per_lane(states) * self.groups(states)


def backward_shared_bytes(warps: int, states: int, bytes_each: int) -> int:
    """The size of `Shared` in scan_backward.cu, with a gate, and B and C in the rows' dtype."""
    groups, size = max(1, pad_states(states) // 16), 1 if states <= 8 else 2
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
def choose_backward_launch_config(
    batch: int, length: int, channels: int, states: int, processors: int, bytes_each: int, shared: int
) -> ScanBackwardLaunchConfig:
    """A config that fills the GPU with one block per multiprocessor, tuned like `choose_launch_config`.

    `shared`: the bytes of shared memory that a block may have; NotReady if the smallest block needs more.
    """
    groups = max(1, pad_states(states) // 16)
    wanted = min(12, -(-channels // 8)) if groups == 1 else 8
    fitting = [
        warps
        for warps in range(groups, wanted + 1, groups)
        if backward_shared_bytes(warps, states, bytes_each) <= shared
    ]
    if not fitting:
        raise NotReady(
            "the backward pass of the backend 'fused' needs more shared memory than this GPU has",
            where="selective_scan",
            expected=f"{backward_shared_bytes(groups, states, bytes_each)} bytes per block",
            got=shared,
            do="choose the backend 'torch'",
        )
    warps = fitting[-1]
    blocks = -(-channels // (8 * warps // groups)) * batch
    parts = whole_parts(length, max(1, processors // blocks))
    lanes, most = max(1, pad_states(states) // 16), min(8, pad_states(states))
    while lanes < most and batch * channels / 32 * (parts - 1) * lanes < 10 * processors:
        lanes *= 2
    first = ScanLaunchConfig(lanes, *SHAPES[lanes], parts)
    return ScanBackwardLaunchConfig(warps, 1, parts, first)


@dataclass(frozen=True)
class ScanGradients:
    """The gradients, shaped like the arguments (B and C: [K, B, L, 2, N]); rows in u's dtype, the others float32."""

    u: Tensor
    delta: Tensor
    A: Tensor
    BC: Tensor
    D: Tensor
    z: Tensor | None
    bias: Tensor
    initial: Tensor | None = None


def run_backward_kernels(
    a: SelectiveScanArguments,
    grad: Tensor,
    saved: Tensor,
    *,
    grad_z: Tensor | None = None,
    grad_delta: Tensor | None = None,
    y: Tensor | None = None,
    config: ScanBackwardLaunchConfig | None = None,
) -> ScanGradients:
    """Gradients of the arguments, from the gradient of the output.

    The gradients of z and delta are written to `grad_z` and `grad_delta`, if those exist. With `y`, the output is
    recomputed and written there. A row is written after it is read, so grad_delta may be delta, and y may be grad.
    """
    if config is None:
        config = _backward_config_for(a)
    grad_u = torch.empty_like(a.u, memory_format=torch.contiguous_format)
    grad_delta = torch.empty_like(grad_u) if grad_delta is None else grad_delta
    if a.z is not None and grad_z is None:
        grad_z = torch.empty_like(grad_u)
    sums = _empty_gradient_sums(a, config)
    _launch_backward(a, grad, saved, config, (grad_u, grad_delta, grad_z, y), sums)
    grad_BC, grad_A, grad_D, grad_bias, grad_initial = sums
    assert grad_BC is not None and grad_A is not None and grad_D is not None and grad_bias is not None
    return ScanGradients(
        grad_u,
        grad_delta,
        grad_A.sum((1, 2)),
        grad_BC.sum(0)[..., : a.A.shape[2]],
        grad_D.sum((1, 2)),
        grad_z,
        grad_bias.sum((1, 2)),
        grad_initial,
    )


def _backward_config_for(a: SelectiveScanArguments) -> ScanBackwardLaunchConfig:
    paths, batch, length, channels, states = a.sizes
    index, bytes_each = a.u.get_device(), max(a.u.element_size(), a.B.element_size())
    shared = get_shared_bytes_limit(index)
    return choose_backward_launch_config(
        paths * batch, length, channels, states, _processors(index), bytes_each, shared
    )


def _empty_gradient_sums(a: SelectiveScanArguments, config: ScanBackwardLaunchConfig) -> tuple[Tensor | None, ...]:
    """grad_BC of each block of channels, grad_A, grad_D and grad_bias of each part, and grad_initial."""
    paths, batch, length, channels, states = a.sizes
    blocks = -(-channels // config.channels_per_block(states))
    grad_BC = _empty(a, blocks, paths, batch, length, 2, config.padded_states(states))
    grad_A = _empty(a, paths, batch, config.parts, channels, states)
    grad_D, grad_bias = (_empty(a, paths, batch, config.parts, channels) for _ in range(2))
    return grad_BC, grad_A, grad_D, grad_bias, None if a.initial is None else torch.empty_like(a.initial)


def _launch_backward(
    a: SelectiveScanArguments,
    grad: Tensor,
    saved: Tensor,
    config: ScanBackwardLaunchConfig,
    written: tuple[Tensor | None, ...],
    sums: tuple[Tensor | None, ...],
) -> None:
    """Launch scan_backward.cu; `written`: grad_u, grad_delta, grad_z and y; `sums`: from `_empty_gradient_sums`."""
    paths, batch, length, channels, states = a.sizes
    adjoints = adjoint_sums = None
    if config.parts > 1:
        adjoints, adjoint_sums = _carry_states(a, ADJOINTS, config.first, grad)
    call = SCAN_BACKWARD.pack(
        (a.u, a.delta, a.z, a.B, a.C, grad, *written),
        (a.A, a.D, a.delta_bias, a.path, a.segment_starts, saved, adjoints, adjoint_sums, *sums),
        (batch, length, channels, states, config.parts, part_length(length, config.parts)),
    )
    settings = _settings(a, grad, *written)
    kernel = _backward_kernel(a.u.get_device(), states, config, written[-1] is not None, settings)
    grid = (-(-channels // config.channels_per_block(states)), paths * batch, config.parts)
    kernel.launch(grid, (32 * config.warps, 1, 1), call)


@functools.cache
def _backward_kernel(
    index: int, states: int, config: ScanBackwardLaunchConfig, outputs: bool, settings: tuple[Setting, ...]
) -> CudaKernel:
    return load_kernel(
        BACKWARD, "scan_backward", index, S=config.states_per_lane(states), GROUPS=config.groups(states),
        WARPS=config.warps, BLOCKS=config.blocks, OUTPUTS=outputs, EXACT=settings[0] == torch.float32,
        **dict(zip(SETTINGS, settings, strict=True)),
    )  # fmt: skip


@functools.cache
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
