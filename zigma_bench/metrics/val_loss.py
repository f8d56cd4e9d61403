"""The loss on images at fixed times with fixed noise: cheap, and the same value for the same network.

On held-out images it is the metric `val-loss`. On the tuning part it is the measurement `tuning-loss` of the training
stage, by which a learning rate is chosen; it is no result.

It is the error of the velocity on the linear path. Networks with another prediction or path are converted
(`diffusion.convert.linear_velocity_of`), so that all rows of a table are comparable. The factor of this conversion
(1 / t for noise on the linear path) is part of the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zigma_bench.data.images import Images, Subset, labels_of, pixels_digest, to_network_floats
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.guidance import with_condition
from zigma_bench.diffusion.objective import prediction_loss
from zigma_bench.errors import UsageError
from zigma_bench.metrics.options import ValLossOptions
from zigma_bench.metrics.subject import Subject
from zigma_bench.records.record import Measurement

PROTOCOL = 1
NAME = "val-loss"
TUNING = "tuning-loss"
TIMES = tuple((i + 0.5) / 8 for i in range(8))
NOISE_SEED = 20240
BATCH = {"cpu": 64, "cuda": 512}  # the value does not depend on it


def val_loss(options: ValLossOptions, subject: Subject) -> Measurement:
    """The mean over images, times and pixels of (v(x_t, t) - (x1 - x0))^2; raw: the 8 means, one for each time."""
    held_out, network = subject.held_out()
    images = first_images(held_out, options.images)
    return measure_loss(NAME, images, network, labelled=subject.labelled, device=subject.device)


def first_images(images: Images, count: int) -> Subset:
    """The first `count` images, or all if there are fewer."""
    return Subset(images, np.arange(min(count, len(images))))


def measure_loss(
    name: str, images: Images, network: Network, *, labelled: bool, device: str, facts: Mapping[str, Any] | None = None
) -> Measurement:
    """The loss on these images, with its 8 means as raw values. `facts` are added to its fingerprint."""
    losses = velocity_losses(network, images, labelled=labelled, device=device)
    facts = {
        **(facts or {}),
        "protocol": PROTOCOL,
        "path": "linear, noise at 0, velocity",
        "times": list(TIMES),
        "noise_seed": NOISE_SEED,
        "n_images": len(images),
        "images_sha256": pixels_digest(images),
    }
    if not np.isfinite(losses).all():  # a record can't contain NaN, so raw stays empty
        return Measurement.of(name, float("nan"), "1", fingerprint=facts)
    return Measurement.of(name, float(losses.mean()), "1", fingerprint=facts, raw=tuple(losses.mean(0).tolist()))


def velocity_losses(
    network: Network, images: Images, *, labelled: bool = False, device: str = "cpu", batch: int | None = None
) -> npt.NDArray[np.float64]:
    """The squared error of every image at every time, float64 [N, 8]; `labelled`: each with its own class."""
    found = np.empty((len(images), len(TIMES)))
    with torch.no_grad():
        batch = batch or BATCH[torch.device(device).type]
        for start in range(0, len(images), batch):
            indices = range(start, min(start + batch, len(images)))
            x1 = torch.from_numpy(to_network_floats(images.take(indices))).to(device)
            noise = torch.from_numpy(np.stack([fixed_noise(i, x1.shape[1:]) for i in indices])).to(device)
            y = torch.from_numpy(labels_of(images, indices)).to(device) if labelled else None
            for column, time in enumerate(TIMES):
                t = torch.full((len(indices),), time, device=device)
                loss = prediction_loss(_with_shape_check(with_condition(network, y)), x1, noise[:, column], t)
                found[indices.start : indices.stop, column] = loss.double().cpu().numpy()
    return found


def fixed_noise(index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The noise of image `index` at each time, [8, C, H, W], drawn only from the metric's seed and the index."""
    draw = np.random.Generator(np.random.Philox(key=[NOISE_SEED, index]))
    return draw.standard_normal((len(TIMES), *shape), dtype=np.float32)


def _with_shape_check(network: Network) -> Network:
    def run(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        velocity = network(x, t)
        if velocity.shape != x.shape:  # it would broadcast and give a wrong value
            raise UsageError(
                "the network's velocity has another shape than its input",
                where=NAME,
                expected=str(tuple(x.shape)),
                got=tuple(velocity.shape),
            )
        return velocity

    return run
