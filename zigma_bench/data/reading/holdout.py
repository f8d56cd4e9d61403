"""Hold out images by a fixed permutation, the same on every machine and for every seed."""

from __future__ import annotations

import numpy as np

from zigma_bench.data.images import Images, Splits, Subset
from zigma_bench.errors import UsageError

PERMUTATION_SEED = 20240531  # part of the protocol: another seed gives another split


def hold_out(images: Images, validation: int, *, where: str) -> Splits:
    """Hold out `validation` images (in the order of the permutation); the others, in their own order, are for training.

    Raises UsageError if one side would be empty.
    """
    if not 1 <= validation < len(images):
        raise UsageError(
            f"validation must leave training and held-out images; there are {len(images)} images",
            where=where,
            expected=f"1 to {len(images) - 1}",
            got=validation,
        )
    # the stream of RandomState is frozen (NEP 19); that of default_rng may change with NumPy
    order = np.random.RandomState(PERMUTATION_SEED).permutation(len(images)).astype(np.int64)
    return Splits(train=Subset(images, np.sort(order[validation:])), validation=Subset(images, order[:validation]))
