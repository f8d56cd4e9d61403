"""The check of a worker that the data of a cell did not change after the plan was made."""

from __future__ import annotations

from zigma_bench.errors import NotReady
from zigma_bench.plan import Cell, fingerprint_after
from zigma_bench.plugins.discovery import catalogue


def check_planned(cell: Cell) -> None:
    """Raise NotReady if files of a cell's data set are missing or changed after the plan was made."""
    data = cell.data_set
    spec = catalogue().get("dataset", data.name)
    facts = spec.facts.describe(spec.make_options(data.options))
    for missing in facts.missing:
        raise NotReady(f"{missing.what} is missing", where=f"data: {data.name}", do=missing.do)
    found = fingerprint_after(facts.fingerprint, cell.transforms)
    planned = cell.data_fingerprint if cell.latents is None else cell.latents.images
    if found != planned:
        raise NotReady(
            f"the files of the data set {data.label} changed after the plan was made",
            where=f"data: {data.name}",
            expected=f"the fingerprint {planned}",
            got=found,
            do="run the same command again: it makes a new plan with the current files",
        )
