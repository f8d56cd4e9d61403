"""A merge is a registered object: a plugin adds one in a file, and every mixer follows a route that names it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zigma_bench.backbones.zigma.facts import ZigmaOptions, check_zigma, zigma_cost, zigma_memory
from zigma_bench.backbones.zigma.network import Zigma
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.layers.init import initialise_network
from zigma_bench.mixers.along_route import GatheringBranch, RoutedBranches
from zigma_bench.mixers.mamba.facts import MambaOptions
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.mixers.memory import is_one_operator
from zigma_bench.mixers.merges import SumMerge
from zigma_bench.plugins.registry import MergeFacts, merge_spec
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import BrokenScan, Route
from zigma_bench.testing import check_plugin
from zigma_bench.testing.lookup import as_registered, specs_of_module

PLUGIN = '''
"""Three merges, and a scan that names one of them."""

import numpy as np

from zigma_bench import hookimpl
from zigma_bench.plugins.registry import Cost, MergeFacts
from zigma_bench.scans.route import Route

AT_IMPORT = Route([0, 1], merge="mean")


def largest(paths, channels):
    import torch
    from torch import nn

    class Largest(nn.Module):
        def forward(self, outputs):
            return torch.stack(outputs).amax(0)

    return Largest()


def added(paths, channels):
    from torch import nn

    class Added(nn.Module):
        def forward(self, outputs):
            y = outputs[0]
            for other in outputs[1:]:
                y = y + other
            return y

    return Added()


def mixed(paths, channels):
    """A linear map of the paths' outputs at each token."""
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(paths * channels, channels, bias=False)

        def forward(self, outputs):
            return self.map(torch.cat(outputs, -1))

    return Mixed()


def mixed_cost(*, paths, channels, tokens):
    return Cost(paths * channels**2, {"merge": 2 * tokens * paths * channels**2})


def both_ways(grid):
    """Raster there and back, and of both the larger."""
    tokens = np.arange(grid.tokens)
    return Route(np.stack([tokens, tokens[::-1]]), merge="largest")


@hookimpl
def register_scans(register):
    register("both-ways", both_ways)


@hookimpl
def register_merges(register):
    register("largest", "merging_plugin:largest", doc="The largest of the paths' outputs.", facts=MergeFacts())
    register("added", "merging_plugin:added", doc="A sum written by hand.", facts=MergeFacts())
    facts = MergeFacts(cost=mixed_cost, gate="merged")
    register("mixed", "merging_plugin:mixed", doc="A linear map of all outputs.", facts=facts)
'''
GRID, WIDTH, DEPTH = Grid(4, 6), 16, 2
PLAIN = np.arange(24)
OPTIONS = ZigmaOptions(width=WIDTH, depth=DEPTH, patch=1, drop_path=0.0)
MIXERS = {
    "mamba": "mamba",
    "mamba-2": {"name": "mamba-2", "options": {"head_dim": 4, "state": 8, "groups": 1}},
    "attention": {"name": "attention", "options": {"heads": 2}},
    "identity": "identity",
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The module of the plugin above. It isn't installed; its names are registered while a test runs."""
    (tmp_path / "merging_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "merging_plugin", raising=False)
    module = importlib.import_module("merging_plugin")
    with as_registered(specs_of_module(module)):
        yield module
    del sys.modules["merging_plugin"]


def two_paths(merge):
    return Route(np.stack([PLAIN, PLAIN[::-1]]), merge=merge)


def network(merge, mixer="mamba", backend="torch"):
    """A network with open gates, so that its mixers have an effect."""
    options = replace(OPTIONS, mixer=MIXERS[mixer])
    made = Zigma(options, grid=GRID, channels=2, routes=[two_paths(merge)] * DEPTH, backend=backend)
    initialise_network(made, 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
            assert parameter.isfinite().all(), name
    return made


def velocity_and_gradients(made):
    x = torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    y = made(x, torch.tensor([0.2, 0.8]))
    (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
    return y.detach(), {name: parameter.grad for name, parameter in made.named_parameters()}


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_merge_of_a_plugin_runs_in_every_mixer_at_its_cost(plugin, mixer):
    for merge in ("largest", "mixed"):
        made = network(merge, mixer)
        y, gradients = velocity_and_gradients(made)
        assert y.shape == (2, 2, 4, 6) and y.isfinite().all()
        assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in gradients.values())
        options, routes = replace(OPTIONS, mixer=MIXERS[mixer]), [two_paths(merge)] * DEPTH
        check_zigma(options, grid=GRID, routes=routes)
        cost = zigma_cost(options, grid=GRID, channels=2, routes=routes)
        assert cost.parameters == sum(parameter.numel() for parameter in made.parameters())
        channels = WIDTH if mixer == "attention" else 2 * WIDTH
        expected = DEPTH * 2 * GRID.tokens * 2 * channels**2 if merge == "mixed" else 0
        assert cost.forward_flops["merge"] == expected
    assert any(".merge.map." in name for name in made.state_dict())


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_sum_written_by_hand_is_the_built_in_sum(plugin, mixer):
    (y, gradients), (expected, others) = (velocity_and_gradients(network(m, mixer)) for m in ("added", "sum"))
    assert torch.equal(y, expected)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)
    assert not torch.allclose(velocity_and_gradients(network("largest", mixer))[0], expected) or mixer == "identity"


def mamba(merge):
    block = replace(OPTIONS, state=4)
    made = MambaMixer(MambaOptions(), block=block, grid=GRID, route=two_paths(merge), backend="torch")
    initialise_network(made, 0)
    return made


@torch.no_grad()
def test_the_gate_acts_where_the_facts_say(plugin):
    """Inside the scan of each path (before the merge), or after the merge."""
    x = torch.randn(2, 24, WIDTH, generator=torch.Generator().manual_seed(2))
    for merge in ("largest", "mixed"):
        made = mamba(merge)
        inner, z = made.in_proj(x).chunk(2, -1)
        gate = z if merge == "largest" else None
        outputs = [made.scan_paths[k].follow(made.branches[k], inner, gate, None) for k in range(2)]
        y = made.merge(outputs) if merge == "largest" else made.merge(outputs) * nn.functional.silu(z)
        torch.testing.assert_close(made(x), made.out_proj(y), atol=1e-6, rtol=1e-5)


def test_one_operator_serves_merges_of_gated_paths(plugin):
    """The backend `fused` gates inside its operator, so a merge before the gate is run path by path."""
    assert {merge: is_one_operator(two_paths(merge)) for merge in ("sum", "gate", "largest", "mixed", "concat")} == {
        "sum": True, "gate": True, "largest": True, "mixed": False, "concat": False,
    }  # fmt: skip
    assert not is_one_operator(Route(np.append(PLAIN, -1)))


def test_a_merge_without_an_estimate_of_its_memory_has_none(plugin):
    given = {"grid": GRID, "channels": 2, "backend": "torch", "precision": "fp32"}
    assert zigma_memory(OPTIONS, routes=[two_paths("sum")], **given)
    with pytest.raises(NotReady, match="no estimate of the memory of the merge 'largest'"):
        zigma_memory(OPTIONS, routes=[two_paths("largest")], **given)


def test_the_plugin_keeps_the_contract_though_it_is_not_installed(plugin):
    """Its scan, which uses its merge, is checked too."""
    reports = check_plugin(plugin)
    assert [f"{report.kind} {report.name}" for report in reports] == [
        "scan both-ways", "merge largest", "merge added", "merge mixed",
    ]  # fmt: skip


def test_a_name_is_known_only_while_it_is_registered():
    spec = merge_spec("mine", SumMerge, facts=MergeFacts(), owner="a test", doc="A sum.")
    with as_registered([spec]):
        assert two_paths("mine").merge == "mine"
        with pytest.raises(BrokenScan, match=r"a route has an unknown merge; .*got 'mien'; did you mean 'mine'\?"):
            two_paths("mien")
    with pytest.raises(BrokenScan, match="unknown merge"):
        two_paths("mine")


def test_a_command_finds_the_merges_of_a_folder(tmp_path):
    """Each file is a plugin; a module may make a route of a built-in merge while it is imported."""
    (tmp_path / "merging_plugin.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "zigma_bench", "--plugins", str(tmp_path), "plugins", "check", "scan:both-ways"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "set aside" not in done.stderr


def test_the_digest_of_a_route_names_the_owner_of_a_plugins_merge():
    """Another version of the plugin may merge differently; the built-in merges change with zigma-bench itself."""
    digests = []
    for version in ("1.0", "1.1"):
        spec = merge_spec("mine", "x:y", facts=MergeFacts(), owner=f"zigma-bench-mine {version}", doc="Mine.")
        with as_registered([spec]):
            digests.append(two_paths("mine").digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"splits_tokens": True, "splits_channels": True}, "contradict each other"),
        ({"splits_tokens": True}, "can't gate the output of each path"),
        ({"has_stages": True}, "expected gate='merged'; got 'path'"),
        ({"is_sum": True, "gate": "merged"}, "a plain sum needs gated paths"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(facts, words):
    with pytest.raises(UsageError, match=words):
        MergeFacts(**facts)


def test_a_merge_of_stages_of_a_plugin_reads_stage_after_stage():
    """A cascade registered under another name gives the same results."""
    facts = MergeFacts(gate="merged", has_stages=True)
    spec = merge_spec("steps", SumMerge, facts=facts, owner="a test", doc="A cascade.")
    x = torch.randn(2, 24, WIDTH, generator=torch.Generator().manual_seed(2))
    with as_registered([spec]), torch.no_grad():
        assert two_paths("steps").stages == (1, 1)
        assert torch.equal(mamba("steps")(x), mamba("cascade")(x))


def test_a_learned_order_visits_all_tokens():
    with pytest.raises(BrokenScan, match="a learned order visits all tokens"):
        Route(PLAIN.reshape(2, -1), merge="scatter", learned=object())


class RunningSum(GatheringBranch):
    """An operator of a plugin's mixer: the sum of all rows of the segment so far."""

    def mix_rows(self, x, segment_starts, features):
        total = torch.cat((torch.zeros_like(x[:, :1]), x.cumsum(1)), 1)
        return total[:, 1:] - (0 if segment_starts is None else total[:, segment_starts])


@pytest.mark.parametrize("merge", ["sum", "concat", "cascade"])
def test_a_branch_of_a_plugin_follows_every_route(merge):
    """The shared loop handles paths, segments, groups, stages and the gate; the branch handles one path."""
    lengths = (np.array([10, 14]), np.array([6, 18]))
    route = Route(np.stack([PLAIN[::-1], PLAIN.reshape(4, 6).T.reshape(-1)]), merge=merge, segments=lengths)
    loop = RoutedBranches(route, lambda number: RunningSum(), channels=8, learned_pads=False)
    x, z = torch.randn(2, 2, 24, 8, generator=torch.Generator().manual_seed(3))

    def along(path, rows, lengths):
        y = torch.zeros_like(rows)
        for segment in torch.from_numpy(path.copy()).split(lengths.tolist()):
            y[:, segment] = rows[:, segment].cumsum(1)
        return y

    gate, (one, two), (first, second) = nn.functional.silu(z), route.paths, lengths
    expected = {
        "sum": (along(one, x, first) + along(two, x, second)) * gate,
        "concat": torch.cat((along(one, x[..., :4], first), along(two, x[..., 4:], second)), -1) * gate,
        "cascade": along(two, along(one, x, first), second) * gate,
    }[merge]
    torch.testing.assert_close(loop.along_route(x, z=z), expected, atol=1e-5, rtol=1e-5)
