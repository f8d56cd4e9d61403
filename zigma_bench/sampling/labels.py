"""Choose the label of each sample from the seed and its index alone, independent of the number of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELS = 6  # random stream of the labels; diffusion/noise.py uses 3 and 5, training 1, 2 and 4


def label_of(seed: int, index: int, *, classes: int, chosen: Sequence[int] | None = None) -> int:
    """The label of a sample: the `chosen` labels in turn, or all classes, shuffled again for every `classes`
    samples."""
    if chosen:
        return chosen[index % len(chosen)]
    turn, place = divmod(index, classes)
    return int(np.random.default_rng([seed, turn, LABELS]).permutation(classes)[place])
