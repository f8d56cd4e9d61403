"""Tables of an efficiency suite whose curves are known."""

from __future__ import annotations

from zigma_bench.reports.table import Statistic, Table, TableRow

LENGTHS = (256, 1024, 4096, 16384)


def row(backbone, tokens, value, *, batch=1, backend="auto", scan=None, unit="1/s", name="train-images-per-second"):
    better = {"1/s": "higher", "s": "lower", "bytes": "lower"}[unit]
    statistic = Statistic(value, None, 1, unit, better=better, stage="efficiency")
    facts = {
        "parameters": 1, "forward_flops": {}, "flops_by": "formula", "scanned_ratio": 1.0, "tokens": tokens,
        "size_match": None, "setting": {"backend": backend, "tokens": tokens, "batch": batch},
    }  # fmt: skip
    return TableRow("cell", backbone, scan, 1, "done", False, None, {name: statistic}, facts)


def table(*rows):
    return Table("suite", "main", (), (), "Why?", "folder", False, "validation", 0, {}, (), (), tuple(rows))


def curves(exponents, **options):
    """Images a second that fall as a power of the length, of each backbone from one value at 1,024 tokens on."""
    return [row(name, n, c * (n / 1024) ** -e, **options) for name, (c, e) in exponents.items() for n in LENGTHS]
