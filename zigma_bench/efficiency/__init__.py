"""Measure the speed, memory and energy of one network in a fresh process, and the limits of the device."""

from zigma_bench.efficiency.measure import combine_rounds, measure_efficiency, measure_round

__all__ = ["combine_rounds", "measure_efficiency", "measure_round"]
