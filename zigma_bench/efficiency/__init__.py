"""Speed, memory and energy of one network in a fresh process: what is called, how it is timed, and what bounds it."""

from zigma_bench.efficiency.measure import combine, measure_efficiency, measure_round

__all__ = ["combine", "measure_efficiency", "measure_round"]
