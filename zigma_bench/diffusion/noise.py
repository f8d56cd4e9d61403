"""Normal noise that belongs to one image: drawn from its cell's seed and its index alone, on the CPU.

So images are the same for any batch size, device or restart, and so is the noise that an SDE or DDPM stirs in: each
image has a stream of its own, read a step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

FIRST, STEPS = 3, 5  # streams of an image; training has 1, 2 and 4


def image_noise(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that an image starts from."""
    return torch.randn(shape, generator=_generator(seed, index, FIRST))


class StepNoise:
    """The noise of every step for some images: called with 0, 1, 2, ... it gives [B, C, H, W] on the device.

    The draws of a step need not wait for the device: from pinned memory they are copied while it still works. All
    threads draw, an image each.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: tuple[int, ...], device: str) -> None:
        self.seed, self.indices, self.shape, self.device = seed, indices, shape, device
        self.generators: list[torch.Generator] = []
        self.next = 0
        self.threads = torch.get_num_threads()

    def __call__(self, step: int) -> Tensor:
        assert step == self.next, (step, self.next)  # a stream has one direction
        if step == 0:  # not before: an ODE asks for none
            self.generators = [_generator(self.seed, index, STEPS) for index in self.indices]
        self.next += 1
        on_card = torch.device(self.device).type == "cuda"
        noise = torch.empty(len(self.indices), *self.shape, pin_memory=on_card)
        if self.threads == 1:
            self._fill(noise, 0)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(lambda part: self._fill(noise, part), range(self.threads)))
        return noise.to(self.device, non_blocking=on_card)

    def _fill(self, noise: Tensor, part: int) -> None:
        """Every `threads`-th image from `part` on."""
        for row, generator in zip(noise[part :: self.threads], self.generators[part :: self.threads], strict=True):
            row.normal_(generator=generator)


def _generator(seed: int, index: int, stream: int) -> torch.Generator:
    value = int(np.random.SeedSequence([seed, index, stream]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(value)
