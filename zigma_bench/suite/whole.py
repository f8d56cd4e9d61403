"""The schema of a whole suite."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from annotated_types import Interval, Len
from pydantic_core import PydanticCustomError

from zigma_bench.suite.base import NAME, Choice, Name, Strict
from zigma_bench.suite.data import DataSets
from zigma_bench.suite.recipe import Sample, Train
from zigma_bench.suite.sections import MAX_LIST, Baseline, Budget, Comparison, Efficiency, Reference, SizeMatch
from zigma_bench.suite.statistics import Statistics


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
    budget: Budget | None = None
    """The training budget that all cells spend alike."""
    size_match: SizeMatch = SizeMatch(by="none")
    """The size in which all backbones must agree."""
    backend: Name = "auto"
    """The kernels of the operators: `auto` for the fastest that runs here, or naive, torch, cpu, fused, triton,
    mamba-ssm."""
    reference: Reference = Reference()
    """The images with which samples are compared."""
    train: Train = Train()
    """The training recipe of all cells."""
    sample: Sample = Sample()
    """How images are sampled."""
    quality: Annotated[tuple[Choice, ...], Len(max_length=MAX_LIST)] = ()
    """The metrics; `zigma-bench metrics list` prints all of them."""
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
        unused += ["size_match"] * (self.size_match.by != "none") + ["statistics"] * (self.statistics is not None)
        if unused:
            raise ValueError(f"an efficiency suite (it lists efficiency.tokens) trains nothing: leave {unused[0]} out")
        if len(self.seeds) > 1:
            raise ValueError("an efficiency suite has one seed: repeat it with efficiency.rounds")
        return self

    @pydantic.model_validator(mode="after")
    def _tests_have_seeds(self) -> Suite:
        wanted = None if self.statistics is None else self.statistics.tests_at_seeds
        if wanted is not None and wanted > len(self.seeds):
            raise ValueError(f"statistics.tests_at_seeds is {wanted}, and seeds lists {len(self.seeds)}")
        return self

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds


def declared_json(suite: Suite) -> dict[str, Any] | None:
    """The tests that a suite declares as JSON, as the table file of its runs has them; None if it declares none."""
    return None if suite.statistics is None else suite.statistics.model_dump(mode="json")
