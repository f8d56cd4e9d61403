"""The sections `train` and `sample`: how networks are trained, and how images are drawn."""

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
    """The recipe. `ema` is the decay a step of the average of the weights that images are drawn from. With `ema_warmup`
    the decay of step s is min(ema, (1 + s) / (10 + s)), so that a short training does not draw from its first weights
    (training/ema.py; huggingface/diffusers, EMAModel); `false` takes `ema` throughout.

    `warmup_images` ramp the learning rate up linearly from zero; `compile`
    has PyTorch compile the network's blocks, `graph` records the launches of a step once and replays them (a CUDA
    graph; both on an NVIDIA card).

    The network learns to say its `prediction` on the `path` (diffusion/path.py), the error weighted by `weighting`
    (diffusion/objective.py) at times drawn from `interval` (0 noise, 1 data; absent: SiT's, see plan/diffusion.py).
    `fp16` scales the loss (training/health.py); weights, A, D, dt bias and the residual stay float32 in any precision.
    `drop_condition` is how often a conditional network is trained without its condition, for a text under an empty one
    (absent: one time in ten where it has a label for that, as guidance needs it).

    Training images are mirrored half of the time with `flip`, and with `random_crop` scaled so that the short side has
    so many pixels and cut to the resolution at a random place; both are drawn at each use. Held-out and reference
    images stay as they are, cut at the centre.

    `checkpoint_seconds` says how much work a kill may cost, and `workers` how many processes take the images ahead of
    the training where they do not lie in memory (`auto`: one less than there are processors, from 1 to 16; 0: none, the
    training itself takes them). Neither changes a figure or is part of an identity.
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
    """What one entry of `compare` trains by in the place of the suite's `train`.

    How a network is best taught differs between backbones; what it is taught, and how much, may not.
    """

    learning_rate: Positive | None = None
    schedule: Literal["constant", "cosine"] | None = None
    warmup_images: Annotated[int, Interval(ge=0, le=10**12)] | None = None
    weight_decay: Annotated[float, Interval(ge=0, le=1e30)] | None = None
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] | None = None
    gradient_clip: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _nulls_clip_alone(self) -> OwnRecipe:
        nulls = [key for key in self.model_fields_set if getattr(self, key) is None and key != "gradient_clip"]
        if nulls:
            raise ValueError(f"{nulls[0]} is null; leave it out to take the suite's")
        return self

    def over(self, recipe: Train) -> Train:
        """The suite's recipe with these keys."""
        return recipe.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


def own_keys(recipe: Train, suite: Train) -> dict[str, Any]:
    """In what a cell's recipe is not the suite's, of the keys that an entry may have of its own."""
    found = {key: getattr(recipe, key) for key in sorted(OwnRecipe.model_fields)}
    return {key: value for key, value in found.items() if value != getattr(suite, key)}


class Guidance(Strict):
    """Classifier-free guidance, with a `scale` of 1 for none, at all times or those of `interval`, on all channels or,
    as in DiT's code, on the first three."""

    scale: Positive
    interval: tuple[Share, Share] | None = None
    channels: Literal["all", "first-three"] = "all"


class Sample(Strict):
    """How images are drawn: `solver` of the ODE (euler, heun, dopri5), of the SDE (euler-maruyama, heun-sde), or of the
    discrete diffusion (ddpm, ddim). `evaluations` of the network an image: 50 if absent; never for dopri5.

    `interval` is the times that are crossed (absent: SiT's, see plan/diffusion.py). Of SDEs alone: the noise's form and
    scale (`diffusion`, `diffusion_norm`; diffusion/sde.py), and the `last_step` from the interval's end to 1. Of ddpm
    alone: `variance`. Of ddim alone: `eta`, the share of ddpm's noise. What is absent takes its default.
    On an NVIDIA card `compile` has PyTorch compile the network's blocks, and `graph` records the launches of an
    evaluation once and replays them (a CUDA graph).
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
        asked, last = self.evaluations, self.last_evaluations
        if asked is None:
            return self
        if self.solver == "dopri5":
            raise ValueError("dopri5 chooses its evaluations itself; leave evaluations out, or take euler or heun")
        if self.solver == "heun" and asked % 2:
            raise ValueError("heun takes an even number of evaluations")
        if self.solver == "heun-sde" and (asked - last) % 2:
            raise ValueError(f"heun-sde takes two evaluations a step{' and one for the last step' * last}")
        if asked <= last:
            raise ValueError(f"{self.solver} takes one evaluation for the last step, and at least one step before it")
        if self.solver in DISCRETE and not 2 <= asked <= 1000:
            raise ValueError(f"{self.solver} takes from 2 to 1000 of the diffusion's 1000 steps")
        return self

    @property
    def resolved_last_step(self) -> LastStep:
        """How the rest of the way from the interval's end is crossed: by an SDE's mean unless the suite says else."""
        return self.last_step or ("mean" if self.solver in SDES else "none")

    @property
    def last_evaluations(self) -> int:
        """Evaluations that the last step takes."""
        return int(self.resolved_last_step != "none")

    @property
    def resolved_evaluations(self) -> int | None:
        """The number given, else 50 (51 where heun-sde has a last step, for it takes two a step)."""
        if self.solver == "dopri5":
            return None
        return self.evaluations or 50 + (self.last_evaluations if self.solver == "heun-sde" else 0)
