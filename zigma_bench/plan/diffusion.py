"""The objective and the sampler of a suite, resolved, and the check for invalid combinations.

Times run from 0, noise, to 1, data. The default interval is the one that SiT intends (willisma/SiT
transport.check_interval; a bug there discards the choice for sampling): all of [0, 1] if nothing is singular. If
something is singular at an end, the interval stops 1e-3 before it (1e-5 for training on vp). Singularities:

    velocity on vp                    at 1
    score of x_t                      at 1
    velocity from noise or score      at 0 on linear and gvp (x / alpha)
    weighting velocity (beta / sigma)        at 0 on linear and gvp, at 1 on vp
    weighting likelihood (beta / sigma^2)    at 0 on linear and gvp, at 1 on all
    noise form sbdm (beta)            at 0 on linear and gvp

An SDE stops at 0.96 by default, and its last step covers the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from zigma_bench.errors import UsageError
from zigma_bench.suite import (
    DISCRETE,
    SDES,
    DiffusionForm,
    LastStep,
    PathName,
    Prediction,
    Sample,
    Solver,
    Train,
    Variance,
    Weighting,
    YamlSource,
)

Interval = tuple[float, float]
Fault = tuple[tuple[str, str], str, str]  # the key, the message, what to do

MARGIN, VP_TRAIN_MARGIN, SDE_END = 1e-3, 1e-5, 0.96


@dataclass(frozen=True)
class Objective:
    """The training objective: the prediction from x_t on a probability path, its weighting and the range of times."""

    path: PathName
    prediction: Prediction
    weighting: Weighting
    interval: Interval

    def __str__(self) -> str:
        weighted = "" if self.weighting == "none" else f", weighted for {self.weighting}"
        return (
            f"{self.prediction} on the path {self.path}{weighted}, t from {self.interval[0]:g} to {self.interval[1]:g}"
        )


LINEAR_VELOCITY = Objective("linear", "velocity", "none", (0.0, 1.0))


@dataclass(frozen=True)
class Sampler:
    """How images are sampled; a setting that the solver doesn't have is None."""

    solver: Solver
    evaluations: int | None
    interval: Interval | None = None
    rtol: float | None = None
    atol: float | None = None
    diffusion: DiffusionForm | None = None
    diffusion_norm: float | None = None
    last_step: LastStep | None = None
    variance: Variance | None = None
    eta: float | None = None

    def __str__(self) -> str:
        known = {key: value for key, value in asdict(self).items() if value is not None and key != "solver"}
        if interval := known.pop("interval", None):
            known["t from"] = f"{interval[0]:g} to {interval[1]:g}"
        return ", ".join([self.solver, *(f"{key.replace('_', ' ')} {value}" for key, value in known.items())])

    def facts(self) -> dict[str, Any]:
        """The settings for identities, without solver, evaluations, tolerances and the default interval [0, 1]."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        if known.get("interval") == (0.0, 1.0):
            del known["interval"]
        return {key: value for key, value in known.items() if key not in ("solver", "evaluations", "rtol", "atol")}


def objective_of(train: Train) -> Objective:
    """The objective of a recipe, with its interval."""
    return Objective(train.path, train.prediction, train.weighting, train.interval or _train_interval(train))


def sampler_of(train: Train, sample: Sample) -> Sampler:
    """The sampler of a suite, with the defaults of its solver."""
    solver, evaluations = sample.solver, sample.resolved_evaluations
    interval = sample.interval or _sample_interval(train, sample)
    if solver == "ddpm":
        return Sampler(solver, evaluations, variance=sample.variance or "small")
    if solver == "ddim":
        return Sampler(solver, evaluations, eta=sample.eta or 0.0)
    if solver in SDES:
        form, norm = _form(sample), sample.diffusion_norm or 1.0
        last = sample.resolved_last_step
        return Sampler(solver, evaluations, interval, diffusion=form, diffusion_norm=norm, last_step=last)
    if solver == "dopri5":
        return Sampler(solver, evaluations, interval, rtol=sample.rtol, atol=sample.atol)
    return Sampler(solver, evaluations, interval)


class DiffusionRecipe(Protocol):
    """A suite, or another object with the sections `train` and `sample`."""

    @property
    def train(self) -> Train: ...

    @property
    def sample(self) -> Sample: ...


def check_diffusion(recipe: DiffusionRecipe, source: YamlSource) -> None:
    """Raise UsageError, with the place in the file, for an invalid combination of keys."""
    for key, what, do in _faults(recipe.train, recipe.sample):
        raise UsageError(what, where=source.where(*key), do=do)


def _faults(train: Train, sample: Sample) -> Iterator[Fault]:
    yield from _foreign_keys(sample)
    for section, interval in (("train", train.interval), ("sample", sample.interval)):
        if interval is not None and not interval[0] < interval[1]:
            yield (section, "interval"), f"the times {list(interval)} are not increasing", "use [earlier, later]"
    if train.weighting != "none" and train.prediction == "velocity":
        yield (
            ("train", "weighting"),
            "the prediction velocity has no weighting",
            "use prediction score or noise, or none",
        )
    if sample.solver in DISCRETE and train.path != "vp":
        what = f"{sample.solver} reverses the diffusion of the path vp, and train.path is {train.path}"
        yield ("sample", "solver"), what, "use path vp, or a solver such as euler or euler-maruyama"
    yield from _singular(train, sample)


def _foreign_keys(sample: Sample) -> Iterator[Fault]:
    """Keys that the solver doesn't have."""
    own: dict[str, tuple[Solver, ...]] = {
        "diffusion": SDES, "diffusion_norm": SDES, "last_step": SDES, "variance": ("ddpm",), "eta": ("ddim",),
    }  # fmt: skip
    for key, solvers in own.items():
        if getattr(sample, key) is not None and sample.solver not in solvers:
            what = f"{key} belongs to {' and '.join(solvers)}, and the solver is {sample.solver}"
            yield ("sample", key), what, f"leave {key} out, or use another solver"
    if sample.interval is not None and sample.solver in DISCRETE:
        yield ("sample", "interval"), f"{sample.solver} always covers all times", "leave interval out"


def _singular(train: Train, sample: Sample) -> Iterator[Fault]:
    """Ends of the intervals at which a quantity is infinite."""
    objective = objective_of(train)
    for end, why in _train_singularities(train):
        if objective.interval[end] == end:
            yield ("train", "interval"), f"{why} at t = {end}", f"leave interval out, or stay away from {end}"
    interval = sample.interval or _sample_interval(train, sample)
    for end, why in _sample_singularities(train, sample):
        if sample.solver not in DISCRETE and interval[end] == end:
            yield ("sample", "interval"), f"{why} at t = {end}", f"leave interval out, or stay away from {end}"


def _train_singularities(train: Train) -> Iterator[tuple[int, str]]:
    starts_at_zero = train.path != "vp"  # alpha is 0 at t = 0
    if train.path == "vp" and train.prediction == "velocity":
        yield 1, "the velocity of the path vp is infinite"
    if train.prediction == "score":
        yield 1, "the score is infinite"
    if train.weighting != "none" and starts_at_zero:
        yield 0, f"the weighting {train.weighting} of the path {train.path} is infinite"
    if train.weighting == "likelihood" or (train.weighting == "velocity" and train.path == "vp"):
        yield 1, f"the weighting {train.weighting} of the path {train.path} is infinite"


def _sample_singularities(train: Train, sample: Sample) -> Iterator[tuple[int, str]]:
    starts_at_zero = train.path != "vp"
    if train.prediction != "velocity" and starts_at_zero:
        yield 0, f"the velocity can't be computed from the {train.prediction} on the path {train.path}"
    if sample.solver in SDES and _form(sample) == "sbdm" and starts_at_zero:
        yield 0, f"the diffusion sbdm of the path {train.path} is infinite"
    if train.path == "vp":
        yield 1, "the velocity of the path vp is infinite"
    if train.prediction == "score" or sample.solver in SDES:
        yield 1, "the score is infinite"


def _train_interval(train: Train) -> Interval:
    if train.path == "vp":
        return 0.0, 1 - VP_TRAIN_MARGIN
    return (0.0, 1.0) if train.prediction == "velocity" else (MARGIN, 1 - MARGIN)


def _sample_interval(train: Train, sample: Sample) -> Interval:
    start = MARGIN if any(end == 0 for end, _ in _sample_singularities(train, sample)) else 0.0
    if sample.solver in SDES:
        return start, (SDE_END if sample.resolved_last_step != "none" else 1 - MARGIN)
    return start, (1.0 if train.path != "vp" and train.prediction == "velocity" else 1 - MARGIN)


def _form(sample: Sample) -> DiffusionForm:
    return sample.diffusion or "sigma"
