"""Kernels from CUDA C++ text: compiled by NVRTC for a card, kept in the cache folder, launched by the driver.

NVRTC and the driver are reached through cuda-bindings, on which PyTorch's builds for CUDA depend.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zigma_bench.errors import NotReady
from zigma_bench.ops.compiler import cache_folder

COMMON = Path(__file__).with_name("common.cuh")
OPTIONS = ("--std=c++17", "--diag-suppress=128,177,186")  # loops and functions that a setting leaves unused
NUMBERS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "float16"}

Setting = int | torch.dtype
Arguments = ctypes.Array[ctypes.c_char]


class Kernel:
    """A kernel on one card: the driver, its function and the context that it was loaded in."""

    def __init__(self, driver: Any, function: Any, context: Any, index: int, shared_bytes: int) -> None:
        self.driver, self.function, self.context = driver, function, context
        self.index, self.shared_bytes = index, shared_bytes

    def launch(self, grid: tuple[int, int, int], threads: tuple[int, int, int], arguments: Arguments) -> None:
        """Queue the kernel on the current stream; the driver copies its only parameter, a struct."""
        places = ctypes.c_void_p(ctypes.addressof(arguments))
        stream = torch.cuda.current_stream(self.index).cuda_stream
        current, own = int(_check(self.driver.cuCtxGetCurrent(), "no context is told")), int(self.context)
        if current == 0:  # a thread of autograd that has launched nothing yet
            _check(self.driver.cuCtxSetCurrent(self.context), "the context can't be made current")
        elif current != own:  # another card's
            _check(self.driver.cuCtxPushCurrent(self.context), "the context can't be made current")
        launched = self.driver.cuLaunchKernel(
            self.function, *grid, *threads, self.shared_bytes, stream, ctypes.addressof(places), 0
        )
        if current not in (0, own):
            _check(self.driver.cuCtxPopCurrent(), "the context can't be given back")
        _check(launched, "a kernel can't be launched")


class Layout:
    """A struct of a source that holds so many `Rows`, then pointers, then ints."""

    def __init__(self, rows: int, pointers: int, ints: int) -> None:
        self.struct = struct.Struct("@" + "Qqqi" * rows + "Q" * pointers + "i" * ints + "0Q")

    def pack(self, rows: Sequence[Tensor | None], pointers: Sequence[Tensor | None], ints: Sequence[int]) -> Arguments:
        """The struct of these tensors, rows [K, B, L, E] with their numbers side by side; null where there is none."""
        values: list[int] = []
        for tensor in rows:
            if tensor is None:
                values += (0, 0, 0, 0)
            else:
                size, (path, batch, row, _) = tensor.element_size(), tensor.stride()
                values += (tensor.data_ptr(), path * size, batch * size, row * size)
        for tensor in pointers:
            assert tensor is None or tensor.is_contiguous()
            values.append(0 if tensor is None else tensor.data_ptr())
        arguments = ctypes.create_string_buffer(self.struct.size)
        self.struct.pack_into(arguments, 0, *values, *ints)
        return arguments


def readable_by(size: int, *rows: Tensor | None) -> bool:
    """Whether every row consists of aligned pieces of `size` bytes: its address, strides and length are multiples."""
    union = 0
    for tensor in rows:
        if tensor is not None:
            step, (path, batch, row, _) = tensor.element_size(), tensor.stride()
            union |= tensor.data_ptr() | (path | batch | row | tensor.shape[3]) * step
    return union % size == 0


def kernel(source: Path, name: str, index: int, **settings: Setting) -> Kernel:
    """A kernel of a source on a card; the settings are constants (or number types) that the source names."""
    return _kernel(source, name, index, tuple(sorted(settings.items())))


@functools.cache
def _kernel(source: Path, name: str, index: int, settings: tuple[tuple[str, Setting], ...]) -> Kernel:
    from cuda.bindings import driver

    binary = compiled(source, torch.cuda.get_device_capability(index), dict(settings))
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # a context must be current before a module is loaded
        module = _check(driver.cuModuleLoadData(binary), f"the kernels of {source.name} can't be loaded")
        function = _check(driver.cuModuleGetFunction(module, name.encode()), f"{source.name} has no kernel {name}")
        place, size = _check(driver.cuModuleGetGlobal(module, b"shared_bytes"), f"{source.name} tells no shared_bytes")
        needed = ctypes.c_int()
        _check(driver.cuMemcpyDtoH(ctypes.addressof(needed), place, size), "shared_bytes can't be read")
        dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check(
            driver.cuFuncSetAttribute(function, dynamic, needed.value),
            f"the kernel {name} needs {needed.value} bytes of shared memory a block, which this card hasn't",
        )
        context = _check(driver.cuCtxGetCurrent(), "no context is told")
    return Kernel(driver, function, context, index, needed.value)


@functools.cache
def most_shared_bytes(index: int) -> int:
    """How much shared memory a block may have on a card."""
    from cuda.bindings import driver

    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    card = _check(driver.cuDeviceGet(index), "a card isn't found")
    return int(_check(driver.cuDeviceGetAttribute(attribute, card), "a card doesn't tell its shared memory"))


def compiled(source: Path, card: tuple[int, int], settings: Mapping[str, Setting]) -> bytes:
    """The binary of a source for a compute capability, compiled now if the cache lacks it."""
    text = "\n".join((COMMON.read_text(), *_declared(settings), source.read_text()))
    options = (f"--gpu-architecture=sm_{card[0]}{card[1]}", *OPTIONS)
    told = "\0".join((text, *options, str(_nvrtc_version())))
    file = cache_folder() / "cuda" / f"{source.stem}-{hashlib.sha256(told.encode()).hexdigest()[:20]}.cubin"
    if not file.exists():
        _keep(_compile(text, source, options), file)
    return file.read_bytes()


def _declared(settings: Mapping[str, Setting]) -> list[str]:
    return [
        f"using {name} = {NUMBERS[value]};"
        if isinstance(value, torch.dtype)
        else f"constexpr int {name} = {int(value)};"
        for name, value in sorted(settings.items())
    ]


def _nvrtc_version() -> tuple[int, int]:
    from cuda.bindings import nvrtc

    major, minor = _check(nvrtc.nvrtcVersion(), "NVRTC doesn't tell its version")
    return major, minor


def _compile(text: str, source: Path, options: tuple[str, ...]) -> bytes:
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(text.encode(), source.name.encode(), 0, [], []), "NVRTC takes no program")
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program), "NVRTC keeps no log")
            _check(nvrtc.nvrtcGetProgramLog(program, log), "NVRTC keeps no log")
            raise NotReady(
                f"the backend 'fused' can't be compiled: {log.decode(errors='replace').strip(chr(0)).strip()[-3000:]}",
                where=str(source),
                got=" ".join(options),
                do="take the backend 'torch', and report this",
            )
        binary: bytes = b" " * _check(nvrtc.nvrtcGetCUBINSize(program), "NVRTC gives no binary")
        _check(nvrtc.nvrtcGetCUBIN(program, binary), "NVRTC gives no binary")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return binary


def _keep(binary: bytes, file: Path) -> None:
    # Two processes may race: each writes a file of its own and renames it, and both files are the same.
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".cubin", prefix=f".{file.stem}-", dir=file.parent)
        with os.fdopen(handle, "wb") as opened:
            opened.write(binary)
        os.replace(name, file)
    except OSError as error:
        raise NotReady(
            f"the folder for compiled operators can't be written: {error.strerror}",
            where=str(file.parent),
            do="set ZIGMA_BENCH_CACHE to a folder that can",
        ) from None


def _check(result: tuple[Any, ...], failure: str) -> Any:
    """What a call of cuda-bindings gives beside its code: nothing, one thing or several."""
    if int(result[0]):
        raise NotReady(
            f"the backend 'fused': {failure}", got=str(result[0]), do="take the backend 'torch', and report this"
        )
    return result[1] if len(result) == 2 else result[1:]
