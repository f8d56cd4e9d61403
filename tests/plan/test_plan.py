"""Plans: resolved values, errors, and what an identity depends on."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError
from zigma_bench.plan import data, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.plugins.registry import Condition
from zigma_bench.suite import load_suite


def plan(path, *, smoke=False, settings=()):
    suite, source = load_suite(path, settings=settings)
    return make_plan(suite, source, catalogue(), smoke=smoke)


def test_cells_are_backbones_by_scans_by_seeds(write_suite):
    made = plan(write_suite())
    assert [c.label for c in made.cells] == [
        "zigma · raster · seed 0", "zigma · raster · seed 1",
        "zigma · zigzag paths=8 · seed 0", "zigma · zigzag paths=8 · seed 1",
        "dit · seed 0", "dit · seed 1",
        "floor · held-out images · seed 0", "ceiling · untrained zigma · raster · seed 0",
    ]  # fmt: skip
    zigma = made.cells[0]
    assert zigma.tokens == 16
    assert zigma.train_steps == 4
    assert zigma.stages == ("train", "sample", "quality")
    assert made.cells[-1].stages == ("sample", "quality")
    assert zigma.backbone.options["drop_path"] == 0.1  # defaults are written out


def test_an_order_free_backbone_is_one_cell_whatever_the_scans(write_suite):
    dit = "- backbone: {name: dit, width: 32, depth: 2, patch: 2}"
    path = write_suite((dit, dit + "\n    scans: [raster, zigzag]"))
    assert sum(c.backbone_label == "dit" for c in plan(path).cells) == 2  # two seeds


def test_vision_mamba_takes_its_own_scan_and_no_single_path(write_suite):
    made = plan(write_suite(("{name: dit, width: 32", "{name: vision-mamba, width: 32")))
    assert made.cells[4].scan_label == "bidirectional"
    assert made.cells[4].scanned_ratio == 2
    path = write_suite(("{name: dit, width: 32, depth: 2, patch: 2}",
                        "{name: vision-mamba, width: 32, depth: 2, patch: 2}\n    scans: [raster]"))  # fmt: skip
    with pytest.raises(NotReady, match="two paths with separate parameters"):
        plan(path)


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("name: zigzag", "name: zigzga", 2, ["no scan is called 'zigzga'", "did you mean 'zigzag'", ":6"]),
        ("paths: 8", "paths: 9", 2, ["option 'paths'", "from 1 to 8", "got 9", ":6"]),
        ("paths: 8", "path: 8", 2, ["has no option 'path'", "did you mean 'paths'"]),
        ("paths: 8", "paths: '8'", 2, ["option 'paths'", "got '8'"]),
        ("{name: zigma, width: 32", "{name: zigmo, width: 32", 2, ["no backbone is called 'zigmo'", ":5"]),
        ("{name: zigma, width: 32", "{name: zigma, widht: 32", 2, ["did you mean 'width'"]),
        ("{name: zigma, width: 32, depth: 2", "{name: zigma, depth: 2", 2, ["needs the option 'width'"]),
        ("patch: 2}\n    scans", "patch: 3}\n    scans", 3, ["3 x 3 do not divide an image of 8 x 8", ":"]),
        ("name: digits", "name: digitz", 2, ["no dataset is called 'digitz'", "did you mean 'digits'"]),
        ("quality: [val-loss]", "quality: [val-los]", 2, ["no metric is called 'val-los'", "did you mean 'val-loss'"]),
        ("seeds: [0, 1]", "baseline: {backbone: zigma, scan: sweep}", 2, ["the baseline is not a row of this suite"]),
        ("seeds: [0, 1]", "backend: fussed", 2, ["no backend is called 'fussed'"]),
        ("scans: [raster, ", "scans: [raster, raster, ", 2, ["is listed twice"]),
        ("{name: zigma, width: 32, depth: 2, patch: 2}", "{name: zigma, size: Q/2}", 2, ["no size 'Q/2'"]),
        ("{name: zigma, width: 32, depth: 2", "{name: zigma, size: S/2, depth: 2", 2, ["already sets depth"]),
        ("width: 32, depth: 2, patch: 2}\nseeds", "width: 36, depth: 2, patch: 2}\nseeds", 3, ["heads"]),
    ],
)  # fmt: skip
def test_faults(write_suite, old, new, code, words):
    path = write_suite((old, new))
    with pytest.raises(ZigmaBenchError) as caught:
        plan(path)
    assert caught.value.exit_code == code
    for word in words:
        assert word in str(caught.value)


def test_named_sizes(write_suite):
    made = plan(write_suite(("{name: zigma, width: 32, depth: 2, patch: 2}", "{name: zigma, size: B/2}")))
    assert made.cells[0].backbone.options["width"] == 768
    assert len(made.cells[0].order_digests) == 24


def test_a_budget_of_flops_buys_fewer_images_of_a_costlier_cell(write_suite):
    made = plan(write_suite(("{images: 64}", "{flops: 1e9}"), ("{name: dit, width: 32", "{name: dit, width: 64")))
    cheap, dear = made.cells[0], made.cells[4]
    for cell in (cheap, dear):
        spent = 3 * cell.train_images * sum(cell.forward_flops.values())
        assert 0.9e9 < spent <= 1e9
    assert cheap.train_images != dear.train_images


def test_identity_contains_what_can_change_a_result_and_nothing_else(write_suite):
    cell = plan(write_suite()).cells[0]

    def after(*replacements, settings=()):
        return plan(write_suite(*replacements, name="other.yaml"), settings=settings).cells[0]

    def same(other, stage, model="a"):
        return cell.identity(stage, device_model="a") == other.identity(stage, device_model=model)

    assert same(after(("# Does", "# Why")), "quality")
    assert same(after(("name: tiny", "name: other")), "quality")
    assert same(after(("count: 32", "count: 64")), "train")
    assert not same(after(("count: 32", "count: 64")), "sample")
    assert same(after(("batch: 16, evaluations", "batch: 8, evaluations")), "sample")
    assert not same(after(("{batch: 16}", "{batch: 16, ema: 0.5}")), "train")
    assert not same(after(("{batch: 16}", "{batch: 16, ema_warmup: false}")), "train")
    assert same(after(("{batch: 16}", "{batch: 16, workers: 3}")), "quality")
    assert not same(after(("split: train", "split: validation")), "quality")
    assert same(after(("split: train", "split: validation")), "sample")
    assert not same(after(settings=["backend=torch"]), "train")
    assert not same(after(settings=["data.validation=900"]), "train")
    assert same(after(), "quality", model="b")
    raster, zigzag = plan(write_suite()).cells[0], plan(write_suite()).cells[2]
    assert raster.identity("train", device_model="") != zigzag.identity("train", device_model="")


def test_the_floor_is_the_same_for_any_recipe(write_suite):
    floor = next(c for c in plan(write_suite()).cells if c.role == "floor")
    other = next(c for c in plan(write_suite(("{batch: 16}", "{batch: 8}"))).cells if c.role == "floor")
    assert floor.identity("quality", device_model="") == other.identity("quality", device_model="")


def test_only_keeps_the_anchors(write_suite):
    made = plan(write_suite()).only("zigzag")
    assert [c.role for c in made.cells] == ["cell", "cell", "floor", "ceiling"]
    both = plan(write_suite()).only("raster", "zigzag")
    assert [c.label for c in both.cells] == [c.label for c in plan(write_suite()).cells if "dit" not in c.label]
    with pytest.raises(UsageError, match=r"no cell matches.*got 'hilbert'"):
        plan(write_suite()).only("zigzag", "hilbert")


def test_fid_without_weights_is_missing_and_in_smoke_is_not(write_suite, tmp_path, monkeypatch):
    monkeypatch.setenv("ZIGMA_BENCH_WEIGHTS", str(tmp_path))
    path = write_suite(("[val-loss]", "[val-loss, fid, kid]"))
    text = "; ".join(item.what for item in plan(path).missing)
    assert "2,048" in text
    assert "inception" in text.lower()
    with pytest.raises(NotReady):
        plan(path).check_ready()
    assert plan(path, smoke=True).missing == ()


@pytest.mark.parametrize(("count", "ready"), [(2047, False), (2048, True)])
def test_fid_below_2048_images_is_refused_before_anything_runs(write_suite, tmp_path, monkeypatch, count, ready):
    from zigma_bench.metrics.extractors import weights

    file = tmp_path / "published.pth"
    file.write_bytes(b"stands for the published file")
    published = dataclasses.replace(weights.PUBLISHED["inception"], sha256=weights.file_sha256(file))
    monkeypatch.setitem(weights.PUBLISHED, "inception", published)
    monkeypatch.setattr("zigma_bench.plan.make._check_held_out", lambda *rest: None)  # the digits have fewer
    metrics = f"[{{name: fid, weights: {file}}}, {{name: kid, weights: {file}}}]"
    made = plan(write_suite(("[val-loss]", metrics), ("count: 32", f"count: {count}")))
    if ready:
        made.check_ready()
        return
    with pytest.raises(NotReady, match=r"fid needs at least 2,048 images and sample\.count is 2,047") as caught:
        made.check_ready()
    assert caught.value.exit_code == 3


def test_smoke_is_toy_scale_on_embedded_data(write_suite):
    cell = plan(write_suite(("width: 32, depth: 2, patch: 2}\n    scans", "size: B/2}\n    scans")), smoke=True).cells[
        0
    ]
    assert (cell.smoke, cell.data.name, cell.train_images) == (True, "digits", 64)
    assert cell.backbone.options["width"] == 32


def test_planning_needs_no_torch(write_suite):
    code = (
        "import sys; from pathlib import Path; from zigma_bench.run.prepare import prepare;"
        f"prepare(Path({str(write_suite())!r}), settings=[], only=(), smoke=False);"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules and 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_sizes_of_one_backbone_have_one_toy(write_suite):
    two = ("  - backbone: {name: dit", "  - {backbone: {name: zigma, width: 64, depth: 2, patch: 2}, scans: [raster]}\n"
           "  - backbone: {name: dit")  # fmt: skip
    made = plan(write_suite(two, ("scans: [raster, {name: zigzag, paths: 8}]", "scans: [raster]")))
    assert {c.backbone_label for c in made.cells if c.role == "cell"} == {"zigma width=32", "zigma width=64", "dit"}
    toys = plan(write_suite(two, ("scans: [raster, {name: zigzag, paths: 8}]", "scans: [raster]")), smoke=True)
    assert [c.backbone_label for c in toys.cells if c.role == "cell"] == ["zigma", "dit"]


def test_fid_requires_kid(write_suite):
    with pytest.raises(
        UsageError, match=r"suite\.yaml:\d+, key quality\.1: the metric 'fid' is listed without.*add kid"
    ):
        plan(write_suite(("[val-loss]", "[val-loss, fid]")))
    plan(write_suite(("[val-loss]", "[kid, val-loss, fid]")))
    plan(write_suite(("[val-loss]", "[kid, fd-efflite0, precision]")))


def test_a_metric_can_only_be_listed_once(write_suite):
    with pytest.raises(UsageError, match="the metric 'fd-efflite0' is listed twice"):
        plan(write_suite(("[val-loss]", "[fd-efflite0, {name: fd-efflite0, size: 128}]")))


def test_weights_enter_the_identity_of_quality_alone(write_suite, tmp_path):
    weights = tmp_path / "w.pth"
    path = write_suite(("[val-loss]", f"[{{name: kid, weights: {weights}}}]"))
    found = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.append(plan(path).cells[0])
    assert found[0].identity("quality", device_model="") != found[1].identity("quality", device_model="")
    assert found[0].identity("sample", device_model="") == found[1].identity("sample", device_model="")


def test_the_batch_of_a_sample_counts_for_dopri5_alone(write_suite):
    def identity(*replacements):
        return plan(write_suite(*replacements, name="b.yaml")).cells[0].identity("sample", device_model="")

    solver = ("evaluations: 2", "solver: dopri5")
    assert identity() == identity(("count: 32, batch: 16", "count: 32, batch: 8"))
    assert identity(solver) != identity(solver, ("count: 32, batch: 16", "count: 32, batch: 8"))
    assert identity() == identity(("evaluations: 2", "evaluations: 2, rtol: 0.1"))
    assert identity(("evaluations: 2", "evaluations: 50")) == identity((", evaluations: 2", ""))


def test_an_option_of_a_mixer_enters_identity_and_label_unless_it_has_its_default(write_suite):
    def cell(options):
        old = "width: 32, depth: 2, patch: 2}\n    scans"
        return plan(write_suite((old, old.replace("}", f"{options}}}")))).cells[0]

    bare = cell("")
    for same in (", mixer: mamba", ", mixer: {name: mamba, convolution: path}"):
        assert cell(same).identity("train", device_model="") == bare.identity("train", device_model="")
        assert cell(same).backbone_label == "zigma"
    other = cell(", mixer: {name: mamba, convolution: grid}")
    assert other.identity("train", device_model="") != bare.identity("train", device_model="")
    assert other.backbone_label == "zigma mixer=mamba(convolution=grid)"


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        ("mixer: 5", "option 'mixer' has a wrong value; expected text | mapping; got 5"),
        ("mixer: 'a b!'", "not a mixer; expected a name"),
        ("mixer: {name: ''}", "not a mixer"),
        ("mixer: {depth: 3}", "not a mixer"),
        (
            "mixer: mambo",
            "no mixer is called 'mambo'; expected one of attention, identity, linear-attention, mamba, mamba-2; "
            "did you mean 'mamba'?",
        ),
        ("mixer: {name: mamba, fast: true}", "mixer 'mamba' has no option 'fast'"),
        ("mixer: {name: mamba, owner: x, options: 3}", "mixer 'mamba' has no option 'owner'"),
    ],
)
def test_wrong_mixers_are_refused_with_their_place(write_suite, mixer, words):
    with pytest.raises(UsageError) as caught:
        plan(
            write_suite(
                ("width: 32, depth: 2, patch: 2}\n    scans", f"width: 32, depth: 2, patch: 2, {mixer}}}\n    scans")
            )
        )
    assert words in str(caught.value)
    assert "suite.yaml:5" in str(caught.value)


def test_a_scan_that_refuses_is_reported_with_its_place(write_suite):
    with pytest.raises(NotReady, match=r"suite.yaml:6, key compare.0.scans.0: scan 'atrous' of zigma-bench, layer 0: "):
        plan(write_suite(("raster", "{name: atrous, step: 9}")))


def test_a_long_option_makes_no_long_name(write_suite):
    table = [["h", "h_flip", "w2", "w2_flip"]] * 20
    made = plan(write_suite(("raster", f"{{name: local-mamba, table: {table}}}".replace("'", ""))))
    cell = made.cells[0]
    assert len(cell.slug) <= 100
    assert len(cell.label) < 100


def test_two_sizes_of_one_backbone_are_one_toy_under_smoke(write_suite):
    extra = "  - backbone: {name: zigma, width: 48, depth: 2, patch: 2}\n    scans: [raster]\nseeds"
    path = write_suite(("seeds", extra))
    assert len({cell.label for cell in plan(path).cells}) == len(plan(path).cells)
    toys = [cell for cell in plan(path, smoke=True).cells if cell.role == "cell"]
    assert len({cell.identity("train", device_model="") for cell in toys}) == len(toys) == 3


def test_too_few_held_out_images_are_reported_before_training(write_suite):
    few = write_suite(("{name: digits}", "{name: digits, validation: 31}"))
    with pytest.raises(NotReady, match=r"suite.yaml:\d+, key sample.count: the floor needs 32 .* there are 31") as told:
        plan(few)
    assert "set reference.split" not in str(told.value)  # it is train already
    enough = write_suite(("{name: digits}", "{name: digits, validation: 33}"))
    assert plan(enough).cells
    with pytest.raises(
        NotReady, match=r"32 held-out images and the reference at least 2 others, and there are 33; .* to train"
    ):
        plan(enough, settings=["reference.split=validation"])


@pytest.mark.parametrize(("condition", "size"), [("class", "classes: 11"), ("text", "text_width: 6")])
def test_a_conditional_backbone_needs_data_with_its_condition(write_suite, monkeypatch, condition, size):
    """One error at the place of the entry; with data that provides the condition, the plan succeeds."""
    path = write_suite(("{name: dit, width: 32", f"{{name: u-vit, condition: {condition}, {size}, width: 32"),
                       ("depth: 2, patch: 2}\nseeds", "depth: 3, patch: 2}\nseeds"))  # fmt: skip
    wanted = {"class": Condition("class", 11), "text": Condition("text", 6, tokens=77)}[condition]
    with pytest.raises(NotReady) as caught:
        plan(path)
    told = str(caught.value)
    assert "suite.yaml:7, key compare.1" in told
    assert f"the backbone 'u-vit' is conditioned on {wanted}, which the data does not have" in told
    assert "got '10 classes'" in told
    plain = data.describe_source
    for given, fits in ((Condition(condition, 7), False), (wanted, True)):
        monkeypatch.setattr(
            data, "describe_source", lambda *a, g=given: dataclasses.replace(plain(*a), conditions=(g,))
        )
        if fits:
            assert len(plan(path).cells) == 8
        else:
            with pytest.raises(NotReady, match=f"got '{given}'"):
                plan(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{name: u-vit, width: 32, depth: 2", "expected an odd depth; got 2"),
        ("{name: hybrid, width: 32, depth: 2", "no layer has attention"),
        ("{name: dit, condition: text, width: 32, depth: 2", "option 'condition'"),
        ("{name: zigma, width: 32, state: 8, mixer: attention, depth: 2", "doesn't use the backbone's option state"),
        ("{name: zigma, width: 32, depth: 3", "patches of 3 x 3 do not divide an image of 8 x 8"),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_their_place(write_suite, options, words):
    patch = 3 if "patches" in words else 2
    path = write_suite(("{name: dit, width: 32, depth: 2, patch: 2}",
                        f"{options}, patch: {patch}}}\n    scans: [raster]"))  # fmt: skip
    with pytest.raises(ZigmaBenchError) as caught:
        plan(path)
    assert words in str(caught.value)
    assert "suite.yaml" in str(caught.value)


VP = ("{batch: 16}", "{batch: 16, path: vp, prediction: noise}")


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([("evaluations: 2", "solver: ddpm")], [":12, key sample.solver", "diffusion of the path vp", "is linear"]),
        ([("{batch: 16}", "{batch: 16, path: gvp}"), ("evaluations: 2", "solver: ddim")], ["sample.solver", "is gvp"]),
        ([("{batch: 16}", "{batch: 16, weighting: velocity}")], [":11, key train.weighting", "has no weight"]),
        ([("{batch: 16}", "{batch: 16, prediction: score, interval: [0, 1]}")],
         [":11, key train.interval", "the score is infinite at t = 1"]),
        ([("{batch: 16}", "{batch: 16, path: vp, interval: [0, 1]}")], ["path vp is infinite at t = 1"]),
        ([("{batch: 16}", "{batch: 16, prediction: noise, weighting: velocity, interval: [0, 0.9]}")],
         ["train.interval", "weighting velocity of the path linear is infinite at t = 0"]),
        ([("{batch: 16}", "{batch: 16, interval: [0.5, 0.5]}")], [":11, key train.interval", "are not increasing"]),
        ([("evaluations: 2", "interval: [0.9, 0.1]")], [":12, key sample.interval", "are not increasing"]),
        ([("{batch: 16}", "{batch: 16, prediction: noise}"), ("evaluations: 2", "interval: [0, 0.9]")],
         ["sample.interval", "can't be computed from the noise on the path linear at t = 0"]),
        ([("evaluations: 2", "solver: heun-sde, interval: [0, 1]")], ["sample.interval", "the score is infinite"]),
        ([("evaluations: 2", "solver: euler-maruyama, diffusion: sbdm, interval: [0, 0.9]")],
         ["sample.interval", "sbdm of the path linear is infinite at t = 0"]),
        ([("evaluations: 2", "diffusion: sigma")], [":12, key sample.diffusion", "belongs to euler-maruyama"]),
        ([("evaluations: 2", "last_step: mean")], ["sample.last_step", "the solver is euler"]),
        ([VP, ("evaluations: 2", "solver: ddpm, eta: 0.5")], ["sample.eta", "belongs to ddim"]),
        ([VP, ("evaluations: 2", "solver: ddim, variance: small")], ["sample.variance", "belongs to ddpm"]),
        ([VP, ("evaluations: 2", "solver: ddim, interval: [0, 0.9]")], ["sample.interval", "always covers all times"]),
        ([("evaluations: 2", "guidance: {scale: 2.0}")], [":12, key sample.guidance", "is unconditional"]),
    ],
)  # fmt: skip
def test_diffusions_that_make_no_sense_are_refused_with_their_place(write_suite, replacements, words):
    with pytest.raises(UsageError) as caught:
        plan(write_suite(*replacements))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("prediction", ["velocity", "score", "noise"])
@pytest.mark.parametrize("solver", ["euler", "heun", "dopri5", "euler-maruyama", "heun-sde", "ddpm", "ddim"])
def test_every_default_makes_sense(write_suite, path, prediction, solver):
    weightings = ["none"] if prediction == "velocity" else ["none", "velocity", "likelihood"]
    forms = ["sbdm", "sigma"] if solver.endswith(("sde", "maruyama")) else [None]
    if solver in ("ddpm", "ddim") and path != "vp":
        return
    for weighting, form in itertools.product(weightings, forms):
        recipe = f"{{batch: 16, path: {path}, prediction: {prediction}, weighting: {weighting}}}"
        sample = f"solver: {solver}" + (f", diffusion: {form}" if form else "")
        cell = plan(write_suite(("{batch: 16}", recipe), (", evaluations: 2", f", {sample}"))).cells[0]
        assert cell.objective.interval[0] < cell.objective.interval[1]
        assert (cell.sampler.interval is None) == (solver in ("ddpm", "ddim"))
        assert (cell.sampler.evaluations is None) == (solver == "dopri5")


def test_the_diffusion_enters_the_identities_that_it_changes(write_suite):
    def stages(*replacements):
        cell = plan(write_suite(*replacements, ("quality: [val-loss]", "quality: [val-loss]\nefficiency: {repeats: 3}"),
                                name="d.yaml")).cells[0]  # fmt: skip
        return [cell.identity(stage, device_model="") for stage in ("train", "sample", "quality", "efficiency")]

    def ceiling(*replacements):
        return plan(write_suite(*replacements, name="d.yaml")).cells[-1].identity("sample", device_model="")

    plain = stages()
    assert stages(("{batch: 16}", "{batch: 16, path: linear, prediction: velocity, interval: [0, 1]}")) == plain
    assert stages(("evaluations: 2", "evaluations: 2, interval: [0, 1]")) == plain
    for recipe in ("path: gvp", "path: vp", "prediction: noise", "prediction: score", "interval: [0, 0.5]"):
        changed = ("{batch: 16}", f"{{batch: 16, {recipe}}}")
        assert not set(stages(changed)) & set(plain)
        assert ceiling(changed) != ceiling()
    weighted = [
        stages(("{batch: 16}", f"{{batch: 16, prediction: noise, weighting: {w}}}")) for w in ("none", "velocity")
    ]
    assert weighted[0][0] != weighted[1][0]
    settings = [
        "solver: euler-maruyama", "solver: heun-sde", "solver: euler-maruyama, diffusion: constant",
        "solver: euler-maruyama, diffusion_norm: 2.0", "solver: euler-maruyama, last_step: tweedie",
        "solver: euler-maruyama, interval: [0, 0.9]", "interval: [0, 0.9]",
    ]  # fmt: skip
    found = [stages((", evaluations: 2", f", evaluations: 5, {s}")) for s in settings]
    assert all(item[0] == plain[0] for item in found)
    for index in (1, 2, 3):
        assert len({item[index] for item in found}) == len(settings)


def test_the_plan_shows_the_diffusion_resolved(write_suite):
    from zigma_bench.run.prepare import plan_json
    from zigma_bench.system.device import Device

    made = plan(write_suite(("evaluations: 2", "solver: heun-sde")))
    cell = plan_json(made, write_suite().parent, Device("cuda", "none"))["cells"][0]
    assert cell["objective"] == {
        "path": "linear",
        "prediction": "velocity",
        "weighting": "none",
        "interval": (0.0, 1.0),
    }
    assert cell["sampler"] == {
        "solver": "heun-sde", "evaluations": 51, "interval": (0.0, 0.96), "rtol": None, "atol": None,
        "diffusion": "sigma", "diffusion_norm": 1.0, "last_step": "mean", "variance": None, "eta": None,
    }  # fmt: skip


def test_smoke_keeps_the_solver(write_suite):
    for solver, evaluations in (("heun-sde", 5), ("euler-maruyama", 5), ("ddim", 4), ("dopri5", None)):
        sampler = plan(write_suite(VP, (", evaluations: 2", f", solver: {solver}")), smoke=True).cells[0].sampler
        assert (sampler.solver, sampler.evaluations) == (solver, evaluations)


def test_a_default_that_is_written_out_changes_no_identity(write_suite):
    """So an option that is added later, with the earlier behaviour as its default, doesn't invalidate records."""
    explicit = write_suite(
        (
            "width: 32, depth: 2, patch: 2}\n    scans: [raster, {name: zigzag, paths: 8}",
            "width: 32, depth: 2, patch: 2, residual: official}\n    scans: [raster, {name: zigzag, mode: layerwise}",
        ),
        ("{name: digits}", "{name: digits, validation: 1000, caption: null}"),
        ("train: {batch: 16}", "train: {batch: 16, flip: false, ema: 0.9999, random_crop: null, betas: [0.9, 0.999]}"),
        ("quality: [val-loss]", "quality: [{name: val-loss, images: 512}]"), name="explicit.yaml",
    )  # fmt: skip
    short = make_plan(*load_suite(write_suite()), catalogue()).cells
    long = make_plan(*load_suite(explicit), catalogue()).cells
    for one, other in zip(short, long, strict=True):
        for stage in one.stages:
            assert one.identity(stage, device_model="") == other.identity(stage, device_model=""), (one.label, stage)
    for change in (
        ("ema: 0.9999", "ema: 0.5"),
        ("residual: official", "residual: textbook"),
        ("flip: false", "flip: true"),
    ):
        text = explicit.read_text()
        assert change[0] in text
        explicit.write_text(text.replace(*change))
        changed = make_plan(*load_suite(explicit), catalogue()).cells[0]
        assert changed.identity("train", device_model="") != short[0].identity("train", device_model=""), change
        explicit.write_text(text)
