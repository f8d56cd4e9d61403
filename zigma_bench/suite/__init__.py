"""A suite: its schema as frozen, typed sections, and the reader of its YAML file."""

from zigma_bench.suite.base import Choice, Strict
from zigma_bench.suite.data import Data, Latents, TextEncoder
from zigma_bench.suite.read import YamlSource, load_suite, parse_value, parse_yaml, validate_sections
from zigma_bench.suite.recipe import (
    DISCRETE,
    SDES,
    DiffusionForm,
    Guidance,
    LastStep,
    OwnRecipe,
    PathName,
    Prediction,
    Sample,
    Solver,
    Train,
    Variance,
    Weighting,
    own_keys,
)
from zigma_bench.suite.sections import Budget, Comparison, During, Efficiency, Reference, SizeMatch, Tuning
from zigma_bench.suite.statistics import Contrast, Margin, Multiplier, Statistics
from zigma_bench.suite.whole import Suite, declared_json

__all__ = [
    "DISCRETE",
    "SDES",
    "Budget",
    "Choice",
    "Comparison",
    "Contrast",
    "Data",
    "DiffusionForm",
    "During",
    "Efficiency",
    "Guidance",
    "LastStep",
    "Latents",
    "Margin",
    "Multiplier",
    "OwnRecipe",
    "PathName",
    "Prediction",
    "Reference",
    "Sample",
    "SizeMatch",
    "Solver",
    "Statistics",
    "Strict",
    "Suite",
    "TextEncoder",
    "Train",
    "Tuning",
    "Variance",
    "Weighting",
    "YamlSource",
    "declared_json",
    "load_suite",
    "own_keys",
    "parse_value",
    "parse_yaml",
    "validate_sections",
]
