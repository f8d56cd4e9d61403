"""A backend: one way to compute the operators, with its requirements and what it supports. Doesn't import torch.

A backend is registered in `ops/backends/__init__.py` and has an `Implementation` of each operator that it computes.
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

    `apply` computes it from the operator's arguments (`OperatorArguments`). It imports the module of the kernels
    itself, so that choosing a backend doesn't import torch. `refuse` returns the error for arguments that the kernels
    don't support, else None. `several_paths`: `apply` computes all K paths in one call, and every argument has the
    leading dimension K; else it is called once per path. `reads_half_precision`: the kernels read 16-bit rows; else all
    floating-point tensors are converted to the dtype of the computation before the call. `dtypes`: the dtypes that the
    arguments may have, if they differ from those of the backend.
    """

    apply: Callable[[Any], Any]
    refuse: Callable[[Any], ZigmaBenchError | None] = accept_all
    several_paths: bool = False
    reads_half_precision: bool = False
    dtypes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SavedMemory:
    """What the operators of a backend save for the backward pass, for the formulas that estimate activation memory.

    `steps_per_state`: the selective scan saves the state once every so many steps. `copies_half_precision`: it saves
    float32 copies of 16-bit rows. `saves_rows_in_order`: it saves rows in scan order, and the inputs of SiLU.
    `recomputes_mixer`: a Mamba mixer is one operator, which recomputes u, delta and (for a sum of paths) y.
    `norm_is_one_kernel`: PyTorch's norm saves only its input, not its normalized input.
    """

    steps_per_state: int
    copies_half_precision: bool = False
    saves_rows_in_order: bool = False
    recomputes_mixer: bool = False
    norm_is_one_kernel: bool = False


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to compute the operators.

    `device_types`: the devices on which it runs. `dtypes`: the dtypes that its arguments may have. `find_problem`
    returns the reason why it can't run on this machine, with what to do, or None. `place`: the kind of machine that it
    needs, for error messages. `operators`: the implementations by operator name. `auto_rank`: `auto` chooses the
    backend with the lowest rank that can run, and never one without a rank. `reads_through_path`: its kernels read and
    write rows through a path; else rows are gathered before each operator. `traceable`: `torch.compile` can trace its
    calls. `loops_in_python`: it loops over the steps in Python, too slowly for long timings. `fuses_residual`: networks
    compute gate, residual, norm and modulation between two mixers by the operator `residual_norm`. `fuses_modulation`:
    its `modulated_norm` is one pass. `memory` is None if no formula describes what it saves.
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
        """Raise NotReady if the backend doesn't run on this type of device."""
        if not self.runs_on(device_type):
            raise NotReady(
                f"the backend {self.name!r} doesn't run on this device",
                expected=" or ".join(self.device_types),
                got=device_type,
                do=f"choose the backend 'torch' or 'auto', or run on {self.place}",
            )

    def check_machine(self) -> None:
        """Raise NotReady if this machine doesn't meet the backend's requirements."""
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
    """The error of kernels that don't support segments, if the arguments have segments."""
    if arguments.segment_starts is None:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} don't support segments", do="choose the backend 'fused' or 'torch'"
    )


def refuse_initial_state(backend: str, arguments: Any) -> NotReady | None:
    """The error of kernels that start from a zero state, if the arguments have an initial state."""
    if arguments.initial is None:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} don't support an initial state",
        do="choose the backend 'fused' or 'torch'",
    )


def refuse_many_states(backend: str, most: int, arguments: Any) -> NotReady | None:
    """The error of kernels that support at most `most` states per channel, if the arguments have more."""
    states = arguments.A.shape[-1]
    if states <= most:
        return None
    return NotReady(
        f"the kernels of the backend {backend!r} don't support so many states",
        expected=f"at most {most}",
        got=states,
        do="choose the backend 'torch'",
    )
