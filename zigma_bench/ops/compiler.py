"""The machine's C++ compiler, and the shared libraries it makes at first use, kept in a cache folder.

The folder is $ZIGMA_BENCH_CACHE, or ~/.cache/zigma-bench. A file's name is the hash of all that decides its content.
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
from typing import Any

from zigma_bench.errors import NotReady

# -march=native: the width of a vector must match the machine's registers. No -ffast-math: NaN and infinity count, and
# the order of sums is fixed. No OpenMP: a second runtime beside torch's would fight over the cores.
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
    """Where compiled operators are kept."""
    named = os.environ.get("ZIGMA_BENCH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "zigma-bench"


def require_compiler() -> str:
    """The path of a C++ compiler, or NotReady."""
    if (compiler := find_compiler()) is None:
        raise NotReady(
            "the backend 'cpu' needs a C++ compiler and none was found",
            expected="c++, g++ or clang++ on the PATH, or the environment variable CXX",
            got=os.environ.get("CXX"),
            do="install one (Debian: apt install g++; conda: gxx), or take the backend 'torch' or 'auto'",
        )
    return compiler


def compiled(source: Path) -> Path:
    """The shared library of a C++ source, compiled now if the cache lacks it; NotReady where that fails."""
    compiler = require_compiler()
    target = cache_folder() / f"{source.stem}-{_digest(source, compiler)}.so"
    if not target.exists():
        _compile(compiler, source, target)
    return target


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """The compiled source, loaded once a process."""
    return ctypes.CDLL(str(compiled(source)))


def answering(function: Any, arguments: type[ctypes.Structure]) -> None:
    """Declare a function of simd.h's `answer`, called with a structure: MemoryError where it had no memory to work."""

    def check(answer: int, called: Any, given: Any) -> None:
        if answer:
            raise MemoryError(f"{called.__name__} of the backend 'cpu' gets no memory to work in")

    function.restype, function.argtypes, function.errcheck = ctypes.c_int, (ctypes.POINTER(arguments),), check


def _digest(source: Path, compiler: str) -> str:
    told = "\n".join((compiler, *FLAGS, _processor())).encode()
    parts = (source.read_bytes(), HEADER.read_bytes(), _version(compiler), told)
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:20]


@functools.cache
def _version(compiler: str) -> bytes:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotReady(
            f"the C++ compiler can't be run: {error}", where=compiler, do="name another one by CXX"
        ) from None


def _processor() -> str:
    """The processor's model and features: a library made for another one may hold instructions that this one lacks."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    lines = information.read_text(errors="replace").split("\n\n", 1)[0].splitlines()
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(wanted))])


def _compile(compiler: str, source: Path, target: Path) -> None:
    # Two processes may race: each writes a file of its own and renames it, and both files are the same.
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".so", prefix=f".{source.stem}-", dir=target.parent)
    except OSError as error:
        raise NotReady(
            f"the folder for compiled operators can't be written: {error.strerror}",
            where=str(target.parent),
            do="set ZIGMA_BENCH_CACHE to a folder that can",
        ) from None
    os.close(handle)
    try:
        done = subprocess.run([compiler, *FLAGS, "-o", name, str(source)], capture_output=True, text=True)
        if done.returncode:
            raise NotReady(
                f"the backend 'cpu' can't be compiled by {compiler}: {done.stderr.strip()[-2000:]}",
                where=str(source),
                do="name another compiler by CXX, or take the backend 'torch'",
            )
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
