"""Measure the speed, memory and energy of one network in a fresh process, and the limits of the device."""

from zigma_bench.efficiency.measure import combine, measure_efficiency, measure_round

__all__ = ["combine", "measure_efficiency", "measure_round"]
