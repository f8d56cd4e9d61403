"""Kernels in CUDA C++: compiled by NVRTC for a GPU, cached on disk, launched by the driver.

NVRTC and the driver are called through cuda-bindings, which PyTorch's builds for CUDA install.
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
OPTIONS = (
    "--std=c++17",
    "--diag-suppress=128,177,186",
)  # about code that some settings don't use
NUMBERS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "float16"}

Setting = int | torch.dtype
PackedArguments = ctypes.Array[ctypes.c_char]


class CudaKernel:
    """A kernel on one GPU: the driver, its function and the context in which it was loaded."""

    def __init__(self, driver: Any, function: Any, context: Any, index: int, shared_bytes: int) -> None:
        self.driver, self.function, self.context = driver, function, context
        self.index, self.shared_bytes = index, shared_bytes

    def launch(self, grid: tuple[int, int, int], threads: tuple[int, int, int], arguments: PackedArguments) -> None:
        """Queue the kernel on the current stream; the driver copies its single parameter, a struct."""
        places = ctypes.c_void_p(ctypes.addressof(arguments))
        stream = torch.cuda.current_stream(self.index).cuda_stream
        current, own = (
            int(_check_result(self.driver.cuCtxGetCurrent(), "there is no current context")),
            int(self.context),
        )
        if current == 0:  # a thread of autograd that hasn't launched anything yet
            _check_result(self.driver.cuCtxSetCurrent(self.context), "the context can't be made current")
        elif current != own:  # the context of another GPU
            _check_result(self.driver.cuCtxPushCurrent(self.context), "the context can't be made current")
        launched = self.driver.cuLaunchKernel(
            self.function, *grid, *threads, self.shared_bytes, stream, ctypes.addressof(places), 0
        )
        if current not in (0, own):
            _check_result(self.driver.cuCtxPopCurrent(), "the context can't be restored")
        _check_result(launched, "a kernel can't be launched")


class StructLayout:
    """The layout of a struct in a CUDA source: numbers of `Rows`, pointers and ints, in this order."""

    def __init__(self, rows: int, pointers: int, ints: int) -> None:
        self.struct = struct.Struct("@" + "Qqqi" * rows + "Q" * pointers + "i" * ints + "0Q")

    def pack(
        self, rows: Sequence[Tensor | None], pointers: Sequence[Tensor | None], ints: Sequence[int]
    ) -> PackedArguments:
        """The struct of these tensors; null for None. Rows are [K, B, L, E] with adjacent numbers."""
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


def is_readable_by(size: int, *rows: Tensor | None) -> bool:
    """Whether addresses, strides and lengths of rows are multiples of `size` bytes, for aligned reads of that size."""
    union = 0
    for tensor in rows:
        if tensor is not None:
            step, (path, batch, row, _) = tensor.element_size(), tensor.stride()
            union |= tensor.data_ptr() | (path | batch | row | tensor.shape[3]) * step
    return union % size == 0


def load_kernel(source: Path, name: str, index: int, **settings: Setting) -> CudaKernel:
    """A kernel of a source on a GPU; the settings are the constants (or number types) that the source uses."""
    return _load_kernel(source, name, index, tuple(sorted(settings.items())))


@functools.cache
def _load_kernel(source: Path, name: str, index: int, settings: tuple[tuple[str, Setting], ...]) -> CudaKernel:
    from cuda.bindings import driver

    binary = compile_source(source, torch.cuda.get_device_capability(index), dict(settings))
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # a context must be current before a module is loaded
        module = _check_result(driver.cuModuleLoadData(binary), f"the kernels of {source.name} can't be loaded")
        function = _check_result(
            driver.cuModuleGetFunction(module, name.encode()), f"{source.name} has no kernel {name}"
        )
        place, size = _check_result(
            driver.cuModuleGetGlobal(module, b"shared_bytes"), f"{source.name} has no shared_bytes"
        )
        needed = ctypes.c_int()
        _check_result(driver.cuMemcpyDtoH(ctypes.addressof(needed), place, size), "shared_bytes can't be read")
        dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check_result(
            driver.cuFuncSetAttribute(function, dynamic, needed.value),
            f"the kernel {name} needs {needed.value} bytes of shared memory per block, more than this GPU has",
        )
        context = _check_result(driver.cuCtxGetCurrent(), "there is no current context")
    return CudaKernel(driver, function, context, index, needed.value)


@functools.cache
def get_shared_bytes_limit(index: int) -> int:
    """The bytes of shared memory that a block may have on a GPU."""
    from cuda.bindings import driver

    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    gpu = _check_result(driver.cuDeviceGet(index), "the GPU isn't found")
    return int(
        _check_result(driver.cuDeviceGetAttribute(attribute, gpu), "the size of the shared memory can't be read")
    )


def compile_source(source: Path, capability: tuple[int, int], settings: Mapping[str, Setting]) -> bytes:
    """The binary of a source for a compute capability, compiled now if it is not cached."""
    text = "\n".join((COMMON.read_text(), *_declare_settings(settings), source.read_text()))
    options = (f"--gpu-architecture=sm_{capability[0]}{capability[1]}", *OPTIONS)
    key = "\0".join((text, *options, str(_nvrtc_version())))
    file = cache_folder() / "cuda" / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.cubin"
    if not file.exists():
        _write_binary(_compile(text, source, options), file)
    return file.read_bytes()


def _declare_settings(settings: Mapping[str, Setting]) -> list[str]:
    return [
        f"using {name} = {NUMBERS[value]};"
        if isinstance(value, torch.dtype)
        else f"constexpr int {name} = {int(value)};"
        for name, value in sorted(settings.items())
    ]


def _nvrtc_version() -> tuple[int, int]:
    from cuda.bindings import nvrtc

    major, minor = _check_result(nvrtc.nvrtcVersion(), "the version of NVRTC can't be read")
    return major, minor


def _compile(text: str, source: Path, options: tuple[str, ...]) -> bytes:
    from cuda.bindings import nvrtc

    program = _check_result(
        nvrtc.nvrtcCreateProgram(text.encode(), source.name.encode(), 0, [], []), "NVRTC can't create a program"
    )
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _check_result(nvrtc.nvrtcGetProgramLogSize(program), "NVRTC has no log")
            _check_result(nvrtc.nvrtcGetProgramLog(program, log), "NVRTC has no log")
            raise NotReady(
                f"the backend 'fused' can't be compiled: {log.decode(errors='replace').strip(chr(0)).strip()[-3000:]}",
                where=str(source),
                got=" ".join(options),
                do="choose the backend 'torch', and report this",
            )
        binary: bytes = b" " * _check_result(nvrtc.nvrtcGetCUBINSize(program), "NVRTC has no binary")
        _check_result(nvrtc.nvrtcGetCUBIN(program, binary), "NVRTC has no binary")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return binary


def _write_binary(binary: bytes, file: Path) -> None:
    # Two processes may do this at once: each writes a temporary file and renames it, and both files are equal.
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
            do="set ZIGMA_BENCH_CACHE to a writable folder",
        ) from None


def _check_result(result: tuple[Any, ...], failure: str) -> Any:
    """The results of a call of cuda-bindings, without its error code: none, one or several."""
    if int(result[0]):
        raise NotReady(
            f"the backend 'fused': {failure}", got=str(result[0]), do="choose the backend 'torch', and report this"
        )
    return result[1] if len(result) == 2 else result[1:]
