"""The text of declared statistics: the table of tests, the lines below it, and their JSON."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from zigma_bench.reports.agreement import Agreement
from zigma_bench.reports.contrasts import ContrastTest
from zigma_bench.reports.figures import ARROWS, format_p, format_shift, round_significant
from zigma_bench.reports.multiplier import MultiplierResult
from zigma_bench.reports.statistics import Interval
from zigma_bench.reports.study import DrawVariance, MetricAgreement, Study
from zigma_bench.reports.table import Table

LOSS_ONLY = "A compute multiplier is about this loss, not about the quality of samples."


def study_title(table: Table, study: Study) -> str:
    """The heading of the table of tests."""
    return f"{table.suite}: declared tests, primary metric {study.declared.primary}"


def study_headings(study: Study) -> tuple[str, ...]:
    """The headings of the table of tests."""
    percent = f"{100 * (1 - study.declared.alpha):g}%"
    return ("contrast", "metric", "difference", percent, "seeds", "r", "Holm p", "margin", "equivalence p", "verdict")


def lines_of_tests(study: Study) -> list[tuple[str, ...]]:
    """The text cells of every test, by contrast, with the primary metric first."""
    order = list(dict.fromkeys(one.contrast for one in study.tests))
    return [_line(one) for one in sorted(study.tests, key=lambda one: order.index(one.contrast))]


def _line(one: ContrastTest) -> tuple[str, ...]:
    interval = "-"
    if one.ci_low is not None and one.ci_high is not None:
        interval = f"{format_shift(one.ci_low, one.unit)} to {format_shift(one.ci_high, one.unit)}"
    return (
        one.contrast,
        one.metric + ARROWS[one.better],
        format_shift(one.mean, one.unit),
        interval,
        str(one.n) if one.n == one.wanted else f"{one.n} of {one.wanted}",
        "-" if one.correlation is None else f"{one.correlation.r:.2f}",
        format_p(one.p_holm),
        "-" if one.margin is None else round_significant(one.margin, 3),
        format_p(one.equivalence_p_holm),
        _verdict(one),
    )


def _verdict(one: ContrastTest) -> str:
    if one.verdict == "seeds are missing":
        return f"{one.wanted - one.n} seeds are missing"
    return one.verdict if one.direction is None else f"{one.verdict}: {one.direction}"


def study_notes(study: Study) -> list[str]:
    """The lines below the tables: how the tests were made, the claims, and the other statistics."""
    return [
        *_test_notes(study),
        *_claim_notes(study),
        *_pair_notes(study),
        *map(_agreement_note, (*study.agreements, *study.scales)),
        *_multiplier_notes(study),
        *map(_variance_note, study.variances),
    ]


def _test_notes(study: Study) -> Iterator[str]:
    declared, count = study.declared, len(study.of_metric(study.declared.primary))
    family = "the only contrast" if count == 1 else f"the {count} contrasts"
    yield (
        f"Tests: paired t over the seeds {', '.join(map(str, study.seeds))}, Holm's correction over {family} "
        f"of the family for each metric, alpha {declared.alpha:g}. Intervals are not corrected. r: "
        "correlation of the pairs."
    )
    for name, margin in declared.margin.items():
        yield (
            f"Equivalence in {name}: two one-sided tests, margin {margin.difference:g}: {margin.reason.rstrip('.')}."
        )
    reasons = dict.fromkeys((one.verdict, one.reason) for one in study.tests if one.reason is not None)
    for verdict, reason in reasons:
        named = dict.fromkeys(one.contrast for one in study.tests if (one.verdict, one.reason) == (verdict, reason))
        yield f"{verdict} ({reason}): {'; '.join(named)}."


def _claim_notes(study: Study) -> Iterator[str]:
    for claim in study.claims:
        yield f"Claim, {claim.contrast}: {claim.finding}{f' ({claim.text})' if claim.text else ''}."
    complete = {one.contrast for one in study.of_metric(study.declared.primary) if one.verdict == "not decided"}
    if complete:
        yield f"No claim, because {study.declared.primary} doesn't decide: {'; '.join(sorted(complete))}."


def _pair_notes(study: Study) -> Iterator[str]:
    """How much pairing by seed helps, for each metric."""
    for metric, group in itertools.groupby(study.tests, key=lambda one: one.metric):
        pairs = [one.correlation for one in group if one.correlation is not None]
        if pairs:
            r = statistics.median(pair.r for pair in pairs)
            ratio = statistics.median(pair.variance_ratio for pair in pairs)
            yield (
                f"Pairs in {metric}: median correlation {r:.2f}; the variance of a paired difference is {ratio:.2f} "
                "times that of an unpaired one (median)."
            )


def _agreement_note(one: MetricAgreement) -> str:
    what = (
        f"by {one.first} and {one.second}" if one.metric is None else f"by {one.metric} at {one.first} and {one.second}"
    )
    if one.agreement is None:
        return f"Rankings {what}: {one.n} rows with both values, and an agreement needs five that differ."
    return f"Rankings {what}: {_agreement(one.agreement)} over {one.n} rows, as a sample of possible orders."


def _agreement(found: Agreement) -> str:
    return (
        f"Kendall's tau {found.tau:.2f}{_interval(found.tau_interval)}, "
        f"Spearman's rho {found.rho:.2f}{_interval(found.rho_interval)}"
    )


def _interval(found: Interval | None) -> str:
    return "" if found is None else f" ({found.low:.2f} to {found.high:.2f})"


def _multiplier_notes(study: Study) -> Iterator[str]:
    if not study.multipliers or study.declared.multiplier is None:
        return
    yield f"Compute multipliers by {study.declared.multiplier.metric}: {study.multipliers[0].method}. {LOSS_ONLY}"
    yield from map(_multiplier_note, study.multipliers)


def _multiplier_note(one: MultiplierResult) -> str:
    at = f"{one.arm} for the loss {round_significant(one.loss)} of {one.against} at {one.flops:.2g} FLOPs"
    if one.value is None:
        return f"{at}: no multiplier: {one.reason}."
    interval = "" if one.low is None or one.high is None else f" ({one.low:.3g} to {one.high:.3g})"
    reason = "" if one.reason is None else f"; {one.reason}"
    return f"{at}: {one.value:.3g} times less compute{interval}{reason}."


def _variance_note(one: DrawVariance) -> str:
    found = one.components
    if found is None:
        return f"Draws of {one.draws} in {one.metric}: variances need two draws with two common seeds."
    parts = {"draws": found.draw, "seeds": found.seed, "rest": found.rest}
    texts = ", ".join(f"{name} {round_significant(value, 3)}" for name, value in parts.items())
    return (
        f"Draws of {one.draws} in {one.metric}: variances of {texts}, from {found.draws} draws x {found.seeds} seeds; "
        f"F-test that draws don't differ: p {format_p(found.draw_p)}."
    )


def study_json(table: Table, study: Study) -> dict[str, Any]:
    """All declared statistics of a table, as JSON."""
    return {
        "suite": table.suite, "run": table.run, "data": table.data,
        "declared": study.declared.model_dump(mode="json"), "seeds": list(study.seeds),
        "tests": [{**asdict(one), "direction": one.direction} for one in study.tests],
        "claims": [asdict(claim) for claim in study.claims],
        "metric_agreement": [asdict(one) for one in study.agreements],
        "scale_agreement": [asdict(one) for one in study.scales],
        "multipliers": [asdict(one) for one in study.multipliers],
        "draw_variances": [asdict(one) for one in study.variances],
    }  # fmt: skip
