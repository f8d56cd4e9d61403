"""The sections `train` and `sample`: how networks are trained and how images are sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Interval, Lt

from zigma_bench.suite.base import Batch, Drawn, Positive, Share, Side, Strict

PathName = Literal["linear", "gvp", "vp"]
Prediction = Literal["velocity", "score", "noise"]
Weighting = Literal["none", "velocity", "likelihood"]
Solver = Literal["euler", "heun", "dopri5", "euler-maruyama", "heun-sde", "ddpm", "ddim"]
DiffusionForm = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]
LastStep = Literal["none", "mean", "tweedie", "euler"]
Variance = Literal["small", "large"]
SDES: tuple[Solver, ...] = ("euler-maruyama", "heun-sde")
DISCRETE: tuple[Solver, ...] = ("ddpm", "ddim")


class Train(Strict):
    """The training recipe.

    `ema` is the decay per step of the averaged weights, from which images are sampled. With `ema_warmup` the decay of
    step s is min(ema, (1 + s) / (10 + s)), so that a short training doesn't sample from its initial weights
    (training/ema.py; huggingface/diffusers, EMAModel); with `false` it is `ema` at every step.

    The learning rate rises linearly from zero over the first `warmup_images`. `compile` compiles the network's blocks
    with PyTorch, and `graph` records the kernel launches of a step once and replays them (a CUDA graph); both need an
    NVIDIA GPU.

    The network learns the `prediction` on the probability path `path` (diffusion/path.py). `weighting` weights its
    error (diffusion/objective.py), and times are drawn from `interval` (0 is noise, 1 is data; default: the interval of
    SiT, see plan/diffusion.py). `fp16` scales the loss (training/health.py); weights, A, D, dt bias and the residual
    stay float32 in any precision. `drop_condition` is the probability with which a conditional network is trained
    without its condition (a text condition becomes an empty text). Default: 0.1 if the network has a null condition,
    which guidance needs.

    `flip` mirrors half of the training images. `random_crop` resizes a training image so that its short side has that
    many pixels, and crops it to the resolution at a random place. Both are drawn anew at each use. Held-out and
    reference images are never mirrored, and are cropped at the centre.

    A kill loses at most `checkpoint_seconds` of work. `workers` is the number of processes that load images in advance
    if the data set isn't in memory (`auto`: one less than the number of processors, from 1 to 16; 0: the training
    process loads them itself). Neither key changes a figure or is part of an identity.
    """

    batch: Batch = 128
    learning_rate: Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_images: Annotated[int, Interval(ge=0, le=10**12)] = 0
    weight_decay: Annotated[float, Interval(ge=0, le=1e30)] = 0.0
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    gradient_clip: Positive | None = None
    ema: Annotated[float, Ge(0), Lt(1)] = 0.9999
    ema_warmup: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    flip: bool = False
    random_crop: Side | None = None
    compile: bool = False
    graph: bool = False
    drop_condition: Annotated[float, Ge(0), Lt(1)] | None = None
    path: PathName = "linear"
    prediction: Prediction = "velocity"
    weighting: Weighting = "none"
    interval: tuple[Share, Share] | None = None
    checkpoint_seconds: Positive = 60.0
    workers: Literal["auto"] | Annotated[int, Interval(ge=0, le=256)] = "auto"


class OwnRecipe(Strict):
    """The keys of `train` that an entry of `compare` can override.

    The best optimizer settings differ between backbones. The objective and the amount of training must be the same.
    """

    learning_rate: Positive | None = None
    schedule: Literal["constant", "cosine"] | None = None
    warmup_images: Annotated[int, Interval(ge=0, le=10**12)] | None = None
    weight_decay: Annotated[float, Interval(ge=0, le=1e30)] | None = None
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] | None = None
    gradient_clip: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _only_clip_is_null(self) -> OwnRecipe:
        nulls = [key for key in self.model_fields_set if getattr(self, key) is None and key != "gradient_clip"]
        if nulls:
            raise ValueError(f"{nulls[0]} is null; leave it out to use the suite's")
        return self

    def over(self, recipe: Train) -> Train:
        """The suite's recipe, overridden with these keys."""
        return recipe.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


def own_keys(recipe: Train, suite: Train) -> dict[str, Any]:
    """The keys of OwnRecipe in which a cell's recipe differs from the suite's, with their values."""
    found = {key: getattr(recipe, key) for key in sorted(OwnRecipe.model_fields)}
    return {key: value for key, value in found.items() if value != getattr(suite, key)}


class Guidance(Strict):
    """Classifier-free guidance: `scale` 1 means none; at all times, or only at those in `interval`; on all `channels`,
    or only on the first three, as in DiT's code."""

    scale: Positive
    interval: tuple[Share, Share] | None = None
    channels: Literal["all", "first-three"] = "all"


class Sample(Strict):
    """How images are sampled.

    `solver` solves the ODE (euler, heun, dopri5), the SDE (euler-maruyama, heun-sde) or the discrete diffusion (ddpm,
    ddim). `evaluations` is the number of network evaluations per image: 50 by default; not allowed for dopri5.

    `interval` is the range of times to integrate over (default: that of SiT, see plan/diffusion.py). SDE solvers also
    have the form and the scale of the noise (`diffusion`, `diffusion_norm`; diffusion/sde.py) and the `last_step` from
    the end of the interval to 1. ddpm has `variance`. ddim has `eta`, the fraction of ddpm's noise.
    `compile` compiles the network's blocks with PyTorch, and `graph` records the kernel launches of an evaluation once
    and replays them (a CUDA graph); both need an NVIDIA GPU.
    """

    count: Drawn = 1000
    batch: Batch = 250
    solver: Solver = "euler"
    evaluations: Annotated[int, Interval(ge=1, le=1_000_000)] | None = None
    interval: tuple[Share, Share] | None = None
    diffusion: DiffusionForm | None = None
    diffusion_norm: Positive | None = None
    last_step: LastStep | None = None
    variance: Variance | None = None
    eta: Share | None = None
    guidance: Guidance | None = None
    compile: bool = False
    graph: bool = False
    rtol: Positive = 1e-3
    atol: Positive = 1e-6

    @pydantic.model_validator(mode="after")
    def _evaluations_fit(self) -> Sample:
        evaluations, last = self.evaluations, self.last_evaluations
        if evaluations is None:
            return self
        if self.solver == "dopri5":
            raise ValueError("dopri5 chooses its evaluations itself; leave evaluations out, or use euler or heun")
        if self.solver == "heun" and evaluations % 2:
            raise ValueError("heun needs an even number of evaluations")
        if self.solver == "heun-sde" and (evaluations - last) % 2:
            raise ValueError(f"heun-sde needs two evaluations per step{' and one for the last step' * last}")
        if evaluations <= last:
            raise ValueError(f"{self.solver} needs one evaluation for the last step, and at least one step before it")
        if self.solver in DISCRETE and not 2 <= evaluations <= 1000:
            raise ValueError(f"{self.solver} needs 2 to 1000 evaluations: the diffusion has 1000 steps")
        return self

    @property
    def resolved_last_step(self) -> LastStep:
        """The last step, from the end of the interval to 1: by default `mean` for an SDE and `none` for others."""
        return self.last_step or ("mean" if self.solver in SDES else "none")

    @property
    def last_evaluations(self) -> int:
        """The number of evaluations of the last step: 0 or 1."""
        return int(self.resolved_last_step != "none")

    @property
    def resolved_evaluations(self) -> int | None:
        """The number of evaluations, 50 by default (51 for heun-sde with a last step: its other steps need two each);
        None for dopri5."""
        if self.solver == "dopri5":
            return None
        return self.evaluations or 50 + (self.last_evaluations if self.solver == "heun-sde" else 0)
