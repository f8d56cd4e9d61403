"""FLOPs of the recurrences for each token, channel and state: one constant for formulas, kernels and counters.

They are the operations of `naive.py` on tensors of states, where an exponential is one FLOP. Other repositories use 9
for Mamba's scan, which includes the combinations of a parallel scan.
"""

from __future__ import annotations

SELECTIVE_SCAN = 7  # d A, exp, times h, times B, plus; times C, plus
SSD = 5  # times h, times B, plus; times C, plus (d A and exp are one number per head)
