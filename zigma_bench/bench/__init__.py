"""Benchmarks of the operators: a correctness gate first, then medians beside every peer in one run."""
