"""[B, L, E] tensors as the kernels see them: `Rows` of common.cuh."""

from __future__ import annotations

import ctypes

from torch import Tensor


class Rows(ctypes.Structure):
    """Address and strides in bytes; null where there is no tensor."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("row_stride", ctypes.c_int))

    @classmethod
    def of(cls, tensor: Tensor | None) -> Rows:
        """The rows of a tensor whose numbers lie side by side in a row."""
        if tensor is None:
            return cls()
        size = tensor.element_size()
        return cls(tensor.data_ptr(), tensor.stride(0) * size, tensor.stride(1) * size)


def readable_by(tensors: list[Tensor | None], size: int) -> bool:
    """Whether every row consists of aligned pieces of `size` bytes: its address, strides and length are multiples."""
    return all(
        tensor.data_ptr() % size == 0
        and all(step * tensor.element_size() % size == 0 for step in tensor.stride()[:2])
        and tensor.shape[-1] * tensor.element_size() % size == 0
        for tensor in tensors
        if tensor is not None
    )
