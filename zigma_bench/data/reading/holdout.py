"""Cuts a set of images in two by one fixed permutation, the same on every machine and for every seed."""

from __future__ import annotations

import numpy as np

from zigma_bench.data.images import Images, Splits, Subset
from zigma_bench.errors import UsageError

PERMUTATION_SEED = 20240531  # part of the protocol: another number is another split


def hold_out(images: Images, validation: int, *, where: str) -> Splits:
    """`validation` of the images apart (in the permutation's order) from all the others (in their own order)."""
    if not 1 <= validation < len(images):
        raise UsageError(
            f"validation leaves no image on one side of {len(images)}",
            where=where,
            expected=f"1 to {len(images) - 1}",
            got=validation,
        )
    # RandomState's stream is frozen for good (NEP 19); that of default_rng may change with NumPy
    order = np.random.RandomState(PERMUTATION_SEED).permutation(len(images)).astype(np.int64)
    return Splits(train=Subset(images, np.sort(order[validation:])), validation=Subset(images, order[:validation]))
