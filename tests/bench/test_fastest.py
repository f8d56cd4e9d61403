"""`fastest` finds every registered network, keeps to its time limit, and names everything that it leaves out."""

from __future__ import annotations

import dataclasses
import importlib
import math
import subprocess
import sys

import pytest
import yaml
from scipy import stats

from zigma_bench.bench.fastest.cases import (
    EAGER,
    LAUNCHES,
    Case,
    Timed,
    launches_on,
    make_cell,
    median_interval,
    merge_rounds,
)
from zigma_bench.bench.fastest.crossings import between, find_crossing, interpolate, longer, shorter
from zigma_bench.bench.fastest.findings import Findings, overlaps, suite_keys, winner_yaml
from zigma_bench.bench.fastest.networks import SIZES, find_networks
from zigma_bench.bench.fastest.run import find_grid, memory_limit, preferred_backend
from zigma_bench.bench.fastest.search import LATE, Search
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.plan import cell_routes, make_plan
from zigma_bench.plugins.discovery import catalogue, specs_of
from zigma_bench.scans.grid import Grid
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

CPU = Device("cpu", "a processor")
GRID = Grid(16, 16)


@pytest.fixture(scope="module")
def on_gpu():
    return find_networks(catalogue(), "cuda", Grid(64, 64), "fused")[0]


def named(networks, label):
    return next(one for one in networks if one.label == label)


# Networks


def test_every_backbone_mixer_and_backend_is_found_or_refused_with_a_reason():
    networks, refused = find_networks(catalogue(), "cpu", GRID, "cpu")
    labels = [one.label for one in networks] + [one.label for one in refused]
    assert len(set(labels)) == len(labels)
    for spec in catalogue().backbones:
        mixers = [mixer.name for mixer in catalogue().mixers] if "mixer" in {o.name for o in spec.options} else [None]
        for mixer in mixers:
            for backend in [None] if spec.facts.order == "free" else list(BACKENDS):
                known = " · ".join(filter(None, (spec.name, mixer, backend)))
                assert known in labels or f"backend {backend}" in labels
    reasons = {one.label: one.reason for one in refused}
    assert "doesn't run on this device" in reasons["backend fused"]


def test_a_loop_over_many_tokens_is_refused():
    reasons = {one.label: one.reason for one in find_networks(catalogue(), "cpu", Grid(32, 32))[1]}
    assert "a loop over the tokens in Python" in reasons["backend naive"]


def test_a_grid_that_does_not_fit_is_the_reason():
    reasons = {one.label: one.reason for one in find_networks(catalogue(), "cpu", Grid(4, 4, 2))[1]}
    assert "single images" in reasons["dit"]


def test_networks_have_equal_widths_and_almost_equal_parameters(on_gpu):
    target = None
    for one in on_gpu:
        assert one.matched and one.backbone.options["width"] == SIZES["cuda"]["width"]
        spec = catalogue().get("backbone", one.backbone.name)
        cell = make_cell(Case(one, EAGER, 1, Grid(8, 8)), "inference", catalogue())
        options = spec.make_options(one.backbone.options)
        routes = cell_routes(one.scan, grid=Grid(8, 8), depth=options.depth, seed=0, catalogue=catalogue())
        parameters = spec.facts.cost(options, grid=Grid(8, 8), channels=cell.channels, routes=routes).parameters
        target = target or parameters  # the attention baseline comes first
        assert abs(parameters - target) < 0.08 * target, one.label


def test_growth_comes_from_the_costs(on_gpu):
    linear = {one.kind: one.linear for one in on_gpu}
    assert linear["zigma", "mamba"] and linear["zigma", "mamba-2"] and linear["vision-mamba", "mamba"]
    assert linear["dit", None] is False and linear["zigma", "attention"] is False and linear["hybrid", "mamba"] is False


def test_the_order_is_baseline_then_preferred_backend_then_controls(on_gpu):
    labels = [one.label for one in on_gpu]
    assert labels[0] == "dit"
    assert labels.index("zigma · mamba · fused") < labels.index("hybrid · mamba · fused")
    assert labels.index("zigma · mamba · fused") < labels.index("zigma · mamba-2 · fused")
    assert labels.index("zigma · mamba · torch") < labels.index("zigma · identity · fused")
    assert labels.index("zigma · mamba-2 · fused") < labels.index("zigma · mamba-2 · torch")
    assert not named(on_gpu, "zigma · identity · fused").mixes


def test_a_plugin_is_ranked_too(tmp_path, monkeypatch):
    (tmp_path / "plain_net.py").write_text(
        "import torch\nfrom torch import nn\nfrom zigma_bench import hookimpl\n\n"
        "class Net(nn.Module):\n    'One convolution.'\n"
        "    def __init__(self, *, channels: int, classes: int, dim: int = 8):\n"
        "        super().__init__()\n        self.conv = nn.Conv2d(channels, channels, 3, padding=1)\n"
        "    def forward(self, x, t, condition):\n        return self.conv(x)\n\n"
        "@hookimpl\ndef register_backbones(register):\n    register('plain-net', Net)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    specs = specs_of(importlib.import_module("plain_net"), "plain_net", "plain_net.py")
    with catalogue().backbones.holding(specs):
        networks, _ = find_networks(catalogue(), "cpu", GRID)
        found = named(networks, "plain-net")
        assert not found.matched and found.backbone.options["classes"] == 1000
        cell = make_cell(Case(found, EAGER, 2, GRID), "training", catalogue())
        assert cell.condition is not None and cell.condition.size == 1000


# The search


def answers(speeds, *, refused=None, seconds_each=1.0, clock=None):
    """A worker without a device: seconds per image by label, plus a fixed part of a call; `refused` by label."""

    def ask(cell, seconds, most):
        clock[0] += seconds_each
        label = cell["backbone_label"]
        if refused and label in refused:
            return {"kind": "refused", "why_not": refused[label], "ends": False}
        per_image, power = speeds[label]
        factor = 1.0 if not cell["train"]["compile"] else 0.5
        one = factor * (1e-3 + cell["train"]["batch"] * per_image * (cell["tokens"] / 256) ** power)
        times = [one * (1 + 0.001 * (i % 3)) for i in range(9)]
        return {
            "seconds": times, "first_call_seconds": one, "stable": True, "peak_bytes": 1e6, "parameters": 5,
            "attention": ["flash"] if label == "dit" else [],
        }  # fmt: skip

    return ask


def search_of(networks, *, device_type="cuda", seconds=1000.0, **options):
    clock = [0.0]
    ask = answers({"dit": (1e-3, 2.0), "zigma · mamba · fused": (2e-3, 1.0)}, clock=clock, **options)
    return Search(networks, GRID, 1, "inference", device_type, ask, seconds, clock=lambda: clock[0])


@pytest.fixture
def two(on_gpu):
    return [named(on_gpu, "dit"), named(on_gpu, "zigma · mamba · fused")]


def test_everything_is_timed_with_time_enough(two):
    search = search_of(two)
    search.run()
    assert not search.late
    for outcome in search.outcomes.values():
        assert set(outcome.latency) == {launch.name for launch in LAUNCHES}
        assert outcome.best.case.launch.compiled and outcome.best_saturated.case.batch > 1
        assert "gains less than 3%" in outcome.limited_by
    assert search.attention.network.label == "dit"
    assert [crossing.launch for crossing in search.crossings] == ["eager", "compiled"]
    for crossing in search.crossings:
        exact = 256 * 2.0  # where (L / 256)^2 = 2 L / 256
        assert crossing.tokens == pytest.approx(exact, rel=0.1)
        assert crossing.low <= crossing.tokens <= crossing.high
        assert "is faster than dit from about" in str(crossing)


def test_batches_of_saturation_are_powers_of_two(two):
    search = search_of(two)
    search.batch = 3
    search.run()
    tried = {timed.case.batch for one in search.outcomes.values() for timed in one.saturated.values()} - {3}
    assert tried and all(batch & (batch - 1) == 0 for batch in tried)


def test_a_case_that_takes_long_is_a_reason_and_not_late(two):
    search = search_of(two)
    search.ask = lambda cell, seconds, most: {"kind": "late", "why_not": "", "ends": False}
    search.run()
    assert search.outcomes["dit"].reasons == {"eager": "it takes more than 90 s to time"} and not search.late


def test_the_command_line_does_not_import_torch():
    code = "import sys, zigma_bench.bench.fastest.run as r; from zigma_bench.scans.grid import Grid; "
    code += "from zigma_bench.plugins.discovery import catalogue; r.find_networks(catalogue(), 'cpu', Grid(8, 8)); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


def test_what_is_not_measured_in_time_is_named(two):
    search = search_of(two, seconds=9.0, seconds_each=2.0)
    search.run()
    assert search.late
    assert any("zigma · mamba · fused" in label for label in search.late)
    assert search.clock() <= 11.0


def test_without_time_only_names_are_left(two):
    search = search_of(two, seconds=0.0)
    search.run()
    assert all(outcome.best is None for outcome in search.outcomes.values())
    assert {label.split(",")[0] for label in search.late} == {one.label for one in two}


def test_a_network_that_fails_is_a_line_and_not_the_end(two):
    search = search_of(two, refused={"zigma · mamba · fused": "memory"})
    search.run()
    assert search.outcomes["dit"].best is not None
    assert search.outcomes["zigma · mamba · fused"].reasons == {"eager": "memory"}
    assert not search.crossings


def test_a_backend_that_cannot_be_traced_is_not_compiled(two, on_gpu):
    other = dataclasses.replace(two[1], backend="mamba-ssm")
    clock = [0.0]
    ask = answers({"dit": (1e-3, 2.0), other.label: (2e-3, 1.0)}, clock=clock)
    search = Search([two[0], other], GRID, 1, "inference", "cuda", ask, 1000.0, clock=lambda: clock[0])
    search.run()
    assert "can't trace" in search.outcomes[other.label].reasons["compiled"]


def test_a_cpu_has_one_launch():
    assert [one.name for one in launches_on("cpu", compiled=False)] == ["eager"]
    assert launches_on("cpu", compiled=True) == ()


def test_no_crossing_is_said(two):
    clock = [0.0]
    ask = answers({"dit": (1e-3, 1.0), two[1].label: (2e-3, 1.0)}, clock=clock)
    search = Search(two, GRID, 1, "inference", "cuda", ask, 1000.0, clock=lambda: clock[0])
    search.run()
    assert "is slower than dit at all timed lengths, 256 to 65,536 tokens" in str(search.crossings[0])


# Numbers


@pytest.mark.parametrize("n", [6, 9, 20, 40, 41])
def test_the_interval_of_a_median_covers_it(n):
    """The ranks against the binomial distribution of an independent package; one rank further in covers too little."""
    values = tuple(float(i) for i in range(1, n + 1))
    low, high = median_interval(values)
    assert low + high == n + 1
    rank = int(low)
    assert 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5) >= 0.95 > 1 - 2 * stats.binom.cdf(rank, n, 0.5)


def test_two_rounds_are_stable_if_they_agree(two):
    quick, same, slow = (timed(two[0], (s,) * 6) for s in (1.0, 1.05, 2.0))
    assert merge_rounds(quick, same).stable and len(merge_rounds(quick, same).seconds) == 12
    assert not merge_rounds(slow, quick).stable


def test_a_crossing_uses_timings_of_the_same_time(two):
    """The baseline was timed while the machine was busy; its second timing, beside the other network, counts."""
    search = search_of(two, device_type="cpu")
    quiet, calls = search.ask, []

    def ask(cell, seconds, most):
        calls.append(cell["backbone_label"])
        answer = quiet(cell, seconds, most)
        return {**answer, "seconds": [50 * s for s in answer["seconds"]]} if len(calls) == 1 else answer

    search.ask = ask
    search.run()
    assert search.crossings[0].tokens == pytest.approx(512, rel=0.1)
    assert not search.outcomes["dit"].latency["eager"].stable


def test_an_interval_of_few_calls_is_their_range():
    assert median_interval((3.0, 1.0, 2.0)) == (1.0, 3.0)


def test_powers_of_the_length_cross_where_they_are_equal():
    logs = [math.log((n / 900) ** 1.5) for n in (256, 4096)]
    assert interpolate((256, 4096), logs) == pytest.approx(900)
    assert interpolate((256, 512), [-1.0, -0.5]) is None


def test_lengths_go_both_ways_within_bounds():
    assert longer(Grid(9, 16)) == Grid(18, 32) and longer(Grid(256, 256)) is None
    assert shorter(Grid(9, 16)) is None  # of 40 tokens
    assert shorter(Grid(17, 16)) == Grid(9, 8) and shorter(Grid(8, 8)) is None
    assert between(Grid(8, 8), Grid(16, 16)) == Grid(16, 8) and between(Grid(8, 8), Grid(16, 8)) is None


def timed(network, seconds, batch=1, launch=EAGER):
    return Timed(Case(network, launch, batch, GRID), seconds, seconds[0], True, None, 10, ())


def test_intervals_that_overlap_leave_the_order_open(two):
    near = timed(two[0], (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)), timed(two[1], (1.2, 1.3, 1.4, 1.5, 1.6, 1.7))
    far = timed(two[1], (3.0, 3.1, 3.2, 3.3, 3.4, 3.5))
    assert overlaps(*near) and not overlaps(near[0], far)


def test_a_crossing_without_lengths_says_why(two):
    cases = (Case(two[1], LAUNCHES[1], 1, GRID), Case(two[0], EAGER, 1, GRID))
    assert "(graph and eager)" in str(find_crossing(*cases, {}, None))
    assert str(find_crossing(*cases, {}, "64 tokens: memory")).endswith("the search ended at 64 tokens: memory")


# What is printed


def test_the_keys_of_the_winner_are_a_suite(two, tmp_path):
    launch = LAUNCHES[-1]
    keys = yaml.safe_load(suite_keys(timed(two[1], (1.0,) * 6, batch=8, launch=launch), "training"))
    assert keys["train"] == {"batch": 8, "compile": True, "graph": True} and keys["backend"] == "fused"
    suite = {"name": "won", **keys, "efficiency": {"tokens": [64], "stages": ["train-step"]}}
    (tmp_path / "won.yaml").write_text("# Who won?\n" + yaml.safe_dump(suite))
    (cell,) = make_plan(*load_suite(tmp_path / "won.yaml"), catalogue()).cells
    assert cell.backbone == two[1].backbone and cell.scan == two[1].scan


def findings_of(search, refused=()):
    return Findings(
        CPU, "inference", 1, GRID, None, list(search.outcomes.values()), refused, search.crossings, "dit",
        list(search.late), 1.0, 1, {},
    )  # fmt: skip


def test_a_control_never_wins(two, on_gpu):
    control = named(on_gpu, "zigma · identity · fused")
    clock = [0.0]
    ask = answers({"dit": (1e-3, 2.0), control.label: (1e-6, 1.0)}, clock=clock)
    search = Search([two[0], control], GRID, 1, "inference", "cuda", ask, 1000.0, clock=lambda: clock[0])
    search.run()
    found = findings_of(search)
    assert [one.network.label for one in found.ranked] == ["dit"] == [one.network.label for one in found.saturated]
    assert [one.network.label for one in found.controls] == [control.label]
    assert "dit" in winner_yaml(found.ranked, "inference", saturated=False)
    assert not search.crossings


def test_the_document_has_raw_timings_and_reasons(two):
    search = search_of(two, refused={"zigma · mamba · fused": "no kernel"})
    search.run()
    document = findings_of(search).to_json()
    first = document["ranking"][0]
    assert first["attention"] == ["flash"] and len(first["latency"][0]["seconds"]) == 9
    assert {"what": "zigma · mamba · fused", "why": "no kernel"} in document["refused"]
    assert LATE not in {one["why"] for one in document["refused"]}


# Options


def test_the_grid_of_a_number_of_tokens():
    assert find_grid(4096, None) == Grid(64, 64) and find_grid(14400, "90x160") == Grid(90, 160)
    assert find_grid(30, None) == Grid(5, 6)
    with pytest.raises(UsageError, match="--tokens and --grid differ"):
        find_grid(4096, "90x160")
    with pytest.raises(UsageError, match="--tokens"):
        find_grid(None, None)
    with pytest.raises(UsageError, match="--grid"):
        find_grid(None, "90")


def test_the_limits_of_a_cpu_and_a_gpu():
    assert memory_limit(CPU, 0.5) == 2**29
    assert memory_limit(Device("cuda:0", "a card"), None) is None
    assert (preferred_backend("cpu"), preferred_backend("cuda")) == ("cpu", "fused")


def test_a_cell_of_another_grid_is_refused_where_it_does_not_fit(two):
    with pytest.raises(NotReady, match="single images"):
        make_cell(Case(two[0], EAGER, 1, Grid(4, 4, 2)), "inference", catalogue())
