"""The compute multiplier of an arm: how many times less training compute it needs for a loss that another arm reaches.

    m = C / C'     C: the compute with which the reference arm has the loss L. C': that with which the arm has it.

Two methods, named in the result with what they assume. Neither extrapolates: if the arm has the loss L outside the
range of its budgets, there is no value but a bound, and the reason says so. A multiplier of the loss is no statement
about the quality of samples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from zigma_bench.reports.statistics import CONFIDENCE, LEAST_SEEDS, t_interval

Losses = Mapping[float, Mapping[int, float]]  # the loss by training FLOPs and seed
PARAMETERS = 3  # of a power law with a floor
INTERPOLATED = (
    "log-log interpolation between budgets for each seed; t-interval of the log multiplier over seeds, which assumes "
    "that it is normal"
)
FITTED = (
    "power law L = a C^-b + c fitted to the log losses of all seeds; delta method with t, which assumes that the law "
    "holds and that the errors are independent with equal relative size"
)


@dataclass(frozen=True)
class MultiplierResult:
    """The multiplier of one arm at the loss that the reference reaches with `flops`.

    `value` is None if there is none; then `reason` says why. `low` and `high` are None without an interval.
    """

    arm: str
    against: str
    flops: float
    loss: float
    method: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


TOO_FAST = "its loss is lower already at its smallest budget, so a value would be extrapolated"
TOO_SLOW = "its loss is higher even at its largest budget, so a value would be extrapolated"


class _OutOfRange(Exception):
    """The arm has the loss outside its budgets, or at no single place; the text says why."""


def _out_of_range(base: MultiplierResult, losses: Losses, error: Exception) -> MultiplierResult:
    """The result without a value, with the bound that the range gives."""
    text = str(error)
    bounds = {TOO_FAST: f"; it is above {base.flops / min(losses):.3g}",
              TOO_SLOW: f"; it is below {base.flops / max(losses):.3g}"}  # fmt: skip
    return _without(base, text + bounds.get(text, ""))


def compute_multipliers(
    arm: str, losses: Losses, against: str, reference: Losses, fit: str, confidence: float = CONFIDENCE
) -> list[MultiplierResult]:
    """The multipliers of an arm at the loss of each budget of the reference. `fit`: a key of METHODS."""
    method, text = METHODS[fit]
    positive = all(
        flops > 0 and min(of.values(), default=0) > 0 for one in (losses, reference) for flops, of in one.items()
    )
    found = []
    for flops in sorted(reference):
        base = MultiplierResult(arm, against, flops, statistics.fmean(reference[flops].values() or (0.0,)), text)
        refused = _without(base, "it needs a loss above zero at every budget")
        found.append(method(base, losses, reference, confidence) if positive else refused)
    return found


def _interpolated(base: MultiplierResult, losses: Losses, reference: Losses, confidence: float) -> MultiplierResult:
    """The geometric mean over seeds of each seed's own multiplier, with its t-interval."""
    seeds = sorted(set.intersection(*map(set, (*losses.values(), reference[base.flops]))))
    if len(losses) < 2 or not seeds:
        return _without(base, "it needs two budgets or more, and a seed that all of them have")
    try:
        logs = [
            math.log(base.flops / _flops_at(reference[base.flops][seed], {c: losses[c][seed] for c in losses}))
            for seed in seeds
        ]
    except _OutOfRange as error:
        return _out_of_range(base, losses, error)
    value, interval = math.exp(statistics.fmean(logs)), t_interval(logs, confidence)
    if interval is None:
        return _with(base, value, None, f"{len(seeds)} of {LEAST_SEEDS} seeds for an interval")
    return _with(base, value, (interval.low, interval.high))


def _flops_at(loss: float, curve: Mapping[float, float]) -> float:
    """The compute at which a falling curve has a loss, on a line in the log-log plot between two budgets."""
    points = sorted(curve.items())
    if any(after >= before for (_, before), (_, after) in pairwise(points)):
        raise _OutOfRange("its loss doesn't fall from budget to budget")
    _check_range(loss, points[0][1], points[-1][1])
    (low, before), (high, after) = next(pair for pair in pairwise(points) if pair[0][1] >= loss >= pair[1][1])
    share = math.log(before / loss) / math.log(before / after)
    return math.exp(math.log(low) + share * math.log(high / low))


def _check_range(loss: float, first: float, last: float) -> None:
    if loss > first:
        raise _OutOfRange(TOO_FAST)
    if loss < last:
        raise _OutOfRange(TOO_SLOW)


@dataclass(frozen=True)
class _PowerLaw:
    """L = exp(p0) x^-exp(p1) + p2 with x = C / unit, its covariance, and the degrees of freedom of its residuals."""

    unit: float
    parameters: Any
    covariance: Any
    freedom: int

    def loss(self, flops: float, parameters: Any = None) -> float:
        a, b, c = self.parameters if parameters is None else parameters
        return float(math.exp(a) * (flops / self.unit) ** -math.exp(b) + c)

    def log_flops(self, loss: float, parameters: Any = None) -> float:
        a, b, c = self.parameters if parameters is None else parameters
        return float(math.log(self.unit) - (math.log(loss - c) - a) / math.exp(b))


def fit_power_law(losses: Losses) -> _PowerLaw:
    """The power law with the least squared errors of the log loss. ValueError if there is none."""
    import numpy as np
    from scipy.optimize import curve_fit

    points = [(flops, loss) for flops, values in losses.items() for loss in values.values()]
    flops, found = (np.array(column) for column in zip(*points, strict=True))
    unit = float(np.exp(np.log(flops).mean()))

    def log_loss(x: Any, a: float, b: float, c: float) -> Any:
        return np.log(np.maximum(np.exp(a) * x ** -np.exp(b) + c, 1e-300))

    floor = 0.5 * float(found.min())
    start = (math.log(float(np.exp(np.log(found).mean())) - floor), math.log(0.3), floor)
    try:
        with np.errstate(all="ignore"):
            parameters, covariance = curve_fit(log_loss, flops / unit, np.log(found), p0=start, maxfev=20_000)
    except RuntimeError:
        raise ValueError("no power law fits its losses") from None
    if not np.isfinite(covariance).all():
        raise ValueError("its losses don't determine a power law")
    return _PowerLaw(unit, parameters, covariance, len(points) - PARAMETERS)


def _fitted(base: MultiplierResult, losses: Losses, reference: Losses, confidence: float) -> MultiplierResult:
    """The multiplier between two fitted power laws, with the delta method."""
    from scipy.special import stdtrit

    if min(len(losses), len(reference)) <= PARAMETERS:
        return _without(base, f"a power law needs {PARAMETERS + 1} budgets or more of both arms")
    try:
        arm, other = fit_power_law(losses), fit_power_law(reference)
        loss = other.loss(base.flops)
        _check_range(loss, arm.loss(min(losses)), arm.loss(max(losses)))
    except (_OutOfRange, ValueError) as error:
        return _out_of_range(base, losses, error)
    log = math.log(base.flops) - arm.log_flops(loss)
    of_arm = _variance(lambda p: arm.log_flops(loss, p), arm)
    of_other = _variance(lambda p: arm.log_flops(other.loss(base.flops, p)), other)
    variance = of_arm + of_other
    if variance == 0:
        return _with(base, math.exp(log), (log, log))
    freedom = variance**2 / (of_arm**2 / arm.freedom + of_other**2 / other.freedom)  # Welch and Satterthwaite
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(variance)
    return _with(base, math.exp(log), (log - half, log + half))


def _variance(value: Callable[[Any], float], law: _PowerLaw) -> float:
    """The variance of a function of the fitted parameters, from its gradient by central differences."""
    import numpy as np

    steps = 1e-4 * np.maximum(np.sqrt(np.diag(law.covariance)), 1e-12) * np.eye(PARAMETERS)
    gradient = np.array([
        (value(law.parameters + step) - value(law.parameters - step)) / (2 * step.sum()) for step in steps
    ])  # fmt: skip
    return float(gradient @ law.covariance @ gradient)


def _with(
    base: MultiplierResult, value: float, logs: tuple[float, float] | None, reason: str | None = None
) -> MultiplierResult:
    low, high = (None, None) if logs is None else map(math.exp, logs)
    return MultiplierResult(base.arm, base.against, base.flops, base.loss, base.method, value, low, high, reason)


def _without(base: MultiplierResult, reason: str) -> MultiplierResult:
    return MultiplierResult(base.arm, base.against, base.flops, base.loss, base.method, reason=reason)


METHODS = {"interpolation": (_interpolated, INTERPOLATED), "power-law": (_fitted, FITTED)}
