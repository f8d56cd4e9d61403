"""Backbones at one size: solved sizes are within 2% and are in plan, identity and records; unsolvable ones are refused
by name."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plan import cell_routes, make_plan
from zigma_bench.plan.match import multiples_around
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import BackboneFacts, Cost, target_spec
from zigma_bench.reports.render import table_footer
from zigma_bench.reports.table import read_table
from zigma_bench.run.runs import open_run
from zigma_bench.scans.grid import Grid
from zigma_bench.suite import load_suite
from zigma_bench.system.device import find_device

FOUR = (
    "  - backbone: {name: dit, width: 32, depth: 2, patch: 2}",
    "  - backbone: {name: vision-mamba, size: B/2}\n"
    "  - backbone: {name: dit, size: B/2}\n"
    "  - backbone: {name: zigma, size: B/2, mixer: {name: mamba-2, head_dim: 32, state: 32}}\n    scans: [raster]",
)
REAL = (FOUR, ("{name: zigma, width: 32, depth: 2, patch: 2}", "{name: zigma, size: B/2}"), ("[0, 1]", "[0]"))


def plan(path, *settings, smoke=False):
    suite, source = load_suite(path, settings=settings)
    return make_plan(suite, source, catalogue(), smoke=smoke)


def cells(made):
    return [cell for cell in made.cells if cell.role == "cell"]


def size(cell, by):
    return cell.parameters if by == "parameters" else sum(cell.forward_flops.values())


@pytest.mark.parametrize("by", ["parameters", "flops"])
@pytest.mark.parametrize("solve", ["either", "depth", "width", "both"])
def test_all_backbones_come_to_the_reference(write_suite, by, solve):
    made = cells(
        plan(
            write_suite(*REAL),
            f"size_match={{by: {by}, solve: {solve}}}",
            "compare.2.backbone={name: dit, width: 512, depth: 12, patch: 2, heads: 4}",
        )
    )
    target = size(made[0], by)
    assert made[0].backbone.options["width"] == 768, "the reference stays as it is"
    for cell in made:
        assert abs(size(cell, by) / target - 1) <= 0.02, cell.label
        match = cell.size_match
        assert (match.by, match.target, match.achieved) == (by, target, size(cell, by))
        assert match.reference == made[0].row
        assert all(cell.backbone.options[name] == value for name, value in match.chosen.items())
        assert set(match.chosen) <= {"either": {"depth", "width"}, "both": {"depth", "width"}}.get(solve, {solve})
        assert set(match.given) == set(match.chosen)
    mamba2 = made[-1].backbone.options
    assert 2 * mamba2["width"] % 32 == 0, "heads divide the inner channels"
    assert made[0].size_match.chosen == made[1].size_match.chosen == {}


@pytest.mark.parametrize("spec", catalogue().backbones, ids=lambda spec: spec.name)
@pytest.mark.parametrize("by", ["parameters", "flops"])
def test_every_registered_backbone_comes_to_a_size(write_suite, spec, by):
    """Its largest named size, matched to ZigMa B."""
    other = f"compare.1={{backbone: {{name: {spec.name}, size: {list(spec.facts.sizes)[-1]}/2}}}}"
    scans = [] if spec.facts.order == "free" or spec.facts.default_scan else ["compare.1.scans=[zigzag]"]
    path = write_suite(("{name: zigma, width: 32, depth: 2, patch: 2}", "{name: zigma, size: B/2}"))
    made = cells(plan(path, f"size_match={{by: {by}, solve: both}}", other, *scans))
    assert made[-1].backbone.name == spec.name
    assert abs(size(made[-1], by) / size(made[0], by) - 1) <= 0.02
    assert made[-1].size_match.chosen


def test_without_it_nothing_changes(write_suite):
    for cell in cells(plan(write_suite(*REAL))):
        assert cell.size_match is None


def test_the_networks_that_are_built_have_that_size(write_suite):
    path = write_suite((", width: 32, depth: 2, patch: 2}\nseeds", ", width: 32, depth: 2, patch: 2, heads: 2}\nseeds"))
    made = cells(plan(path, "size_match={by: parameters, solve: both}"))
    counts = []
    for cell in made:
        spec = catalogue().get("backbone", cell.backbone.name)
        options = spec.make_options(cell.backbone.options)
        grid = Grid.of_image(cell.height, cell.width, options.patch)
        routes = cell_routes(cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=catalogue())
        network = spec.load()(options, grid=grid, channels=cell.channels, routes=routes, backend="naive")
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert made[-1].size_match.chosen
    assert all(abs(count / counts[0] - 1) <= 0.02 for count in counts)


def test_a_matched_cell_is_the_cell_that_says_its_options_itself(write_suite):
    """The identity, and with it the folder, depends on the solved options, but not on how they were found."""
    matched = cells(plan(write_suite(*REAL), "size_match=flops"))
    dit = next(cell for cell in matched if cell.backbone.name == "dit")
    assert dit.size_match.chosen == {"depth": dit.backbone.options["depth"]} != dit.size_match.given
    said = f"compare.2.backbone={{name: dit, width: 768, heads: 12, patch: 2, depth: {dit.backbone.options['depth']}}}"
    other = next(cell for cell in cells(plan(write_suite(*REAL), said)) if cell.backbone.name == "dit")
    unmatched = next(cell for cell in cells(plan(write_suite(*REAL))) if cell.backbone.name == "dit")
    for stage in ("train", "quality"):
        assert (
            dit.identity(stage, device_model="")
            == other.identity(stage, device_model="")
            != unmatched.identity(stage, device_model="")
        )


def test_a_depth_far_from_the_one_given_gives_way_to_the_width(write_suite):
    thin = "compare.2.backbone={name: dit, width: 128, depth: 12, patch: 2, heads: 4}"
    dit = [cell for cell in cells(plan(write_suite(*REAL), "size_match=flops", thin)) if cell.backbone.name == "dit"]
    assert set(dit[0].size_match.chosen) == {"width"}
    alone = cells(plan(write_suite(*REAL), "size_match={by: flops, solve: depth}", thin))
    dit = [cell for cell in alone if cell.backbone.name == "dit"]
    assert dit[0].size_match.chosen["depth"] > 24


def test_the_baseline_is_the_reference_at_any_position(write_suite):
    made = plan(write_suite(*REAL), "size_match=parameters", "baseline={backbone: dit}")
    assert {cell.size_match.reference for cell in cells(made)} == {"dit"}
    dit = next(cell for cell in cells(made) if cell.backbone.name == "dit")
    assert dit.backbone.options["depth"] == 12
    assert cells(made)[0].backbone.options != {**cells(plan(write_suite(*REAL)))[0].backbone.options}
    assert made.cells[-1].backbone_label == "untrained dit"


def test_one_network_is_compared_under_all_of_its_scans(write_suite):
    """A scan with its own parameters changes the size of its row, and the plan says so."""
    parallel = ("{name: vision-mamba, size: B/2}", "{name: vision-mamba, size: B/2}")
    scans = "compare.3.scans=[raster, {name: zigzag, paths: 4, mode: parallel}]"
    made = cells(plan(write_suite(*REAL, parallel), "size_match=parameters", scans))
    one, four = made[-2:]
    assert one.backbone == four.backbone
    assert "changes its size" in four.size_match.summary
    assert "changes its size" not in one.size_match.summary


def test_what_can_not_be_reached_is_one_error_with_the_nearest(write_suite):
    with pytest.raises(UsageError) as caught:
        plan(write_suite(), "size_match={by: parameters, solve: depth}")
    text = str(caught.value)
    for word in (
        "suite.yaml:7, key compare.1.backbone",
        "'dit'",
        "zigma · raster",
        "to 2%",
        "with depth",
        "solve: both",
    ):
        assert word in text
    made = cells(plan(write_suite(), "size_match={by: parameters, solve: both}", "compare.1.backbone.heads=2"))
    assert abs(made[-1].parameters / made[0].parameters - 1) <= 0.02


SMALL = "\n".join((
    "  - backbone: {name: vision-mamba, width: 96, depth: 4, patch: 1}",
    "  - backbone: {name: dit, width: 96, depth: 5, patch: 1}",
    "  - backbone: {name: sit, width: 96, depth: 5, patch: 1}",
    "  - backbone: {name: u-vit, width: 96, depth: 5, patch: 1}",
    "  - backbone: {name: hybrid, width: 96, depth: 6, patch: 1}",
    "    scans: [raster]",
))  # fmt: skip


@pytest.mark.parametrize("by", ["parameters", "flops"])
def test_the_word_alone_brings_small_networks_to_a_size_too(write_suite, by):
    """If a layer is a tenth of the network and few widths are divisible by the heads, depth or width alone isn't
    enough."""
    small = ("{name: zigma, width: 32, depth: 2, patch: 2}", "{name: zigma, width: 96, depth: 6, patch: 1}")
    made = cells(plan(write_suite(small, (FOUR[0], SMALL)), f"size_match={by}"))
    assert {cell.backbone.name for cell in made} == {"zigma", "vision-mamba", "dit", "sit", "u-vit", "hybrid"}
    for cell in made:
        assert abs(size(cell, by) / size(made[0], by) - 1) <= 0.02, cell.label
    small_heads = {cell.backbone.name: cell for cell in made if "heads" in cell.size_match.chosen}
    assert "u-vit" in small_heads and "zigma" not in small_heads
    u_vit = small_heads["u-vit"]
    assert u_vit.backbone.options["heads"] in (
        u_vit.backbone.options["width"] // 16,
        u_vit.backbone.options["width"] // 8,
    )
    assert f"heads {u_vit.backbone.options['heads']} (" in u_vit.size_match.summary


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("size_match=paramters", "key size_match.by: should be 'none', 'parameters' or 'flops'; got 'paramters'"),
        ("size_match=5", "should be none, parameters, flops, or a mapping of by and solve; got 5"),
        ("size_match={by: flops, solve: heads}", "should be 'either', 'depth', 'width' or 'both'; got 'heads'"),
        ("size_match={by: flops, sovle: depth}", "unknown key 'sovle'"),
        ("size_match={solve: depth}", "is missing"),
    ],
)
def test_faults(write_suite, setting, words):
    with pytest.raises(UsageError) as caught:
        plan(write_suite(), setting)
    assert words in str(caught.value)


def test_a_toy_has_no_size_to_match(write_suite):
    assert {cell.size_match for cell in plan(write_suite(*REAL), "size_match=parameters", smoke=True).cells} == {None}


def test_records_and_reports_say_it(write_suite, tmp_path):
    made = plan(write_suite(*REAL), "size_match=flops")
    record = json.loads(json.dumps(cells(made)[2].model_dump(mode="json")))
    assert set(record["size_match"]) == {"by", "reference", "target", "achieved", "given", "chosen"}
    open_run(made, tmp_path, find_device("cpu"))
    lines = table_footer(read_table(tmp_path / "tiny" / "main"))
    (line,) = [line for line in lines if line.startswith("sizes matched to the ")]
    assert "FLOPs of zigma mixer=mamba · raster, to 2%: vision-mamba · bidirectional depth 24 -> " in line


# A backbone of a plugin


@dataclass(frozen=True)
class NoWidth:
    """A network of layers alone."""

    depth: int
    patch: int


@dataclass(frozen=True)
class Twelves:
    """A network whose width 12 divides."""

    width: int
    depth: int
    patch: int


def layers(options, *, grid, channels, routes):
    return Cost(500 * options.depth, {"layers": 500 * options.depth})


def squares(options, *, grid, channels, routes):
    return Cost(options.depth * options.width**2, {"layers": options.depth * options.width**2})


def refuse(options, *, grid, routes):
    if options.width % 12:
        raise UsageError("12 does not divide the width")


@pytest.fixture
def plugins():
    facts = {"no-width": (NoWidth, layers, None), "twelves": (Twelves, squares, refuse)}
    backbones = catalogue().backbones
    for name, (options, cost, check) in facts.items():
        facts_ = BackboneFacts(order="free", cost=cost, check=check)
        backbones.add(target_spec("backbone", name, "m:f", options=options, facts=facts_, owner="test"))
    yield
    for name in facts:
        del backbones._specs[name]


def test_a_plugins_backbone_is_solved_by_the_options_that_it_has(write_suite, plugins):
    no_width = "compare.1.backbone={name: no-width, depth: 2, patch: 2}"
    made = cells(plan(write_suite(), "size_match=parameters", no_width))
    assert set(made[-1].size_match.chosen) == {"depth"}
    assert abs(made[-1].parameters / made[0].parameters - 1) <= 0.02
    for solve in ("width", "both"):
        with pytest.raises(UsageError, match="'no-width' has no option 'width' for size_match to solve"):
            plan(write_suite(), f"size_match={{by: parameters, solve: {solve}}}", no_width)


def test_widths_that_a_backbone_refuses_are_passed_over(write_suite, plugins):
    twelves = "compare.1.backbone={name: twelves, width: 12, depth: 2, patch: 2}"
    made = cells(plan(write_suite(*REAL), "size_match={by: parameters, solve: width}", twelves))
    chosen = next(cell for cell in made if cell.backbone.name == "twelves")
    assert chosen.backbone.options["width"] % 12 == 0
    assert abs(chosen.parameters / made[0].parameters - 1) <= 0.02


@pytest.mark.parametrize("divisor", [1, 3, 12, 40])
@pytest.mark.parametrize("target", [1, 7, 1000, 54_321, 10**9])
@pytest.mark.parametrize("start", [1, 100, 5000])
def test_the_search_finds_the_neighbours_of_the_target(divisor, target, start):
    """Compared with a search of every value."""
    found = multiples_around(lambda v: None if v % divisor else v * v, target, start=start, step=4, most=10**6)
    valid = [v for v in range(4, 40_000, 4) if v % divisor == 0]
    below = [v for v in valid if v * v < target][-1:]
    above = [v for v in valid if v * v >= target][:1]
    assert found == [*below, *above]
