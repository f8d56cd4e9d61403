"""Embed the conditioning of a network: class labels or text features.

The condition becomes a vector that is added to the time embedding. Text features also become tokens for
cross-attention. B batch, S text tokens, C channels of the text features, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import UsageError
from zigma_bench.layers.init import Draw, normal_
from zigma_bench.layers.options import Conditioned, WithText


class LabelEmbedding(nn.Module):
    """Class embedding: labels int64 [B] -> [B, D]. With `null_class`, the last row is for dropped labels."""

    def __init__(self, options: Conditioned, width: int) -> None:
        super().__init__()
        self.rows = options.classes + options.null_class
        self.table = nn.Parameter(torch.empty(self.rows, width))

    def init_parameters(self, draw: Draw) -> None:
        normal_(self.table, 0.02, draw("table"))

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        expected = f"labels int64 [{batch}] from 0 to {self.rows - 1}"
        if y is None:
            raise UsageError("a network conditioned on classes got no labels", expected=expected, do="pass them as y")
        if y.dtype != torch.int64 or tuple(y.shape) != (batch,):
            raise UsageError("y doesn't contain the labels of the batch", expected=expected, got=_describe_tensor(y))
        if y.device.type == "cpu" and not ((y >= 0) & (y < self.rows)).all():  # on a GPU the check would sync
            raise UsageError("class label out of range", expected=expected, got=y.tolist()[:20])
        return nn.functional.embedding(y, self.table)


class TextEmbedding(nn.Module):
    """Text features [B, S, C] -> tokens [B, S, D], a linear layer (ZigMa's y_embedder). `tokens`: the required S."""

    def __init__(self, options: WithText, width: int, tokens: int | None = None) -> None:
        super().__init__()
        self.channels, self.tokens = options.text_width, tokens
        self.proj = nn.Linear(options.text_width, width)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        expected = f"features [{batch}, {self.tokens or 'S'}, {self.channels}]"
        if y is None:
            raise UsageError(
                "a network conditioned on text got no text features", expected=expected, do="pass them as y"
            )
        if not self._fits(y, batch):
            raise UsageError(
                "y doesn't contain the text features of the batch", expected=expected, got=_describe_tensor(y)
            )
        return self.proj(y)  # type: ignore[no-any-return]

    def _fits(self, y: Tensor, batch: int) -> bool:
        if not y.is_floating_point() or y.ndim != 3:
            return False
        wanted = (batch, self.tokens or max(y.shape[1], 1), self.channels)
        return tuple(y.shape) == wanted


def make_condition(
    options: Conditioned, width: int, *, text_tokens: int | None = None
) -> LabelEmbedding | TextEmbedding | None:
    """The module for the backbone option `condition`. `text_tokens`: the required number of text tokens, if fixed."""
    if options.condition == "class":
        return LabelEmbedding(options, width)
    if options.condition == "none":
        return None
    assert isinstance(options, WithText), options
    return TextEmbedding(options, width, text_tokens)


def mean_pool(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens, [B, S, D] -> [B, D]; with a mask bool [B, S], only over visible tokens."""
    if mask is None:
        return tokens.mean(1)
    visible = mask[..., None].to(tokens.dtype)
    return (tokens * visible).sum(1) / visible.sum(1)


def check_mask(mask: Tensor | None, y: Tensor | None) -> None:
    """UsageError unless the mask is bool [B, S] for text features [B, S, C] and every text has a visible token."""
    if mask is None:
        return
    shape = None if y is None or y.ndim != 3 else tuple(y.shape[:2])
    if shape is None or mask.dtype != torch.bool or tuple(mask.shape) != shape:
        expected = "none, because there is no text" if shape is None else f"bool {list(shape)}, True for visible tokens"
        raise UsageError("not a mask of text tokens", expected=expected, got=_describe_tensor(mask))
    if mask.device.type == "cpu" and not mask.any(1).all():
        raise UsageError("the mask hides every token of a text", do="unmask one, such as the end token")


def refuse_condition(y: Any) -> None:
    """UsageError if an unconditional network gets a condition."""
    if y is not None:
        raise UsageError(
            "an unconditional network got a condition", expected="no y", got=_describe_tensor(y),
            do="set the backbone's option condition to class or text",
        )  # fmt: skip


def _describe_tensor(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
