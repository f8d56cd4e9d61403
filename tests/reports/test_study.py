"""Declared tests: the family, the margins, the number of seeds and the claims, from records to every format."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from zigma_bench.errors import ComparisonRefused, UsageError
from zigma_bench.reports.render import table_footer, to_csv, to_json, to_markdown
from zigma_bench.reports.study import study_of
from zigma_bench.reports.study_text import lines_of_tests, study_headings, study_notes
from zigma_bench.reports.terminal import to_terminal

FD, LOSS = "fd-efflite0", "val-loss"
BASE = [10.0, 11.0, 12.0, 13.0]
LOWER = [8.9, 10.1, 11.0, 11.9]  # -1.1, -0.9, -1.0, -1.1
SAME = [10.01, 10.99, 12.0, 13.02]  # +0.01, -0.01, 0, +0.02
WIDE = [12.0, 9.0, 14.0, 10.0]
REASON = "the gain by a tenth more images"


def only(study, metric=FD):
    (found,) = study.of_metric(metric)
    return found


def test_a_contrast_is_tested_at_its_seeds(make_study):
    study = study_of(make_study({FD: {"raster": BASE, "zigzag": LOWER}}, {"primary": FD}))
    found = only(study)
    assert (found.contrast, found.n, found.wanted) == ("zigma zigzag - zigma raster", 4, 4)
    differences = np.subtract(LOWER, BASE)
    t = differences.mean() / (differences.std(ddof=1) / 2)
    assert (found.mean, found.sd, found.t) == tuple(
        pytest.approx(v) for v in (differences.mean(), differences.std(ddof=1), t)
    )
    assert found.p == found.p_holm < 0.001 and found.ci_low < -1.025 < found.ci_high
    assert (found.verdict, found.direction, found.margin) == ("differs", "better", None)
    assert [(claim.finding, claim.text) for claim in study.claims] == [("better", "")]


def test_before_its_seeds_nothing_is_tested(make_study):
    """Two of four seeds are missing: the difference is shown, without interval, p or claim."""
    values = {FD: {"raster": BASE, "zigzag": [*LOWER[:2], None, None]}}
    table = make_study(values, {"primary": FD})
    found = only(study_of(table))
    assert (found.verdict, found.n, found.wanted, found.mean) == ("seeds are missing", 2, 4, pytest.approx(-1.0))
    assert (found.p, found.p_holm, found.ci_low, study_of(table).claims) == (None, None, None, ())
    (line,) = lines_of_tests(study_of(table))
    assert line[2:] == ("-1.00", "-", "2 of 4", "-", "-", "-", "-", "2 seeds are missing")
    assert any("seeds are missing (2 of 4 seeds: 2, 3): zigma zigzag" in note for note in study_notes(study_of(table)))
    text = to_markdown([table])
    assert "2 seeds are missing" in text and "see tests" in text and " *" not in text


def test_later_seeds_are_not_tested(make_study):
    """Tests are made once, at the first three seeds: a fourth seed changes nothing."""
    declared = {"primary": FD, "tests_at_seeds": 3}
    three = study_of(make_study({FD: {"raster": BASE[:3], "zigzag": LOWER[:3]}}, declared))
    four = study_of(make_study({FD: {"raster": BASE, "zigzag": LOWER}}, declared))
    assert three.seeds == four.seeds == (0, 1, 2) and only(three) == only(four)


def test_the_family_is_corrected_for_all_its_contrasts(make_study):
    """Also for those that are not tested yet, so a finding stays when their seeds arrive."""
    values = {FD: {"raster": BASE, "a": LOWER, "b": WIDE, "c": [None] * 4}}
    declared = {"primary": FD}
    found = {one.contrast: one for one in study_of(make_study(values, declared)).tests}
    assert found["zigma a - zigma raster"].p_holm == pytest.approx(3 * found["zigma a - zigma raster"].p)
    assert found["zigma b - zigma raster"].verdict == "not decided"
    assert "a row has no value" in found["zigma c - zigma raster"].reason


def test_rows_outside_the_family_are_not_corrected_for(make_study):
    family = {"a or raster": {"row": "zigma a", "against": "zigma raster"}}
    values = {FD: {"raster": BASE, "a": LOWER, "b": WIDE, "c": WIDE}}
    found = only(study_of(make_study(values, {"primary": FD, "family": family})))
    assert (found.contrast, found.p_holm) == ("a or raster", found.p)


def test_a_contrast_of_several_rows_is_of_their_means_by_seed(make_study):
    """The interaction of two factors: (AB + ab) / 2 - (Ab + aB) / 2, here 1 for every seed but for noise."""
    noise = [0.01, -0.01, 0.02, -0.02]
    effect = {"AB": 4.0, "Ab": 2.0, "aB": 1.0, "ab": 1.0}
    values = {
        name: [10.0 * seed + value + noise[seed] * (name == "AB") for seed in range(4)]
        for name, value in effect.items()
    }
    family = {
        "main effect of A": {"row": "zigma A*", "against": "zigma a*"},
        "interaction": {"row": ["zigma AB", "zigma ab"], "against": ["zigma Ab", "zigma aB"]},
    }
    declared = {"primary": FD, "family": family}
    main, both = study_of(make_study({FD: values}, declared, baseline={"backbone": "zigma", "scan": "AB"})).tests
    assert main.mean == pytest.approx(2.0) and both.mean == pytest.approx(1.0)
    assert both.sd == pytest.approx(np.std(noise, ddof=1) / 2) and both.verdict == "differs"


def test_an_equivalence_needs_its_margin(make_study):
    values = {FD: {"raster": BASE, "zigzag": SAME}}
    assert only(study_of(make_study(values, {"primary": FD}))).verdict == "not decided"
    margin = {FD: {"difference": 0.1, "reason": REASON}}
    study = study_of(make_study(values, {"primary": FD, "margin": margin}))
    found = only(study)
    assert (found.verdict, found.direction, found.margin) == ("equivalent", None, 0.1)
    assert found.equivalence_p_holm == found.equivalence_p < 0.01
    assert [claim.finding for claim in study.claims] == ["equivalent"]
    assert any(f"margin 0.1: {REASON}" in note for note in study_notes(study))


def test_a_difference_can_lie_within_the_margin(make_study):
    margin = {FD: {"difference": 2.0, "reason": REASON}}
    found = only(study_of(make_study({FD: {"raster": BASE, "zigzag": LOWER}}, {"primary": FD, "margin": margin})))
    assert (found.verdict, found.direction) == ("differs within the margin", "better")


@pytest.mark.parametrize(
    ("loss", "finding", "text"),
    [
        (LOWER, "better", "confirmed by val-loss"),
        ([11.1, 11.9, 13.0, 14.1], "mixed", "fd-efflite0: better; val-loss: worse"),
        (SAME, "mixed", "fd-efflite0: better; val-loss: equivalent"),
        (WIDE, "better", "not decided in val-loss"),
    ],
)
def test_a_claim_that_another_metric_contradicts_is_mixed(make_study, loss, finding, text):
    values = {FD: {"raster": BASE, "zigzag": LOWER}, LOSS: {"raster": BASE, "zigzag": loss}}
    declared = {"primary": FD, "margin": {LOSS: {"difference": 0.1, "reason": REASON}}}
    table = make_study(values, declared)
    (claim,) = study_of(table).claims
    assert (claim.finding, claim.text) == (finding, text)
    assert f"Claim, zigma zigzag - zigma raster: {finding} ({text})." in table_footer(table)


def test_a_metric_without_a_known_direction_confirms_and_contradicts_nothing(make_study):
    """The plugin of the metric isn't installed, so nobody knows whether lower is better."""
    values = {FD: {"raster": BASE, "zigzag": LOWER}, "of-a-plugin": {"raster": BASE, "zigzag": LOWER}}
    study = study_of(make_study(values, {"primary": FD}))
    assert [(one.verdict, one.direction) for one in study.of_metric("of-a-plugin")] == [("differs", "lower")]
    assert [(claim.finding, claim.text) for claim in study.claims] == [("better", "not decided in of-a-plugin")]


def test_metrics_that_are_not_secondary_contradict_nothing(make_study):
    values = {FD: {"raster": BASE, "zigzag": LOWER}, LOSS: {"raster": LOWER, "zigzag": BASE}}
    study = study_of(make_study(values, {"primary": FD, "secondary": []}))
    assert [claim.finding for claim in study.claims] == ["better"] and not study.of_metric(LOSS)


def test_unequal_scans_at_equal_images_are_not_tested(make_study):
    table = make_study({FD: {"raster": BASE, "zigzag": LOWER}}, {"primary": FD}, budget={"images": 5})
    assert only(study_of(table)).verdict == "differs"
    from dataclasses import replace

    longer = [
        replace(row, facts=row.facts | {"scanned_ratio": 2.0}) if row.scan == "zigzag" else row for row in table.rows
    ]
    found = only(study_of(replace(table, rows=tuple(longer))))
    assert (found.verdict, found.p) == ("not tested", None) and "different numbers of tokens" in found.reason


def test_rankings_agree_or_not(make_study):
    """Five orders: the loss swaps one pair, and `density`, of which more is better, has the same order."""
    values = [10.0, 20.0, 30.0, 40.0, 50.0]
    scans = ["raster", "a", "b", "c", "d"]
    of = {
        FD: dict(zip(scans, ([v] for v in values), strict=True)),
        LOSS: dict(zip(scans, ([v] for v in (1.0, 2.0, 3.0, 5.0, 4.0)), strict=True)),
        "density": dict(zip(scans, ([-v] for v in values), strict=True)),
    }
    study = study_of(make_study(of, {"primary": FD}))
    loss, density = study.agreements
    assert (loss.second, loss.agreement.tau) == (LOSS, pytest.approx(0.8))
    notes = study_notes(study)
    assert any(note.startswith("Rankings by fd-efflite0 and val-loss: Kendall's tau 0.80 (") for note in notes)
    if density.agreement is not None:  # the plugin that measures it is registered
        assert density.agreement.tau == pytest.approx(1.0)


def test_rankings_at_two_scales(make_study):
    scans = ["raster", "a", "b", "c", "d"]
    small = {f"small/{scan}": [10.0 + i] for i, scan in enumerate(scans)}
    large = {f"large/{scan}": [5.0 - i] for i, scan in enumerate(scans)}
    declared = {"primary": FD, "scales": {"small": "small *", "large": "large *"}}
    study = study_of(make_study({FD: small | large}, declared, baseline={"backbone": "small", "scan": "raster"}))
    (found,) = study.scales
    assert (found.first, found.second, found.metric, found.agreement.tau) == ("small", "large", FD, pytest.approx(-1))
    assert any("by fd-efflite0 at small and large: Kendall's tau -1.00" in note for note in study_notes(study))


def test_multipliers_are_of_the_flops_of_the_rows(make_study):
    """Loss C^-0.2, and an arm that needs a third of the compute. A forward pass has 20 FLOPs."""
    images = {"1k/raster": 1000, "9k/raster": 9000, "1k/fast": 1000, "9k/fast": 9000}
    values = {
        name: [
            (count * (3 if "fast" in name else 1)) ** -0.2 * (1 + 1e-5 * seed * (seed + len(name))) for seed in range(3)
        ]
        for name, count in images.items()
    }
    arms = {"raster": "* raster", "fast": "* fast"}
    declared = {"primary": LOSS, "multiplier": {"arms": arms, "against": "raster"}}
    table = make_study({LOSS: values}, declared, images=images, baseline={"backbone": "1k", "scan": "raster"})
    low, high = study_of(table).multipliers
    assert (low.arm, low.flops, high.flops) == ("fast", 60_000.0, 540_000.0)
    assert low.value is None and high.value == pytest.approx(3, rel=1e-3) and high.low < 3 < high.high * 1.001
    notes = study_notes(study_of(table))
    assert any("log-log interpolation" in note and "not about the quality of samples" in note for note in notes)
    assert any(note.startswith("fast for the loss") and "times less compute" in note for note in notes)


def test_draws_of_a_random_order_have_both_variances(make_study):
    values = {"raster": BASE, "draw=0": [1.0, 3.0, 2.0, 2.0], "draw=1": [5.0, 7.0, 6.0, 6.1]}
    study = study_of(make_study({FD: values}, {"primary": FD, "draws": {"random": "* draw=*"}}))
    (found,) = study.variances
    assert (found.components.draws, found.components.seeds) == (2, 4)
    assert found.components.draw == pytest.approx(8, rel=0.05)
    assert any(note.startswith("Draws of random in fd-efflite0: variances of draws") for note in study_notes(study))


def test_every_format_has_the_tests(make_study):
    values = {FD: {"raster": BASE, "zigzag": LOWER}, LOSS: {"raster": BASE, "zigzag": SAME}}
    table = make_study(values, {"primary": FD, "alpha": 0.1})
    study = study_of(table)
    assert study_headings(study)[3] == "90%"
    for text in (to_terminal([table]), to_markdown([table])):
        assert "declared tests, primary metric fd-efflite0" in text and "differs: better" in text
        assert "equivalence p" in text and "Holm's correction over the only contrast of" in text
    document = json.loads(to_json([table]))
    (found,) = document["studies"]
    assert found["declared"]["primary"] == FD and len(found["tests"]) == 2
    assert found["tests"][0]["p_holm"] == only(study).p_holm and found["tests"][0]["direction"] == "better"
    assert math.isclose(found["tests"][0]["correlation"]["r"], only(study).correlation.r)
    assert "declared" in to_csv([table])


def test_a_suite_without_a_declaration_has_no_third_table(make_store):
    from zigma_bench.reports.table import read_table

    table = read_table(make_store({("zigma", "raster"): [1.0, 2.0, 4.0], ("zigma", "hilbert"): [1.0, 1.5, 2.0]}))
    assert study_of(table) is None
    assert "studies" not in json.loads(to_json([table])) and "declared tests" not in to_markdown([table])


def test_a_declaration_that_cannot_be_read_is_named(make_study, tmp_path):
    from zigma_bench.reports.table import read_tables

    make_study({FD: {"raster": BASE}}, {"primary": FD})
    path = tmp_path / "toy" / "main" / "table.json"
    stored = json.loads(path.read_text())
    stored["statistics"]["alpha"] = 3
    path.write_text(json.dumps(stored))
    with pytest.raises(ComparisonRefused, match="the declared tests can't be read") as caught:
        read_tables(path.parent)
    assert "key statistics" in str(caught.value)


def test_the_tests_of_an_edited_suite_replace_those_of_the_run(make_study, write_suite, tmp_path):
    from zigma_bench.reports.table import find_tables
    from zigma_bench.suite import load_suite

    make_study({FD: {"raster": BASE, "zigzag": LOWER}}, {"primary": FD})
    table = json.loads((tmp_path / "toy" / "main" / "table.json").read_text())
    quality = ("quality: [val-loss]", f"quality: [fd-efflite0]\nstatistics: {{primary: {FD}, alpha: 0.2}}")
    suite, _ = load_suite(write_suite(("name: tiny", "name: toy"), quality))
    (found,) = find_tables([tmp_path / "toy"], tests_of=suite)
    assert found.declared.alpha == 0.2 and table["statistics"]["alpha"] == 0.05
    assert study_of(found).tests[0].verdict == "differs"
    (none,) = find_tables([tmp_path / "toy"], tests_of=load_suite(write_suite(("name: tiny", "name: toy")))[0])
    assert none.declared is None and none.rows[1].differences[FD].verdict == "significant"
    with pytest.raises(UsageError, match="no run here is of this suite"):
        find_tables([tmp_path / "toy"], tests_of=load_suite(write_suite())[0])


def test_damaged_packed_records_fail_the_rows(make_study, tmp_path):
    """The report is printed with the reason, and the suite isn't trained again for it."""
    from zigma_bench.records.pack import pack_run
    from zigma_bench.reports.table import read_tables

    before = make_study({FD: {"raster": BASE, "zigzag": LOWER}}, {"primary": FD})
    run = tmp_path / "toy" / "main"
    pack_run(run, remove=True)
    assert read_tables(run)[0].rows == before.rows
    (run / "records.jsonl.gz").write_bytes(b"no")
    (table,) = read_tables(run)
    assert [row.status for row in table.rows] == ["failed", "failed"]
    assert all("restore the file" in reason for reason in table.broken) and study_of(table).claims == ()
