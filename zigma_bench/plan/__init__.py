"""The plan: a suite resolved against the registries into a tuple of cells; all names, options and orders are checked.

Nothing here imports torch or decodes an image, so a wrong suite fails before a device is used.
"""

from zigma_bench.plan.cells import Cell, Match, Resolved
from zigma_bench.plan.data import fingerprint_after
from zigma_bench.plan.make import make_plan
from zigma_bench.plan.match import describe_matches
from zigma_bench.plan.parts import (
    TuningCut,
    check_during_images,
    check_tuning_images,
    held_out_needed,
    no_tuning_of_stream,
    too_few_held_out,
)
from zigma_bench.plan.plan import Plan
from zigma_bench.plan.resolve import cell_routes
from zigma_bench.records.record import STAGES, Stage

__all__ = [
    "STAGES",
    "Cell",
    "Match",
    "Plan",
    "Resolved",
    "Stage",
    "TuningCut",
    "cell_routes",
    "check_during_images",
    "check_tuning_images",
    "describe_matches",
    "fingerprint_after",
    "held_out_needed",
    "make_plan",
    "no_tuning_of_stream",
    "too_few_held_out",
]  # fmt: skip
