"""The backends, and the choice of one by `resolve`, which never changes silently. Imports torch only if there is a GPU.

To add a backend, write a file like the others of this folder and add its object to `BACKENDS`.
"""

from __future__ import annotations

from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.ops.backend import Backend, Implementation
from zigma_bench.ops.backends.cpu import CPU
from zigma_bench.ops.backends.fused import FUSED
from zigma_bench.ops.backends.mamba_ssm import MAMBA_SSM
from zigma_bench.ops.backends.portable import NAIVE, TORCH
from zigma_bench.ops.backends.triton import TRITON

BACKENDS = {backend.name: backend for backend in (NAIVE, TORCH, CPU, FUSED, TRITON, MAMBA_SSM)}
AUTO = "auto"
DEVICES = ("cpu", "cuda")


def backend_named(name: str, *, where: str | None = None) -> Backend:
    """The backend of this name; UnknownName for any other name, including `auto`."""
    if name not in BACKENDS:
        raise UnknownName("backend", name, BACKENDS, where=where)
    return BACKENDS[name]


def check_backend_name(name: str, *, where: str) -> None:
    """Raise UnknownName unless this is a backend or `auto`."""
    if name != AUTO and name not in BACKENDS:
        raise UnknownName("backend", name, (*BACKENDS, AUTO), where=where)


def resolve(requested: str, device_type: str) -> str:
    """The name of the backend that runs on a device, from a name or `auto`.

    `auto` is `cpu` on a CPU with a C++ compiler, `fused` on a GPU that it supports, `triton` on other GPUs, else
    `torch`. Raises UnknownName for another name, UsageError for an unknown device, NotReady if a named backend can't
    run.
    """
    check_backend_name(requested, where="backend")
    if device_type not in DEVICES:
        raise UsageError("the operators don't run on this device", expected=" or ".join(DEVICES), got=device_type)
    if requested == AUTO:
        return _resolve_auto(device_type)
    chosen = BACKENDS[requested]
    chosen.check_device(device_type)
    chosen.check_machine()
    return requested


def _resolve_auto(device_type: str) -> str:
    ranked = [backend for backend in BACKENDS.values() if backend.auto_rank and device_type in backend.device_types]
    problems = []
    for backend in sorted(ranked, key=lambda backend: backend.auto_rank or 0):
        if (problem := backend.find_problem()) is None:
            return backend.name
        problems.append(f"{backend.name}: {problem}")
    raise NotReady(f"no backend runs on this device: {'; '.join(problems)}", got=device_type)


def available() -> dict[str, str]:
    """Every backend, with the reason why it can't run on this machine, or an empty string."""
    problems = {name: backend.find_problem() for name, backend in BACKENDS.items()}
    return {name: "" if problem is None else str(problem) for name, problem in problems.items()}


def implementation_of(operator: str, backend: Backend, device_type: str) -> Implementation:
    """How a backend computes an operator on a device; NotReady if it can't."""
    backend.check_device(device_type)
    if operator not in backend.operators:
        raise NotReady(
            f"the backend {backend.name!r} doesn't compute this operator",
            where=operator,
            expected=f"one of {', '.join(name for name, other in BACKENDS.items() if operator in other.operators)}",
            got=backend.name,
            do="choose the backend 'torch' or 'auto'",
        )
    return backend.operators[operator]
