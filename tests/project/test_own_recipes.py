"""Rows with their own training recipe: plan, labels, identities and training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import load_suite

DIT = "  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n"


def plan(path, *, smoke=False):
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), smoke=smoke)


def own(write_suite, *entries, **options):
    """The plan of the suite with these recipes, one entry each, instead of its DiT."""
    text = "".join(f"{DIT}    train: {{{entry}}}\n" if entry else DIT for entry in entries)
    return plan(write_suite((DIT, text)), **options)


def test_a_row_has_its_own_rate_in_its_label(write_suite):
    plain, made = plan(write_suite()), own(write_suite, "learning_rate: 3.0e-4, warmup_images: 32")
    assert [cell.label for cell in made.cells[:6:2]] == [
        "zigma · raster · seed 0",
        "zigma · zigzag paths=8 · seed 0",
        "dit learning_rate=0.0003 warmup_images=32 · seed 0",
    ]
    zigma, dit = made.cells[0], made.cells[4]
    assert (dit.train.learning_rate, dit.train.warmup_images, dit.train.batch) == (3e-4, 32, 16)
    assert zigma.train == plain.cells[0].train
    for old, new, same in zip(plain.cells, made.cells, [True] * 4 + [False] * 2 + [True] * 2, strict=True):
        assert (old.identity("sample", device_model="") == new.identity("sample", device_model="")) == same


def test_one_backbone_under_several_recipes(write_suite):
    made = own(write_suite, "", "learning_rate: 1.0e-3", "weight_decay: 0.1, gradient_clip: 1.0, schedule: cosine")
    labels = {cell.backbone_label for cell in made.cells if cell.role == "cell"}
    assert labels == {
        "zigma", "dit", "dit learning_rate=0.001", "dit gradient_clip=1.0 schedule=cosine weight_decay=0.1",
    }  # fmt: skip
    with pytest.raises(UsageError, match="twice"):
        own(write_suite, "", "learning_rate: 1.0e-4")  # the suite's


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("batch: 4", "unknown key 'batch'"),
        ("learning_rate: null", "learning_rate is null; leave it out to use the suite's"),
        ("learning_rate: 0", "greater than 0"),
        ("warmup_images: -1", "greater than or equal to 0"),
    ],
)
def test_what_is_no_recipe_of_a_row_is_refused(write_suite, entry, said):
    with pytest.raises(UsageError, match=said):
        own(write_suite, entry)


def test_toys_keep_their_rates_and_leave_out_the_warm_up(write_suite):
    cells = own(write_suite, "learning_rate: 3.0e-4, warmup_images: 320000", smoke=True).cells
    (rate,) = {cell.train.learning_rate for cell in cells if "dit" in cell.label}
    assert rate == 3e-4 and {cell.train.warmup_images for cell in cells} == {0}


def test_the_table_says_who_trained_how(write_suite, tmp_path):
    path = write_suite((DIT, f"{DIT}    train: {{learning_rate: 1.0e-2}}\n"), ("seeds: [0, 1]", "seeds: [0]"))
    command = [sys.executable, "-m", "zigma_bench", "run", str(path), "--only", "dit", "--results", str(tmp_path / "r")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert "dit learning_rate=0.01" in [row["backbone"] for row in json.loads(done.stdout)["rows"]], done.stderr
    (file,) = (tmp_path / "r").glob("*/*/dit*/train-*/record.json")
    assert json.loads(file.read_text())["cell"]["train"]["learning_rate"] == 0.01
