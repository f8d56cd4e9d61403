"""On an NVIDIA GPU: ZigMa-B for 200 steps in each precision, faults named in compiled networks, noise of steps."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from zigma_bench.bench.cases import Shape, operator_call, random_inputs
from zigma_bench.data.images import ArrayImages
from zigma_bench.data.sources.options import GaussianRandomFieldOptions
from zigma_bench.data.sources.random_field import load
from zigma_bench.diffusion.noise import StepNoise
from zigma_bench.efficiency.ceilings import SCANS, _without_launches
from zigma_bench.efficiency.timing import timed_call
from zigma_bench.errors import Interrupted, NotFinite
from zigma_bench.layers.init import initialise_network
from zigma_bench.plan.cells import NetworkCondition
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.suite import Train
from zigma_bench.system.device import find_device
from zigma_bench.training.batch_plan import BatchPlan
from zigma_bench.training.evaluation import Evaluation
from zigma_bench.training.feed import Feed
from zigma_bench.training.loop import TrainingGoal, train_network
from zigma_bench.training.step import step_seed

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),  # those of PyTorch's compiler about itself
]
SEED, STEPS = 3, 200


def smooth_images(count, channels, side):
    """Images that are sums of a few waves, so that there is something to learn."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    phase, rate = draw.uniform(0, 6, (count, channels, 1, 1)), draw.integers(1, 4, (2, count, 1, 1, 1))
    waves = np.sin(6.283 * (rate[0] * rows + rate[1] * columns) + phase)
    return ArrayImages((127.5 + 127 * waves).astype(np.uint8))


def build(**options):
    spec, scan = catalogue().get("backbone", "zigma"), catalogue().get("scan", "zigzag")
    chosen = spec.make_options(spec.resolve(options, where="test"))
    grid = Grid(16, 16)
    orders = layer_routes(scan, grid=grid, depth=chosen.depth, seed=0, options=scan.resolve({"paths": 8}, where="test"))
    network = spec.load()(chosen, grid=grid, channels=4, routes=orders, backend="fused")
    initialise_network(network, 0)
    return network.cuda()


def run(network, folder, steps, *, stopped=lambda: False, evaluation=None, **recipe):
    return train_network(
        network, smooth_images(512, 4, 32), recipe=Train(**{"batch": 64, **recipe}), goal=TrainingGoal(steps, None),
        seed=SEED, device=torch.device("cuda"), folder=folder,
        on_progress=lambda done, text: print(done, text), stopped=stopped, evaluation=evaluation,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_zigma_b_trains_without_nan(tmp_path, precision):
    """24 layers of 768 on 256 tokens: every loss and gradient of 200 steps is finite (or NotFinite would be raised),
    the loss falls, and what must stay float32 does: the weights (A, D, dt bias), their gradients, the residual."""
    network = build(width=768, depth=24, patch=2)
    streams = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, output: streams.append(output[0].dtype))  # (r, y, ...)
    started = time.monotonic()
    ema, progress = run(network, tmp_path, STEPS, precision=precision, learning_rate=2e-4, gradient_clip=1.0)
    print(f"{precision}: {STEPS} steps in {time.monotonic() - started:.0f} s, {progress.scaling}, {progress.curve}")
    assert progress.step == STEPS
    assert progress.curve[-1][1] < 0.95 * progress.curve[0][1]
    assert set(streams) == {torch.float32}
    for parameter in (*network.parameters(), *ema.parameters()):
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
    if precision == "fp16":
        assert progress.scaling["skipped_steps"] < 10
        assert progress.scaling["scale"] > 1


class Spoilt(torch.nn.Module):
    """A module with a value added to its output, which stays on the device."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.extra = inner, torch.zeros((), device="cuda")

    def forward(self, x):
        return self.inner(x) + self.extra


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_nan_is_located_on_a_gpu(tmp_path, precision, compiled):
    """The output of the mixer in block 1 is NaN at step 7, inside a block that may be compiled."""
    network = build(width=64, depth=3, patch=2)
    network.blocks[1].mixer = Spoilt(network.blocks[1].mixer)
    seventh = step_seed(SEED, 6, 4)

    def spoil(module, args):
        module.blocks[1].mixer.extra.fill_(torch.nan if torch.initial_seed() == seventh else 0.0)

    network.register_forward_pre_hook(spoil)
    with pytest.raises(NotFinite, match=r"at step 7: it began in the forward pass, in the output of blocks.1.mixer \("):
        run(network, tmp_path, 30, precision=precision, compile=compiled)


def test_noise_of_steps_is_that_of_the_cpu():
    on_gpu, on_cpu = (StepNoise(0, range(5), (3, 8, 8), device) for device in ("cuda", "cpu"))
    drawn = [on_gpu(step) for step in range(4)]  # all in flight before the first is read
    for step, noise in enumerate(drawn):
        assert noise.is_cuda
        assert torch.equal(noise.cpu(), on_cpu(step))


@pytest.mark.parametrize("recipe", [{}, {"compile": True}, {"precision": "fp16", "gradient_clip": 1.0}])
def test_a_recorded_training_is_the_launched_one(tmp_path, recipe):
    """With dropped paths, a learning rate that moves, and a stop in the middle: the same losses, weights and EMA."""
    found = []
    for graph in (False, True):
        network = build(width=64, depth=3, patch=2, drop_path=0.3)
        folder = tmp_path / str(graph)
        options = {"schedule": "cosine", "warmup_images": 640, "ema": 0.9, "checkpoint_seconds": 1e9, **recipe}
        looks: list[int] = []
        with pytest.raises(Interrupted):
            run(network, folder, 40, graph=graph, stopped=lambda looks=looks: len(looks) > 13 or bool(looks.append(1)),
                **options)  # fmt: skip
        again = build(width=64, depth=3, patch=2, drop_path=0.3)
        ema, progress = run(again, folder, 40, graph=graph, **options)
        found.append(([loss for _, loss in progress.curve], [*again.parameters(), *ema.parameters()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3)
    assert found[0][0][-1] < found[0][0][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 2e-2 * one.norm() + 1e-3


@pytest.mark.parametrize("recipe", [{"graph": True}, {"graph": True, "compile": True}, {"precision": "fp16"}])
def test_measuring_during_training_leaves_it_as_it_is(tmp_path, recipe):
    """With dropped paths, which use the global generator of the GPU, and a network that is called between the steps."""
    images, found = torch.randn(7, 4, 32, 32, device="cuda"), []

    def measure(ema):
        torch.rand(3, device="cuda")
        return {"size": float(ema(images, torch.full((7,), 0.5, device="cuda")).square().mean())}, {}

    for evaluation in (None, Evaluation(640, 512, measure)):
        network = build(width=64, depth=3, patch=2, drop_path=0.3)
        folder = tmp_path / str(evaluation is None)
        ema, progress = run(network, folder, 40, evaluation=evaluation, ema=0.9, **recipe)
        found.append(([loss for _, loss in progress.curve], [*network.parameters(), *ema.parameters()]))
    assert [point["images"] for point in progress.quality] == [640, 1280, 1920, 2560]
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 2e-2 * one.norm() + 1e-3


class FourTexts:
    """Features of four texts and of the empty one, of which one token, two and all count."""

    null = 4

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.features = torch.randn(5, 16, 24, generator=draw).cuda()
        self.mask = (torch.arange(16) < torch.tensor([3, 5, 9, 16, 2])[:, None]).cuda()

    def __call__(self, numbers):
        return self.features[numbers], self.mask[numbers]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recorded_training_under_texts_is_the_launched_one(tmp_path, compiled):
    plain = smooth_images(512, 4, 32)
    images, found = ArrayImages(plain.pixels, np.arange(512) % 4), []
    for graph in (False, True):
        network = build(width=64, depth=3, patch=2, condition="text", text_width=24, text_tokens=16)
        recipe = Train(batch=64, ema=0.9, learning_rate=1e-3, graph=graph, compile=compiled)
        ema, progress = train_network(
            network, images, recipe=recipe, goal=TrainingGoal(40, None), seed=SEED, device=torch.device("cuda"),
            folder=tmp_path / str(graph), on_progress=lambda done, text: None, stopped=lambda: False,
            condition=NetworkCondition(kind="text", size=24, droppable=True, tokens=16, masked=True), texts=FourTexts(),
        )  # fmt: skip
        found.append(([loss for _, loss in progress.curve], [*network.parameters(), *ema.parameters()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3)
    assert found[0][0][-1] < found[0][0][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).norm() <= 2e-2 * one.norm() + 1e-3


@pytest.mark.parametrize("workers", [0, 1])
def test_images_wait_in_pinned_memory(workers):
    fields = load(GaussianRandomFieldOptions(slope=1.0, resolution=8, count=2_000_000, validation=1)).train
    job = BatchPlan(fields, 5, 0, labelled=False)
    with Feed(job, Train(workers=workers), start=0, stop=3, on_gpu=True) as feed:
        for step in range(3):
            taken = feed(step)
            assert taken.pixels.is_pinned()
            assert torch.equal(taken.pixels, job.take(step).pixels)


def test_a_scan_alone_is_timed_without_its_launches():
    """Twenty of them are one graph."""
    given, path = (
        random_inputs("scan", Shape(1, 1024, 1536), device="cuda", dtype=torch.bfloat16),
        torch.arange(1024).cuda(),
    )
    device = find_device("cuda")
    with torch.no_grad():
        run, count = _without_launches(lambda: operator_call("scan", "fused", given, path), device)
    assert count == SCANS
    by_wall, by_card = timed_call(run, device)
    assert by_card < by_wall
