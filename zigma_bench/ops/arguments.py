"""What the operators share: checks of shapes, path and segments, the dtype they compute in, and rows handed to C++."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.ops.backends import BACKENDS, require_device

if TYPE_CHECKING:
    from torch import Tensor, dtype


SINGLE = ("cpu", "fused", "triton", "mamba-ssm")  # backends that compute in float32 alone


def check_backend(backend: str, device_type: str, *, where: str) -> None:
    """UnknownName unless `backend` is a resolved name (not `auto`), NotReady where it can't run on the device."""
    if backend not in BACKENDS:
        raise UnknownName("backend", backend, BACKENDS, where=where)
    require_device(backend, device_type)


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor, *, where: str) -> None:
    """UsageError unless the tensor has this shape, floating numbers and the device of `like`; None passes."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise UsageError(f"{name} has a wrong shape", where=where, expected=str(shape), got=tuple(tensor.shape))
    if not tensor.dtype.is_floating_point:
        raise UsageError(f"{name} has a wrong dtype", where=where, expected="floating numbers", got=tensor.dtype)
    if tensor.device != like.device:
        raise UsageError(f"{name} is on another device", where=where, expected=str(like.device), got=str(tensor.device))


def check_sequence(name: str, tensor: Tensor, *, where: str) -> None:
    """UsageError unless the tensor is floating [B, L, E] with no empty side."""
    if tensor.dim() != 3 or 0 in tensor.shape:
        raise UsageError(
            f"{name} has a wrong shape", where=where, expected="[B, L, E], none of them 0", got=tuple(tensor.shape)
        )
    if not tensor.dtype.is_floating_point:
        raise UsageError(f"{name} has a wrong dtype", where=where, expected="floating numbers", got=tensor.dtype)


def check_path(path: Tensor | None, like: Tensor, *, where: str) -> None:
    """UsageError unless the path is int64 [L] on the device of `like` [B, L, E] and visits every row once.

    On a GPU the values are not looked at: that would stop the queue. Nor are they when PyTorch traces, where there are
    none. The plan has checked them.
    """
    if path is None:
        return
    _check_whole_numbers("the path", path, like, where=where)
    length = len(path)
    if _has_values(path) and not _visits_each_once(path):
        raise UsageError(f"the path doesn't visit each of the rows 0 to {length - 1} once", where=where)


def _has_values(tensor: Tensor) -> bool:
    """Whether the numbers can be looked at in passing."""
    import torch

    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _visits_each_once(path: Tensor) -> bool:
    import numpy as np

    order, seen = path.numpy(), np.zeros(len(path), dtype=bool)
    if order.min() < 0 or order.max() >= len(order):
        return False
    seen[order] = True
    return bool(seen.all())


def check_since(since: Tensor | None, like: Tensor, *, where: str) -> None:
    """UsageError unless `since` is int64 [L] on the device of `like` [B, L, E]: 0 first, then i or as at step i - 1.

    On a GPU and when PyTorch traces the values are not looked at, as those of the path.
    """
    if since is None:
        return
    import torch

    _check_whole_numbers("since", since, like, where=where)
    if not _has_values(since):
        return
    wrong = (since != torch.arange(len(since))) & (since != since.roll(1))
    wrong[0] = since[0] != 0  # which the roll has compared with the last step
    if wrong.any():
        step = int(wrong.nonzero()[0])
        raise UsageError(
            f"since[{step}] isn't the step at which the segment of step {step} began",
            where=where,
            expected=f"{step}, or {int(since[step - 1])} as at the step before" if step else "0",
            got=int(since[step]),
        )


def _check_whole_numbers(name: str, tensor: Tensor, like: Tensor, *, where: str) -> None:
    import torch

    length = like.shape[1]
    if tensor.dtype != torch.int64:
        raise UsageError(f"{name} has a wrong dtype", where=where, expected="torch.int64", got=tensor.dtype)
    if tuple(tensor.shape) != (length,):
        raise UsageError(f"{name} has a wrong shape", where=where, expected=f"({length},)", got=tuple(tensor.shape))
    if tensor.device != like.device:
        raise UsageError(f"{name} is on another device", where=where, expected=str(like.device), got=str(tensor.device))


def working_dtype(tensor: Tensor) -> dtype:
    """What an operator computes in: float64 for float64 input, else float32."""
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_not_double(backend: str, tensors: list[Tensor | None], *, where: str) -> None:
    """UsageError if a backend that computes in float32 is given float64, which it would have to round."""
    import torch

    if any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors):
        raise UsageError(
            f"the backend {backend!r} computes in float32",
            where=where,
            expected="float32, bfloat16 or float16",
            got=torch.float64,
            do="take the backend 'naive' (or 'torch') for float64",
        )


def check_no_segments(backend: str, since: Tensor | None, *, where: str) -> None:
    """NotReady if a backend whose kernels know no segments is given some."""
    if since is not None:
        raise NotReady(
            f"the kernels of the backend {backend!r} know no segments",
            where=where,
            do="take the backend 'fused' (or 'torch')",
        )


def check_no_initial(backend: str, initial: Tensor | None, *, where: str) -> None:
    """NotReady if a backend whose kernels begin with a state of zero is given another."""
    if initial is not None:
        raise NotReady(
            f"the kernels of the backend {backend!r} begin with a state of zero",
            where=where,
            do="take the backend 'fused' (or 'torch')",
        )


class Rows(ctypes.Structure):
    """A float32 [B, L, E] array as C++ sees it: `Rows` of simd.h. Null where there is no tensor."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("row_stride", ctypes.c_int64))

    @classmethod
    def of(cls, tensor: Tensor | None) -> Rows:
        """The rows of a tensor whose channels lie side by side (`dense_rows`)."""
        return cls() if tensor is None else cls(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied only if the channels of a row do not lie side by side."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def address(tensor: Tensor | None) -> int | None:
    """The address of a contiguous tensor's first number, None (null) without a tensor."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
