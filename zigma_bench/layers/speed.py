"""What makes a network on an NVIDIA card faster and leaves its results: compiled blocks, and graphs of launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.errors import NotReady
from zigma_bench.layers.stack import Stack


def compile_network(network: nn.Module, device_type: str, key: str = "train.compile") -> None:
    """Compile the network's `blocks` (whose layers share programs), or the whole network if it has none, in place.

    A graph break is an error. Names of parameters stay. Raises NotReady on a CPU, whose operators PyTorch can't trace;
    `key`: the suite's key that asked for it.
    """
    require_card(device_type, key)
    blocks = getattr(network, "blocks", None)
    parts = list(blocks) if isinstance(blocks, nn.ModuleList) else [network]
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 + 4 * len(parts))
    for part in [blocks] if isinstance(blocks, Stack) else parts:
        part.compile(fullgraph=True, dynamic=False, options=_options())


def uncompile(network: nn.Module) -> None:
    """Undo `compile_network`."""
    for module in network.modules():
        module._compiled_call_impl = None


def _options() -> dict[str, Any]:
    """Of PyTorch's compiler: without a fusion that stops with an assertion at some shapes of an adaLN block (torch
    2.11: reductions over the width and over the tokens, where one size is the square of another)."""
    from torch._inductor import config

    return {"triton.mix_order_reduction": False} if hasattr(config.triton, "mix_order_reduction") else {}


class Graphed:
    """A function of tensors whose launches are recorded once for each shape of its arguments, and replayed after.

    The function must launch the same kernels whenever the shapes are the same, and wait for none of them. Each call
    gives a tensor of its own.
    """

    def __init__(self, function: Callable[..., Tensor], device_type: str) -> None:
        require_card(device_type, "sample.graph")
        self.function = function
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in arguments)
        if key not in self.graphs:
            self.graphs[key] = self._record(arguments)
        graph, places, output = self.graphs[key]
        for place, tensor in zip(places, arguments, strict=True):
            place.copy_(tensor)
        graph.replay()
        return output.clone()

    def _record(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        places = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in arguments)
        graph, output = record(lambda: self.function(*places), "sample.graph")
        return graph, places, output


def require_card(device_type: str, key: str) -> None:
    """NotReady for a suite's key that only an NVIDIA card can follow."""
    if device_type != "cuda":
        raise NotReady(
            f"{key} needs an NVIDIA card", where=key, expected="cuda", got=device_type, do=f"leave {key} out"
        )


def record(function: Callable[[], Any], key: str) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The graph of a function's launches, and what the function gave: places that each replay fills again.

    `key`: the suite's key that asked for it. The function is called some times before.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are compiled and workspaces allocated outside of the graph
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may pin memory meanwhile
            output = function()
    except RuntimeError as error:
        raise NotReady(
            f"the launches can't be recorded as a CUDA graph: {str(error).splitlines()[0]}",
            do=f"leave {key} out: this network waits for the card, or its launches depend on values",
        ) from error
    return graph, output
