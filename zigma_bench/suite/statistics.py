"""The section `statistics`: what a study tests. It changes no figure, and so it is part of no identity."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Gt, Interval, Len, Lt

from zigma_bench.suite.base import Name, Positive, Strict

MOST_CONTRASTS = 1_000


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value  # in a JSON document


def _family_kind(value: Any) -> str:
    return "[contrasts]" if isinstance(value, dict) else "[word]"


Rows = Annotated[
    tuple[Name, ...],
    Len(1, MOST_CONTRASTS),
    pydantic.BeforeValidator(_as_tuple),
    pydantic.WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
NamedRows = Annotated[dict[Name, Rows], Len(max_length=MOST_CONTRASTS)]


class Contrast(Strict):
    """A comparison of two rows, or of the means of several rows.

    A row is named by its label in the table (`zigma zigzag paths=8`), or by a pattern with `*` that matches one or
    more labels. The values of several rows are averaged for each seed, so a main effect and an interaction are
    contrasts too.
    """

    row: Rows
    """The row or rows whose values are compared."""
    against: Rows
    """The row or rows that are subtracted."""


class Margin(Strict):
    """The largest difference of a metric that counts as none, set before the study runs."""

    difference: Positive
    """The margin, in the unit of the metric."""
    reason: Annotated[str, pydantic.StringConstraints(min_length=10, max_length=1_000)]
    """Why a smaller difference doesn't matter, such as the gain by a tenth more training images."""


class Multiplier(Strict):
    """The compute multiplier: how much less compute an arm needs for the loss that another arm reaches."""

    metric: Name = "val-loss"
    """The metric that falls with compute."""
    fit: Literal["interpolation", "power-law"] = "interpolation"
    """`interpolation`: straight lines between the budgets in a log-log plot, for each seed. `power-law`: the fit of
    L = a C^-b + c to all seeds, from four budgets on. Nothing is extrapolated."""
    arms: Annotated[NamedRows, Len(2)]
    """The arms by name, each with the rows of its budgets."""
    against: Name
    """The name of the arm with which the others are compared."""

    @pydantic.model_validator(mode="after")
    def _against_is_an_arm(self) -> Multiplier:
        if self.against not in self.arms:
            raise ValueError(f"against is {self.against!r}, which is not one of the arms: {', '.join(self.arms)}")
        return self


Family = Annotated[
    Annotated[Literal["baseline"], pydantic.Tag("[word]")]
    | Annotated[dict[Name, Contrast], Len(1, MOST_CONTRASTS), pydantic.Tag("[contrasts]")],
    pydantic.Discriminator(_family_kind),  # so that a fault is one of the branch that was meant
]


class Statistics(Strict):
    """The tests of a study, declared before it runs.

    The keys change no figure and are part of no identity: after an edit, `zigma-bench run` finds its run again and
    computes nothing but the tests.
    """

    primary: Name
    """The primary endpoint: the metric that the claims are about."""
    secondary: tuple[Name, ...] | None = None
    """Metrics that must not contradict a claim; it is called mixed if one does. Default: all others of the suite."""
    family: Family = "baseline"
    """The headline contrasts by name, over which Holm's correction runs; or `baseline`: every row against the
    baseline."""
    margin: Annotated[dict[Name, Margin], Len(max_length=100)] = pydantic.Field(default={})
    """The margins of the equivalence tests, by metric. A metric without one is not tested for equivalence."""
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    """The probability of any false positive in the family; intervals have the confidence 1 - alpha."""
    power: Annotated[float, Interval(ge=0.5), Lt(1)] = 0.8
    """The probability with which `plan` wants a difference to be detected."""
    tests_at_seeds: Annotated[int, Ge(3)] | None = None
    """The number of seeds at which tests are made: the first of `seeds`. With fewer there are no tests, with more the
    others aren't tested. Default: all."""
    draws: NamedRows = pydantic.Field(default={})
    """Rows that are draws of one random order, by name: the variances between draws and between seeds are reported."""
    scales: NamedRows = pydantic.Field(default={})
    """Rows of one scale, by name: the rankings of the scans at different scales are compared."""
    multiplier: Multiplier | None = None
    """Compute multipliers from the loss at several budgets."""

    @pydantic.field_validator("secondary")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) != len(names):
            raise ValueError("a metric is listed twice")
        return names

    @pydantic.field_validator("scales")
    @classmethod
    def _two_scales(cls, scales: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if len(scales) == 1:
            raise ValueError("a ranking is compared between at least two scales")
        return scales
