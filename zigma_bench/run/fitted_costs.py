"""Fit the cost of a training step and an evaluation on a device to the calls that were timed on it.

    seconds = (launches^4 + work^4)^(1/4),   launches = a + b layers,   work = sum of c_i feature_i

because launching and computing overlap, and the slower one dominates. CUDA graphs only have work. The peak memory is a
sum over the call, its parameters and its activations. All coefficients are at least zero and minimise the squared
relative errors. The error of a fit is measured by cross-validation, leaving out one cell at a time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.run.timed import FEATURES, CallKind, MeasuredCall

FEWEST_CELLS = 5
SHARPNESS = 4  # of the transition from launching to computing
PULL = 0.01  # regularisation towards zero, for features that the calls can't distinguish
LAUNCHES = tuple(FEATURES.index(name) for name in ("call", "layers"))
WORK = tuple(FEATURES.index(name) for name in ("call", "dense", "attention", "scan", "activations", "parameters",
                                               "longest path"))  # fmt: skip
BYTES = tuple(FEATURES.index(name) for name in ("call", "parameters", "activations", "scan"))

Values = npt.NDArray[np.float64]
Formula = Callable[[Values, Values], Values]


@dataclass(frozen=True)
class Fit:
    """The coefficients of a formula, and the cross-validation errors |predicted / measured - 1| of each cell."""

    formula: Formula
    coefficients: Values
    left_out: tuple[float, ...]

    def predict(self, features: Sequence[float]) -> float:
        return float(self.formula(self.coefficients, np.array([features], dtype=np.float64))[0])

    @property
    def error(self) -> float:
        """The median cross-validation error."""
        return statistics.median(self.left_out)


@dataclass(frozen=True)
class FittedCosts:
    """The fits of seconds and of peak bytes for one kind of call."""

    seconds: Fit
    peak: Fit
    cells: int

    @property
    def worst(self) -> float:
        """The largest cross-validation error of the seconds."""
        return max(self.seconds.left_out)

    @property
    def source(self) -> str:
        """The source of a prediction and its cross-validation errors, in words."""
        return (
            f"fitted to {self.cells} cells timed here, each left out in turn: {self.seconds.error:.0%} off in time "
            f"({self.worst:.0%} at most), {self.peak.error:.0%} in memory"
        )


def fit_costs(calls: Sequence[MeasuredCall], kind: CallKind, backend: str) -> FittedCosts | str:
    """Fit the costs of a kind of call with a backend, or return the reason why that isn't possible."""
    fitting = [one for one in calls if one.kind == kind and backend in one.backends]
    cells = len({one.cell for one in fitting})
    if cells < FEWEST_CELLS:
        return f"{cells} similar cells were timed on {kind.card}, and a fit needs {FEWEST_CELLS}"
    peaked = [one for one in fitting if one.peak is not None]
    formula = _launched_or_computed if not kind.recorded else _computed
    return FittedCosts(
        seconds=_fit(formula, fitting, [one.seconds for one in fitting]),
        peak=_fit(_bytes, peaked, [one.peak or 0.0 for one in peaked]),
        cells=cells,
    )


def _computed(coefficients: Values, features: Values) -> Values:
    return features[:, WORK] @ coefficients


def _launched_or_computed(coefficients: Values, features: Values) -> Values:
    launches = features[:, LAUNCHES] @ coefficients[: len(LAUNCHES)]
    work = _computed(coefficients[len(LAUNCHES) :], features)
    found: Values = (launches**SHARPNESS + work**SHARPNESS) ** (1 / SHARPNESS)
    return found


def _bytes(coefficients: Values, features: Values) -> Values:
    return features[:, BYTES] @ coefficients


SIZES: dict[Formula, tuple[int, ...]] = {
    _computed: WORK,
    _launched_or_computed: (*LAUNCHES, *WORK),
    _bytes: BYTES,
}


def _fit(formula: Formula, calls: Sequence[MeasuredCall], measured: Sequence[float]) -> Fit:
    features = np.array([one.features for one in calls], dtype=np.float64)
    values = np.array(measured, dtype=np.float64)
    left_out = []
    for cell in sorted({one.cell for one in calls}):
        test = np.array([one.cell == cell for one in calls])
        predicted = formula(_solve(formula, features[~test], values[~test]), features[test])
        left_out.append(float(np.abs(predicted / values[test] - 1).mean()))
    return Fit(formula, _solve(formula, features, values), tuple(left_out))


def _solve(formula: Formula, features: Values, values: Values) -> Values:
    """The coefficients with the least relative errors: exact for a sum; for launches and work, refined from the sum."""
    parts, scale = _sum_of(features[:, SIZES[formula]], values)
    if formula is _launched_or_computed:
        parts = _refined(formula, parts, scale, features, values)
    solved: Values = parts * scale
    return solved


def _sum_of(features: Values, values: Values) -> tuple[Values, Values]:
    """Parts p >= 0 and their scale such that features @ (p scale) is close to the values. Indistinguishable features
    share the cost."""
    from scipy.optimize import nnls

    means = features.mean(axis=0)
    scale = np.divide(values.mean(), means, out=np.zeros_like(means), where=means > 0)
    rows = np.concatenate([features * scale / values[:, None], PULL * np.eye(len(scale))])
    parts, _ = nnls(rows, np.concatenate([np.ones(len(values)), np.zeros(len(scale))]))
    return np.asarray(parts), scale


def _refined(formula: Formula, parts: Values, scale: Values, features: Values, values: Values) -> Values:
    from scipy.optimize import least_squares

    def residuals(tried: Values) -> Values:
        far = formula(tried * scale, features) / values - 1
        return np.concatenate([far, PULL * tried])

    found = least_squares(residuals, np.maximum(parts, 1e-3), bounds=(0, np.inf))
    return np.asarray(found.x)
