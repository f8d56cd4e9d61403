"""A backend: one way to compute the operators, with what it needs of the machine and what it supports. No torch.

A backend is registered in `ops/backends/__init__.py` and holds an `Implementation` of each operator that it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError

if TYPE_CHECKING:
    from zigma_bench.ops.arguments import OperatorArguments

SINGLE = ("float32", "bfloat16", "float16")  # dtypes of tensors that a backend computes in float32
SINGLE_OR_DOUBLE = (*SINGLE, "float64")


def accept_all(arguments: Any) -> None:
    """The `refuse` of an implementation without limits."""


@dataclass(frozen=True, eq=False)
class Implementation:
    """One operator as a backend computes it.

    `apply` computes it from the operator's arguments, an object of `ops.arguments`; it imports the module with the
    kernels itself, so that a choice of backends imports no torch. `refuse` returns the error for arguments that the
    kernels don't support, else None. `several_paths`: `apply` takes all K paths in one call, every argument with its
    leading dimension K; else it is called once for each path. `reads_half_precision`: the kernels read rows of 16 bits;
    else all numbers are converted to the dtype of the computation before the call. `dtypes`: those that the arguments
    may have, if not those of the backend.
    """

    apply: Callable[[Any], Any]
    refuse: Callable[[Any], ZigmaBenchError | None] = accept_all
    several_paths: bool = False
    reads_half_precision: bool = False
    dtypes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SavedMemory:
    """What the operators of a backend save for the backward pass, for the formulas that estimate activation memory.

    `steps_per_state`: the selective scan saves the state before every so many steps. `copies_half_precision`: it saves
    float32 copies of rows of 16 bits. `saves_rows_in_order`: it saves rows in scan order, and the sums before SiLU.
    `recomputes_mixer`: a Mamba mixer is one operator, which recomputes u, delta and (for a sum of paths) y.
    `norm_is_one_kernel`: PyTorch's norm saves its input only, not also its normalized input.
    """

    steps_per_state: int
    copies_half_precision: bool = False
    saves_rows_in_order: bool = False
    recomputes_mixer: bool = False
    norm_is_one_kernel: bool = False


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to compute the operators.

    `device_types`: where it runs. `dtypes`: those that its arguments may have. `find_problem` returns the reason why it
    can't run on this machine, with what to do, or None. `place`: where a person can run it, for error messages.
    `operators`: an implementation by the name of its operator. `auto_rank`: `auto` chooses the backend of the lowest
    rank that runs, never one without a rank. `reads_through_path`: its kernels read and write rows through a path; else
    rows are gathered before each operator. `traceable`: `torch.compile` can trace its calls. `loops_in_python`: a
    Python loop over the steps, too slow to time at length. `fuses_residual`: a network computes gate, residual, norm
    and modulation between two mixers by the operator `residual_norm`. `fuses_modulation`: its `modulated_norm` is one
    pass. `memory` is None if no formula describes what it saves.
    """

    name: str
    device_types: tuple[str, ...]
    dtypes: tuple[str, ...]
    find_problem: Callable[[], NotReady | None]
    operators: Mapping[str, Implementation]
    place: str = "a machine that has one"
    auto_rank: int | None = None
    reads_through_path: bool = True
    traceable: bool = True
    loops_in_python: bool = False
    fuses_residual: bool = False
    fuses_modulation: bool = False
    memory: SavedMemory | None = None

    def runs_on(self, device_type: str) -> bool:
        """Whether the backend is for this type of device."""
        return device_type in self.device_types

    def check_device(self, device_type: str) -> None:
        """Raise NotReady if the backend runs on other devices only."""
        if not self.runs_on(device_type):
            raise NotReady(
                f"the backend {self.name!r} doesn't run on this device",
                expected=" or ".join(self.device_types),
                got=device_type,
                do=f"choose the backend 'torch' or 'auto', or run on {self.place}",
            )

    def check_machine(self) -> None:
        """Raise NotReady if this machine lacks what the backend needs."""
        if (problem := self.find_problem()) is not None:
            raise problem

    def check_arguments(self, operator: str, arguments: OperatorArguments) -> None:
        """Raise NotReady or UsageError if the backend doesn't support the arguments of one path."""
        self._check_dtypes(operator, arguments)
        if (error := self.operators[operator].refuse(arguments)) is not None:
            raise error.at(operator)

    def _check_dtypes(self, operator: str, arguments: OperatorArguments) -> None:
        import torch

        dtypes = self.operators[operator].dtypes or self.dtypes
        known = [getattr(torch, name) for name in dtypes]
        for name, tensor in arguments.numbers().items():
            if tensor is not None and tensor.dtype not in known:
                raise UsageError(
                    f"the backend {self.name!r} doesn't support the dtype of {name}",
                    where=operator,
                    expected=f"one of {', '.join(dtypes)}",
                    got=tensor.dtype,
                    do="choose the backend 'naive' (or 'torch') for float64",
                )


def refuse_segments(backend: str, arguments: Any) -> NotReady | None:
    """The error of kernels without segments, if the arguments have some."""
    if arguments.segment_starts is None:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} don't support segments", do="choose the backend 'fused' or 'torch'"
    )


def refuse_initial_state(backend: str, arguments: Any) -> NotReady | None:
    """The error of kernels that start from a state of zero, if the arguments have another."""
    if arguments.initial is None:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} start from a state of zero", do="choose the backend 'fused' or 'torch'"
    )


def refuse_many_states(backend: str, most: int, arguments: Any) -> NotReady | None:
    """The error of kernels that hold at most so many states in registers."""
    states = arguments.A.shape[-1]
    if states <= most:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} hold fewer states in registers",
        expected=f"at most {most}",
        got=states,
        do="choose the backend 'torch'",
    )
