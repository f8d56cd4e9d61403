"""How well two rankings agree, how much pairing by seed helps, and the variances of several draws over several seeds.

Each function states its assumption. All are closed formulas; nothing is resampled.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zigma_bench.reports.statistics import CONFIDENCE, LEAST_SEEDS, Interval

LEAST_RANKED = 5  # rows; Fieller's variance of tau needs more than four


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b and Spearman's rho of two rankings of `n` rows, each with an interval.

    An interval is None if the rankings agree or disagree perfectly, where Fisher's transformation is infinite.
    """

    n: int
    tau: float
    tau_interval: Interval | None
    rho: float
    rho_interval: Interval | None


@dataclass(frozen=True)
class PairCorrelation:
    """Pearson's correlation of the paired values of two rows, with its interval (None for n < 4 or a perfect one).

    `variance_ratio`: the variance of the paired difference divided by that of an unpaired one. Below 1, pairing helps.
    """

    n: int
    r: float
    interval: Interval | None
    variance_ratio: float


@dataclass(frozen=True)
class VarianceComponents:
    """The variances of one metric of several draws of a random order, each with the same seeds.

    Model: value = mean + draw + seed + rest, all independent. Each component is an unbiased estimate from the mean
    squares of the two-way analysis of variance, or 0 if that estimate is negative. `draw_p`: the p of the F-test that
    draws don't differ.
    """

    draws: int
    seeds: int
    mean: float
    draw: float
    seed: float
    rest: float
    draw_p: float


def rank_agreement(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Agreement | None:
    """The agreement of two rankings of the same rows; None for fewer than five rows, or if one doesn't vary.

    The intervals use Fisher's transformation with the variance 0.437 / (n - 4) for tau (Fieller, Hartley and Pearson
    1957) and (1 + rho^2 / 2) / (n - 3) for rho (Bonett and Wright 2000). They assume that the rows are a sample of the
    orders that could have been compared; the spread over seeds is not in them.
    """
    from scipy.stats import kendalltau, spearmanr

    n = len(a)
    if n < LEAST_RANKED or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    tau, rho = float(kendalltau(a, b).statistic), float(spearmanr(a, b).statistic)
    return Agreement(
        n=n,
        tau=tau,
        tau_interval=_fisher_interval(tau, 0.437 / (n - 4), confidence),
        rho=rho,
        rho_interval=_fisher_interval(rho, (1 + rho**2 / 2) / (n - 3), confidence),
    )


def pair_correlation(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> PairCorrelation | None:
    """The correlation of paired values; None for fewer than three pairs, or if one side doesn't vary.

    The interval assumes that the pairs are normal (Fisher 1921).
    """
    n = len(a)
    if n < LEAST_SEEDS or min(statistics.variance(a), statistics.variance(b)) <= sys.float_info.min:
        return None
    r = statistics.correlation(a, b)
    paired = statistics.variance([x - y for x, y in zip(a, b, strict=True)])
    return PairCorrelation(
        n=n,
        r=r,
        interval=_fisher_interval(r, 1 / (n - 3), confidence) if n > LEAST_SEEDS else None,
        variance_ratio=paired / (statistics.variance(a) + statistics.variance(b)),
    )


def variance_components(values: Mapping[str, Mapping[int, float]]) -> VarianceComponents | None:
    """The variance components of the values by draw and seed, over the seeds that all draws have.

    None for fewer than two draws or two common seeds. Source: Searle, Casella and McCulloch, Variance Components
    (1992), section 4.3.
    """
    import numpy as np
    from scipy.stats import f

    seeds = sorted(set.intersection(*(set(one) for one in values.values()))) if values else []
    draws, count = len(values), len(seeds)
    if draws < 2 or count < 2:
        return None
    table = np.array([[one[seed] for seed in seeds] for one in values.values()])
    mean = table.mean()
    by_draw, by_seed = table.mean(axis=1), table.mean(axis=0)
    draw = count * float(((by_draw - mean) ** 2).sum()) / (draws - 1)
    seed = draws * float(((by_seed - mean) ** 2).sum()) / (count - 1)
    freedom = (draws - 1) * (count - 1)
    rest = float(((table - by_draw[:, None] - by_seed + mean) ** 2).sum()) / freedom
    return VarianceComponents(
        draws=draws,
        seeds=count,
        mean=float(mean),
        draw=max(0.0, (draw - rest) / count),
        seed=max(0.0, (seed - rest) / draws),
        rest=rest,
        draw_p=float(f.sf(draw / rest, draws - 1, freedom)) if rest else float(draw == 0),
    )


def _fisher_interval(r: float, variance: float, confidence: float) -> Interval | None:
    """The interval of a correlation, on Fisher's scale z = atanh r with this variance of z."""
    from scipy.special import ndtri

    if abs(r) >= 1 - 1e-12:
        return None
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt(variance)
    return Interval(math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))
