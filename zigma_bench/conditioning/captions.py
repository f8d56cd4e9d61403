"""The caption column of a table: each row contains a text, or a list of texts, about the image of the row."""

from __future__ import annotations

from typing import Any

from zigma_bench.data.images import Captions
from zigma_bench.errors import NotReady, UsageError, names_near

CHUNK = 10_000  # rows read at a time


def captions_in(table: Any, column: str, where: str) -> list[Captions]:
    """The captions of every row of a `datasets.Dataset`; NotReady, naming the row, for a row without a caption."""
    check_captions(table, column, where)
    plain = table.select_columns([column]).with_format("arrow")
    found: list[Captions] = []
    for start in range(0, len(plain), CHUNK):
        for cell in plain[start : start + CHUNK].column(column).to_pylist():
            found.append(captions_of_cell(cell, f"{where}, row {len(found)}, column {column!r}"))
    return found


def captions_of_cell(cell: str | list[str | None] | None, where: str) -> Captions:
    """The captions of one row; NotReady if there is none, or one is empty or only whitespace."""
    texts = [cell] if isinstance(cell, str) else cell or []
    if not texts:
        raise NotReady("the row has no caption", where=where, do="remove the row, or write one")
    for number, text in enumerate(texts):
        if text is None or not text.strip():
            which = f"caption {number} of the row" if isinstance(cell, list) else "the row's caption"
            raise NotReady(f"{which} is empty", where=where, got=text, do="remove it, or write one")
    return tuple(str(text) for text in texts)


def check_captions(table: Any, column: str, where: str) -> None:
    """Raise UsageError for a missing column, or one that contains neither texts nor lists of texts."""
    import datasets

    names = sorted(table.column_names)
    if column not in names:
        raise UsageError(
            f"there is no column {column!r}", where=where, expected=f"one of {names_near(column, names)}",
            do="set caption to one of them",
        )  # fmt: skip
    feature = table.features[column]
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    if not (isinstance(inner, datasets.Value) and inner.dtype in ("string", "large_string")):
        raise UsageError(
            f"the column {column!r} contains no captions", where=where,
            expected="a text or a list of texts in each row", got=str(feature),
        )  # fmt: skip
