"""The text features of prompts: from the cached features of the training captions, or encoded now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zigma_bench.conditioning.text_encoder import open_encoder
from zigma_bench.conditioning.text_features import CAPTIONS, DTYPE, open_features
from zigma_bench.errors import NotReady
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.pretrained import text_encoders as encoders

Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


class Prompts:
    """Features of prompts by number; the last row is the empty text. Implements `diffusion.guidance.TextLookup`."""

    def __init__(self, features: Tensor, mask: Tensor, *, masked: bool) -> None:
        self.tables = (features, mask) if masked else (features,)
        self.null = len(features) - 1

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]:
        return tuple(table[numbers] for table in self.tables)


def encode_prompts(text: TextFeatures, prompts: Sequence[str], device: str) -> Prompts:
    """The features of prompts for a network that was trained with the text features `text`.

    Prompts that are captions of the training data need no encoder. Raises NotReady if other prompts need the encoder
    and it is missing or has changed, and for a prompt that is too long.
    """
    features, mask = _cached_features(text, prompts) or _encode_now(text, prompts, device)
    rounded = torch.from_numpy(features.astype(DTYPE)).to(device).float()  # the precision of cached captions
    return Prompts(rounded, torch.from_numpy(mask).to(device), masked=text.mask)


def _cached_features(text: TextFeatures, prompts: Sequence[str]) -> Rows | None:
    """The cached features of the prompts, or None unless every prompt is a cached caption."""
    if encoders.cached_features(text.folder) is None or (captions := _cached_captions(text.folder)) is None:
        return None
    numbers = {caption: number for number, caption in enumerate(captions)}
    if any(prompt not in numbers for prompt in prompts):
        return None
    store = open_features(captions, text)
    rows = [*(numbers[prompt] for prompt in prompts), len(captions)]
    return store.take("features", rows), store.take("mask", rows)


def _cached_captions(folder: Path) -> list[str] | None:
    try:
        found: list[str] = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None


def _encode_now(text: TextFeatures, prompts: Sequence[str], device: str) -> Rows:
    facts = encoders.describe_encoder(text.encoder, text.revision, text.cache)
    if facts.missing:
        missing = "; ".join(f"{item.what}: {item.do}" for item in facts.missing)
        raise NotReady(f"the encoder {text.encoder!r} of the prompts is missing", do=missing)
    if facts.fingerprint != text.fingerprint:
        raise NotReady(
            f"the encoder {text.encoder!r} differs from the one that the network was trained with",
            expected=text.fingerprint, got=facts.fingerprint, do="restore that encoder",
        )  # fmt: skip
    encoder = open_encoder(text.encoder, text.revision, device)
    features, mask, cut = encoder([*prompts, ""], text.tokens)
    if cut:
        raise NotReady(
            f"{cut} of the prompts are too long for the network",
            expected=f"at most {text.tokens} tokens", do="shorten them",
        )  # fmt: skip
    return features, mask
