"""Suites with transforms and several data sets: identities, labels, faults, and a table for each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.images import pixels_digest
from zigma_bench.data.transforms.built_in import ShufflePatches, digest_of_shuffle, shuffle_patches
from zigma_bench.errors import UsageError, ZigmaBenchError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.render import to_csv, to_json, to_markdown
from zigma_bench.reports.table import find_tables, read_tables
from zigma_bench.run.due import cell_folder
from zigma_bench.run.runs import open_run
from zigma_bench.suite import load_suite
from zigma_bench.system.device import find_device

DATA = "data: {name: digits}"
SHUFFLE = "{name: shuffle-patches, patch: 2, seed: 3}"


def plan(path, *, smoke=False, settings=()):
    suite, source = load_suite(path, settings=settings)
    return make_plan(suite, source, catalogue(), smoke=smoke)


def given(write_suite, data, **rest):
    return plan(write_suite((DATA, f"data: {data}")), **rest)


def ids(cell):
    return {stage: cell.identity(stage, device_model="a") for stage in ("train", "sample", "quality", "efficiency")}


def test_without_transforms_everything_is_found_under_the_name_it_had(write_suite):
    plain = plan(write_suite()).cells
    for data in ("digits", "[digits]", "{name: digits, transforms: []}", "[{name: digits, transforms: []}]"):
        for cell, other in zip(plain, given(write_suite, data).cells, strict=True):
            assert ids(cell) == ids(other)
            assert (cell.label, cell.slug, cell.data_text) == (other.label, other.slug, other.data_text)
    # the facts that an identity of before transforms was made of hold no word of them
    facts = json.dumps(plain[0]._facts("quality", "a"))
    assert "transform" not in facts and "shuffle" not in facts
    assert plain[0].data_text == plain[0].data.label


@pytest.mark.parametrize(
    "transforms",
    [
        "[{name: shuffle-patches, patch: 2}]",
        "[{name: shuffle-patches, patch: 4}]",
        "[{name: shuffle-patches, patch: 2, seed: 1}]",
        "[{name: rotate, degrees: 90}, {name: shuffle-patches, patch: 2}]",
        "[{name: shuffle-patches, patch: 2}, {name: rotate, degrees: 90}]",
    ],
)
def test_transforms_their_options_and_their_order_are_part_of_every_identity(write_suite, transforms):
    plain = plan(write_suite())
    made = given(write_suite, f"{{name: digits, transforms: {transforms}}}")
    other = given(write_suite, "{name: digits, transforms: [{name: rotate, degrees: 180}]}")
    for cell, before, beside in zip(made.cells, plain.cells, other.cells, strict=True):
        for stage, identity in ids(cell).items():
            assert identity not in (ids(before)[stage], ids(beside)[stage])
        assert len({cell.data_text, before.data_text, beside.data_text}) == 3  # no column contains two of them


def test_the_permutation_is_in_the_record_and_applies_to_all_images(write_suite):
    data = f"{{name: digits, transforms: [{SHUFFLE}]}}"
    cell, plain = given(write_suite, data).cells[0], plan(write_suite()).cells[0]
    options = ShufflePatches(2, seed=3)
    (transform,) = cell.model_dump(mode="json")["transforms"]
    assert transform["digest"] == digest_of_shuffle(options, channels=1, height=8, width=8)
    parts, before = load_cell_images(cell), load_cell_images(plain)
    for part in ("train", "validation", "floor", "reference"):
        images, whole = getattr(parts, part), getattr(before, part)
        assert len(images) == len(whole)
        assert pixels_digest(images) != pixels_digest(whole)
        assert (images.take(range(20)) == shuffle_patches(options, whole.take(range(20)))).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{name: digits, transforms: [{name: shuffle-patches, patch: 3}]}",
         ["suite.yaml:3", "key data.transforms.0", "3 x 3 can't be shuffled in an image of 8 x 8"]),
        ("{name: digits, transforms: [{name: shuffle-patches, patch: 8}]}", ["gives at least two patches"]),
        ("{name: digits, transforms: [{name: shufle-patches, patch: 2}]}",
         [":3", "data.transforms.0", "no transform is called 'shufle-patches'", "did you mean 'shuffle-patches'"]),
        ("{name: digits, transforms: [{name: rotate, degrees: 90}, {name: blur, sigma: -1.0}]}",
         [":3", "data.transforms.1", "option 'sigma'", "above 0", "got -1.0"]),
        ("{name: digits, transforms: [{name: blur, sigma: 1e999}]}",
         ["key data.transforms.0.sigma", "too large", "1e999"]),
        ("{name: digits, transforms: [blur]}", ["needs the option 'sigma'"]),
        ("{name: digits, transforms: blur}", [":3", "data.transforms", "should be a list", "got 'blur'"]),
        ("{name: digits, transforms: [{nme: blur}]}", [":3", "data.transforms.0", "is missing"]),
        ("[digits, {name: digits, transforms: [{name: blur, sigma: 0}]}]", [":3", "data.1.transforms.0", "got 0"]),
        ("[digits, digits]", [":3", "data.1", "the data set 'digits' is listed twice"]),
        ("[]", [":3", "key data", "at least 1 item"]),
        ("[digits, {name: digitz}]", [":3", "data.1", "did you mean 'digits'"]),
        ("{name: gaussian-random-field, slope: 9.5}", ["option 'slope'", "from -4 to 8", "got 9.5"]),
    ],
)  # fmt: skip
def test_faults_say_where_and_what(write_suite, data, words):
    with pytest.raises(ZigmaBenchError) as caught:
        given(write_suite, data)
    assert caught.value.exit_code in (2, 3)
    for word in words:
        assert word in str(caught.value)


def test_a_dataset_of_a_plugin_has_no_option_called_transforms():
    from dataclasses import dataclass

    from zigma_bench.plugins.registry import target_spec

    @dataclass(frozen=True)
    class Options:
        """One."""

        transforms: int = 1

    with pytest.raises(UsageError, match="the reserved name 'transforms'"):
        target_spec("dataset", "mine", "a:b", options=Options, facts=None, owner="me")


THREE = (
    f"[digits, {{name: digits, transforms: [{SHUFFLE}]}}, {{name: gaussian-random-field, slope: 2.0, resolution: 8}}]"
)


def test_several_data_sets_have_cells_and_anchors_of_their_own(write_suite):
    made = given(write_suite, THREE)
    names = ("digits", "digits, shuffle-patches patch=2 seed=3", "gaussian-random-field")
    one = plan(write_suite()).cells
    assert [cell.data_label for cell in made.cells] == [name for name in names for _ in one]
    assert [cell.label for cell in made.cells] == [f"{name} · {cell.label}" for name in names for cell in one]
    for cell, alone in zip(made.cells, one, strict=False):  # the first data set's, as if it were the only one
        assert ids(cell) == ids(alone)
    assert len({json.dumps(ids(cell)) for cell in made.cells}) == len(made.cells)
    assert {cell.data_label for cell in made.only("shuffle").cells if cell.role == "cell"} == {names[1]}


def test_a_smoke_run_makes_toys_of_data_and_transforms(write_suite):
    data = (
        "[{name: digits, resolution: 64, transforms: [{name: shuffle-patches, patch: 16}]}, "
        "{name: digits, resolution: 64, transforms: [{name: shuffle-patches, patch: 32}]}, "
        "{name: gaussian-random-field, slope: 1.0, resolution: 64, channels: 3}]"
    )
    made = given(write_suite, data, smoke=True)
    assert {(cell.channels, cell.height) for cell in made.cells} == {(1, 8)}
    labels = dict.fromkeys(cell.data_label for cell in made.cells)
    assert list(labels) == [
        "digits, shuffle-patches patch=2",
        "gaussian-random-field",
    ]  # two of them have the same smoke data
    with pytest.raises(UsageError, match="no option 'ptch'"):
        given(write_suite, "{name: digits, transforms: [{name: shuffle-patches, ptch: 2}]}", smoke=True)


def test_unlike_data_share_no_table(write_suite, tmp_path):
    made, device = given(write_suite, THREE), find_device("cpu")
    run = open_run(made, tmp_path, device).folder
    for cell in made.cells:
        identity = cell.identity("quality", device_model=device.model_name)
        measurement = Measurement.of("val-loss", 1.0, "1", fingerprint={"reference": {"data": cell.data_text}})
        record = Record("quality", identity, {}, "done", (measurement,))
        write_record(stage_folder(cell_folder(run, cell), "quality", identity), record)
    tables = read_tables(run)
    assert [table.data for table in tables] == list(dict.fromkeys(cell.data_label for cell in made.cells))
    for table in tables:
        assert [row.role for row in table.rows] == ["floor", "cell", "cell", "cell", "ceiling"]
    assert find_tables([tmp_path]) == tables
    assert {row["data"] for row in json.loads(to_json(tables))["rows"]} == {table.data for table in tables}
    assert to_csv(tables).startswith("suite,run,data,role")
    headings = [line for line in to_markdown(tables).splitlines() if line.startswith("###")]
    assert headings == [f"### tiny on {table.data}: Does the test suite run?" for table in tables]


@pytest.mark.parametrize("kind", ["shuffle-patches", "rotate", "blur"])
def test_built_in_transforms_pass_the_check_of_plugins(kind):
    from zigma_bench.testing import check_transform

    values = {"rotate": {"degrees": 30.0}, "blur": {"sigma": 1.0}}
    assert check_transform(kind, **values.get(kind, {})).ok


def test_random_fields_pass_the_check_of_plugins():
    from zigma_bench.testing import check_dataset

    assert check_dataset("gaussian-random-field", slope=2.0, resolution=8, count=60, validation=40).ok


def test_a_broken_transform_is_reported():
    from dataclasses import dataclass

    from zigma_bench.plugins.registry import TransformFacts, target_spec
    from zigma_bench.testing import report_of

    @dataclass(frozen=True)
    class Options:
        """Less the mean of the batch."""

    def centred(options, pixels):
        return (pixels - pixels.mean()).astype(int).astype("uint8")

    def in_place(options, pixels):
        pixels[:] = 0
        return pixels

    for function, words in ((centred, "depends on the other images"), (in_place, "changed in place")):
        spec = target_spec("transform", "mine", function, options=Options, facts=TransformFacts(), owner="me")
        assert words in " ".join(check.got for check in report_of(spec).checks if not check.ok)


def test_a_suite_on_two_data_sets_trains_on_both_and_resumes(write_suite, tmp_path):
    data = "[digits, {name: digits, transforms: [{name: shuffle-patches, patch: 2}]}]"
    dit = "  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n"
    short = ((", {name: zigzag, paths: 8}]", "]"), (dit, ""), ("[0, 1]", "[0]"), ("[val-loss]", "[]"))
    path, results = write_suite((DATA, f"data: {data}"), *short), tmp_path / "out"
    words = [sys.executable, "-m", "zigma_bench", "run", str(path), "--results", str(results), "--json"]
    first, again = (subprocess.run([*words, "--device", "cpu"], capture_output=True, text=True) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert again.stdout == first.stdout
    rows = json.loads(first.stdout)["rows"]
    assert [(row["data"], row["status"]) for row in rows] == [
        ("digits", "done"), ("digits, shuffle-patches patch=2", "done"),
    ]  # fmt: skip
    records = [json.loads(path.read_text()) for path in results.glob("*/*/*/train-*/record.json")]
    assert len({record["measurements"][0]["value"] for record in records}) == 2
