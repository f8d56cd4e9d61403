"""What a network is conditioned on beside time: labels of classes, or features of a text.

A condition becomes a vector that adds to the embedding of time; a text becomes tokens too, which cross-attention reads.
B batch, S text tokens, C channels of a text's features, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.init import Draw, normal_
from zigma_bench.layers.options import Conditioned, WithText


class Labels(nn.Module):
    """Labels int64 [B] -> [B, D]: a row a class and, with `null_class`, one behind them for the dropped class."""

    def __init__(self, options: Conditioned, width: int) -> None:
        super().__init__()
        self.rows = options.classes + options.null_class
        self.table = nn.Parameter(torch.empty(self.rows, width))

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.table, 0.02, draw("table"))

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        expected = f"labels int64 [{batch}] from 0 to {self.rows - 1}"
        if y is None:
            raise UsageError("a network conditioned on classes got no labels", expected=expected, do="give them as y")
        if y.dtype != torch.int64 or tuple(y.shape) != (batch,):
            raise UsageError("these are no labels of the batch", expected=expected, got=_described(y))
        if y.device.type == "cpu" and not ((y >= 0) & (y < self.rows)).all():  # on a card a look would stop the queue
            raise UsageError("a label has no class", expected=expected, got=y.tolist()[:20])
        return nn.functional.embedding(y, self.table)


class Text(nn.Module):
    """Features [B, S, C] -> tokens [B, S, D]: one linear map (ZigMa's y_embedder). `tokens`: the only S it takes."""

    def __init__(self, options: WithText, width: int, tokens: int | None = None) -> None:
        super().__init__()
        self.channels, self.tokens = options.text_width, tokens
        self.proj = nn.Linear(options.text_width, width)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        expected = f"features [{batch}, {self.tokens or 'S'}, {self.channels}]"
        if y is None:
            raise UsageError(
                "a network conditioned on text got no text features", expected=expected, do="give them as y"
            )
        if not self._fits(y, batch):
            raise UsageError("these are no text features of the batch", expected=expected, got=_described(y))
        return self.proj(y)  # type: ignore[no-any-return]

    def _fits(self, y: Tensor, batch: int) -> bool:
        if not y.is_floating_point() or y.ndim != 3:
            return False
        wanted = (batch, self.tokens or max(y.shape[1], 1), self.channels)
        return tuple(y.shape) == wanted


def make_condition(options: Conditioned, width: int, *, text_tokens: int | None = None) -> Labels | Text | None:
    """The module of the backbone's option `condition`; `text_tokens`: the only length of a text that it takes."""
    if options.condition == "class":
        return Labels(options, width)
    if options.condition == "none":
        return None
    assert isinstance(options, WithText), options
    return Text(options, width, text_tokens)


def pooled(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens, [B, S, D] -> [B, D]; with a mask [B, S], over those that it says True of."""
    if mask is None:
        return tokens.mean(1)
    kept = mask[..., None].to(tokens.dtype)
    return (tokens * kept).sum(1) / kept.sum(1)


def check_mask(mask: Tensor | None, y: Tensor | None) -> None:
    """A mask belongs to text features [B, S, C], and leaves every text a token."""
    if mask is None:
        return
    shape = None if y is None or y.ndim != 3 else tuple(y.shape[:2])
    if shape is None or mask.dtype != torch.bool or tuple(mask.shape) != shape:
        expected = (
            "none, for there is no text" if shape is None else f"bool {list(shape)}, True for a token that is read"
        )
        raise UsageError("this is no mask of text tokens", expected=expected, got=_described(mask))
    if mask.device.type == "cpu" and not mask.any(1).all():
        raise UsageError("the mask hides every token of a text", do="keep one, such as the token that ends the text")


def refuse_condition(y: Any) -> None:
    """An unconditional network is given x and t alone."""
    if y is not None:
        raise UsageError(
            "a network without a condition was given one", expected="y left out", got=_described(y),
            do="set the backbone's option condition to class or text",
        )  # fmt: skip


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
