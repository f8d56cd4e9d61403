"""The machine's C++ compiler, the shared libraries that it builds at first use, and the layout of tensors for C++.

Libraries are cached in $ZIGMA_BENCH_CACHE, or ~/.cache/zigma-bench, and named by the hash of everything that they
depend on.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zigma_bench.errors import NotReady

if TYPE_CHECKING:
    from torch import Tensor

# -march=native: vectors must be as wide as the machine's registers. No -ffast-math: NaN and infinity must propagate,
# and the order of sums is fixed. No OpenMP: a second runtime would compete with torch's for the cores.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-w", "-fPIC", "-shared", "-pthread")
HEADER = Path(__file__).with_name("simd.h")


def find_compiler() -> str | None:
    """The path of a C++ compiler: $CXX, else the first of c++, g++, clang++ on the PATH; None if there is none."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if (found := shutil.which(name)) is not None:
            return found
    return None


def cache_folder() -> Path:
    """The folder for compiled operators."""
    named = os.environ.get("ZIGMA_BENCH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "zigma-bench"


def require_compiler() -> str:
    """The path of a C++ compiler, or NotReady."""
    if (compiler := find_compiler()) is None:
        raise NotReady(
            "the backend 'cpu' needs a C++ compiler, and none was found",
            expected="c++, g++ or clang++ on the PATH, or the environment variable CXX",
            got=os.environ.get("CXX"),
            do="install one (Debian: apt install g++; conda: gxx), or choose the backend 'torch' or 'auto'",
        )
    return compiler


def compile_library(source: Path) -> Path:
    """The shared library of a C++ source, compiled now if it is not cached; NotReady if that fails."""
    compiler = require_compiler()
    target = cache_folder() / f"{source.stem}-{_library_digest(source, compiler)}.so"
    if not target.exists():
        _compile(compiler, source, target)
    return target


@functools.cache
def load_library(source: Path) -> ctypes.CDLL:
    """The compiled source, loaded once in a process."""
    return ctypes.CDLL(str(compile_library(source)))


def declare_function(function: Any, arguments: type[ctypes.Structure]) -> None:
    """Declare a C function of one structure; its return value 1 (out of memory) raises MemoryError."""

    def check(failed: int, called: Any, arguments: Any) -> None:
        if failed:
            raise MemoryError(f"{called.__name__} of the backend 'cpu' can't allocate memory")

    function.restype, function.argtypes, function.errcheck = ctypes.c_int, (ctypes.POINTER(arguments),), check


class RowsView(ctypes.Structure):
    """A float32 [B, L, E] array in C++: `Rows` of simd.h. A null pointer stands for None."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("row_stride", ctypes.c_int64))

    @classmethod
    def of(cls, tensor: Tensor | None) -> RowsView:
        """The rows of a tensor whose channels are adjacent (`dense_rows`)."""
        return cls() if tensor is None else cls(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def address(tensor: Tensor | None) -> int | None:
    """The address of a contiguous tensor's first number; None (a null pointer) for None."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _library_digest(source: Path, compiler: str) -> str:
    flags = "\n".join((compiler, *FLAGS, _describe_processor())).encode()
    parts = (source.read_bytes(), HEADER.read_bytes(), _compiler_version(compiler), flags)
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:20]


@functools.cache
def _compiler_version(compiler: str) -> bytes:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotReady(
            f"the C++ compiler can't be run: {error}", where=compiler, do="choose another one with CXX"
        ) from None


def _describe_processor() -> str:
    """The processor's model and features: a library for another processor may use instructions that it doesn't have."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    lines = information.read_text(errors="replace").split("\n\n", 1)[0].splitlines()
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(wanted))])


def _compile(compiler: str, source: Path, target: Path) -> None:
    # Two processes may do this at once: each writes a temporary file and renames it, and both files are equal.
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".so", prefix=f".{source.stem}-", dir=target.parent)
    except OSError as error:
        raise NotReady(
            f"the folder for compiled operators can't be written: {error.strerror}",
            where=str(target.parent),
            do="set ZIGMA_BENCH_CACHE to a writable folder",
        ) from None
    os.close(handle)
    try:
        done = subprocess.run([compiler, *FLAGS, "-o", name, str(source)], capture_output=True, text=True)
        if done.returncode:
            raise NotReady(
                f"the backend 'cpu' can't be compiled by {compiler}: {done.stderr.strip()[-2000:]}",
                where=str(source),
                do="choose another compiler with CXX, or choose the backend 'torch'",
            )
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
