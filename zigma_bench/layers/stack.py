"""How a network runs its blocks: compiled in spans, or with what they compute thrown away and made again backwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SPAN = 3  # blocks in a compiled program: the end of one and the start of the next become one kernel


class Stack(nn.ModuleList):
    """Blocks one after another, each block(*state, *given) -> the next state: a tensor, or several.

    `compile` compiles spans of up to SPAN blocks, which share a program wherever their blocks are alike.
    """

    def compile(self, *args: Any, **options: Any) -> None:
        self._compiled_call_impl = torch.compile(_through, *args, **options)

    def through(self, state: tuple[Any, ...], given: tuple[Any, ...], *, checkpointing: bool) -> tuple[Any, ...]:
        """The state behind the last block; `checkpointing` keeps the state before each block alone for the backward
        pass, with the same random numbers."""
        compiled = self._compiled_call_impl
        if checkpointing and torch.is_grad_enabled():
            for block in self:
                state = checkpoint(compiled or _through, (block,), state, given, use_reentrant=False)
            return state
        if compiled is None:
            return _through(tuple(self), state, given)
        for span in self.spans():
            state = compiled(span, state, given)
        return state

    def spans(self) -> list[tuple[nn.Module, ...]]:
        """All blocks in runs of at most SPAN, whose lengths differ by one at most."""
        blocks, count = tuple(self), -(-len(self) // SPAN)
        ends = [len(blocks) * number // count for number in range(count + 1)]
        return [blocks[start:end] for start, end in pairwise(ends)]


def _through(blocks: tuple[nn.Module, ...], state: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
    for block in blocks:
        after = block(*state, *given)
        state = (after,) if isinstance(after, Tensor) else after
    return state


def run(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """block(*inputs), for blocks that do not simply follow one another; `checkpointing` as of `Stack`."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
