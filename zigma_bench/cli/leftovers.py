"""`gc`: list and remove what no run needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson
from zigma_bench.errors import UsageError
from zigma_bench.escaping import visible

if TYPE_CHECKING:
    from zigma_bench.run.leftovers import Leftover, Leftovers


def remove_leftovers(
    results: Annotated[Path, typer.Argument(help="The folder of results.", metavar="[RESULTS]")] = DEFAULT_RESULTS,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed; without it, nothing is.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what no run needs, and remove it with --remove.

    Needed is what the table of any run lists. Files that a process works on, or
    that zigma-bench doesn't write, always stay.
    """
    from zigma_bench.run import leftovers

    if not results.is_dir():
        raise UsageError("there is no such results folder", where=str(results), do="run a suite first")
    if (results / "table.json").exists() or any(results.glob("*/table.json")):
        raise UsageError("this is the folder of a suite or of a run", where=str(results), do="name the whole results")
    removed: tuple[Leftover, ...] = ()
    if remove:
        found, removed = leftovers.remove_leftovers(results)
    else:
        found = leftovers.find_leftovers(results)
    if as_json:
        print(json.dumps(_to_json(found, removed), indent=1))
        return
    for line in _lines_of(results, found, removed, remove):
        print(visible(line))


def _to_json(found: Leftovers, removed: Sequence[Leftover]) -> dict[str, object]:
    entries = [{**asdict(one), "path": str(one.path), "removed": one in removed} for one in found.found]
    return {"found": entries, "untouched": list(found.untouched)}


def _lines_of(results: Path, found: Leftovers, removed: Sequence[Leftover], remove: bool) -> Iterator[str]:
    """The leftovers by their reason, with sizes, and what was done."""
    for reason in dict.fromkeys(one.reason for one in found.found):
        yield f"{reason}:"
        for one in (one for one in found.found if one.reason == reason):
            held = one.held or ("a process works on it" if remove and one not in removed else None)
            left = "" if held is None else f" (stays: {held})"
            yield f"  {format_bytes(one.bytes):>8}  {one.path.relative_to(results)}{left}"
    yield from (f"not looked at: {text}" for text in found.untouched)
    if not found.found:
        yield f"{results}: nothing else can be removed" if found.untouched else f"{results}: everything here is needed"
        return
    if remove:
        yield f"removed: {_describe_total(removed)}; left: {len(found.found) - len(removed):,}"
    else:
        yield f"{_describe_total(found.found)}; nothing is removed without --remove"


def _describe_total(entries: Sequence[Leftover]) -> str:
    count = len(entries)
    size = format_bytes(sum(one.bytes for one in entries))
    return f"{count:,} {'file or folder' if count == 1 else 'files or folders'}, {size}"


def format_bytes(count: int) -> str:
    """A number of bytes in a readable unit: `1.5 MB`."""
    value, units = float(count), ("B", "kB", "MB", "GB", "TB")
    for unit in units:
        if value < 1000 or unit == units[-1]:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes every number")
