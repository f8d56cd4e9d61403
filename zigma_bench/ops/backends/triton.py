"""The backend `triton`: kernels in Triton for GPUs of any vendor that Triton compiles for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady
from zigma_bench.ops.backend import SINGLE, Backend, Implementation, refuse_many_states
from zigma_bench.ops.backends.gpu import find_capability_problem, find_gpu_problem
from zigma_bench.ops.backends.portable import CHUNKED_SSD, PORTABLE_NORMS

if TYPE_CHECKING:
    from torch import Tensor

    from zigma_bench.ops.causal_conv import CausalConvArguments
    from zigma_bench.ops.norms import ResidualNormArguments
    from zigma_bench.ops.selective_scan import SelectiveScanArguments

LEAST_CAPABILITY = (7, 0)  # the oldest NVIDIA GPUs that Triton supports
MOST_STATES = 64  # states per channel that fit in registers


def interprets_kernels() -> bool:
    """Whether Triton interprets its kernels on the CPU instead of compiling them (TRITON_INTERPRET)."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def find_triton_problem() -> NotReady | None:
    """Why Triton can't compile or launch kernels here."""
    if importlib.util.find_spec("triton") is None:
        return NotReady(
            "the backend 'triton' needs the package triton, which PyTorch's CUDA and ROCm builds install",
            expected="the module triton",
            do="pip install triton (the version that your PyTorch requires), or choose the backend 'torch'",
        )
    if interprets_kernels():
        return None
    if (problem := find_gpu_problem("triton", any_vendor=True) or find_launcher_problem()) is not None:
        return problem
    import torch

    return find_capability_problem("triton", LEAST_CAPABILITY) if torch.version.hip is None else None


def find_launcher_problem() -> NotReady | None:
    """Why Triton can't compile the C code that launches its kernels, which needs a C compiler and Python's headers."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is not None and header.exists():
        return None
    return NotReady(
        "the backend 'triton' needs a C compiler and Python's headers to launch kernels",
        expected=f"gcc or clang on the PATH (or the environment variable CC), and {header}",
        got=f"{compiler or 'no compiler'}, {'and the headers' if header.exists() else 'and no Python.h'}",
        do="install them (Debian: apt install gcc python3-dev), or choose the backend 'torch'",
    )


class TritonBackend(Backend):
    """The backend `triton`, which also runs on the CPU if Triton interprets its kernels."""

    def runs_on(self, device_type: str) -> bool:
        return super().runs_on(device_type) or interprets_kernels()


def _triton_selective_scan(arguments: SelectiveScanArguments) -> Tensor:
    from zigma_bench.ops.selective_scan.triton_scan import triton_selective_scan

    return triton_selective_scan(arguments)


def _triton_causal_conv(arguments: CausalConvArguments) -> Tensor:
    from zigma_bench.ops.causal_conv.triton_conv import triton_causal_conv

    return triton_causal_conv(arguments)


def _triton_residual_norm(arguments: ResidualNormArguments) -> tuple[Tensor, Tensor]:
    from zigma_bench.ops.norms.triton_norm import triton_residual_norm

    return triton_residual_norm(arguments)


def _refuse_states(arguments: SelectiveScanArguments) -> NotReady | None:
    return refuse_many_states("triton", MOST_STATES, arguments)


TRITON = TritonBackend(
    name="triton",
    device_types=("cuda",),
    dtypes=SINGLE,
    find_problem=find_triton_problem,
    place="a GPU",
    auto_rank=2,
    fuses_residual=True,
    operators={
        "selective_scan": Implementation(_triton_selective_scan, refuse=_refuse_states, reads_half_precision=True),
        "causal_conv": Implementation(_triton_causal_conv, reads_half_precision=True),
        "ssd": CHUNKED_SSD,
        "residual_norm": Implementation(_triton_residual_norm, reads_half_precision=True),
        **PORTABLE_NORMS,
    },
)
