"""The worker process that encodes a data set or its captions. It reads a job and writes events, as in workers/cell.py.

A job is one JSON line: a cell, the results folder, the device, whether to encode texts, and whether to write the cache
or only check it. The last event is `encoded`, with the number of encoded images or captions, or `checked`, with the
faults.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zigma_bench.data.cell_images import load_cell_splits
from zigma_bench.errors import CellFailed, ZigmaBenchError
from zigma_bench.plan import Cell
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.run.workers.cell import JobChannel, stop_flag, take_device
from zigma_bench.system.device import Device
from zigma_bench.system.interrupts import contain_plugin
from zigma_bench.system.notices import send_notices_to


def main() -> int:
    """Bring the cache of the job on standard input up to date, or check it."""
    channel = JobChannel()
    stopped, job = stop_flag(channel), channel.next_job()
    assert job is not None, "the parent sends one job"
    cell, device = Cell.model_validate_json(json.dumps(job["cell"])), Device(**job["device"])
    send_notices_to(lambda text: channel.send({"event": "notice", "stage": "encode", "text": text}))
    try:
        take_device(device)
        works = {"latents": (_encode, _check), "texts": (_encode_texts, _check_texts)}
        work = works["texts" if job["texts"] else "latents"][job["check"]]
        with contain_plugin():
            done = work(cell, Path(job["results"]) / ".cache", device, channel.send, stopped)
        channel.send(done)
    except ZigmaBenchError as error:
        channel.send({"event": "stopped", "text": str(error)})
        return error.exit_code
    except OSError as error:
        channel.send({"event": "stopped", "text": reason_of(error)})
        return CellFailed.exit_code
    except Exception as error:  # report any error as an event, so that it appears in the run's output
        traceback.print_exc()
        channel.send({"event": "stopped", "text": _failure_text(error)})
        return CellFailed.exit_code
    return 0


def _failure_text(error: Exception) -> str:
    from zigma_bench.efficiency.timing import out_of_memory

    hint = "; lower data.latents.batch" if out_of_memory(error) else ""
    return f"encoding failed: {reason_of(error)}{hint}"


def _encode(
    cell: Cell, cache: Path, device: Device, emit: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]
) -> dict[str, Any]:
    from zigma_bench.data.latents.encode import encode_latents

    def on_progress(done: int, total: int, text: str) -> None:
        emit({"event": "progress", "stage": "encode", "done": done, "total": total, "text": text})

    assert cell.latents is not None, "the cell trains on latents"
    count = encode_latents(
        load_cell_splits(cell), cell.latents, cache, device=device.name, on_progress=on_progress, stopped=stopped
    )
    return {"event": "encoded", "images": count}


def _check(
    cell: Cell, cache: Path, device: Device, emit: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]
) -> dict[str, Any]:
    from zigma_bench.data.latents.encode import check_latents

    assert cell.latents is not None, "the cell trains on latents"
    found = check_latents(load_cell_splits(cell), cell.latents, cache)
    return {
        "event": "checked",
        "faults": [f"{split}, shard {f.shard} {f.reason}" for split in found for f in found[split]],
    }


def _encode_texts(
    cell: Cell, cache: Path, device: Device, emit: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]
) -> dict[str, Any]:
    from zigma_bench.conditioning.text_features import encode_captions

    def on_progress(done: int, text: str) -> None:
        emit({"event": "progress", "stage": "encode", "done": done, "total": None, "text": text})

    assert cell.text is not None, "the cell has text conditioning"
    return {
        "event": "encoded",
        "captions": encode_captions(load_cell_splits(cell), cell.text, device.name, on_progress, stopped),
    }


def _check_texts(
    cell: Cell, cache: Path, device: Device, emit: Callable[[dict[str, Any]], None], stopped: Callable[[], bool]
) -> dict[str, Any]:
    from zigma_bench.conditioning.text_features import check_captions

    assert cell.text is not None, "the cell has text conditioning"
    return {"event": "checked", "faults": check_captions(load_cell_splits(cell), cell.text)}


if __name__ == "__main__":
    sys.exit(main())
