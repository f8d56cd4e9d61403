"""Which label an image is drawn under: by its index and the seed alone, whatever the count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABELS = 6  # a stream of its own; diffusion/noise.py has 3 and 5, training 1, 2 and 4


def label_of(seed: int, index: int, *, classes: int, chosen: Sequence[int] | None = None) -> int:
    """The label of an image: the chosen ones in turn, else every class once in each `classes` images, shuffled."""
    if chosen:
        return chosen[index % len(chosen)]
    turn, place = divmod(index, classes)
    return int(np.random.default_rng([seed, turn, LABELS]).permutation(classes)[place])
