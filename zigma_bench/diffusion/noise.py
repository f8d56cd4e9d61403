"""Gaussian noise of each image, drawn on the CPU from (seed, image index) alone.

Samples are therefore the same for any batch size or device and after a restart. The same holds for the noise that an
SDE or DDPM adds at each step: each image has its own stream, which is read one step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

FIRST, STEPS = 3, 5  # streams of an image; training uses 1, 2 and 4


def image_noise(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """The initial noise of an image."""
    return torch.randn(shape, generator=_generator(seed, index, FIRST))


class StepNoise:
    """The noise of each step for a batch of images: call it with 0, 1, 2, ... to get [B, C, H, W] on the device.

    The noise is copied from pinned memory, so drawing doesn't wait for the device. All threads draw, one image each.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: tuple[int, ...], device: str) -> None:
        self.seed, self.indices, self.shape, self.device = seed, indices, shape, device
        self.generators: list[torch.Generator] = []
        self.next = 0
        self.threads = torch.get_num_threads()

    def __call__(self, step: int) -> Tensor:
        assert step == self.next, (step, self.next)  # a stream can't be rewound
        if step == 0:  # not in __init__, because an ODE solver draws no noise
            self.generators = [_generator(self.seed, index, STEPS) for index in self.indices]
        self.next += 1
        on_gpu = torch.device(self.device).type == "cuda"
        noise = torch.empty(len(self.indices), *self.shape, pin_memory=on_gpu)
        if self.threads == 1:
            self._fill(noise, 0)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(lambda part: self._fill(noise, part), range(self.threads)))
        return noise.to(self.device, non_blocking=on_gpu)

    def _fill(self, noise: Tensor, part: int) -> None:
        """Draw the noise of every `threads`-th image, starting at `part`."""
        for row, generator in zip(noise[part :: self.threads], self.generators[part :: self.threads], strict=True):
            row.normal_(generator=generator)


def _generator(seed: int, index: int, stream: int) -> torch.Generator:
    value = int(np.random.SeedSequence([seed, index, stream]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(value)
