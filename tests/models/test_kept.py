"""The memory that a training step keeps, by formula, beside the tensors that autograd saves."""

from __future__ import annotations

from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.grid import Grid
from zigma_bench.models.init import initialise
from zigma_bench.ops import arguments
from zigma_bench.ops.compiler import find_compiler
from zigma_bench.plugins import catalogue
from zigma_bench.scans.layers import routes

TOLERANCE = 0.03
CHANNELS, SIDES = 3, (16, 24)  # 96 tokens in patches of 2
TOY = {"width": 32, "depth": 2, "patch": 2, "drop_path": 0.0}
MAMBA2 = {"name": "mamba-2", "options": {"head_dim": 8, "state": 16, "groups": 1}}
SCANS = ["zigzag", "adventurer", "atrous", "continuous", "dim", "local-mamba", "mamba-r", "multi-head", "multi-path"]
MERGES = ["zigzag", "atrous", "continuous", "local-mamba", "multi-head"]


class Case:
    """A network under a scan, what its formula says, and what autograd saves."""

    def __init__(self, name, scan, **options):
        self.spec = catalogue().get("backbone", name)
        toy = {key: value for key, value in TOY.items() if key in {option.name for option in self.spec.options}}
        self.options = self.spec.make_options(self.spec.resolve({**toy, **options}, where="test"))
        self.grid, self.routes = Grid.of_image(*SIDES, self.options.patch), ()
        if scan is not None:
            found = catalogue().get("scan", scan)
            given = found.resolve({}, where="test")
            self.routes = routes(found, grid=self.grid, depth=self.options.depth, options=given)

    def formula(self, backend, precision):
        given = {"grid": self.grid, "channels": CHANNELS, "routes": self.routes}
        return sum(self.spec.facts.kept(self.options, **given, backend=backend, precision=precision).values())

    def saved(self, backend, precision):
        """Bytes for each image more in a batch: what a batch keeps once, such as copies of weights, is not counted."""
        return self._of_batch(2, backend, precision) - self._of_batch(1, backend, precision)

    def _of_batch(self, batch, backend, precision):
        given = {"grid": self.grid, "channels": CHANNELS, "routes": self.routes, "backend": backend}
        network = self.spec.load()(self.options, **given)
        initialise(network, 0)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        with ExitStack() as stack:
            if backend == "fused":  # imagined tensors: the kernels' shapes are known without a card
                imagined = FakeTensorMode()
                tensors = {name: imagined.from_tensor(tensor) for name, tensor in tensors.items()}
                for check in ("require_device", "check_path", "check_since"):
                    stack.enter_context(mock.patch.object(arguments, check))
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
        """What norms keep beside their input where they are no kernel: the input, normalised, in float32."""
        if self.spec.name == "dit":
            return 0
        inner = self.options.inner * self.options.depth if self.options.mixer != "mamba" else 0
        return 4 * self.grid.tokens * ((self.options.depth + 1) * self.options.width + inner)


def backends():
    return ["torch", "fused", *(["cpu"] if find_compiler() else [])]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize(
    ("name", "scan", "options"),
    [
        *(("zigma", scan, {}) for scan in SCANS),
        *(("zigma", scan, {"mixer": MAMBA2}) for scan in MERGES),
        ("zigma", "raster", {"state": 7, "expand": 3, "positions": "none", "depth": 3}),
        ("vision-mamba", "bidirectional", {}),
        ("vision-mamba", "bidirectional", {"mixer": MAMBA2}),
        ("dit", None, {"heads": 4}),
        ("dit", None, {"heads": 2, "mlp_ratio": 2, "depth": 3}),
    ],
)
def test_the_estimate_is_what_autograd_saves(name, scan, options, backend, precision):
    case = Case(name, scan, **options)
    expected = case.formula(backend, precision) + (case.norms_of_a_cpu() if backend == "fused" else 0)
    assert case.saved(backend, precision) == pytest.approx(expected, rel=TOLERANCE)


def test_it_grows_with_tokens_layers_and_paths():
    small, deep = (
        Case("zigma", "raster").formula("fused", "bf16"),
        Case("zigma", "raster", depth=4).formula("fused", "bf16"),
    )
    fine = Case("zigma", "raster", patch=1).formula("fused", "bf16")
    assert 1.8 * small < deep < 2 * small
    assert 3.8 * small < fine < 4.2 * small
    assert Case("zigma", "bidirectional").formula("torch", "fp32") > 1.5 * Case("zigma", "raster").formula(
        "torch", "fp32"
    )


def test_what_no_formula_stands_for_is_refused():
    with pytest.raises(
        UsageError, match="no estimate of the memory of this backend; expected one of fused, cpu, torch"
    ):
        Case("zigma", "raster").formula("naive", "fp32")
    with pytest.raises(UsageError, match="this precision"):
        Case("dit", None, heads=2).formula("torch", "fp16")
    silent = (mock.Mock(facts=mock.Mock(kept=None), owner="x"), None)
    with (
        mock.patch("zigma_bench.models.mixers.find_mixer", return_value=silent),
        pytest.raises(NotReady, match="gives no estimate"),
    ):
        Case("zigma", "raster").formula("torch", "fp32")
