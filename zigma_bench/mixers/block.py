"""The options of a backbone that its mixers read. This module doesn't import torch."""

from __future__ import annotations

from typing import Any, Protocol

DEFAULT_EXPAND, DEFAULT_STATE, DEFAULT_CONV = 2, 16, 4  # Mamba's own (arXiv 2312.00752)
DEFAULTS = {"expand": DEFAULT_EXPAND, "state": DEFAULT_STATE, "conv": DEFAULT_CONV}


class BlockOptions(Protocol):
    """D width, E inner channels, N state, R rank of dt, W taps of the convolution, and the number of layers."""

    @property
    def width(self) -> int:
        """D, the channels of the stream."""

    @property
    def depth(self) -> int:
        """The layers of the backbone."""

    @property
    def expand(self) -> int:
        """E / D."""

    @property
    def inner(self) -> int:
        """E, the channels inside a mixer."""

    @property
    def state(self) -> int:
        """N, the size of the state of a channel."""

    @property
    def conv(self) -> int:
        """W, the taps of the causal convolution."""

    @property
    def dt_rank(self) -> int:
        """R, the rank of the projection of dt."""

    @property
    def mixer(self) -> str | dict[str, Any]:
        """The mixer: its name, or a mapping of its name and its options."""

    @property
    def zero_backward_dt_bias(self) -> bool:
        """Whether all branches but the first start with a dt bias of zero."""
