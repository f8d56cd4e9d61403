"""Write the rows of a benchmark to a file as soon as they are timed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zigma_bench.errors import Interrupted
from zigma_bench.plugins.origins import plugin_origins
from zigma_bench.records.provenance import LIBRARIES, run_provenance, version
from zigma_bench.records.store import write_json
from zigma_bench.system.device import Device


class BenchRecord:
    """A new file for the rows of a benchmark, with the device, the library versions and where they come from."""

    def __init__(self, kind: str, device: Device, results: Path) -> None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", device.model_name).strip("-")
        self.file = results / "kernels" / f"{kind}-{slug}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
        self.facts = {
            "card": device.model_name,
            "device": device.name,
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in (*LIBRARIES, "mamba-ssm")},
            "provenance": run_provenance(device, plugins=plugin_origins()),
        }

    def save_rows(self, rows: Sequence[Any]) -> None:
        """Write all rows so far."""
        write_json(self.file, {**self.facts, "rows": [row.to_json() for row in rows]})


@contextlib.contextmanager
def open_bench_record(
    kind: str, device: Device, results: Path
) -> Iterator[tuple[Path, Callable[[Sequence[Any]], None]]]:
    """Yield the file of a new record and the function that writes rows to it. An interruption names the file."""
    record = BenchRecord(kind, device, results)
    try:
        yield record.file, record.save_rows
    except KeyboardInterrupt:
        rows = f"earlier timings are in {record.file}" if record.file.exists() else "there are no earlier timings"
        raise Interrupted(f"interrupted; {rows}") from None
