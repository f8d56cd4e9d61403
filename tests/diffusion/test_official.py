"""Official networks with our samplers: they get their own times, guidance and a learned sigma as in DiT."""

from __future__ import annotations

import pytest
import torch

from zigma_bench.backbones.official.dit import build_dit
from zigma_bench.diffusion.conventions import time_of_step, vp_noise_of_dit
from zigma_bench.diffusion.convert import velocity_of
from zigma_bench.diffusion.ddpm import dit_schedule, solve_discrete, spaced_steps
from zigma_bench.diffusion.guidance import with_guidance
from zigma_bench.diffusion.solver import solve_ode
from zigma_bench.layers.init import initialise_network
from zigma_bench.suite import Guidance

CONFIG = {
    "input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "depth": 2, "num_heads": 4,
    "num_classes": 10,
}  # fmt: skip
Y, NONE = torch.tensor([3, 7]), torch.tensor([10, 10])


@pytest.fixture(scope="module")
def network():
    """The official network with open gates, and the times that it receives."""
    built = build_dit(CONFIG, backend="torch").network
    initialise_network(built, 0)
    told = []
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    built.eval().requires_grad_(False).register_forward_pre_hook(lambda module, args: told.append(args[1]))
    built.told = told
    return built


def noise(step=0):
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(step))


def test_dit_gets_its_own_steps_and_is_guided_on_three_channels(network):
    """250 steps of the guided network with its learned variance, as DiT samples."""
    network.told.clear()
    both = with_guidance(network, Y, NONE, Guidance(scale=4.0, channels="first-three"))
    images, spent = solve_discrete(
        both, noise(), solver="ddpm", evaluations=250, schedule=dit_schedule(), variance="learned", step_noise=noise
    )
    assert images.shape == (2, 4, 4, 4)
    assert images.isfinite().all()
    assert spent == 250
    assert [told[0].item() for told in network.told] == spaced_steps(250)[::-1]
    assert all(told.shape == (4,) for told in network.told)


def test_guidance_of_dit_leaves_what_lies_beyond_three_channels(network):
    x, n = noise(), torch.tensor([500.0, 500.0])
    found = with_guidance(network, Y, NONE, Guidance(scale=4.0, channels="first-three"))(x, n)
    with_, without = network(x, n, Y), network(x, n, NONE)
    torch.testing.assert_close(found[:, :3], without[:, :3] + 4 * (with_ - without)[:, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, 3:], with_[:, 3:], atol=1e-5, rtol=1e-5)
    assert found.shape == (2, 8, 4, 4)


def test_on_the_path_vp_it_says_the_same_noise_and_any_solver_runs_it(network):
    x, n = noise(), torch.tensor([0, 700])
    found = vp_noise_of_dit(network)(x, time_of_step(n).float(), Y)
    torch.testing.assert_close(found, network(x, n.float(), Y)[:, :4], atol=1e-3, rtol=1e-3)
    field = velocity_of(lambda x, t: vp_noise_of_dit(network)(x, t, Y), "vp", "noise")
    images, spent = solve_ode(field, noise(), solver="heun", evaluations=20, interval=(0.0, 0.999))
    assert images.isfinite().all()
    assert spent == 20
