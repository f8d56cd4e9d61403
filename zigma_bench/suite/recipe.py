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
    """The training recipe. `checkpoint_seconds` and `workers` change no figure and are part of no identity."""

    batch: Batch = 128
    """Images per training step."""
    learning_rate: Positive = 1e-4
    """AdamW's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up: constant, or falling to zero along a cosine over the budget."""
    warmup_images: Annotated[int, Interval(ge=0, le=10**12)] = 0
    """The learning rate rises linearly from zero over this many images."""
    weight_decay: Annotated[float, Interval(ge=0, le=1e30)] = 0.0
    """AdamW's weight decay."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    """AdamW's two betas."""
    gradient_clip: Positive | None = None
    """The largest norm of the gradient; a larger gradient is scaled down."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.9999
    """The decay per step of the averaged weights, from which images are sampled."""
    ema_warmup: bool = True
    """The decay of step s is min(ema, (1 + s) / (10 + s)), so that a short training doesn't sample from its initial
    weights (huggingface/diffusers, EMAModel). With `false` it is `ema` at every step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16 on a GPU that has it and fp32 elsewhere, or one of them. `fp16` scales the loss. Weights, A, D, dt bias and
    the residual stay float32."""
    flip: bool = False
    """Mirror half of the training images, drawn anew at each use."""
    random_crop: Side | None = None
    """Resize a training image so that its short side has this many pixels, and crop it to the resolution at a random
    place. Without it images are cropped at the centre, as held-out and reference images always are."""
    compile: bool = False
    """Compile the network's blocks with PyTorch (an NVIDIA GPU)."""
    graph: bool = False
    """Record the kernel launches of a step once, and replay them as a CUDA graph (an NVIDIA GPU)."""
    drop_condition: Annotated[float, Ge(0), Lt(1)] | None = None
    """The probability of training without the condition, which guidance needs. Default: 0.1 if the network has a null
    condition."""
    path: PathName = "linear"
    """The probability path from noise to data."""
    prediction: Prediction = "velocity"
    """What the network predicts."""
    weighting: Weighting = "none"
    """SiT's weighting of the error over time."""
    interval: tuple[Share, Share] | None = None
    """The times that are drawn (0 is noise, 1 is data). Default: SiT's interval for the path and the prediction."""
    checkpoint_seconds: Positive = 60.0
    """Seconds between checkpoints: a kill loses at most this much work."""
    workers: Literal["auto"] | Annotated[int, Interval(ge=0, le=256)] = "auto"
    """Processes that load images in advance if the data set isn't in memory. `auto`: one less than the number of
    processors, from 1 to 16. 0: the training process loads them itself."""


class OwnRecipe(Strict):
    """The keys of `train` that an entry of `compare` can override.

    The best optimizer settings differ between backbones. The objective and the amount of training must be the same.
    """

    learning_rate: Positive | None = None
    """See `train.learning_rate`."""
    schedule: Literal["constant", "cosine"] | None = None
    """See `train.schedule`."""
    warmup_images: Annotated[int, Interval(ge=0, le=10**12)] | None = None
    """See `train.warmup_images`."""
    weight_decay: Annotated[float, Interval(ge=0, le=1e30)] | None = None
    """See `train.weight_decay`."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] | None = None
    """See `train.betas`."""
    gradient_clip: Positive | None = None
    """See `train.gradient_clip`; `null` clips nothing."""

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
    """Classifier-free guidance."""

    scale: Positive
    """1 means no guidance; larger scales push the prediction further away from the unconditional one."""
    interval: tuple[Share, Share] | None = None
    """The times at which it acts. Default: all."""
    channels: Literal["all", "first-three"] = "all"
    """The channels on which it acts; `first-three` as in DiT's code."""


class Sample(Strict):
    """How images are sampled."""

    count: Drawn = 1000
    """Samples of each cell."""
    batch: Batch = 250
    """Samples per pass; it changes no image."""
    solver: Solver = "euler"
    """The solver of the ODE (euler, heun, dopri5), of the SDE (euler-maruyama, heun-sde) or of the discrete diffusion
    (ddpm, ddim)."""
    evaluations: Annotated[int, Interval(ge=1, le=1_000_000)] | None = None
    """Network evaluations per image. Default: 50; dopri5 chooses them itself."""
    interval: tuple[Share, Share] | None = None
    """The times to integrate over. Default: SiT's interval for the path, the prediction and the solver."""
    diffusion: DiffusionForm | None = None
    """SDE solvers: the form of the noise over time."""
    diffusion_norm: Positive | None = None
    """SDE solvers: the scale of the noise."""
    last_step: LastStep | None = None
    """SDE solvers: the step from the end of the interval to time 1."""
    variance: Variance | None = None
    """ddpm: the variance of a step."""
    eta: Share | None = None
    """ddim: the fraction of ddpm's noise."""
    guidance: Guidance | None = None
    """Classifier-free guidance of a conditional network."""
    compile: bool = False
    """Compile the network's blocks with PyTorch (an NVIDIA GPU)."""
    graph: bool = False
    """Record the kernel launches of an evaluation once, and replay them as a CUDA graph (an NVIDIA GPU)."""
    rtol: Positive = 1e-3
    """dopri5: the relative tolerance."""
    atol: Positive = 1e-6
    """dopri5: the absolute tolerance."""

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
