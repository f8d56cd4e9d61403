"""A network to sample from, imported or trained by a cell, with everything that a sampler needs to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from zigma_bench.backbones.official import open_model
from zigma_bench.backbones.official.card import Card, CardCondition
from zigma_bench.conditioning.prompts import encode_prompts
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.guidance import TextLookup
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.plan.space import LatentSpace
from zigma_bench.pretrained import text_encoders as encoders

CLIP_TOKENS = 77


class Opener(Protocol):
    """Loads the network `(x, t, *condition)` onto a device, with the features of the prompts if it has a text
    condition."""

    def __call__(
        self, prompts: tuple[str, ...] | None, device: str, backend: str
    ) -> tuple[Network, TextLookup | None]: ...


@dataclass(frozen=True)
class Drawable:
    """A network to sample from. `sha256`: hash of the weights. `shape`: [C, H, W], or [T, C, H, W] for a clip.

    `image`: whether a sample is a picture or a clip of pictures. `train` and `sample`: suite keys that come with the
    network; a request may override those of `sample`. `of_dit`: its time input is a step of DiT. `reads_prompts`:
    whether `open` accepts prompts. `latents`: the latent space and autoencoder of the samples, if known. `encoder`: the
    fingerprint of the text encoder of an imported model, whose weights don't determine it.
    """

    sha256: str
    shape: tuple[int, ...]
    image: bool
    space: Literal["pixels", "latents"]
    condition: CardCondition
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
        """Whether the samples are clips."""
        return len(self.shape) == 4


def open_imported(card: Card, folder: Path, encoder: str | None = None) -> Drawable:
    """An imported model. `encoder`: the text encoder for prompts, FOLDER or owner/name@COMMIT of the Hub."""
    text = None if encoder is None else _prompt_features(card, encoder)

    def opened(prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, TextLookup | None]:
        texts = None if text is None else encode_prompts(text, prompts or (), device)
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


def _prompt_features(card: Card, encoder: str) -> TextFeatures:
    """The text features of a model's prompts, padded to CLIP's 77 tokens and without a mask, as in ZigMa's code.

    UsageError if the model has no text condition or the encoder has a different width; NotReady if the encoder isn't
    installed.
    """
    if card.condition.kind != "text":
        raise UsageError(
            "the network has no text condition", where="--encoder", expected=str(card.condition), do="omit it"
        )
    name, at, commit = encoder.rpartition("@")
    folder = not at or Path(encoder).exists()
    name, revision = (encoder, None) if folder else (name, commit)
    facts = encoders.describe_encoder(name, revision)
    if facts.missing:
        missing = "; ".join(f"{item.what}: {item.do}" for item in facts.missing)
        raise NotReady("the text encoder is not installed", where="--encoder", do=missing)
    if facts.width not in (None, card.condition.text_width):
        raise UsageError(
            "the features of the encoder have the wrong width for the model", where="--encoder",
            expected=f"{card.condition.text_width} channels", got=facts.width,
            do="use the encoder that the model was trained with",
        )  # fmt: skip
    return TextFeatures(
        encoder=name, revision=revision, fingerprint=facts.fingerprint, images="", width=facts.width,
        tokens=min(facts.limit or CLIP_TOKENS, CLIP_TOKENS), mask=False, cache=None,
    )  # fmt: skip
