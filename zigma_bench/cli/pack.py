"""The commands `pack` and `unpack`: the records of a run as one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from zigma_bench.escaping import visible

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run in the results.", metavar="RUN_FOLDER")]


def pack(
    run: RunFolder,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Then remove the folders of finished stages, with their weights and samples."),
    ] = False,
) -> None:
    """Pack the records of a run into one compressed file.

    The file is RUN_FOLDER/records.jsonl.gz. Every command reads a packed run like any other, and finished stages count
    as done. Without --remove nothing is removed. With it, the packed file is read again first; the table and the sheet
    of samples stay.
    """
    from zigma_bench.records.pack import pack_run

    done = pack_run(run, remove=remove)
    print(visible(f"packed: {done.path}, {done.records:,} records in {done.path.stat().st_size:,} bytes"))
    if remove:
        print(f"removed: the folders of {len(done.removed):,} cells")
    _print_left(done.left)


def unpack(run: RunFolder) -> None:
    """Write the packed records of a run into folders again.

    Then the packed file is removed. Weights and samples that were removed do not come back.
    """
    from zigma_bench.records.pack import unpack_run

    done = unpack_run(run)
    print(visible(f"unpacked: {done.records:,} records of {run}"))
    _print_left(done.left)


def _print_left(left: Mapping[Path, str] | None) -> None:
    for folder, reason in (left or {}).items():
        print(visible(f"left: {folder}: {reason}"))
