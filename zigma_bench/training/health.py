"""Detect NaN and infinity during training without a device sync per step.

A step is bad if its loss or its gradient norm is not finite. After the first bad step the optimizer makes no further
update (the fused AdamW takes a flag). So at the next check the weights are still those before the bad step, and the
step can run again to find the module where it went wrong (training/fault.py).

For fp16 the loss is scaled by the rule of torch.amp.GradScaler, so that small gradients don't underflow: the scale
starts at 2^16, halves when the gradient overflows (that step is skipped) and doubles after 2000 steps without overflow.
GradScaler itself reports a skipped step only after a device sync. A gradient that overflows at a scale of 1 makes the
step bad, because the scale can't be the cause.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


class Health:
    """Counts good, skipped and bad steps on the device, and stores the loss scale; `scaled` is true for fp16.

    All tensors are 0-dimensional and change in place, so that a CUDA graph of the step can read and write them.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self.scaled = scaled
        self.scale = torch.tensor(FIRST_SCALE if scaled else 1.0, device=device)
        # steps so far, steps since the last change of the scale, skipped steps
        self.steps, self.good_steps, self.skipped_steps = (torch.tensor(0, device=device) for _ in range(3))
        self.first_bad = torch.tensor(0, device=device)  # counted from 1; 0 if no step was bad

    def resume(self, steps: int, state: dict[str, Any]) -> None:
        """Continue after `steps` steps with the state of a checkpoint."""
        self.steps.fill_(steps)
        for name, value in state.items():
            getattr(self, name).fill_(value)

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint. Waits for the device."""
        return {
            "scale": self.scale.item(), "good_steps": self.good_steps.item(),
            "skipped_steps": self.skipped_steps.item(),
        }  # fmt: skip

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that a step changes."""
        return self.steps, self.scale, self.good_steps, self.skipped_steps, self.first_bad

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of the scaled loss."""
        (loss * self.scale if self.scaled else loss).backward()  # type: ignore[no-untyped-call]

    def update(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None) -> None:
        """Unscale and clip the gradients, and update the weights unless the step is bad. The optimizer is fused."""
        self.steps += 1
        with_gradients = [parameter for parameter in network.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in with_gradients if parameter.grad is not None]
        if self.scaled:
            torch._foreach_mul_(gradients, 1 / self.scale)
        norm = nn.utils.get_total_norm(gradients)
        if clip is not None:
            nn.utils.clip_grads_with_norm_(with_gradients, clip, norm)
        skip = self._should_skip(loss, norm)
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        optimizer.step()

    def _should_skip(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether to skip this step's update. Also records the first bad step and adjusts the scale."""
        healthy = self.first_bad == 0
        if not self.scaled:
            bad = ~torch.isfinite(loss + norm)
            self.first_bad.copy_(torch.where(healthy & bad, self.steps, self.first_bad))
            return self.first_bad > 0
        overflow = loss.isfinite() & ~norm.isfinite() & (self.scale > 1)
        bad = ~torch.isfinite(loss + norm) & ~overflow
        self.first_bad.copy_(torch.where(healthy & bad, self.steps, self.first_bad))
        self._move_scale(overflow, frozen=self.first_bad > 0)
        return (self.first_bad > 0) | overflow

    def _move_scale(self, overflow: Tensor, *, frozen: Tensor) -> None:
        """Adjust the loss scale. `frozen`: after a bad step the scale stays, because that step runs again with it."""
        overflow = overflow & ~frozen
        self.skipped_steps += overflow
        good_steps = torch.where(overflow, 0, self.good_steps + 1)
        factor = torch.where(overflow, 0.5, torch.where(good_steps == GROWTH_STEPS, 2.0, 1.0))
        self.scale.copy_(torch.where(frozen, self.scale, self.scale * factor))
        self.good_steps.copy_(good_steps % GROWTH_STEPS)
