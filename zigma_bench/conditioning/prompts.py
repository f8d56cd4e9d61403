"""The features of prompts, as a network was trained to read them: from what is kept of its captions, or encoded now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zigma_bench.conditioning.text_encoder import open_encoder
from zigma_bench.conditioning.text_features import CAPTIONS, DTYPE, open_kept
from zigma_bench.errors import NotReady
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.pretrained import text_encoders as encoders

Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


class Prompts:
    """Features of prompts by number, the empty text behind them: see `diffusion.guidance.Texts`."""

    def __init__(self, features: Tensor, mask: Tensor, *, masked: bool) -> None:
        self.tables = (features, mask) if masked else (features,)
        self.null = len(features) - 1

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]:
        return tuple(table[numbers] for table in self.tables)


def texts_of(text: TextFeatures, prompts: Sequence[str], device: str) -> Prompts:
    """The features of prompts for a network that was trained on those of `text`.

    Prompts that are captions of its data need no encoder. NotReady where others do and it is not here, or is another.
    """
    features, mask = _kept(text, prompts) or _encoded(text, prompts, device)
    rounded = torch.from_numpy(features.astype(DTYPE)).to(device).float()  # as captions are kept
    return Prompts(rounded, torch.from_numpy(mask).to(device), masked=text.mask)


def _kept(text: TextFeatures, prompts: Sequence[str]) -> Rows | None:
    """From the features of the data's captions, if they are kept here and every prompt is one of them."""
    if encoders.kept(text.folder) is None or (captions := _captions(text.folder)) is None:
        return None
    numbers = {caption: number for number, caption in enumerate(captions)}
    if any(prompt not in numbers for prompt in prompts):
        return None
    store = open_kept(captions, text)
    rows = [*(numbers[prompt] for prompt in prompts), len(captions)]
    return store.take("features", rows), store.take("mask", rows)


def _captions(folder: Path) -> list[str] | None:
    try:
        found: list[str] = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None


def _encoded(text: TextFeatures, prompts: Sequence[str], device: str) -> Rows:
    facts = encoders.describe(text.encoder, text.revision, text.cache)
    if facts.missing:
        missing = "; ".join(f"{item.what}: {item.do}" for item in facts.missing)
        raise NotReady(f"the encoder {text.encoder!r}, which reads prompts, is not here", do=missing)
    if facts.fingerprint != text.fingerprint:
        raise NotReady(
            f"the encoder {text.encoder!r} here is another than the network was trained with",
            expected=text.fingerprint, got=facts.fingerprint, do="bring back the one of that time",
        )  # fmt: skip
    encoder = open_encoder(text.encoder, text.revision, device)
    features, mask, cut = encoder([*prompts, ""], text.tokens)
    if cut:
        raise NotReady(
            f"{cut} of the prompts are longer than the texts that the network was trained on",
            expected=f"at most {text.tokens} tokens", do="shorten them",
        )  # fmt: skip
    return features, mask
