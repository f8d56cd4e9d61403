"""The worker process that tries one batch size: two training steps with a memory limit.

Standard input is one JSON document: the cell (with the batch size to try), the device, and `limit_bytes`. The output is
one JSON line: whether the batch fits, the peak in bytes, and the reason if it doesn't fit.

On a GPU, PyTorch's allocator enforces the limit. On a CPU the limit is for resident memory: a step with one image first
compiles the kernels and starts the threads; then the address space may grow by the remaining bytes.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from zigma_bench.backbones.build import build_network
from zigma_bench.errors import CellFailed, NotReady
from zigma_bench.plan import Cell
from zigma_bench.plugins.discovery import reason_of
from zigma_bench.system.device import Device
from zigma_bench.system.interrupts import contain_plugin

STEPS = 2  # only the second step starts with optimizer state


def main() -> int:
    """Run the job on standard input, write the answer, and return the exit code."""
    job = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output that libraries print goes to standard error
    cell = Cell.model_validate_json(json.dumps(job["cell"]))
    try:
        with contain_plugin():
            answer = try_batch(cell, Device(**job["device"]), job["limit_bytes"])
    except Exception as error:  # the command reports the last line
        traceback.print_exc()
        print(reason_of(error), file=sys.stderr)
        return CellFailed.exit_code
    answers.write(json.dumps(answer) + "\n")
    answers.close()
    return 0


def try_batch(cell: Cell, device: Device, limit_bytes: int) -> dict[str, Any]:
    """Whether `cell.train.batch` images fit in memory."""
    from zigma_bench.efficiency.timing import out_of_memory, peak_memory

    try:
        limit_memory(cell, device, limit_bytes)
        _train(cell, device)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"fits": False, "peak_bytes": None, "reason": str(error).splitlines()[0] if str(error) else "no memory"}
    memory = peak_memory(device)
    peak = int(memory.get("peak-memory-reserved", memory["peak-memory"]))
    reason = None if peak <= limit_bytes else "its peak memory exceeds the limit"
    return {"fits": peak <= limit_bytes, "peak_bytes": peak, "reason": reason}


def limit_memory(cell: Cell, device: Device, limit_bytes: int) -> None:
    """Make allocations beyond the limit fail. MemoryError if this process exceeds the limit already."""
    if device.type == "cuda":
        import torch

        torch.cuda.set_device(device.name)
        total = torch.cuda.get_device_properties(device.name).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device.name)
        return
    import resource

    one = cell.train.model_copy(update={"batch": 1})
    _train(cell.model_copy(update={"train": one}), device)
    size, resident = _pages()
    if resident > limit_bytes:
        raise MemoryError(f"one image needs {resident:,} bytes, including Python and PyTorch")
    most = size + limit_bytes - resident
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _train(cell: Cell, device: Device) -> None:
    import torch

    from zigma_bench.efficiency.calls import training_call

    call = training_call(cell, build_network(cell, device.type).to(device.name), device)
    for _ in range(STEPS):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device.name)


def _pages() -> tuple[int, int]:
    """The address space and the resident memory of this process, in bytes."""
    file = Path("/proc/self/statm")
    if not file.exists():
        raise NotReady("CPU memory can't be limited on this system", expected="Linux", do="use a GPU")
    size, resident, *_ = (int(word) * os.sysconf("SC_PAGE_SIZE") for word in file.read_text().split())
    return size, resident


if __name__ == "__main__":
    sys.exit(main())
