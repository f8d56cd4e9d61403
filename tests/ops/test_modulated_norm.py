"""The modulated norm: the C++ backend against PyTorch's in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zigma_bench.ops.compiler import find_compiler
from zigma_bench.ops.norms import ModulatedNormArguments, modulated_norm
from zigma_bench.ops.norms.in_torch import torch_modulated_norm

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
USES: dict[str, tuple[int, ...]] = {"all": (0, 1, 2), "sum": (0,), "normed": (1,), "modulated": (2,)}


def inputs(batch: int, length: int, width: int, added: bool) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"r": (batch, length, width), "x": (batch, length, width), "weight": (width,)}
    shapes |= {"shift": (batch, width), "scale": (batch, width)}
    given = {name: torch.randn(*shape, generator=rng) for name, shape in shapes.items()}
    return given if added else {**given, "x": None}


def on_cpu(*tensors: Any) -> Any:
    return modulated_norm(*tensors, eps=1e-5, backend="cpu")


def in_torch(*tensors: Any) -> Any:
    return torch_modulated_norm(ModulatedNormArguments(*tensors, eps=1e-5))


def with_gradients(
    function: Any, given: dict[str, Any], dtype: torch.dtype, uses: tuple[int, ...]
) -> list[torch.Tensor]:
    """The outputs, and the gradients from those that are used."""
    leaves = {name: None if x is None else x.to(dtype).requires_grad_() for name, x in given.items()}
    outs = function(*leaves.values())
    rng = torch.Generator().manual_seed(1)
    grads = [torch.randn(out.shape, generator=rng).to(dtype) for out in outs]
    asked = [x for x in leaves.values() if x is not None]
    found = torch.autograd.grad(
        [outs[i] for i in uses], asked, [grads[i] for i in uses], allow_unused=True, materialize_grads=True
    )
    return [tensor.detach().double() for tensor in (*outs, *found)]


@pytest.mark.parametrize(("batch", "length", "width"), [(1, 1, 1), (2, 7, 33), (3, 64, 96), (2, 5, 368)])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("uses", USES)
def test_equals_pytorch_in_float64(batch: int, length: int, width: int, added: bool, uses: str) -> None:
    given = inputs(batch, length, width, added)

    expected = with_gradients(in_torch, given, torch.float64, USES[uses])
    for found, right in zip(with_gradients(on_cpu, given, torch.float32, USES[uses]), expected, strict=True):
        torch.testing.assert_close(found, right, atol=2e-5, rtol=2e-5)


def test_equal_bits_for_any_number_of_threads_and_views_are_read() -> None:
    given = inputs(5, 40, 100, True)
    wide = torch.randn(5, 40, 300)
    wide[..., ::3] = given["r"]
    threads = torch.get_num_threads()
    found = []
    for count, r in ((1, given["r"]), (2, given["r"]), (2, wide[..., ::3])):
        torch.set_num_threads(count)
        try:
            found.append(with_gradients(on_cpu, {**given, "r": r}, torch.float32, (0, 1, 2)))
        finally:
            torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_bfloat16_is_computed_in_float32() -> None:
    given = {name: x.bfloat16() for name, x in inputs(2, 6, 40, True).items()}
    for backend in ("cpu", "torch"):
        outs = modulated_norm(*given.values(), eps=1e-5, backend=backend)
        right = in_torch(*(x.double() for x in given.values()))
        for out, expected in zip(outs, right, strict=True):
            assert out.dtype == torch.float32
            torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=2e-5)
