"""The backend `cpu`: C++ with SIMD, compiled by the machine's compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady
from zigma_bench.ops.backend import SINGLE, Backend, Implementation, SavedMemory
from zigma_bench.ops.backends.portable import CHUNKED_SSD
from zigma_bench.ops.compiler import require_compiler

if TYPE_CHECKING:
    from torch import Tensor

    from zigma_bench.ops.causal_conv import CausalConvArguments
    from zigma_bench.ops.norms import ModulatedNormArguments
    from zigma_bench.ops.selective_scan import SelectiveScanArguments


def find_compiler_problem() -> NotReady | None:
    """Why the machine can't compile C++."""
    try:
        require_compiler()
    except NotReady as error:
        return error
    return None


def _cpu_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.cpu import cpu_selective_scan

    return cpu_selective_scan(arguments)


def _cpu_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.cpu import cpu_causal_conv

    return cpu_causal_conv(arguments)


def _cpu_modulated_norm(arguments: ModulatedNormArguments) -> tuple[Tensor, Tensor, Tensor]:
    from zigma_bench.ops.norms.cpu import cpu_modulated_norm

    return cpu_modulated_norm(arguments)


CPU = Backend(
    name="cpu",
    device_types=("cpu",),
    dtypes=SINGLE,
    find_problem=find_compiler_problem,
    place="the CPU",
    auto_rank=1,
    fuses_modulation=True,
    operators={
        "selective_scan": Implementation(_cpu_selective_scan),
        "causal_conv": Implementation(_cpu_causal_conv),
        "ssd": CHUNKED_SSD,
        "modulated_norm": Implementation(_cpu_modulated_norm),
    },
    memory=SavedMemory(steps_per_state=8, copies_half_precision=True),
)
