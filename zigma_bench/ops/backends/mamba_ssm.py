"""The backend `mamba-ssm`: the kernels of mamba-ssm and causal-conv1d, for comparisons. It has no SSD."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady
from zigma_bench.ops.backend import SINGLE, Backend, Implementation, refuse_initial_state, refuse_segments
from zigma_bench.ops.backends.gpu import find_gpu_problem
from zigma_bench.ops.backends.portable import PORTABLE_NORMS

if TYPE_CHECKING:
    from torch import Tensor

    from zigma_bench.ops.causal_conv import CausalConvArguments
    from zigma_bench.ops.selective_scan import SelectiveScanArguments

MODULES = ("selective_scan_cuda", "causal_conv1d", "causal_conv1d_cuda")
WIDTHS = (2, 3, 4)  # convolution widths that causal-conv1d supports


def find_mamba_ssm_problem() -> NotReady | None:
    """Why the libraries' kernels can't run here."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return NotReady(
            "the backend 'mamba-ssm' needs compiled modules that are not installed",
            expected=" and ".join(MODULES),
            got=f"no {' and no '.join(missing)}",
            do="MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation 'zigma-bench[mamba]' (this takes minutes; "
            "since mid-2026 mamba-ssm omits the CUDA scan without this variable), or choose the backend 'fused'",
        )
    return find_gpu_problem("mamba-ssm")


def _refuse_scan(arguments: SelectiveScanArguments) -> NotReady | None:
    return refuse_segments("mamba-ssm", arguments) or refuse_initial_state("mamba-ssm", arguments)


def _refuse_conv(arguments: CausalConvArguments) -> NotReady | None:
    width = arguments.weight.shape[-1]
    if width not in WIDTHS:
        return NotReady(
            "causal-conv1d has no kernel for this width",
            expected="2, 3 or 4",
            got=width,
            do="choose the backend 'fused'",
        )
    return refuse_segments("mamba-ssm", arguments)


def _mamba_ssm_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.mamba_ssm import mamba_ssm_selective_scan

    return mamba_ssm_selective_scan(arguments)


def _mamba_ssm_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.mamba_ssm import mamba_ssm_causal_conv

    return mamba_ssm_causal_conv(arguments)


MAMBA_SSM = Backend(
    name="mamba-ssm",
    device_types=("cuda",),
    dtypes=SINGLE,
    find_problem=find_mamba_ssm_problem,
    place="an NVIDIA GPU",
    reads_through_path=False,
    traceable=False,
    operators={
        "selective_scan": Implementation(_mamba_ssm_selective_scan, refuse=_refuse_scan, reads_half_precision=True),
        "causal_conv": Implementation(_mamba_ssm_causal_conv, refuse=_refuse_conv, reads_half_precision=True),
        **PORTABLE_NORMS,
    },
)
