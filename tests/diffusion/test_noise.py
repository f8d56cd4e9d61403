"""The noise of steps depends on the image only, not on the batch."""

from __future__ import annotations

import pytest
import torch

from zigma_bench.diffusion.noise import StepNoise, image_noise

SHAPE = (3, 4, 4)


def steps(indices, count=3, seed=0):
    noise = StepNoise(seed, indices, SHAPE, "cpu")
    return torch.stack([noise(step) for step in range(count)])


def test_it_is_the_same_alone_and_in_any_company():
    whole = steps(range(10))
    assert torch.equal(steps([7])[:, 0], whole[:, 7])
    assert torch.equal(steps(range(4, 10)), whole[:, 4:])


def test_the_number_of_threads_changes_nothing():
    whole = steps(range(7))
    for threads in (1, 2, 5, 16):
        noise = StepNoise(0, range(7), SHAPE, "cpu")
        noise.threads = threads
        assert torch.equal(torch.stack([noise(step) for step in range(3)]), whole)


def test_images_steps_seeds_and_starts_differ():
    drawn = torch.cat([steps(range(5)).flatten(0, 1), steps(range(5), seed=1).flatten(0, 1),
                       torch.stack([image_noise(0, i, SHAPE) for i in range(5)])])  # fmt: skip
    distances = torch.cdist(drawn.flatten(1), drawn.flatten(1)) + 99 * torch.eye(len(drawn))
    assert distances.min() > 1


def test_it_is_normal():
    drawn = steps(range(200), 10)
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    by_step = drawn.flatten(1)
    assert torch.corrcoef(by_step).fill_diagonal_(0).abs().max() < 0.05


def test_steps_come_in_order():
    noise = StepNoise(0, [0], SHAPE, "cpu")
    noise(0)
    with pytest.raises(AssertionError):
        noise(2)
