"""The section `statistics`: its faults name the key, and it reads back from JSON as it was."""

from __future__ import annotations

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.suite import Contrast, Statistics, load_suite

PLACE = "quality: [val-loss]"
WHOLE = """quality: [val-loss]
statistics:
  primary: val-loss
  family:
    z first: {row: "zigma zigzag paths=8", against: zigma raster}
    a second: {row: ["zigma *", dit], against: ["zigma raster"]}
  margin: {val-loss: {difference: 0.01, reason: an equal gain by a tenth more images}}
  alpha: 0.1
  draws: {random: "zigma *"}
"""


def declared(write_suite, text):
    return load_suite(write_suite((PLACE, text)))[0].statistics


def fault(write_suite, text):
    with pytest.raises(UsageError) as caught:
        declared(write_suite, text)
    return str(caught.value)


def test_a_declaration_is_read_in_its_order(write_suite):
    found = declared(write_suite, WHOLE)
    assert list(found.family) == ["z first", "a second"]
    assert found.family["z first"] == Contrast(row=("zigma zigzag paths=8",), against=("zigma raster",))
    assert (found.alpha, found.power, found.tests_at_seeds, found.secondary) == (0.1, 0.8, None, None)
    assert found.draws == {"random": ("zigma *",)}
    assert Statistics.model_validate_json(found.model_dump_json()) == found


def test_a_suite_declares_nothing_by_default(write_suite):
    assert load_suite(write_suite())[0].statistics is None
    assert declared(write_suite, f"{PLACE}\nstatistics: {{primary: val-loss}}").family == "baseline"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("primary: val-loss", "primry: val-loss", ["unknown key 'primry'", "did you mean 'primary'"]),
        ("alpha: 0.1", "alpha: 0.5", ["statistics.alpha", "less than 0.5"]),
        ("alpha: 0.1", "power: 1", ["statistics.power", "less than 1"]),
        ("alpha: 0.1", "tests_at_seeds: 2", ["statistics.tests_at_seeds", "greater than or equal to 3"]),
        ("alpha: 0.1", "tests_at_seeds: 8", ["statistics.tests_at_seeds is 8, and seeds lists 2"]),
        ("alpha: 0.1", "secondary: [a, a]", ["statistics.secondary", "a metric is listed twice"]),
        ("alpha: 0.1", "scales: {one: '*'}", ["statistics.scales", "at least two scales"]),
        (
            "alpha: 0.1",
            "multiplier: {arms: {a: x, b: y}, against: c}",
            ["statistics.multiplier", "one of the arms: a, b"],
        ),
        (
            "alpha: 0.1",
            "multiplier: {arms: {a: x, b: y}, agains: a}",
            ["unknown key 'agains'", "did you mean 'against'"],
        ),
        (
            "alpha: 0.1",
            "multiplier: {arms: {a: x, b: y}, against: a, fit: cubic}",
            ["statistics.multiplier.fit", "cubic"],
        ),
        (", against: zigma raster}", "}", ["the key 'statistics.family.z first.against' is missing"]),
        ("against: zigma raster", "agianst: zigma raster", ["unknown key 'agianst'", "did you mean 'against'"]),
        ("against: zigma raster", "against: 3", ["statistics.family.z first.against", "got 3"]),
        ("difference: 0.01", "difference: 0", ["statistics.margin.val-loss.difference", "greater than 0"]),
        ("difference: 0.01", "diference: 0.01", ["unknown key 'diference'", "did you mean 'difference'"]),
        ("reason: an equal gain by a tenth more images", "reason: no", ["val-loss.reason", "at least 10 characters"]),
    ],
)
def test_faults_name_the_key(write_suite, old, new, words):
    assert old in WHOLE
    text = fault(write_suite, WHOLE.replace(old, new))
    for word in words:
        assert word in text


def test_an_efficiency_suite_has_no_tests(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "# Fast?\nname: fast\ncompare:\n  - backbone: {name: dit}\n"
        "efficiency: {tokens: [16]}\nstatistics: {primary: x}\n"
    )
    with pytest.raises(UsageError, match="leave statistics out"):
        load_suite(path)
