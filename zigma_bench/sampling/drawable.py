"""What images are drawn from: a network with its weights, imported or trained by a cell, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from zigma_bench.backbones.official import open_model
from zigma_bench.backbones.official.card import Card, Condition
from zigma_bench.conditioning.prompts import texts_of
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.guidance import Texts
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.plan.space import LatentSpace
from zigma_bench.pretrained import text_encoders as encoders

CLIP_TOKENS = 77


class Opener(Protocol):
    """Gives the network of x, t and its condition on a device, and the features of prompts by number, if there are."""

    def __call__(self, prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, Texts | None]: ...


@dataclass(frozen=True)
class Drawable:
    """`sha256`: of the weights. `shape`: [C, H, W], or [T, C, H, W] of a clip. `image`: whether that is a picture, or a
    clip of pictures.

    `train` and `sample`: the keys of a suite that the network has of itself; an order's are laid over those of
    `sample`. `of_dit`: it is told DiT's steps. `reads_prompts`: whether `open` takes prompts. `latents`: through which
    autoencoder what it draws becomes pictures, where that is known. `encoder`: the fingerprint of that which reads
    the prompts of an imported model, whose weights do not say which.
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
    encoder: str | None = None

    @property
    def clip(self) -> bool:
        """Whether it draws clips."""
        return len(self.shape) == 4


def imported(card: Card, folder: Path, encoder: str | None = None) -> Drawable:
    """An imported model; with an `encoder`, FOLDER or owner/name@COMMIT of the Hub, one of texts reads prompts."""
    text = None if encoder is None else _text(card, encoder)

    def opened(prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, Texts | None]:
        texts = None if text is None else texts_of(text, prompts or (), device)
        return open_model(folder, backend=backend, device=device).requires_grad_(False), texts

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
        reads_prompts=text is not None,
        encoder=None if text is None else text.fingerprint,
    )


def _text(card: Card, encoder: str) -> TextFeatures:
    """How a model's prompts are read: padded to CLIP's 77 tokens, the padding too, as ZigMa's code does.

    UsageError for a model without texts, and for an encoder of another width; NotReady for one that is not here.
    """
    if card.condition.kind != "text":
        raise UsageError(
            "the network reads no text", where="--encoder", expected=str(card.condition), do="leave it out"
        )
    name, at, commit = encoder.rpartition("@")
    folder = not at or Path(encoder).exists()
    name, revision = (encoder, None) if folder else (name, commit)
    facts = encoders.describe(name, revision)
    if facts.missing:
        missing = "; ".join(f"{item.what}: {item.do}" for item in facts.missing)
        raise NotReady("the text encoder is not here", where="--encoder", do=missing)
    if facts.width not in (None, card.condition.text_width):
        raise UsageError(
            "the encoder's features have another width than the model reads", where="--encoder",
            expected=f"{card.condition.text_width} channels", got=facts.width, do="take the one it was trained with",
        )  # fmt: skip
    return TextFeatures(
        encoder=name, revision=revision, fingerprint=facts.fingerprint, images="", width=facts.width,
        tokens=min(facts.limit or CLIP_TOKENS, CLIP_TOKENS), mask=False, cache=None,
    )  # fmt: skip
