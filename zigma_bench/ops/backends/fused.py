"""The backend `fused`: kernels in CUDA C++ for NVIDIA GPUs, compiled by NVRTC at first use."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady
from zigma_bench.ops.backend import SINGLE, Backend, Implementation, SavedMemory, refuse_many_states
from zigma_bench.ops.backends.gpu import find_capability_problem, find_gpu_problem
from zigma_bench.ops.backends.portable import CHUNKED_SSD, PORTABLE_NORMS

if TYPE_CHECKING:
    from torch import Tensor

    from zigma_bench.ops.causal_conv import CausalConvArguments
    from zigma_bench.ops.mamba_inner import MambaInnerArguments
    from zigma_bench.ops.selective_scan import SelectiveScanArguments

LEAST_CAPABILITY = (8, 0)  # asynchronous copies to shared memory, tf32 products
MOST_STATES = 64  # states per channel that fit in registers


def find_fused_problem() -> NotReady | None:
    """Why the kernels can't be compiled or run here."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return NotReady(
            "the backend 'fused' needs cuda-bindings, which PyTorch's CUDA builds install",
            expected="the module cuda.bindings",
            do="pip install cuda-bindings (of your CUDA's major version), or choose the backend 'torch'",
        )
    return find_gpu_problem("fused") or find_capability_problem("fused", LEAST_CAPABILITY)


def _fused_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.fused import fused_selective_scan

    return fused_selective_scan(arguments)


def _fused_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.fused import fused_causal_conv

    return fused_causal_conv(arguments)


def _fused_mamba_inner(arguments: MambaInnerArguments) -> Tensor:
    from zigma_bench.ops.mamba_inner import fused_mamba_inner

    return fused_mamba_inner(arguments)


def _refuse_states(arguments: SelectiveScanArguments) -> NotReady | None:
    return refuse_many_states("fused", MOST_STATES, arguments)


FUSED = Backend(
    name="fused",
    device_types=("cuda",),
    dtypes=SINGLE,
    find_problem=find_fused_problem,
    place="an NVIDIA GPU",
    auto_rank=1,
    fuses_residual=True,
    operators={
        "selective_scan": Implementation(
            _fused_selective_scan, refuse=_refuse_states, several_paths=True, reads_half_precision=True
        ),
        "causal_conv": Implementation(_fused_causal_conv, several_paths=True, reads_half_precision=True),
        "mamba_inner": Implementation(
            _fused_mamba_inner, refuse=_refuse_states, several_paths=True, reads_half_precision=True
        ),
        "ssd": CHUNKED_SSD,
        **PORTABLE_NORMS,
    },
    memory=SavedMemory(steps_per_state=64, recomputes_mixer=True, norm_is_one_kernel=True),
)
