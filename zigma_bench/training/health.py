"""The health of a training, watched on the device and never waited for.

A step is bad whose loss or whose gradient's norm is not finite. From the first bad step on no update is made any more
(the fused AdamW takes a flag), so that at the next look the weights are still those that the step began with, and the
step can be run again to see where it began (training/fault.py).

For fp16 the loss is scaled, so that small gradients don't vanish, by the rule of torch.amp.GradScaler: 2^16 at first,
halved where the gradient overflows, which skips that step, doubled after 2000 steps without. (GradScaler itself tells
of a skipped step only to who waits for the device.) A gradient that overflows at a scale of 1 is bad: that is not the
scale's doing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


class Health:
    """What a training has come through so far; `scaled` for fp16.

    All tensors have no dimension and are changed in place, so that a recorded step finds them.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self.scaled = scaled
        self.scale = torch.tensor(FIRST_SCALE if scaled else 1.0, device=device)
        # steps so far, those since the scale last changed, those skipped
        self.steps, self.good_steps, self.skipped_steps = (torch.tensor(0, device=device) for _ in range(3))
        self.first_bad = torch.tensor(0, device=device)  # counted from 1; 0 as long as all is well

    def resume(self, steps: int, state: dict[str, Any] | None) -> None:
        """Go on after so many steps from what a checkpoint holds; old ones hold nothing."""
        self.steps.fill_(steps)
        for name, value in (state or {}).items():
            getattr(self, name).fill_(value)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; waits for the device."""
        return {
            "scale": self.scale.item(), "good_steps": self.good_steps.item(),
            "skipped_steps": self.skipped_steps.item(),
        }  # fmt: skip

    def tensors(self) -> tuple[Tensor, ...]:
        """All that a step changes."""
        return self.steps, self.scale, self.good_steps, self.skipped_steps, self.first_bad

    def backward(self, loss: Tensor) -> None:
        """The gradient of the loss, times the scale."""
        (loss * self.scale if self.scaled else loss).backward()  # type: ignore[no-untyped-call]

    def update(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None) -> None:
        """Unscale and clip the gradients, and step if all is well. The optimizer is fused."""
        self.steps += 1
        with_gradients = [parameter for parameter in network.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in with_gradients if parameter.grad is not None]
        if self.scaled:
            torch._foreach_mul_(gradients, 1 / self.scale)
        norm = nn.utils.get_total_norm(gradients)
        if clip is not None:
            nn.utils.clip_grads_with_norm_(with_gradients, clip, norm)
        skip = self._judge(loss, norm)
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        optimizer.step()

    def _judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether to leave this step's update out; notes the first bad step, and moves the scale."""
        well = self.first_bad == 0
        if not self.scaled:
            bad = ~torch.isfinite(loss + norm)
            self.first_bad.copy_(torch.where(well & bad, self.steps, self.first_bad))
            return self.first_bad > 0
        overflow = loss.isfinite() & ~norm.isfinite() & (self.scale > 1)
        bad = ~torch.isfinite(loss + norm) & ~overflow
        self.first_bad.copy_(torch.where(well & bad, self.steps, self.first_bad))
        self._move_scale(overflow, still=self.first_bad > 0)
        return (self.first_bad > 0) | overflow

    def _move_scale(self, overflow: Tensor, *, still: Tensor) -> None:
        """`still`: after a bad step the scale stays, for that step is run again with it."""
        overflow = overflow & ~still
        self.skipped_steps += overflow
        good_steps = torch.where(overflow, 0, self.good_steps + 1)
        factor = torch.where(overflow, 0.5, torch.where(good_steps == GROWTH_STEPS, 2.0, 1.0))
        self.scale.copy_(torch.where(still, self.scale, self.scale * factor))
        self.good_steps.copy_(good_steps % GROWTH_STEPS)
