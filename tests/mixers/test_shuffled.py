"""Only the order depends on the position of a token: an order on shuffled patches trains as that order composed with
the permutation does on whole images.

Patch i of a shuffled image is patch s(i) of the whole one. An order that visits the places P[0], P[1], ... of the
shuffled image visits the patches s(P[0]), s(P[1]), ...: what the composed order s o P visits in the whole image. All
else in ZigMa is done to each token alone, so the two networks compute the same numbers, summed in another order where a
gradient or the loss is a sum over tokens. That is float32 rounding, 6e-8 a sum; Adam, which divides a small gradient by
its own size, may enlarge it. Noise lies on the image like its pixels do, and is shuffled with it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.data.sources import digits
from zigma_bench.data.sources.options import DigitsOptions
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.data.transforms.built_in import ShufflePatches, permutation_of, shuffle_patches
from zigma_bench.layers.init import initialise_network
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.suite import Train
from zigma_bench.training.health import Health
from zigma_bench.training.step import TrainStep, draw_batch

PATCH, DEPTH, STEPS, SEED, CPU = 2, 4, 25, 3, torch.device("cpu")
GRID = Grid.of_image(8, 8, PATCH)
SHUFFLE = ShufflePatches(PATCH, seed=5)
PERMUTATION = permutation_of(SHUFFLE, height=8, width=8)
RECIPE = Train(batch=16, learning_rate=3e-3, ema=0.9, precision="fp32")
WHOLE = digits.load(DigitsOptions())
SHUFFLED = apply_transforms(WHOLE, [functools.partial(shuffle_patches, SHUFFLE)])
TOLERANCE = 5e-6  # of the loss, some tens of roundings; another order is off by a thousand times that and more


def orders(name, **options):
    return layer_routes(catalogue().get("scan", name), grid=GRID, depth=DEPTH, seed=SEED, options=options)


def composed(found, permutation):
    return tuple(dataclasses.replace(route, paths=permutation[route.paths]) for route in found)


def curve(images, found, positions, *, shuffled_noise=False):
    """The loss of every step."""
    options = ZigmaOptions(width=32, depth=DEPTH, patch=PATCH, positions=positions, drop_path=0.0)
    network = Zigma(options, grid=GRID, channels=1, routes=found, backend="torch")
    initialise_network(network, SEED)
    descent = TrainStep(network, copy.deepcopy(network), RECIPE, Health(CPU, scaled=False), CPU)
    losses = []
    for step in range(STEPS):
        batch = draw_batch(images, RECIPE, SEED, step, CPU)
        if shuffled_noise:
            batch = dataclasses.replace(batch, x0=torch.from_numpy(shuffle_patches(SHUFFLE, batch.x0.numpy())))
        losses.append(float(descent(batch, RECIPE.learning_rate, RECIPE.ema)))
    return np.array(losses)


def apart(one, other):
    return float(np.max(np.abs(one - other) / one))


@pytest.mark.parametrize("positions", ["none", "learned"])  # learned ones start at zero, each the token's own
@pytest.mark.parametrize(("name", "options"), [("zigzag", {"paths": 8}), ("bidirectional", {"mode": "parallel"})])
def test_an_order_on_shuffled_patches_has_the_curve_of_the_composed_order(name, options, positions):
    order = orders(name, **options)
    on_shuffled = curve(SHUFFLED.train, order, positions, shuffled_noise=True)
    assert on_shuffled[-1] < 0.9 * on_shuffled[0]  # it learns
    assert apart(on_shuffled, curve(WHOLE.train, composed(order, PERMUTATION), positions)) < TOLERANCE


def test_another_order_has_another_curve():
    order = orders("zigzag", paths=8)
    on_shuffled = curve(SHUFFLED.train, order, "learned", shuffled_noise=True)
    for other in (order, composed(order, np.argsort(PERMUTATION))):  # not composed, or with the inverse
        assert apart(on_shuffled, curve(WHOLE.train, other, "learned")) > 1000 * TOLERANCE


def test_fixed_positions_tell_the_places_apart():
    order = orders("zigzag", paths=8)
    on_shuffled = curve(SHUFFLED.train, order, "sincos", shuffled_noise=True)
    assert apart(on_shuffled, curve(WHOLE.train, composed(order, PERMUTATION), "sincos")) > 1000 * TOLERANCE
