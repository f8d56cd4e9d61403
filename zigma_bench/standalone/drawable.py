"""What images are drawn from: a network with its weights, imported or trained by a cell, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.guidance import Texts
from zigma_bench.models.official import open_model
from zigma_bench.models.official.card import Card, Condition
from zigma_bench.plan.space import LatentSpace


class Opener(Protocol):
    """Gives the network of x, t and its condition on a device, and the features of prompts by number, if there are."""

    def __call__(self, prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, Texts | None]: ...


@dataclass(frozen=True)
class Drawable:
    """`sha256`: of the weights. `shape`: [C, H, W], or [T, C, H, W] of a clip. `image`: whether that is a picture, or a
    clip of pictures.

    `train` and `sample`: the keys of a suite that the network has of itself; an order's are laid over those of
    `sample`. `of_dit`: it is told DiT's steps. `reads_prompts`: whether `open` takes prompts. `latents`: through which
    autoencoder what it draws becomes pictures, where that is known.
    """

    sha256: str
    shape: tuple[int, ...]
    image: bool
    space: Literal["pixels", "latents"]
    condition: Condition
    train: Mapping[str, Any]
    sample: Mapping[str, Any]
    open: Opener
    of_dit: bool = False
    learned_sigma: bool = False
    reads_prompts: bool = False
    latents: LatentSpace | None = None

    @property
    def clip(self) -> bool:
        """Whether it draws clips."""
        return len(self.shape) == 4


def imported(card: Card, folder: Path) -> Drawable:
    """An imported model."""

    def opened(prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, None]:
        return open_model(folder, backend=backend, device=device).requires_grad_(False), None

    return Drawable(
        sha256=card.model_sha256,
        shape=card.shape,
        image=card.image,
        space=card.space,
        condition=card.condition,
        train={"path": card.path, "prediction": card.prediction},
        sample={"solver": "ddpm"} if card.official == "dit" else {},
        open=opened,
        of_dit=card.official == "dit",
        learned_sigma=card.learned_sigma,
    )
