"""The quality during training of a whole cell: its curve, its identity, and the report of it."""

from __future__ import annotations

import pytest
import torch

from zigma_bench.backbones.build import build_network
from zigma_bench.data.cell_images import load_cell_images, network_inputs
from zigma_bench.data.images import pixels_digest
from zigma_bench.data.parts import pick_training_images
from zigma_bench.errors import NotReady, ZigmaBenchError
from zigma_bench.metrics.val_loss import velocity_losses
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.store import only_writer
from zigma_bench.run.estimate import SHARE_OF_MATMUL, Estimator
from zigma_bench.run.stages.context import StageContext
from zigma_bench.run.stages.during import evaluation_of
from zigma_bench.run.stages.run import run_due_stages
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")
BUDGET = "budget: {images: 64}"
LOSS = ("quality: [val-loss]", "quality: [{name: val-loss, images: 48}]")
DURING = "during: {every: 32, images: 48}"
TUNING = "tuning: {loss_images: 48}"


def cells(write_suite, *sections, smoke=False, more=()):
    path = write_suite((BUDGET, "\n".join([BUDGET, *sections])), LOSS, *more)
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), smoke=smoke).cells


def context_of(cell, folder):
    return StageContext(cell, folder, folder / ".cache", CPU, lambda event: None, lambda: False)


def run(cell, folder):
    context = context_of(cell, folder)
    with only_writer(folder):
        run_due_stages(context, cell.stages)
    return context


def identities(cell):
    return [cell.identity(stage, device_model="") for stage in ("train", "sample", "quality", "efficiency")]


def test_the_curve_is_in_the_record_and_ends_with_the_validation_loss(write_suite, tmp_path):
    metric = "during: {every: 32, images: 48, metrics: [{name: kid-efflite0, size: 64}], samples: 20}"
    cell = cells(write_suite, metric, TUNING)[0]
    context = run(cell, tmp_path)
    train, quality = context.record("train"), context.record("quality")
    points = train.details["during"]
    assert [point["images"] for point in points] == [32, 64]
    gap = {"train-minus-val-loss", "train-minus-val-loss-error"}
    assert set(points[0]["values"]) == {"val-loss", "train-loss", "kid-efflite0"} | gap
    last = points[-1]["values"]
    assert last["val-loss"] == quality.measurements[0].value  # the same images, times, noise and weights
    assert last["train-minus-val-loss"] == last["train-loss"] - last["val-loss"]
    assert points[-1]["epochs"] == train.details["epochs"] == 64 / train.details["train_images_available"]
    assert points[-1]["values"] != points[0]["values"]


CONDITIONS = {
    "class": ("data: {name: digits}", "condition: class, classes: 10, "),
    "text": (
        "data: {name: digits, caption: several, text: {encoder: random-words}}",
        "condition: text, text_width: 64, text_tokens: 8, ",
    ),
}


@pytest.mark.parametrize("condition", ["class", "text"])
def test_conditional_networks_are_measured_with_their_condition(write_suite, tmp_path, condition):
    data, options = CONDITIONS[condition]
    during = "during: {every: 32, images: 48, metrics: [{name: kid-efflite0, size: 64}], samples: 20}"
    more = [("data: {name: digits}", data), ("{name: zigma, width: 32", f"{{name: zigma, {options}width: 32")]
    cell = cells(write_suite, during, TUNING, more=more, smoke=True)[0]
    images = load_cell_images(cell)
    evaluation = evaluation_of(context_of(cell, tmp_path), images, network_inputs(cell, images, tmp_path))
    values, reasons = evaluation.measure(build_network(cell, "cpu").eval())
    assert reasons == {} and all(isinstance(value, float) for value in values.values())


def losses_of(network, cell, images, folder):
    return evaluation_of(context_of(cell, folder), images, network_inputs(cell, images, folder)).measure(network)[0]


def test_the_losses_are_those_of_their_images_and_the_gap_has_a_standard_error(write_suite, tmp_path):
    cell = cells(write_suite, DURING, TUNING)[0]
    images, network = load_cell_images(cell), build_network(cell, "cpu").eval()
    values = losses_of(network, cell, images, tmp_path)
    parts = images.loss, pick_training_images(cell, images.train)
    with torch.no_grad():
        losses = [velocity_losses(network, part).mean(1) for part in parts]
    assert (values["val-loss"], values["train-loss"]) == tuple(loss.mean() for loss in losses)
    error = sum(loss.std(ddof=1) ** 2 / 48 for loss in losses) ** 0.5
    assert values["train-minus-val-loss-error"] == pytest.approx(error)


def test_the_record_has_the_tuning_loss_and_the_parts(write_suite, tmp_path):
    context = run(cells(write_suite, TUNING)[0], tmp_path)
    train, quality = context.record("train"), context.record("quality")
    images = load_cell_images(context.cell)
    (loss,) = [m for m in train.measurements if m.name == "tuning-loss"]
    assert loss.value > 0 and loss.fingerprint["part"] == "tuning"
    assert loss.fingerprint["n_images"] == min(48, len(images.tuning))
    assert train.details["parts"]["tuning"]["pixels_sha256"] == pixels_digest(images.tuning)
    assert quality.details["parts"] == train.details["parts"] | {
        "reference": {"images": len(images.train), "pixels_sha256": pixels_digest(images.train)}
    }
    assert quality.measurements[0].fingerprint["images_sha256"] == pixels_digest(images.loss)
    assert "during" not in train.details


def test_the_training_images_of_the_loss_are_fixed_and_no_held_out_ones(write_suite):
    cell = cells(write_suite, DURING, TUNING)[0]
    images = load_cell_images(cell)
    chosen = pick_training_images(cell, images.train)
    assert len(chosen) == 48 and len(set(chosen.indices)) == 48
    assert pixels_digest(chosen) == pixels_digest(pick_training_images(cell, load_cell_images(cell).train))


def test_without_it_identities_are_as_before_and_with_it_only_of_trained_cells(write_suite):
    plain, measured = cells(write_suite), cells(write_suite, DURING)
    for before, after in zip(plain, measured, strict=True):
        same = [one == other for one, other in zip(identities(before), identities(after), strict=True)]
        assert same == ([False, False, False, True] if before.role == "cell" else [True] * 4)
    assert "during" not in str(plain[0]._facts("quality", ""))
    default = cells(write_suite, "during: {every: 32, images: 48, metrics: [], samples: 7}")[0]
    assert identities(default) == identities(measured[0])  # without metrics there are no samples


def test_every_number_that_changes_the_curve_is_in_the_identity(write_suite):
    metric = "{{every: {0}, images: {1}, samples: {2}, metrics: [{{name: kid-efflite0, size: {3}}}]}}"
    values = [(32, 48, 20, 64), (16, 48, 20, 64), (32, 40, 20, 64), (32, 48, 24, 64), (32, 48, 20, 128)]
    found = {identities(cells(write_suite, "during: " + metric.format(*given))[0])[0] for given in values}
    more = [("evaluations: 2", "evaluations: 4")]
    found.add(identities(cells(write_suite, "during: " + metric.format(*values[0]), more=more)[0])[0])
    assert len(found) == len(values) + 1


@pytest.mark.parametrize(
    ("during", "sections", "words"),
    [
        ("{images: 3}", (), ["the key 'during.every' is missing"]),
        ("{every: 0}", (), [":10", "key during.every", "greater than or equal to 1"]),
        ("{every: 9, metrics: [val-loss]}", (), ["key during.metrics.0", "measures the network, not samples"]),
        ("{every: 9, metrics: [fid]}", (), ["key during.metrics.0", "listed without kid"]),
        ("{every: 9, metrics: [kid-efflite0, kid-efflite0]}", (), ["key during.metrics.1", "listed twice"]),
        ("{every: 9, metrics: [fvd]}", (), ["key during.metrics.0", "single images"]),
        ("{every: 9, images: 1200}", (), ["key during.images", "at most 1,000 (held-out images", "1,200"]),
        ("{every: 9, images: 900}", (), ["key during.images", "at most 797 (training images)"]),
        ("{every: 9, images: 100}", (TUNING,), ["at most 48", "tuning.loss_images", "lower during.images"]),
    ],
)  # fmt: skip
def test_faults_are_found_by_the_plan(write_suite, during, sections, words):
    with pytest.raises(ZigmaBenchError) as caught:
        cells(write_suite, f"during: {during}", *sections)
    for word in words:
        assert word in str(caught.value)


def test_too_few_images_that_the_plan_cannot_know(write_suite, tmp_path):
    cell = cells(write_suite, DURING)[0]
    cell = cell.model_copy(update={"during": cell.during.model_copy(update={"images": 900})})
    images = load_cell_images(cell)
    with pytest.raises(NotReady, match="at most 797"):
        evaluation_of(context_of(cell, tmp_path), images, network_inputs(cell, images, tmp_path))


def test_few_samples_for_a_metric_are_missing_in_the_plan(write_suite):
    path = write_suite(
        (BUDGET, f"{BUDGET}\nduring: {{every: 32, images: 48, metrics: [fid, kid], samples: 100}}"), LOSS
    )
    suite, source = load_suite(path)
    texts = [str(item) for item in make_plan(suite, source, catalogue()).missing]
    assert any("during.samples is 100" in text and "raise during.samples" in text for text in texts)


def test_a_smoke_run_measures_twice(write_suite, tmp_path):
    cell = cells(write_suite, "during: {every: 32000, images: 500, metrics: [kid-efflite0], samples: 900}", smoke=True)[
        0
    ]
    assert (cell.during.every, cell.during.samples) == (32, 16)
    assert cell.during.images <= 64


def test_the_estimate_contains_it(write_suite, tmp_path):
    metric = "during: {every: 32, images: 48, metrics: [{name: kid-efflite0, size: 64}], samples: 20}"
    estimator = Estimator(tmp_path, CPU)
    cell = cells(write_suite, metric)[0]
    without = cell.model_copy(update={"during": None})
    estimator._matmul_rate = 1e9
    evaluations = 2 * (2 * 8 * 48 + 20 * 2)
    more = evaluations * sum(cell.forward_flops.values()) / (1e9 * SHARE_OF_MATMUL)
    assert estimator(cell).seconds - estimator(without).seconds == pytest.approx(more)
