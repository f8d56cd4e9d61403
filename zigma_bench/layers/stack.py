"""Run the blocks of a network: compiled in spans, or with gradient checkpointing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SPAN = 3  # blocks per compiled program, so that the end of a block and the start of the next fuse into one kernel


class BlockStack(nn.ModuleList):
    """Blocks in sequence: block(*state, *condition) -> the next state, a tensor or several.

    `compile` compiles spans of up to SPAN blocks. Spans of equal blocks share a program.
    """

    def compile(self, *args: Any, **options: Any) -> None:
        self._compiled_call_impl = torch.compile(_through, *args, **options)

    def through(self, state: tuple[Any, ...], condition: tuple[Any, ...], *, checkpointing: bool) -> tuple[Any, ...]:
        """Run all blocks and return the last state. `checkpointing` stores only the input of each block for the
        backward pass, and recomputes the block with the same random numbers."""
        compiled = self._compiled_call_impl
        if checkpointing and torch.is_grad_enabled():
            for block in self:
                state = checkpoint(compiled or _through, (block,), state, condition, use_reentrant=False)
            return state
        if compiled is None:
            return _through(tuple(self), state, condition)
        for span in self.spans():
            state = compiled(span, state, condition)
        return state

    def spans(self) -> list[tuple[nn.Module, ...]]:
        """Split the blocks into spans of at most SPAN, with lengths that differ by at most one."""
        blocks, count = tuple(self), -(-len(self) // SPAN)
        ends = [len(blocks) * number // count for number in range(count + 1)]
        return [blocks[start:end] for start, end in pairwise(ends)]


def _through(blocks: tuple[nn.Module, ...], state: tuple[Any, ...], condition: tuple[Any, ...]) -> tuple[Any, ...]:
    for block in blocks:
        after = block(*state, *condition)
        state = (after,) if isinstance(after, Tensor) else after
    return state


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """block(*inputs), for blocks that aren't a plain sequence. `checkpointing` is as in `BlockStack`."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
