"""The encoder `random-words`: every word is a fixed random vector, without meaning or order. It needs no files.

Smoke runs use it. In a suite it is the control that shows what a trained encoder adds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zigma_bench.pretrained.text_encoders import RANDOM_WORDS_VERSION, RANDOM_WORDS_WIDTH

WORD = re.compile(r"\w+|[^\w\s]")
START, PAD = "<start>", "<pad>"  # never a word of a text, because WORD splits off the brackets


class RandomWords:
    """Encodes a text as a start vector and the vectors of its words, padded. Implements `text_encoder.Encoder`."""

    width = RANDOM_WORDS_WIDTH

    def weights_sha256(self) -> str:
        """The sha256 of the name and version of this encoder, which has no weights."""
        return hashlib.sha256(f"random-words {RANDOM_WORDS_VERSION}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str], tokens: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
        features = np.empty((len(texts), tokens, self.width), dtype=np.float32)
        mask = np.zeros((len(texts), tokens), dtype=bool)
        cut = 0
        for row, text in enumerate(texts):
            words = [START, *WORD.findall(text.lower())]
            cut += len(words) > tokens
            mask[row, : len(words)] = True
            padded = (words + [PAD] * tokens)[:tokens]
            features[row] = [word_vector(word) for word in padded]
        return features, mask, cut


def word_vector(word: str) -> npt.NDArray[np.float32]:
    """Standard normal numbers [width] from a generator that is seeded with the word."""
    key = int.from_bytes(hashlib.sha256(word.encode()).digest()[:16], "little")
    draw = np.random.Generator(np.random.Philox(key=key))
    return draw.standard_normal(RANDOM_WORDS_WIDTH, dtype=np.float32)
