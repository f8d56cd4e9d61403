"""Benchmark the operators and training steps: first check correctness, then time all backends and peers in one run."""
