"""Read released checkpoint files without running code that they contain.

The training scripts of ZigMa and DiT pickle their arguments next to the weights (OmegaConf containers, an argparse
namespace), which `weights_only=True` refuses. These few classes are replaced by an empty object. All other names are
refused. Nothing is imported or called.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from zigma_bench.backbones.official.pickled import foreign_names
from zigma_bench.errors import NotReady, UsageError

ARGUMENTS = re.compile(
    r"omegaconf\.[\w.]+|argparse\.Namespace|typing\.Any|collections\.defaultdict|pathlib\.(Posix|Windows)?Path"
    r"|builtins\.(dict|list|tuple|int|float|str|bool)"
)


class Ignored:
    """Replaces objects in a training script's arguments. It accepts any pickled state and discards it."""

    def __new__(cls, *_: Any) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_released(path: Path) -> Mapping[str, Any]:
    """Load a .pt, .pth or .safetensors file on the CPU. A zipped file is memory-mapped.

    Raises NotReady if the file is missing, UsageError if it is damaged, isn't a checkpoint, or contains code.
    """
    if not path.is_file():
        raise NotReady("no such checkpoint", where=str(path), do="pass the path of a released file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    zipped = zipfile.is_zipfile(path)
    unknown = _names_in(path) if zipped else []
    if code := [name for name in unknown if not ARGUMENTS.fullmatch(name)]:
        raise _holds_code(path, code)
    try:
        with _as_ignored(unknown), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle protocol that torch.load refuses anyway
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged file can raise any type
        raise _unreadable_error(path, error) from None
    if not isinstance(found, Mapping):
        raise UsageError(
            "not a checkpoint", where=str(path), expected="a mapping of names to tensors", got=type(found).__name__
        )
    return found


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names_in(path: Path) -> list[str]:
    """The names that a zipped checkpoint imports besides tensors and plain values, without unpickling it."""
    try:
        return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception as error:
        raise _unreadable_error(path, error) from None


def _as_ignored(names: list[str]) -> contextlib.AbstractContextManager[Any]:
    stand_ins: list[Any] = [(Ignored, name) for name in names]
    return torch.serialization.safe_globals(stand_ins) if names else contextlib.nullcontext()


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, OSError, and errors of torch about an unknown type or size
        raise _damaged_error(path, error) from None


def _holds_code(path: Path, names: list[str]) -> UsageError:
    return UsageError(
        f"the file contains code besides weights: it imports {', '.join(names)}; none of it was run",
        where=str(path),
        expected="tensors that weights_only=True can read",
        do="get the file from its publisher, or ask the publisher for the weights as safetensors",
    )


def _unreadable_error(path: Path, error: Exception) -> UsageError:
    """The error for a pickle with code or a damaged file. torch names the refused import only for some protocols."""
    names = re.findall(r"GLOBAL ([\w.]+)", str(error)) or foreign_names(path)
    return _holds_code(path, names) if names else _damaged_error(path, error)


def _damaged_error(path: Path, error: Exception) -> UsageError:
    inner = re.search(r"WeightsUnpickler error: (.*)", str(error))
    reason = (inner[1] if inner else str(error).split("\n")[0])[:200] or "it ends too early"
    return UsageError(
        f"the file can't be read; it is damaged or not a checkpoint ({type(error).__name__}: {reason})",
        where=str(path),
        got=f"{path.stat().st_size:,} bytes",
        do="compare its size and hash with the publisher's, and download it again",
    )
