"""The backends `naive` and `torch`: PyTorch's own operators, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zigma_bench.ops.backend import SINGLE_OR_DOUBLE, Backend, Implementation, SavedMemory

if TYPE_CHECKING:
    from torch import Tensor

    from zigma_bench.ops.causal_conv import CausalConvArguments
    from zigma_bench.ops.norms import ModulatedNormArguments, ResidualNormArguments
    from zigma_bench.ops.selective_scan import SelectiveScanArguments
    from zigma_bench.ops.ssd import SsdArguments


def always_runs() -> None:
    """Return None: the portable backends run on every machine."""


def _naive_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.naive import naive_selective_scan

    return naive_selective_scan(arguments)


def _naive_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.naive import naive_causal_conv

    return naive_causal_conv(arguments)


def _naive_ssd(arguments: SsdArguments) -> Tensor:
    from zigma_bench.ops.ssd.naive import naive_ssd

    return naive_ssd(arguments)


def _torch_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.torch_blocks import torch_selective_scan

    return torch_selective_scan(arguments)


def _torch_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.torch_blocks import torch_causal_conv

    return torch_causal_conv(arguments)


def _chunked_ssd(arguments: SsdArguments) -> Tensor:
    """SSD by matrix products, which are fast on any device."""
    from zigma_bench.ops.ssd import chunks

    return chunks.chunked_ssd(arguments)


def _torch_modulated_norm(arguments: ModulatedNormArguments) -> tuple[Tensor, Tensor, Tensor]:
    """The modulated norm in PyTorch's operators."""
    from zigma_bench.ops.norms import in_torch

    return in_torch.torch_modulated_norm(arguments)


def _torch_residual_norm(arguments: ResidualNormArguments) -> tuple[Tensor, Tensor]:
    from zigma_bench.ops.norms.in_torch import torch_residual_norm

    return torch_residual_norm(arguments)


CHUNKED_SSD = Implementation(_chunked_ssd, dtypes=SINGLE_OR_DOUBLE)
PORTABLE_NORMS = {"modulated_norm": Implementation(_torch_modulated_norm)}

NAIVE = Backend(
    name="naive",
    device_types=("cpu", "cuda"),
    dtypes=SINGLE_OR_DOUBLE,
    find_problem=always_runs,
    loops_in_python=True,
    operators={
        "selective_scan": Implementation(_naive_selective_scan),
        "causal_conv": Implementation(_naive_causal_conv),
        "ssd": Implementation(_naive_ssd),
        **PORTABLE_NORMS,
    },
)
TORCH = Backend(
    name="torch",
    device_types=("cpu", "cuda"),
    dtypes=SINGLE_OR_DOUBLE,
    find_problem=always_runs,
    auto_rank=3,
    operators={
        "selective_scan": Implementation(_torch_selective_scan),
        "causal_conv": Implementation(_torch_causal_conv),
        "ssd": CHUNKED_SSD,
        "residual_norm": Implementation(_torch_residual_norm),
        **PORTABLE_NORMS,
    },
    memory=SavedMemory(steps_per_state=16, copies_half_precision=True, saves_rows_in_order=True),
)
