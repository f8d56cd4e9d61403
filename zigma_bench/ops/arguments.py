"""The arguments of an operator as one object, and the checks that the operators share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from zigma_bench.errors import UsageError
from zigma_bench.ops.backends import backend_named, implementation_of

if TYPE_CHECKING:
    from torch import Tensor, dtype


@dataclass(frozen=True)
class OperatorArguments:
    """The arguments of one call of an operator, passed whole to the backend.

    Any tensor may have a leading dimension K, with one slice per path; the others are shared by all paths.
    `DIMENSIONS`: the tensors, with their number of dimensions for one path; `ORDERS`: those of them that contain steps
    or rows (int64); `SWITCHES`: the fields that aren't tensors.
    """

    OPERATOR: ClassVar[str]
    DIMENSIONS: ClassVar[Mapping[str, int]]
    ORDERS: ClassVar[tuple[str, ...]] = ("path", "segment_starts")
    SWITCHES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """All fields, in order."""
        return tuple(field.name for field in fields(cls))

    def tensors(self) -> dict[str, Tensor | None]:
        """All tensors by name."""
        return {name: getattr(self, name) for name in self.DIMENSIONS}

    def numbers(self) -> dict[str, Tensor | None]:
        """The floating-point tensors by name."""
        return {name: getattr(self, name) for name in self.DIMENSIONS if name not in self.ORDERS}

    def with_tensors(self, tensors: Mapping[str, Tensor | None]) -> Self:
        """The same switches with other tensors."""
        switches = {name: getattr(self, name) for name in self.SWITCHES}
        return type(self)(**tensors, **switches)

    def count_paths(self) -> int | None:
        """K, or None if no argument has a dimension for paths; UsageError if two arguments differ in K."""
        found = {
            name: len(tensor)
            for name, tensor in self.tensors().items()
            if tensor is not None and tensor.dim() == self.DIMENSIONS[name] + 1
        }
        if len(set(found.values())) > 1 or 0 in found.values():
            sizes = ", ".join(f"{name} {size}" for name, size in found.items())
            raise UsageError(
                f"the arguments have different numbers of paths: {sizes}",
                where=self.OPERATOR,
                expected="the same number K, at least 1, for all",
            )
        return next(iter(found.values()), None)

    def of_path(self, number: int) -> Self:
        """The arguments of one path."""
        return self.with_tensors(
            {
                name: tensor[number] if tensor is not None and tensor.dim() == self.DIMENSIONS[name] + 1 else tensor
                for name, tensor in self.tensors().items()
            }
        )

    def stacked(self, paths: int) -> Self:
        """Every argument with a leading dimension of `paths`; shared arguments are not copied."""
        return self.with_tensors(
            {
                name: tensor
                if tensor is None or tensor.dim() == self.DIMENSIONS[name] + 1
                else tensor[None].expand(paths, *tensor.shape)
                for name, tensor in self.tensors().items()
            }
        )

    def converted(self, to: dtype) -> Self:
        """All floating tensors in one dtype."""
        numbers = {name: None if tensor is None else tensor.to(to) for name, tensor in self.numbers().items()}
        return self.with_tensors({**self.tensors(), **numbers})

    def check(self) -> None:
        """Raise UsageError for wrong shapes, dtypes, devices, paths or segments of one path."""
        raise NotImplementedError


def compute_paths(arguments: OperatorArguments, rows: Tensor, backend: str) -> Sequence[Tensor] | Tensor:
    """The operator's output for each path: [K, ..] or K tensors, in the dtype of `rows`, the first argument.

    All arguments are checked first, separately for each path.
    """
    operator, chosen = arguments.OPERATOR, backend_named(backend, where=arguments.OPERATOR)
    implementation = implementation_of(operator, chosen, rows.device.type)
    paths = arguments.count_paths()
    each = [arguments] if paths is None else [arguments.of_path(number) for number in range(paths)]
    for one in each:
        one.check()
        chosen.check_arguments(operator, one)
    if implementation.several_paths:
        outputs: Tensor = implementation.apply(arguments.stacked(paths or 1))
        return outputs
    if implementation.reads_half_precision:
        return [implementation.apply(one) for one in each]
    wide = working_dtype(rows)
    return [implementation.apply(one.converted(wide)).to(rows.dtype) for one in each]


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor, *, where: str) -> None:
    """Raise UsageError unless the tensor has this shape, a floating dtype and the device of `like`; None passes."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise UsageError(f"{name} has a wrong shape", where=where, expected=str(shape), got=tuple(tensor.shape))
    _check_floating(name, tensor, where=where)
    if tensor.device != like.device:
        raise UsageError(f"{name} is on another device", where=where, expected=str(like.device), got=str(tensor.device))


def check_sequence(name: str, tensor: Tensor, *, where: str) -> None:
    """Raise UsageError unless the tensor is floating [B, L, E] and not empty."""
    if tensor.dim() != 3 or 0 in tensor.shape:
        raise UsageError(
            f"{name} has a wrong shape", where=where, expected="[B, L, E], all at least 1", got=tuple(tensor.shape)
        )
    _check_floating(name, tensor, where=where)


def _check_floating(name: str, tensor: Tensor, *, where: str) -> None:
    if not tensor.dtype.is_floating_point:
        raise UsageError(f"{name} has a wrong dtype", where=where, expected="a floating-point dtype", got=tensor.dtype)


def check_path(path: Tensor | None, like: Tensor, *, where: str) -> None:
    """Raise UsageError unless the path is int64 [L] on the device of `like` [B, L, E] and visits every row once.

    The values are not checked on a GPU, where reading them would wait for all queued work, or while PyTorch traces,
    when there are no values. The plan has checked them already.
    """
    if path is None:
        return
    _check_whole_numbers("the path", path, like, where=where)
    length = len(path)
    if _has_values(path) and not _visits_each_once(path):
        raise UsageError(f"the path doesn't visit each of the rows 0 to {length - 1} once", where=where)


def _has_values(tensor: Tensor) -> bool:
    """Whether the values can be read without waiting for a device."""
    import torch

    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _visits_each_once(path: Tensor) -> bool:
    import numpy as np

    order, seen = path.numpy(), np.zeros(len(path), dtype=bool)
    if order.min() < 0 or order.max() >= len(order):
        return False
    seen[order] = True
    return bool(seen.all())


def check_segment_starts(segment_starts: Tensor | None, like: Tensor, *, where: str) -> None:
    """Raise UsageError unless `segment_starts` is int64 [L] on the device of `like` [B, L, E] with valid values.

    Entry 0 is 0; entry i is i if a segment starts at step i, else it equals entry i - 1. The values are checked in the
    same cases as in `check_path`.
    """
    if segment_starts is None:
        return
    import torch

    _check_whole_numbers("segment_starts", segment_starts, like, where=where)
    if not _has_values(segment_starts):
        return
    wrong = (segment_starts != torch.arange(len(segment_starts))) & (segment_starts != segment_starts.roll(1))
    wrong[0] = segment_starts[0] != 0  # roll compared step 0 with the last step
    if wrong.any():
        step = int(wrong.nonzero()[0])
        raise UsageError(
            f"segment_starts[{step}] isn't the step at which the segment of step {step} starts",
            where=where,
            expected=f"{step}, or {int(segment_starts[step - 1])} as at the step before" if step else "0",
            got=int(segment_starts[step]),
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
    """The dtype in which an operator computes: float64 for float64 input, else float32."""
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied only if the channels of a row are not adjacent in memory."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def contiguous(tensor: Tensor | None) -> Any:
    """The tensor, copied if it is not contiguous; None stays None."""
    return None if tensor is None else tensor.contiguous()
