"""Which implementation of the operators runs: chosen once by `resolve`, never changed silently. Imports no torch."""

from __future__ import annotations

from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.ops.compiler import find_compiler, require_compiler

BACKENDS = ("naive", "torch", "cpu")
DEVICES = ("cpu", "cuda")


def resolve(requested: str, device_type: str) -> str:
    """The backend to run on a device, from a name or `auto`.

    `auto` is `cpu` on a CPU with a C++ compiler, and `torch` elsewhere.
    Raises UnknownName for another name, UsageError for an unknown device, NotReady where a named one can't run.
    """
    if requested not in (*BACKENDS, "auto"):
        raise UnknownName("backend", requested, (*BACKENDS, "auto"))
    if device_type not in DEVICES:
        raise UsageError("the operators don't run on this device", expected=" or ".join(DEVICES), got=device_type)
    if requested == "auto":
        return "cpu" if device_type == "cpu" and find_compiler() is not None else "torch"
    if requested == "cpu":
        require_cpu(device_type)
        require_compiler()
    return requested


def require_cpu(device_type: str) -> None:
    """NotReady unless the device is the CPU."""
    if device_type != "cpu":
        raise NotReady(
            "the backend 'cpu' doesn't run on this device",
            expected="cpu",
            got=device_type,
            do="take the backend 'torch' or 'auto', or run on the CPU",
        )


def available() -> dict[str, str]:
    """Every backend, with the reason why it can't run on this machine, or an empty text."""
    reasons = dict.fromkeys(BACKENDS, "")
    try:
        require_compiler()
    except NotReady as error:
        reasons["cpu"] = str(error)
    return reasons
