"""What the backends of a GPU ask of the machine: a card that PyTorch can use, of a recent compute capability."""

from __future__ import annotations

from zigma_bench.errors import NotReady
from zigma_bench.system.device import card_names, nvidia_cards


def find_card_problem(backend: str, *, any_vendor: bool = False) -> NotReady | None:
    """Why PyTorch can't use a GPU here: an NVIDIA GPU, or one of any vendor."""
    found = card_names() if any_vendor else nvidia_cards()
    if found:
        import torch

        if torch.cuda.is_available():
            return None
        found = (*found, f"torch {torch.__version__}, which sees none")
    return NotReady(
        f"the backend {backend!r} needs {'a' if any_vendor else 'an NVIDIA'} card that PyTorch can use",
        got=", ".join(found) or "no card",
        do="run where there is one (check with nvidia-smi and torch.cuda.is_available()), or choose the backend 'auto'",
    )


def find_capability_problem(backend: str, least: tuple[int, int]) -> NotReady | None:
    """Why the card is too old for the backend's kernels."""
    import torch

    found = torch.cuda.get_device_capability()
    if found >= least:
        return None
    return NotReady(
        f"the backend {backend!r} doesn't run on this card",
        expected=f"compute capability {least[0]}.{least[1]} or later",
        got=f"{torch.cuda.get_device_name()}: {found[0]}.{found[1]}",
        do="choose the backend 'torch'",
    )
