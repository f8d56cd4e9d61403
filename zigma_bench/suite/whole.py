"""The schema of a whole suite."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from annotated_types import Interval, Len
from pydantic_core import PydanticCustomError

from zigma_bench.suite.base import NAME, Choice, Name, Strict
from zigma_bench.suite.data import DataSets
from zigma_bench.suite.recipe import Sample, Train
from zigma_bench.suite.sections import (
    MAX_LIST,
    Baseline,
    Budget,
    Comparison,
    During,
    Efficiency,
    Reference,
    Select,
    SizeMatch,
    Tuning,
)
from zigma_bench.suite.statistics import Statistics

MEASURED = ("reference", "quality", "during", "efficiency")  # sections that say how rows are measured
LISTED = (
    "name",
    "vary",
    "select",
    "seeds",
    "data",
    "compare",
    "baseline",
    "tuning",
    "statistics",
)  # keys that `vary` can't have


class Suite(Strict):
    """A suite file.

    An efficiency suite, which lists `efficiency.tokens`, has no `data`, `budget`, `quality` or `size_match`.
    """

    name: Annotated[str, pydantic.StringConstraints(pattern=NAME)]
    """The name of the suite, and of its folder in the results."""
    data: DataSets | None = None
    """One data set, or a list of them: then everything is run and tabulated for each."""
    compare: Annotated[tuple[Comparison, ...], Len(1, MAX_LIST)]
    """The backbones and scans to compare. Each backbone, scan and seed makes a cell."""
    baseline: Baseline | None = None
    """The row to which the others are compared; its untrained network is the ceiling. Default: the first row."""
    seeds: Annotated[tuple[Annotated[int, Interval(ge=0, le=2**31 - 1)], ...], Len(1, MAX_LIST)] = (0,)
    """The seeds: each row is trained and sampled once with each of them."""
    vary: Annotated[dict[Name, Annotated[tuple[Any, ...], Len(1, MAX_LIST)]], Len(max_length=10)] = pydantic.Field(
        default_factory=dict
    )
    """Keys of the suite with several values each, such as `train.learning_rate: [5.0e-4, 1.0e-3]`. Everything is run
    for each combination, as rows of their own. `size` is the size of every backbone."""
    select: Select | None = None
    """Choose the value of one varied key for each row on the tuning part, before the row runs with the seeds of the
    table."""
    budget: Budget | None = None
    """The training budget that all cells spend alike."""
    size_match: SizeMatch = SizeMatch(by="none")
    """The size in which all backbones must agree."""
    backend: Name = "auto"
    """The kernels of the operators: `auto` for the fastest that runs here, or naive, torch, cpu, fused, triton,
    mamba-ssm."""
    reference: Reference = Reference()
    """The images with which samples are compared."""
    tuning: Tuning | None = None
    """The training images on which a learning rate is chosen. Without it nothing is cut from them."""
    train: Train = Train()
    """The training recipe of all cells."""
    sample: Sample = Sample()
    """How images are sampled."""
    quality: Annotated[tuple[Choice, ...], Len(max_length=MAX_LIST)] = ()
    """The metrics; `zigma-bench metrics list` prints all of them."""
    during: During | None = None
    """The quality during training. Without it nothing is measured before the end."""
    efficiency: Efficiency | None = None
    """What is timed. Without it nothing is."""
    statistics: Statistics | None = None
    """The tests of a study. Without it, every row is compared with the baseline in every metric."""

    @property
    def timed_alone(self) -> bool:
        """Whether this is an efficiency suite: its cells are only timed."""
        return self.efficiency is not None and self.efficiency.tokens is not None

    @pydantic.model_validator(mode="after")
    def _keys_fit(self) -> Suite:
        if self.efficiency is not None:
            self.efficiency.check_keys()
        training_keys = {"data": self.data, "budget": self.budget, "quality": self.quality}
        if not self.timed_alone:
            for key in ("data", "budget"):
                if training_keys[key] is None:
                    raise PydanticCustomError("missing_key", "{key}", {"key": key})
            return self
        unused = [key for key, value in training_keys.items() if value]
        unused += ["size_match"] * (self.size_match.by != "none")
        unused += [key for key in ("tuning", "during") if getattr(self, key) is not None]
        unused += ["statistics"] * (self.statistics is not None)
        if unused:
            raise ValueError(f"an efficiency suite (it lists efficiency.tokens) trains nothing: leave {unused[0]} out")
        if len(self.seeds) > 1:
            raise ValueError("an efficiency suite has one seed: repeat it with efficiency.rounds")
        if self.select is not None:
            raise ValueError("an efficiency suite trains nothing, so nothing can be selected: leave select out")
        return self

    @pydantic.model_validator(mode="after")
    def _tests_have_seeds(self) -> Suite:
        wanted = None if self.statistics is None else self.statistics.tests_at_seeds
        if wanted is not None and wanted > len(self.seeds):
            raise ValueError(f"statistics.tests_at_seeds is {wanted}, and seeds lists {len(self.seeds)}")
        return self

    @pydantic.model_validator(mode="after")
    def _selection_fits(self) -> Suite:
        if self.select is None:
            return self
        if self.tuning is None:
            raise ValueError("select needs a tuning part: add the section tuning")
        if self.select.over not in self.vary:
            raise ValueError(f"select.over should be a key of vary; {self.select.over!r} is not one")
        if both := set(self.select.seeds) & set(self.seeds):
            raise ValueError(f"the tuning seeds and the table's seeds must differ; both have {min(both)}")
        return self

    @pydantic.field_validator("vary")
    @classmethod
    def _fit_to_vary(cls, vary: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in vary.items():
            if key.partition(".")[0] in LISTED:
                raise ValueError(
                    f"the key {key!r} can't vary: list several data sets, rows or seeds under their own keys"
                )
            if key.partition(".")[0] in MEASURED or key == "sample.count":
                raise ValueError(f"the key {key!r} can't vary: a table compares figures that are measured alike")
            if any(values[i] == values[j] for i in range(len(values)) for j in range(i)):
                raise ValueError(f"a value of {key!r} is listed twice")
        return vary

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds


def declared_json(suite: Suite) -> dict[str, Any] | None:
    """The tests that a suite declares as JSON, as the table file of its runs has them; None if it declares none."""
    return None if suite.statistics is None else suite.statistics.model_dump(mode="json")
