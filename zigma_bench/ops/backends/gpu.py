"""Requirements of GPU backends: a GPU that PyTorch can use, with a sufficient compute capability."""

from __future__ import annotations

from zigma_bench.errors import NotReady
from zigma_bench.system.device import gpu_names, nvidia_gpus


def find_gpu_problem(backend: str, *, any_vendor: bool = False) -> NotReady | None:
    """Why PyTorch can't use an NVIDIA GPU here (or, with `any_vendor`, any GPU); None if it can."""
    found = gpu_names() if any_vendor else nvidia_gpus()
    if found:
        import torch

        if torch.cuda.is_available():
            return None
        found = (*found, f"torch {torch.__version__}, which doesn't see it")
    return NotReady(
        f"the backend {backend!r} needs {'a' if any_vendor else 'an NVIDIA'} GPU that PyTorch can use",
        got=", ".join(found) or "no GPU",
        do="run on a machine with one (check nvidia-smi and torch.cuda.is_available()), or choose the backend 'auto'",
    )


def find_capability_problem(backend: str, least: tuple[int, int]) -> NotReady | None:
    """Why the GPU is too old for the backend's kernels; None if it isn't."""
    import torch

    found = torch.cuda.get_device_capability()
    if found >= least:
        return None
    return NotReady(
        f"the backend {backend!r} doesn't support this GPU",
        expected=f"compute capability {least[0]}.{least[1]} or later",
        got=f"{torch.cuda.get_device_name()}: {found[0]}.{found[1]}",
        do="choose the backend 'torch'",
    )
