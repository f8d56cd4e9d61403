"""The column of captions of a table: a text in each row, or a list of texts that all describe the row's image."""

from __future__ import annotations

from typing import Any

from zigma_bench.data.images import Texts
from zigma_bench.errors import NotReady, UsageError

CHUNK = 10_000  # rows read at a time


def captions_in(table: Any, column: str, where: str) -> list[Texts]:
    """The texts of every row of a `datasets.Dataset`; NotReady, which names the row, for one without any text."""
    check_captions(table, column, where)
    plain = table.select_columns([column]).with_format("arrow")
    found: list[Texts] = []
    for start in range(0, len(plain), CHUNK):
        for cell in plain[start : start + CHUNK].column(column).to_pylist():
            found.append(texts_of_cell(cell, f"{where}, row {len(found)}, column {column!r}"))
    return found


def texts_of_cell(cell: str | list[str | None] | None, where: str) -> Texts:
    """One row's: every text that it holds has a letter, a digit or another sign that can be read."""
    texts = [cell] if isinstance(cell, str) else cell or []
    if not texts:
        raise NotReady("the row has no caption", where=where, do="remove the row, or write one")
    for number, text in enumerate(texts):
        if text is None or not text.strip():
            which = f"caption {number} of the row" if isinstance(cell, list) else "the row's caption"
            raise NotReady(f"{which} is empty", where=where, got=text, do="remove it, or write one")
    return tuple(str(text) for text in texts)


def check_captions(table: Any, column: str, where: str) -> None:
    """UsageError for a column that isn't there, or holds neither texts nor lists of texts."""
    import datasets

    names = sorted(table.column_names)
    if column not in names:
        raise UsageError(
            f"there is no column {column!r}", where=where, expected=f"one of {', '.join(names)}",
            do="set caption to one",
        )  # fmt: skip
    feature = table.features[column]
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    if not (isinstance(inner, datasets.Value) and inner.dtype in ("string", "large_string")):
        raise UsageError(
            f"the column {column!r} holds no captions", where=where, expected="a text, or a list of texts, in each row",
            got=str(feature),
        )  # fmt: skip
