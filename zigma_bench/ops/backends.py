"""Which implementation of the operators runs: chosen once by `resolve`, never changed silently.

Imports no torch, unless there is a card.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.ops.compiler import find_compiler, require_compiler
from zigma_bench.system.device import cards, nvidia_cards

BACKENDS = ("naive", "torch", "cpu", "fused", "triton", "mamba-ssm")
DEVICES = ("cpu", "cuda")
ONLY = {"cpu": "cpu", "fused": "cuda", "triton": "cuda", "mamba-ssm": "cuda"}  # the device of those that run on one
LEAST_CAPABILITY = (8, 0)  # of a card for `fused`: copies to shared memory that are not waited for, tf32 products
LEAST_CAPABILITY_TRITON = (7, 0)  # of an NVIDIA card: what Triton compiles for
LIBRARIES = ("selective_scan_cuda", "causal_conv1d", "causal_conv1d_cuda")  # of mamba-ssm and causal-conv1d


def resolve(requested: str, device_type: str) -> str:
    """The backend to run on a device, from a name or `auto`.

    `auto` is `cpu` on a CPU with a C++ compiler, `fused` on a card that it serves, `triton` on others, else `torch`.
    Raises UnknownName for another name, UsageError for an unknown device, NotReady where a named one can't run.
    """
    if requested not in (*BACKENDS, "auto"):
        raise UnknownName("backend", requested, (*BACKENDS, "auto"))
    if device_type not in DEVICES:
        raise UsageError("the operators don't run on this device", expected=" or ".join(DEVICES), got=device_type)
    if requested == "auto":
        if device_type == "cpu":
            return "cpu" if find_compiler() is not None else "torch"
        if _why_not_fused() is None:
            return "fused"
        return "triton" if _why_not_triton() is None else "torch"
    require_device(requested, device_type)
    _require(requested)
    return requested


def runs_on(backend: str, device_type: str) -> bool:
    """Whether a backend is for a device; Triton's interpreter runs kernels on the CPU too."""
    if backend == "triton" and interpreted():
        return True
    return ONLY.get(backend, device_type) == device_type


def interpreted() -> bool:
    """Whether Triton interprets its kernels instead of compiling them, as TRITON_INTERPRET tells it."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def require_device(backend: str, device_type: str) -> None:
    """NotReady if the backend runs on another device alone."""
    if not runs_on(backend, device_type):
        only = {"cpu": "the CPU", "triton": "a GPU"}.get(backend, "an NVIDIA card")
        raise NotReady(
            f"the backend {backend!r} doesn't run on this device",
            expected=ONLY[backend],
            got=device_type,
            do=f"take the backend 'torch' or 'auto', or run on {only}",
        )


def available() -> dict[str, str]:
    """Every backend, with the reason why it can't run on this machine, or an empty text."""
    reasons = dict.fromkeys(BACKENDS, "")
    for backend in BACKENDS:
        try:
            _require(backend)
        except NotReady as error:
            reasons[backend] = str(error)
    return reasons


def _require(backend: str) -> None:
    """NotReady if what the backend needs of this machine is missing."""
    if backend == "cpu":
        require_compiler()
    if backend == "fused" and (error := _why_not_fused()) is not None:
        raise error
    if backend == "triton" and (error := _why_not_triton()) is not None:
        raise error
    if backend == "mamba-ssm":
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            raise NotReady(
                "the backend 'mamba-ssm' needs compiled libraries that are not installed",
                expected=" and ".join(LIBRARIES),
                got=f"no {' and no '.join(missing)}",
                do="pip install causal-conv1d mamba-ssm (they compile for minutes), or take the backend 'fused'",
            )
        _require_card("mamba-ssm")


def _why_not_fused() -> NotReady | None:
    try:
        if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
            return NotReady(
                "the backend 'fused' needs cuda-bindings, which comes with PyTorch's builds for CUDA",
                expected="the module cuda.bindings",
                do="pip install cuda-bindings (of your CUDA's major version), or take the backend 'torch'",
            )
        _require_card("fused")
    except NotReady as error:
        return error
    import torch

    found = torch.cuda.get_device_capability()
    if found < LEAST_CAPABILITY:
        return NotReady(
            "the backend 'fused' doesn't run on this card",
            expected=f"compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or later",
            got=f"{torch.cuda.get_device_name()}: {found[0]}.{found[1]}",
            do="take the backend 'torch'",
        )
    return None


def _why_not_triton() -> NotReady | None:
    if importlib.util.find_spec("triton") is None:
        return NotReady(
            "the backend 'triton' needs the package triton, which comes with PyTorch's builds for CUDA and ROCm",
            expected="the module triton",
            do="pip install triton (in the version that your PyTorch asks for), or take the backend 'torch'",
        )
    if interpreted():
        return None
    try:
        _require_card("triton")
    except NotReady as error:
        return error
    if (lacking := _no_launcher()) is not None:
        return lacking
    import torch

    found = torch.cuda.get_device_capability()
    if torch.version.hip is None and found < LEAST_CAPABILITY_TRITON:
        return NotReady(
            "the backend 'triton' doesn't run on this card",
            expected=f"compute capability {LEAST_CAPABILITY_TRITON[0]}.{LEAST_CAPABILITY_TRITON[1]} or later",
            got=f"{torch.cuda.get_device_name()}: {found[0]}.{found[1]}",
            do="take the backend 'torch'",
        )
    return None


def _no_launcher() -> NotReady | None:
    """Triton compiles the C that launches its kernels: with $CC, gcc or clang, against Python's headers."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is not None and header.exists():
        return None
    return NotReady(
        "the backend 'triton' needs a C compiler and Python's headers to launch kernels",
        expected=f"gcc or clang on the PATH (or the environment variable CC), and {header}",
        got=f"{compiler or 'no compiler'}, {'and the headers' if header.exists() else 'and no Python.h'}",
        do="install them (Debian: apt install gcc python3-dev), or take the backend 'torch'",
    )


def _require_card(backend: str) -> None:
    found = cards() if backend == "triton" else nvidia_cards()
    if found:
        import torch

        if torch.cuda.is_available():
            return
        found = (*found, f"torch {torch.__version__}, which sees none")
    raise NotReady(
        f"the backend {backend!r} needs {'a' if backend == 'triton' else 'an NVIDIA'} card that PyTorch can use",
        got=", ".join(found) or "no card",
        do="run where there is one (nvidia-smi and torch.cuda.is_available() tell), or take the backend 'auto'",
    )
