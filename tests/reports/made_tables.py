"""Table files of made-up runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from zigma_bench.records.table_file import TableCell, TableFile, write_table_file

TIME = "2026-11-30T00:00:00.000000Z"


def make_cell(folder: str, identity: str, **changes: Any) -> TableCell:
    """A cell with one stage, quality, and made-up facts."""
    facts = {
        "folder": folder, "stages": {"quality": identity}, "role": "cell", "seed": 0, "backbone": "zigma",
        "scan": "raster", "smoke": False, "data": None, "parameters": 10, "forward_flops": 20, "flops_by": "formula",
        "scanned_ratio": 1.0, "tokens": 4, "size_match": None, "setting": None,
    }  # fmt: skip
    return TableCell.model_validate(facts | changes)


def make_table(folder: Path, cells: list[TableCell], **changes: Any) -> TableFile:
    """Write the table file of a made-up run in `folder`."""
    facts = {
        "format": 1, "suite": "toy", "run": folder.name, "created": TIME, "updated": TIME, "options": [],
        "suite_sha256": hashlib.sha256(b"").hexdigest(), "content": {}, "question": "Why?", "smoke": False,
        "budget": {"images": 5}, "reference": "train", "sample_count": 9, "residual": ["official"],
        "baseline": {"backbone": "zigma", "scan": "raster"},
    }  # fmt: skip
    table = TableFile.model_validate({**facts, **changes, "cells": [cell.model_dump(mode="json") for cell in cells]})
    write_table_file(folder, table)
    return table
