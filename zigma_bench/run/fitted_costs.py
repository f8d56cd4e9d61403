"""What a training step and an evaluation cost on a card: fitted to the calls that were timed there.

    seconds = (launches^4 + work^4)^(1/4),   launches = a + b layers,   work = sum of c_i feature_i

since what takes longer, launching or computing, hides the other; recorded launches have work alone. Bytes at the peak
are a sum of what a call, its parameters and its activations take. All coefficients are at least zero, and the squared
relative errors are least. How far a fit is off is told by cells that it has not seen: each is left out in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zigma_bench.run.timed import FEATURES, Kind, Timed

FEWEST_CELLS = 5
SHARPNESS = 4  # of the passage from launching to computing
PULL = 0.01  # towards nothing: shares out what the calls can't tell apart
LAUNCHES = tuple(FEATURES.index(name) for name in ("call", "layers"))
WORK = tuple(FEATURES.index(name) for name in ("call", "dense", "attention", "scan", "activations", "parameters",
                                               "longest path"))  # fmt: skip
BYTES = tuple(FEATURES.index(name) for name in ("call", "parameters", "activations", "scan"))

Values = npt.NDArray[np.float64]
Formula = Callable[[Values, Values], Values]


@dataclass(frozen=True)
class Fit:
    """Coefficients of a formula, and the relative errors of the cells left out: |predicted / measured - 1| of each."""

    formula: Formula
    coefficients: Values
    left_out: tuple[float, ...]

    def predict(self, features: Sequence[float]) -> float:
        return float(self.formula(self.coefficients, np.array([features], dtype=np.float64))[0])

    @property
    def error(self) -> float:
        """The median over cells that were left out."""
        return statistics.median(self.left_out)


@dataclass(frozen=True)
class Costs:
    """Fits of seconds and of bytes for one kind of call."""

    seconds: Fit
    peak: Fit
    cells: int

    @property
    def said(self) -> str:
        """Where a prediction comes from, and how far cells that the fit had not seen were off."""
        worst = max(self.seconds.left_out)
        return (
            f"fitted to {self.cells} cells timed here, each left out in turn: {self.seconds.error:.0%} off in time "
            f"({worst:.0%} at most), {self.peak.error:.0%} in memory"
        )


def fit_costs(calls: Sequence[Timed], kind: Kind, backend: str) -> Costs | str:
    """The costs of a kind with a backend, or why there are none."""
    fitting = [one for one in calls if one.kind == kind and backend in one.backends]
    cells = len({one.cell for one in fitting})
    if cells < FEWEST_CELLS:
        return f"{cells} cells like it were timed on {kind.card}, and a fit needs {FEWEST_CELLS}"
    peaked = [one for one in fitting if one.peak is not None]
    formula = _launched_or_computed if not kind.recorded else _computed
    return Costs(
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


def _fit(formula: Formula, calls: Sequence[Timed], measured: Sequence[float]) -> Fit:
    features = np.array([one.features for one in calls], dtype=np.float64)
    values = np.array(measured, dtype=np.float64)
    left_out = []
    for cell in sorted({one.cell for one in calls}):
        held = np.array([one.cell == cell for one in calls])
        predicted = formula(_solve(formula, features[~held], values[~held]), features[held])
        left_out.append(float(np.abs(predicted / values[held] - 1).mean()))
    return Fit(formula, _solve(formula, features, values), tuple(left_out))


def _solve(formula: Formula, features: Values, values: Values) -> Values:
    """The coefficients of least relative errors: a sum's exactly, and those of launches or work from the sum on."""
    parts, scale = _sum_of(features[:, SIZES[formula]], values)
    if formula is _launched_or_computed:
        parts = _refined(formula, parts, scale, features, values)
    solved: Values = parts * scale
    return solved


def _sum_of(features: Values, values: Values) -> tuple[Values, Values]:
    """Parts p >= 0 and their scale with features @ (p scale) near the values; what can't be told apart is shared."""
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
