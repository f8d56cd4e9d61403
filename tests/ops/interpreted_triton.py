"""The Triton kernels, interpreted, against the naive loop in float64; test_triton.py runs them in a separate process.

Every input is a view with rows or channels apart, and what the operators allocate is full of NaN.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.backbones.zigma.network import FusedZigmaBlock, Zigma
from zigma_bench.errors import NotReady
from zigma_bench.layers import speed
from zigma_bench.ops import backends
from zigma_bench.ops.causal_conv import causal_conv
from zigma_bench.ops.norms import residual_norm
from zigma_bench.ops.selective_scan import selective_scan, triton_launch
from zigma_bench.ops.ssd import ssd
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import scan_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.orders.zigzag import zigzag


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Empty memory is filled with NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton patches its language at a launch, and at every call of a helper again, which is a third of the time."""
    patch = interpreter._patch_lang

    def once(fn: Any) -> Any:
        seen = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        return patch(fn) if any(tl.core.is_builtin(lang.load) for lang in seen) else None

    monkeypatch.setattr(interpreter, "_patch_lang", once)


@pytest.fixture
def three_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU so wide that every 64 steps are one part."""
    monkeypatch.setattr(triton_launch, "gpu_parallelism", lambda device: (1000, 32))


def scan_inputs(batch: int, length: int, channels: int, states: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = torch.Generator().manual_seed(length + states)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    given = {
        "u": normal(batch, length, channels), "delta": normal(batch, length, channels),
        "A": -torch.rand(channels, states, generator=rng) * states - 0.1,
        "B": normal(batch, length, states), "C": normal(batch, length, states), "D": normal(channels),
        "z": normal(batch, length, channels), "delta_bias": normal(channels) - 3,
    }  # fmt: skip
    return given, torch.randperm(length, generator=rng)


def some_segments(length: int) -> torch.Tensor:
    """The step at which each step's segment began: starts at, before and after a multiple of 16, and at random."""
    starts = torch.rand(length, generator=torch.Generator().manual_seed(3)) < 0.1
    starts[[step for step in (0, 15, 16, 17, 48) if step < length]] = True
    return (starts * torch.arange(length)).cummax(0).values


def with_gradients(
    function: Any, given: dict[str, torch.Tensor], dtype: torch.dtype, **fixed: Any
) -> list[torch.Tensor]:
    """The output, then the gradient of every input."""
    leaves = {name: value.to(dtype).requires_grad_() for name, value in given.items()}
    tensors = (
        leaves if fixed["backend"] == "naive" else {name: _View.apply(name, leaf) for name, leaf in leaves.items()}
    )
    out = function(**tensors, **fixed)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    found = torch.autograd.grad(out, list(leaves.values()), grad)
    assert all(one.dtype == dtype for one in (out, *found))
    return [tensor.detach() for tensor in (out, *found)]


class _View(torch.autograd.Function):
    """The same numbers with a large stride between rows, and also between channels in z and B."""

    @staticmethod
    def forward(ctx: Any, name: str, value: torch.Tensor) -> torch.Tensor:
        wide = torch.zeros(*value.shape[:-1], 3 * value.shape[-1] + 5, dtype=value.dtype)
        end = value.shape[-1]
        view = wide[..., ::3][..., :end] if name in ("z", "B") else wide[..., 2 : 2 + end]
        return view.copy_(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, grad


def agree(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    for index, (mine, right) in enumerate(zip(found, expected, strict=True)):
        error = (mine.double() - right).norm() / right.norm().clamp_min(1e-30)
        assert error < bound, (index, float(error))


def check(
    function: Any, given: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32, bound: float = 2e-6, **fixed: Any
) -> None:
    """Output and gradients against the naive loop on the same, rounded inputs."""
    rounded = {name: value.to(dtype).double() for name, value in given.items()}
    expected = with_gradients(function, rounded, torch.float64, backend="naive", **fixed)
    agree(with_gradients(function, given, dtype, backend="triton", **fixed), expected, bound)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states", "segments"),
    [
        (2, 1, 37, 16, False),
        (1, 63, 37, 7, True),
        (1, 64, 20, 1, False),
        (1, 65, 20, 24, True),
        (1, 150, 20, 16, False),
    ],
)
def test_scan_in_one_part(batch: int, length: int, channels: int, states: int, segments: bool) -> None:
    given, path = scan_inputs(batch, length, channels, states)
    check(selective_scan, given, path=path, segment_starts=some_segments(length) if segments else None)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.usefixtures("three_parts")
def test_scan_in_several_parts(segments: bool) -> None:
    given, path = scan_inputs(1, 131, 5, 7)
    check(selective_scan, given, path=path, segment_starts=some_segments(131) if segments else None)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("length", [1, 131])
@pytest.mark.usefixtures("three_parts")
def test_scan_from_a_state(length: int, segments: bool) -> None:
    """A segment that begins at the first step sees it, and so does what a later part is handed."""
    given, path = scan_inputs(1, length, 5, 7)
    given["initial"] = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(1))
    segment_starts = None
    if segments:  # the first one reaches into the second part
        segment_starts = (torch.arange(length) >= 70) * 70
    check(selective_scan, given, path=path, segment_starts=segment_starts)


@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias", "softplus", "path"])
def test_scan_with_something_left_out(left_out: str) -> None:
    given, path = scan_inputs(1, 11, 5, 3)
    given.pop(left_out, None)
    if left_out == "delta_bias":
        given["delta"] -= 2
    if left_out == "softplus":
        given |= {"delta": given["delta"].abs(), "delta_bias": given["delta_bias"].abs() / 9}
    softplus, path_ = left_out != "softplus", None if left_out == "path" else path
    check(selective_scan, given, path=path_, delta_softplus=softplus)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scan_of_short_numbers_and_many_states(dtype: torch.dtype) -> None:
    given, path = scan_inputs(1, 9, 5, 64)
    check(selective_scan, given, dtype, 2e-2, path=path, segment_starts=some_segments(9))


@pytest.mark.parametrize(("length", "width"), [(1, 4), (2, 4), (63, 3), (64, 1), (65, 4), (150, 4)])
def test_conv(length: int, width: int) -> None:
    rng, batch = torch.Generator().manual_seed(length), 2 if length < 100 else 1
    given = {
        "x": torch.randn(batch, length, 70, generator=rng), "weight": torch.randn(70, width, generator=rng),
        "bias": torch.randn(70, generator=rng),
    }  # fmt: skip
    path, segment_starts = torch.randperm(length, generator=rng), some_segments(length) if length % 2 else None
    check(causal_conv, given, path=path, segment_starts=segment_starts, activation="none" if length == 63 else "silu")
    if length == 2:
        check(causal_conv, given, torch.bfloat16, 2e-2, path=path)
        check(lambda **words: causal_conv(**words, bias=None), {name: given[name] for name in ("x", "weight")})


@pytest.mark.usefixtures("three_parts")
def test_bits_are_equal_in_equal_runs() -> None:
    given, path = scan_inputs(1, 66, 5, 3)
    run = [with_gradients(selective_scan, given, torch.float32, path=path, backend="triton") for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*run, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.usefixtures("three_parts")
@pytest.mark.parametrize("segments", [False, True])
def test_no_segment_sees_another_segment(segments: bool) -> None:
    given, path = scan_inputs(1, 68, 5, 3)
    given["u"][0, path[20]] = float("inf")
    segment_starts = torch.arange(68) // 32 * 32 if segments else None
    leaves = {name: value.requires_grad_() for name, value in given.items()}
    y = selective_scan(**leaves, path=path, segment_starts=segment_starts, backend="triton")
    (of_u,) = torch.autograd.grad(y[0, path[66]].sum(), [leaves["u"]])
    assert y[0, path[32:]].isfinite().all() == segments
    assert not y[0, path[20:32]].isfinite().all()
    assert bool(of_u[0, path[:64]].any()) != segments and of_u[0, path[64:67]].all()


def test_more_states_than_registers_are_refused() -> None:
    given, path = scan_inputs(1, 2, 3, 65)
    with pytest.raises(NotReady, match=r"support so many states.*at most 64; got 65"):
        selective_scan(**given, path=path, backend="triton")


def small_network(backend: str) -> tuple[Zigma, torch.Tensor, torch.Tensor]:
    """A network of random weights, the same for every backend, with an input and a time."""
    grid, spec = Grid(2, 3), scan_spec("zigzag", zigzag, owner="test")
    orders = layer_routes(spec, grid=grid, depth=1, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    options = ZigmaOptions(width=8, depth=1, patch=1, drop_path=0)
    network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend)
    rng = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    return network, torch.randn(2, 3, 2, 3, generator=rng), torch.rand(2, generator=rng)


def test_network_equals_the_naive_one() -> None:
    assert backends.resolve("triton", "cpu") == "triton" and backends.available()["triton"] == ""
    assert backends.resolve("auto", "cpu") != "triton"
    found = {}
    for backend in ("naive", "triton"):
        network, x, t = small_network(backend)
        y = network(x, t)
        found[backend] = [y.detach(), *torch.autograd.grad(y.square().mean(), list(network.parameters()))]
    agree(found["triton"], [tensor.double() for tensor in found["naive"]], 2e-5)


@pytest.mark.parametrize(
    ("mixer", "residual", "checkpointing"),
    [
        ("mamba", "official", False), ("mamba", "textbook", True),
        ("attention", "official", True), ("attention", "textbook", False),
    ],
)  # fmt: skip
def test_the_layers_of_a_gpu_train_as_the_plain_ones(mixer: str, residual: str, checkpointing: bool) -> None:
    """With classes and dropped paths, drawn alike, and a mixer whose projection the norm may not take."""
    backbone = catalogue().get("backbone", "zigma")
    words = {"width": 8, "depth": 3, "patch": 1, "drop_path": 0.5, "condition": "class", "classes": 3}
    words |= {"residual": residual, "gradient_checkpointing": checkpointing}
    words["mixer"] = mixer if mixer == "mamba" else {"name": mixer, "options": {"heads": 2}}
    options = backbone.make_options(backbone.resolve(words, where="test"))
    spec, grid = scan_spec("zigzag", zigzag, owner="test"), Grid(2, 3)
    orders = layer_routes(spec, grid=grid, depth=3, seed=0, options=spec.resolve({"paths": 8}, where="test"))
    x, y = torch.randn(6, 3, 2, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    found = []
    for backend in ("naive", "triton"):
        network = Zigma(options, grid=grid, channels=3, routes=orders, backend=backend).train()
        assert isinstance(network.blocks[0], FusedZigmaBlock) == (backend == "triton")
        draw = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=draw)
        torch.manual_seed(3)
        out = network(x, torch.linspace(0, 1, 6), y)
        found.append([out.detach(), *torch.autograd.grad(out.square().mean(), list(network.parameters()))])
    agree(found[1], [tensor.double() for tensor in found[0]], 2e-5)


def test_ssd_runs_its_portable_form_as_network_mixers_ask() -> None:
    rows, projected = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 3)
    given = {"x": rows, "dt": rows[..., :2], "A": -torch.ones(2), "B": projected, "C": projected}
    assert torch.equal(ssd(**given, backend="triton"), ssd(**given, backend="torch"))


IMAGE, CLIP = Grid(2, 3), Grid(2, 2, frames=2)
CONDITIONS = {"text": {"text_width": 5, "text_tokens": 4}, "class": {"classes": 3}}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler reads it itself
@pytest.mark.parametrize(
    ("backbone", "scan", "grid", "condition"),
    [
        ("zigma", "zigzag-video", CLIP, "class"), ("vision-mamba", "bidirectional", IMAGE, "text"),
        ("hybrid", "zigzag", IMAGE, "class"), ("dit", None, IMAGE, "class"), ("u-vit", None, IMAGE, "class"),
    ],
)  # fmt: skip
def test_networks_of_the_suites_compile_whole_and_equal_themselves(
    backbone: str, scan: str | None, grid: Grid, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `train.compile` and `sample.compile`, except for the code of a GPU."""
    monkeypatch.setattr(speed, "require_gpu", lambda device_type, key: None)
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, *, options, **how: compiler(f, backend="aot_eager", **how))
    spec = catalogue().get("backbone", backbone)
    words = {"width": 16, "depth": 2, "patch": 1, "heads": 2, "every": 2, "condition": condition, "drop_path": 0.0}
    words |= CONDITIONS[condition]
    known = {option.name for option in spec.options}
    options = spec.make_options(spec.resolve({k: v for k, v in words.items() if k in known}, where="test"))
    orders: Any = ()
    if scan is not None:
        order = catalogue().get("scan", scan)
        orders = layer_routes(order, grid=grid, depth=options.depth, seed=0, options=order.resolve({}, where="test"))
    network = spec.load()(options, grid=grid, channels=3, routes=orders, backend="triton")
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=draw)
    plain = copy.deepcopy(network)
    speed.compile_network(network, "cpu")

    def given(batch: int) -> tuple[torch.Tensor, ...]:
        x = torch.randn(batch, *((2,) if grid.video else ()), 3, grid.height, grid.width, generator=draw)
        mask = torch.arange(4) < torch.arange(1, batch + 1)[:, None]
        y = (torch.randn(batch, 4, 5, generator=draw), mask) if condition == "text" else (torch.arange(batch) % 3,)
        return x, torch.rand(batch, generator=draw), *y

    trained, drawn = given(3), given(2)
    found, expected = (
        torch.autograd.grad(run(*trained).square().mean(), list(run.parameters())) for run in (network, plain)
    )
    agree(list(found), [tensor.double() for tensor in expected], 1e-5)
    with torch.no_grad():
        agree([network(*drawn)], [plain(*drawn).double()], 1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # which opcheck reads itself
def test_operators_are_well_registered() -> None:
    for module in ("causal_conv.triton_conv", "selective_scan.triton_scan", "norms.triton_norm"):
        importlib.import_module(f"zigma_bench.ops.{module}")  # which define them
    given, path = scan_inputs(1, 3, 2, 2)
    u, delta, A, B, C, D, z, bias = (given[name].requires_grad_() for name in given)
    ops = torch.ops.zigma_bench
    for initial in (None, torch.randn(1, 2, 2, requires_grad=True)):
        arguments_ = (u, delta, A, B, C, D, z, bias, True, path, None, initial, True)
        torch.library.opcheck(ops.triton_selective_scan, arguments_)
    weight = torch.randn(2, 4, requires_grad=True)
    torch.library.opcheck(ops.triton_causal_conv, (u, weight, bias, path, None, True))
    shapes = [(1, 3, 8), (1, 3, 8), (1, 8), (8,), (8,), (1, 8), (1, 8), (9, 8)]
    r, y, gate, *others = (torch.randn(shape, requires_grad=True) for shape in shapes)
    before, weight, *rest = others
    torch.library.opcheck(ops.residual_norm, (r, y, gate, before, None, weight, *rest, 1e-5, torch.float32))


@pytest.mark.parametrize(("batch", "length", "width"), [(1, 1, 1), (2, 7, 33), (3, 70, 96), (2, 5, 768)])
@pytest.mark.parametrize("given", ["all", "no skip", "no drop", "first"])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_the_residual_norm(
    batch: int, length: int, width: int, given: str, projected: bool, dtype: torch.dtype, bound: float
) -> None:
    """Against PyTorch in float64; gate, shift and scale are chunks of one tensor, as a network has them."""
    rng = torch.Generator().manual_seed(width)
    shapes = {"r": (batch, length, width), "y": (batch, length, width), "three": (batch, 3 * width), "before": (width,)}
    shapes |= {"weight": (width,), "projection": (2 * width, width)}
    values = {name: torch.randn(*shape, generator=rng) for name, shape in shapes.items()}
    values["projection"] /= width**0.5
    values["y"] = values["y"].to(dtype).float()
    kept = None if given == "no drop" else torch.arange(batch) % 2 * 1.25
    absent = {"first": ("y", "before"), "no skip": ("before",)}.get(given, ())

    def run(backend: str, wide: torch.dtype) -> list[torch.Tensor]:
        made = dtype if backend == "triton" else wide
        leaves = {name: x.to(wide).requires_grad_() for name, x in values.items() if name not in absent}
        leaves = leaves if projected else {name: x for name, x in leaves.items() if name != "projection"}
        shift, scale, gate = leaves["three"].chunk(3, -1)
        y = leaves.get("y")
        out = residual_norm(
            leaves["r"], None if y is None else y.to(made),
            None if y is None else gate, leaves.get("before"), None if kept is None or y is None else kept.to(wide),
            leaves["weight"], shift, scale, leaves.get("projection"), eps=1e-5, dtype=made, backend=backend,
        )  # fmt: skip
        assert backend != "triton" or (out[0].dtype, out[1].dtype) == (torch.float32, dtype)
        draw = torch.Generator().manual_seed(1)
        grads = [torch.randn(x.shape, generator=draw).to(x.dtype) for x in out]
        return [x.detach().double() for x in (*out, *torch.autograd.grad(out, list(leaves.values()), grads))]

    for found, expected in zip(run("triton", torch.float32), run("torch", torch.float64), strict=True):
        assert found.isfinite().all()
        assert (found - expected).norm() <= bound * expected.norm() + 1e-6
