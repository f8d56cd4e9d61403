"""Find tensors in a weights file that can't be loaded into a network, and list them by name for an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

LISTED = 20  # names per fault; any more are only counted
LONGEST_NAME = 120


def faults_of(tensors: Mapping[Any, Any], *, floating: bool = True) -> dict[str, list[str]]:
    """The unusable entries by fault. `floating`: tensors that are not floating-point are also a fault."""
    found: dict[str, list[str]] = {}
    for name, value in tensors.items():
        if (fault := _fault(name, value, floating=floating)) is not None:
            found.setdefault(fault[0], []).append(f"{name_text(name)}{fault[1]}")
    return found


def _fault(name: Any, value: Any, *, floating: bool) -> tuple[str, str] | None:
    """The fault of one entry, and a detail to show after its name."""
    if not isinstance(name, str):
        return "a name that is not a string", f" ({type(name).__name__})"
    if not isinstance(value, Tensor):
        return "not a tensor", f" ({type(value).__name__})"
    if value.is_meta:
        return "a meta tensor, which has a shape but no values", ""
    if value.is_quantized:
        return "quantized", f" ({value.dtype})"
    if value.is_nested or value.layout is not torch.strided:
        return "not dense", f" ({'nested' if value.is_nested else value.layout})"
    if floating and not value.is_floating_point():
        return "not floating-point", f" ({value.dtype})"
    return None


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The tensors with values that are NaN or infinite in float32, and the number of such values."""
    bad = []
    for name, value in tensors.items():
        if value.is_floating_point() or value.is_complex():
            count = value.numel() - int((value if value.is_complex() else value.float()).isfinite().sum())
            if count:
                bad.append(f"{name_text(name)} ({count:,} of {value.numel():,} values)")
    return {"NaN or infinite": bad} if bad else {}


def list_faults(faults: Mapping[str, Iterable[str]]) -> str:
    """All faults in one line, each with its names. A long list is truncated and shows the total count."""
    parts = []
    for fault, names in faults.items():
        names = list(names)
        rest = f", and {len(names) - LISTED:,} more of {len(names):,}" if len(names) > LISTED else ""
        if names:
            parts.append(f"{fault}: {', '.join(names[:LISTED])}{rest}")
    return "; ".join(parts)


def name_text(name: Any) -> str:
    """A name from a file, for an error: without control characters and of bounded length."""
    text = name if isinstance(name, str) and name.isprintable() and name else repr(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
