"""Kernels in CUDA C++ compiled for the CPU, with simt.h instead of a GPU. They are launched like those on a GPU."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from pathlib import Path

from zigma_bench.ops.compiler import require_compiler
from zigma_bench.ops.cuda import program

HEADER = Path(__file__).with_name("simt.h")
FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing")
FUNCTION = re.compile(r"^(?:template <[^\n]*>\n)?DEVICE [^\n;]*\{", re.MULTILINE)


class Emulated:
    """A kernel that runs on tensors of the CPU; `backwards`: the last warp of a block goes first."""

    backwards = False

    def __init__(self, code: ctypes.CDLL) -> None:
        self.code = code

    def launch(
        self, grid: tuple[int, int, int], threads: tuple[int, int, int], arguments: program.PackedArguments
    ) -> None:
        assert ctypes.c_int.in_dll(self.code, "shared_bytes").value <= 1 << 18
        if self.code.run(arguments, *grid, *threads, int(self.backwards)):
            raise RuntimeError("deadlock: threads of a block wait for some that don't come")


@functools.cache
def _built(text: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        source.write_text(text)
        done = subprocess.run([require_compiler(), *FLAGS, "-o", target, source], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return ctypes.CDLL(str(target))


def load_kernel(source: Path, name: str, index: int, **settings: program.Setting) -> Emulated:
    """Like `program.load_kernel`."""
    told = "\n".join((program.COMMON.read_text(), *program._declare_settings(settings), source.read_text()))
    entry = (
        'extern "C" int run(const void* given, int gx, int gy, int gz, int x, int y, int z, int backwards) {\n'
        f"  return simt::run({name}, given, {{gx, gy, gz}}, {{x, y, z}}, backwards);\n}}\n"
    )
    return Emulated(_built("\n".join((HEADER.read_text(), _without_ptx(told), entry))))


def _without_ptx(text: str) -> str:
    """The source without functions that contain PTX; simt.h's version replaces the first one."""
    kept, last, given = [], 0, "PTX_FUNCTIONS\n"
    for found in FUNCTION.finditer(text):
        end = _closing(text, found.end() - 1) + 1
        if "asm" in text[found.start() : end]:
            kept += [text[last : found.start()], given]
            last, given = end, ""
    kept.append(text[last:])
    joined = "".join(kept)
    assert not re.search(r"\basm\b", joined), "PTX outside of a function of its own"
    return joined


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("a brace that nothing closes")
