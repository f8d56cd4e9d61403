"""The formula for the memory of a training step, compared with the tensors that autograd saves."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from zigma_bench.backbones.zigma import network as zigma
from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.mamba.facts import MambaOptions, mamba_memory
from zigma_bench.ops import arguments
from zigma_bench.ops.backend import Backend
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route

TOLERANCE = 0.03
CHANNELS, SIDES = 3, (16, 24)  # 96 tokens in patches of 2
TOY = {"width": 32, "depth": 1, "patch": 2, "drop_path": 0.0}
MAMBA2 = {"name": "mamba-2", "options": {"head_dim": 8, "state": 16, "groups": 1}}
GRID_CONV = {"name": "mamba", "options": {"convolution": "grid"}}
NO_CONV = {"name": "mamba", "options": {"convolution": "none"}}
LINEAR = {"name": "linear-attention", "options": {"heads": 2}}
RELU = {"name": "linear-attention", "options": {"heads": 4, "feature_map": "relu"}}
SCANS = ["adventurer", "atrous", "continuous", "dim", "local-mamba", "mamba-r", "multi-head", "multi-path"]


class Case:
    """A network with a scan, the memory by its formula, and what autograd saves."""

    def __init__(self, name, scan, **options):
        self.spec = catalogue().get("backbone", name)
        toy = {key: value for key, value in TOY.items() if key in {option.name for option in self.spec.options}}
        self.options = self.spec.make_options(self.spec.resolve({**toy, **options}, where="test"))
        self.grid, self.routes = Grid.of_image(*SIDES, self.options.patch), ()
        if scan is not None:
            found = catalogue().get("scan", scan)
            given = found.resolve({}, where="test")
            self.routes = layer_routes(found, grid=self.grid, depth=self.options.depth, options=given)

    def formula(self, backend, precision):
        given = {"grid": self.grid, "channels": CHANNELS, "routes": self.routes}
        return sum(self.spec.facts.memory(self.options, **given, backend=backend, precision=precision).values())

    def saved(self, backend, precision):
        """Bytes per additional image in a batch. What a batch stores only once, such as copies of weights, is not
        counted."""
        return self._of_batch(2, backend, precision) - self._of_batch(1, backend, precision)

    def _of_batch(self, batch, backend, precision):
        given = {"grid": self.grid, "channels": CHANNELS, "routes": self.routes, "backend": backend}
        imagined = mock.patch.object(zigma, "norm_launcher", return_value="triton")
        with imagined if backend == "fused" else nullcontext():
            network = self.spec.load()(self.options, **given)
        initialise_network(network, 0)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        with ExitStack() as stack:
            if backend == "fused":  # imagined tensors: the kernels' shapes are known without a GPU
                imagined = FakeTensorMode()
                tensors = {name: imagined.from_tensor(tensor) for name, tensor in tensors.items()}
                stack.enter_context(mock.patch.object(Backend, "check_device"))
                stack.enter_context(mock.patch.object(arguments, "_has_values", return_value=False))
                stack.enter_context(imagined)
            own = {tensor.untyped_storage()._cdata for tensor in tensors.values()}
            found = {}

            def keep(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    found[storage._cdata] = storage
                return tensor

            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"))
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
            torch.func.functional_call(network, tensors, (torch.empty(batch, CHANNELS, *SIDES), torch.empty(batch)))
        return sum(storage.nbytes() for storage in found.values())

    def norms_of_a_cpu(self):
        """What the norms of mamba-2 store besides their input if they aren't a kernel: the normalised input in
        float32."""
        mamba2 = self.spec.name != "dit" and self.options.mixer == MAMBA2
        return 0 if not mamba2 else 4 * self.grid.tokens * self.options.depth * self.options.inner


def backends():
    return ["torch", "fused", *(["cpu"] if find_compiler() else [])]


def agree(case, backend, precision):
    expected = case.formula(backend, precision) + (case.norms_of_a_cpu() if backend == "fused" else 0)
    assert case.saved(backend, precision) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["torch", "fused", *(["cpu"] if find_compiler() else [])])
@pytest.mark.parametrize(
    ("name", "scan", "options"),
    [
        ("zigma", "zigzag", {"state": 7, "expand": 3, "positions": "none", "depth": 2}),
        ("zigma", "zigzag", {"mixer": GRID_CONV, "expand": 3, "depth": 3}),
        ("vision-mamba", "bidirectional", {"mixer": NO_CONV, "expand": 3, "depth": 3}),
        ("vision-mamba", "bidirectional", {}),
        ("zigma", "zigzag", {"mixer": LINEAR, "width": 64, "depth": 3}),
        ("vision-mamba", "bidirectional", {"mixer": RELU, "width": 64, "depth": 3}),
        ("vision-mamba", "bidirectional", {"mixer": MAMBA2}),
    ],
)
def test_the_estimate_is_what_autograd_saves(name, scan, options, backend, precision):
    agree(Case(name, scan, **options), backend, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [{"heads": 4}, {"heads": 2, "mlp_ratio": 2, "depth": 2}])
def test_the_estimate_of_attention(options, precision):
    agree(Case("dit", None, **options), "torch", precision)


@pytest.mark.parametrize(("backend", "precision"), [("torch", "bf16"), ("fused", "fp32")])
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    "mixer", ["mamba", MAMBA2, GRID_CONV, NO_CONV, LINEAR], ids=["mamba", "mamba-2", "grid", "none", "linear-attention"]
)
def test_the_estimate_of_every_kind_of_route(scan, mixer, backend, precision):
    agree(Case("zigma", scan, mixer=mixer), backend, precision)


def test_it_grows_with_tokens_layers_and_paths():
    def bytes_kept(scan="raster", backend="fused", **options):
        return Case("zigma", scan, **options).formula(backend, "bf16")

    assert 1.8 * bytes_kept(depth=4) < bytes_kept(depth=8) < 2 * bytes_kept(depth=4)
    assert 3.8 * bytes_kept() < bytes_kept(patch=1) < 4.2 * bytes_kept()
    assert bytes_kept("bidirectional", "torch") > 1.5 * bytes_kept("raster", "torch")


def test_networks_without_a_formula_are_refused():
    with pytest.raises(
        UsageError, match="no estimate of the memory of this backend; expected one of torch, cpu, fused"
    ):
        Case("zigma", "raster").formula("naive", "fp32")
    with pytest.raises(UsageError, match="this precision"):
        Case("dit", None, heads=2).formula("torch", "fp16")
    silent = (mock.Mock(facts=mock.Mock(memory=None), owner="x"), None)
    with (
        mock.patch("zigma_bench.mixers.lookup.find_mixer", return_value=silent),
        pytest.raises(NotReady, match="has no estimate"),
    ):
        Case("zigma", "raster").formula("torch", "fp32")
    learned = Route(np.arange(4)[None], learned=mock.Mock())
    with pytest.raises(NotReady, match="no estimate of the memory of a learned order"):
        mamba_memory(
            MambaOptions(), block=ZigmaOptions(8, 1, 1), grid=Grid(2, 2), route=learned, backend="cpu", precision="fp32"
        )
