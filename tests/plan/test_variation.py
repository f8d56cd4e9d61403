"""A suite that varies keys has a row for each combination of their values, and a selection has its candidates."""

from __future__ import annotations

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plan.selection import Candidate, RowSelection
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import load_suite

SUITE = """# What varies?
name: vary
data: {name: digits, validation: 100}
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 4}
    scans: [raster, {name: zigzag, paths: 2}]
baseline: {backbone: zigma, scan: raster}
seeds: [0, 1]
budget: {images: 64}
train: {batch: 16}
sample: {count: 24, batch: 12, evaluations: 2}
quality: [{name: val-loss, images: 8}]
"""


@pytest.fixture
def plan(tmp_path):
    def make(*lines: str, text: str = SUITE, smoke: bool = False):
        path = tmp_path / "suite.yaml"
        path.write_text(text + "\n".join(lines) + "\n")
        return make_plan(*load_suite(path), catalogue(), smoke=smoke)

    return make


def test_each_combination_is_a_row_with_both_seeds(plan):
    cells = plan("vary: {train.learning_rate: [1.0e-3, 2.0e-3], budget.images: [64, 128]}").cells
    trained = [cell for cell in cells if cell.role == "cell"]
    assert len(trained) == 2 * 2 * 2 * 2 and len({cell.identity("train", device_model="") for cell in trained}) == 16
    assert {(cell.train.learning_rate, cell.train_images) for cell in trained} == {
        (rate, images) for rate in (1e-3, 2e-3) for images in (64, 128)
    }
    assert "zigma · raster · images=128 · learning_rate=0.002 · seed 1" in {cell.label for cell in trained}


def test_a_varied_cell_is_the_cell_of_a_suite_with_that_value(plan):
    varied = plan("vary: {train.learning_rate: [1.0e-3, 2.0e-3]}").cells
    alone = plan(text=SUITE.replace("{batch: 16}", "{batch: 16, learning_rate: 2.0e-3}")).cells
    wanted = {cell.identity("quality", device_model="") for cell in alone if cell.role == "cell"}
    assert wanted <= {cell.identity("quality", device_model="") for cell in varied}


def test_anchors_that_variations_share_are_there_once(plan):
    cells = plan("vary: {train.learning_rate: [1.0e-3, 2.0e-3]}").cells
    assert [cell.label for cell in cells if cell.role != "cell"] == [
        "floor · held-out images · seed 0", "ceiling · untrained zigma · raster · seed 0",
    ]  # fmt: skip


def test_a_size_varies_every_backbone_and_its_untrained_network(plan):
    text = SUITE.replace("width: 16, depth: 2, patch: 4", "drop_path: 0.0")
    cells = plan("vary: {size: [S/2, B/2]}", text=text).cells
    assert {cell.backbone.options["depth"] for cell in cells if cell.role == "cell"} == {24}
    assert len({cell.parameters for cell in cells if cell.role == "cell"}) == 2
    assert [cell.label for cell in cells if cell.role == "ceiling"] == [
        f"ceiling · untrained zigma · raster · size={size}/2 · seed 0" for size in "SB"
    ]


def test_an_anchor_keeps_the_values_on_which_its_variations_agree(plan):
    text = SUITE.replace("width: 16, depth: 2, patch: 4", "drop_path: 0.0")
    cells = plan("vary: {train.learning_rate: [1.0e-3, 2.0e-3], size: [S/2, B/2]}", text=text).cells
    assert [cell.label for cell in cells if cell.role == "ceiling"] == [
        f"ceiling · untrained zigma · raster · size={size}/2 · seed 0" for size in "SB"
    ]


def test_a_section_can_vary_as_a_whole(plan):
    cells = plan("vary: {budget: [{images: 64}, {images: 128}]}").cells
    assert {cell.train_images for cell in cells if cell.role == "cell"} == {64, 128}
    assert len({cell.label for cell in cells}) == len(cells)


def test_a_kind_of_budget_replaces_the_other(plan):
    cells = plan("vary: {budget.flops: [1.0e+9, 2.0e+9]}").cells
    images = {cell.train_images for cell in cells if cell.role == "cell"}
    assert len(images) == 2 and 64 not in images


@pytest.mark.parametrize(("line", "words"), [
    ("vary: {seeds: [[1], [2]]}", "the key 'seeds' can't vary"),
    ("vary: {data.name: [digits]}", "the key 'data.name' can't vary"),
    ("vary: {train.learning_rate: []}", "at least 1 item"),
    ("vary: {sample.count: [24, 12]}", "the key 'sample.count' can't vary"),
    ("vary: {quality: [[val-loss]]}", "the key 'quality' can't vary"),
    ("vary: {train.checkpoint_seconds: [1, 2]}", "two variations give the same cell.*checkpoint_seconds=2"),
    ("tuning: {loss_images: 8}\nvary: {sample.evaluations: [2, 4]}\nselect: {over: sample.evaluations, seeds: [9]}",
     "two variations give the same cell.*tuning"),
    ("vary: {train.learning_rate: [0.1, 0.1]}", "a value of 'train.learning_rate' is listed twice"),
    ("vary: {train.learnin_rate: [0.1, 0.2]}", "unknown key 'learnin_rate'.*did you mean 'learning_rate'"),
    ("vary: {train.learning_rate: [fast, slow]}", "train.learning_rate.*should be a valid number"),
    ("tuning: {}\nselect: {over: train.learning_rate, seeds: [100]}", "select.over should be a key of vary"),
    ("tuning: {}\nvary: {train.batch: [8, 16]}\nselect: {over: train.batch, seeds: [1]}", "both have 1"),
    ("vary: {train.batch: [8, 16]}\nselect: {over: train.batch, seeds: [9]}", "select needs a tuning part"),
    ("vary: {train.batch: [8, 16]}\nselect: {over: train.batch, seeds: [100], by: fid}", "select.by"),
])  # fmt: skip
def test_a_wrong_variation_is_refused_with_its_place(plan, line, words):
    with pytest.raises(UsageError, match=words):
        plan(line)


def test_the_lowest_mean_loss_is_chosen_and_an_edge_is_marked(plan):
    finals = plan().cells[:2]
    row = RowSelection(
        "zigma · raster", "rate", tuple(Candidate(f"learning_rate={rate}", (), finals) for rate in (1, 2, 3))
    )
    inner = row.choose([[0.5, 0.5], [0.2, 0.6], [0.9, 0.1]])
    assert (inner.best, inner.at_edge, inner.losses) == (1, False, (0.5, 0.4, 0.5))
    assert {cell.selected for cell in inner.finals} == {"learning_rate=2"}
    outer = row.choose([[0.5, 0.5], None, [0.4, 0.4]])
    assert (outer.best, outer.at_edge, outer.losses) == (2, True, (0.5, None, 0.4))
    assert {cell.selected for cell in outer.finals} == {"learning_rate=3 (edge of the range)"}
    assert row.choose([None, None, None]) is None


def test_keys_that_end_in_the_same_word_are_written_out(plan):
    cells = plan("vary: {train.batch: [8, 16], sample.batch: [12], train.learning_rate: [1.0e-3]}").cells
    assert set(cells[0].varied.values()) == {"sample.batch=12", "train.batch=8", "learning_rate=0.001"}
