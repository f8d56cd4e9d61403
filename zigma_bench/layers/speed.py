"""Speed up a network on an NVIDIA GPU without changing its results: compiled blocks and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import NotReady
from zigma_bench.layers.stack import BlockStack

MOST_PROGRAMS = 1024  # of one function in one process, which may run many cells


def compile_network(network: nn.Module, device_type: str, key: str = "train.compile") -> None:
    """Compile the network's `blocks` in place (equal blocks share a program), or the whole network if it has none.

    A graph break is an error. Parameter names don't change. Raises NotReady on a CPU, because PyTorch can't trace the
    CPU operators. `key`: the suite key that requests it, for the error.
    """
    require_gpu(device_type, key)
    blocks = getattr(network, "blocks", None)
    parts = list(blocks) if isinstance(blocks, nn.ModuleList) else [network]
    torch._dynamo.config.recompile_limit = MOST_PROGRAMS
    torch._dynamo.config.accumulated_recompile_limit = MOST_PROGRAMS
    for part in [blocks] if isinstance(blocks, BlockStack) else parts:
        part.compile(fullgraph=True, dynamic=False, options=_options())


def uncompile_network(network: nn.Module) -> None:
    """Undo `compile_network`."""
    for module in network.modules():
        module._compiled_call_impl = None


def _options() -> dict[str, Any]:
    """Options of PyTorch's compiler. They disable a fusion that fails with an assertion for some shapes of an adaLN
    block (torch 2.11: reductions over the width and over the tokens, if one size is the square of the other)."""
    from torch._inductor import config

    return {"triton.mix_order_reduction": False} if hasattr(config.triton, "mix_order_reduction") else {}


class Graphed:
    """A function of tensors, captured as a CUDA graph once per shape of its arguments, then replayed.

    The function must launch the same kernels whenever the shapes are the same, and must not wait for the device. Each
    call returns a new tensor.
    """

    def __init__(self, function: Callable[..., Tensor], device_type: str) -> None:
        require_gpu(device_type, "sample.graph")
        self.function = function
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in arguments)
        if key not in self.graphs:
            self.graphs[key] = self._record(arguments)
        graph, inputs, output = self.graphs[key]
        for target, tensor in zip(inputs, arguments, strict=True):
            target.copy_(tensor)
        graph.replay()
        return output.clone()

    def _record(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in arguments)
        graph, output = record_graph(lambda: self.function(*inputs), "sample.graph")
        return graph, inputs, output


def require_gpu(device_type: str, key: str) -> None:
    """NotReady if a suite key needs an NVIDIA GPU and the device isn't one."""
    if device_type != "cuda":
        raise NotReady(f"{key} needs an NVIDIA GPU", where=key, expected="cuda", got=device_type, do=f"omit {key}")


def record_graph(function: Callable[[], Any], key: str) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Capture a function as a CUDA graph. Returns the graph and the function's output, which each replay overwrites.

    `key`: the suite key that requests it, for errors. The function also runs a few times before the capture.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compile kernels and allocate workspaces outside the graph
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may pin memory meanwhile
            output = function()
    except RuntimeError as error:
        raise NotReady(
            f"the launches can't be captured as a CUDA graph: {str(error).splitlines()[0]}",
            do=f"omit {key}: this network waits for the GPU, or its launches depend on values",
        ) from error
    return graph, output
