"""Find where a training step first computes a value that is NaN or infinite.

The step runs again with hooks on every module. The hooks check inputs and outputs in the forward pass, and the
gradients of inputs, outputs and weights in the backward pass, in the order in which they are computed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

Role = Literal["output", "input", "weights"]


@dataclass
class FaultWatch:
    """The first tensor that is not finite, and the modules with this tensor as output or input."""

    backward: bool = False  # whether it appeared in the backward pass
    kind: str = ""
    bad: Tensor | None = None
    seen_as: list[tuple[Role, str]] = field(default_factory=list)

    def check(self, tensor: Tensor, role: Role, name: str, *, backward: bool) -> None:
        """Check one tensor; for the first bad tensor, also record each role and module name in which it appears."""
        if self.bad is None and not bool(tensor.isfinite().all()):
            self.bad, self.backward = tensor, backward
            self.kind = "nan" if bool(tensor.isnan().any()) else "inf"
        if self.bad is not None and backward == self.backward and _same(tensor, self.bad):
            self.seen_as.append((role, name))

    def place(self) -> str | None:
        """Where the bad tensor appeared, in words; None if all tensors were finite."""
        if self.bad is None:
            return None
        named: dict[Role, list[str]] = {
            role: _innermost([name for seen, name in self.seen_as if seen == role])
            for role in ("weights", "output", "input")
        }
        if named["weights"]:
            what = f"the weights {named['weights'][0]}"
        elif named["output"]:
            # In the backward pass, the modules with this tensor as input have computed its gradient.
            into = f", which is the input of {' and '.join(named['input'])}" if self.backward and named["input"] else ""
            what = f"the output of {named['output'][0]}{into}"
        else:
            what = f"the input of {' and '.join(named['input'])}"
        phase = "backward pass, in the gradient of" if self.backward else "forward pass, in"
        return f"in the {phase} {what} ({self.kind})"


def find_fault(network: nn.Module, run: Callable[[], Tensor]) -> str | None:
    """Return the place, such as `in the forward pass, in the output of blocks.3.mixer (nan)`; None if all is finite.

    `run` computes a loss and its gradients, which stay in the parameters. The weights don't change.
    """
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"before the step, in the weights {name}"
    watch = FaultWatch()
    handles = [handle for name, module in network.named_modules() for handle in _hook_module(watch, name, module)]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            handles.append(_watch_gradient(watch, parameter, "weights", name))
    try:
        loss = run()
    finally:
        for handle in handles:
            handle.remove()
    if (watch.bad is None or watch.backward) and not bool(loss.isfinite().all()):
        return "in the loss, although the outputs of the network are finite"
    return watch.place()


def uncompiled_copy(network: nn.Module) -> nn.Module:
    """Copy a network without its compiled code, because compiled modules may skip hooks."""
    plain = copy.deepcopy(network)
    assert not any(module._compiled_call_impl for module in plain.modules())
    return plain


def _hook_module(watch: FaultWatch, name: str, module: nn.Module) -> Iterator[Any]:
    """Hooks on the inputs and outputs of one module, and on the gradients of both."""
    name = name or "the network"

    def check(value: Any, role: Role) -> None:
        for tensor in _tensors(value):
            watch.check(tensor.detach(), role, name, backward=False)
            if tensor.requires_grad:
                _watch_gradient(watch, tensor, role, name)

    yield module.register_forward_pre_hook(lambda _, args, kwargs: check((args, kwargs), "input"), with_kwargs=True)
    yield module.register_forward_hook(lambda _, args, output: check(output, "output"))


def _watch_gradient(watch: FaultWatch, tensor: Tensor, role: Role, name: str) -> Any:
    def check(gradient: Tensor) -> None:
        watch.check(gradient.detach(), role, name, backward=True)

    return tensor.register_hook(check)  # type: ignore[no-untyped-call]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested arguments or outputs."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _innermost(names: list[str]) -> list[str]:
    """Remove duplicates, and modules that contain another module of the list."""
    distinct = list(dict.fromkeys(names))
    return [
        name
        for name in distinct
        if not any(other != name and (name == "the network" or other.startswith(f"{name}.")) for other in distinct)
    ]
