"""Quality during training: a curve of values of the averaged weights, which doesn't change the training.

A point is due at the first step that reaches a multiple of `every` images, and at the end. The values depend only on
the averaged weights. So a training that resumes from any checkpoint gives the same curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Values = dict[str, float | None]  # by name; None for a value that is not finite or was refused


@dataclass(frozen=True)
class Evaluation:
    """What is measured during training. `measure(ema)` returns the values and the reasons of missing ones.

    `epoch_images`: the number of training images.
    """

    every: int
    epoch_images: int
    measure: Callable[[nn.Module], tuple[Values, dict[str, str]]]

    def is_due(self, images: int, batch: int) -> bool:
        """Whether the step that ends at `images` images has reached a multiple of `every`."""
        return images // self.every > (images - batch) // self.every

    def measure_point(self, ema: nn.Module, images: int, seconds: float, device: torch.device) -> dict[str, Any]:
        """A point of the curve: images, epochs, seconds of training, values, and reasons of missing values, if any.

        The random numbers of the training stay as they were.
        """
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            values, reasons = self.measure(ema)
        point = {"images": images, "epochs": images / self.epoch_images, "seconds": seconds, "values": values}
        return point | ({"reasons": reasons} if reasons else {})
