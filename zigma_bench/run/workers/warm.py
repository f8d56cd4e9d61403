"""Keep a worker process as good as a fresh one between cells, and notice when it is not."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zigma_bench.plan import Cell
from zigma_bench.system.device import Device

FRESH_SEED = 67280421310721  # of PyTorch's default generators in a new process
COMPUTING = ("CUDA", "CUBLAS", "NVIDIA_", "OMP_", "MKL_", "TORCH", "PYTORCH", "TRITON", "ZIGMA_BENCH_")  # variables
ATTENTION = ("flash", "mem_efficient", "math", "cudnn")  # backends of scaled_dot_product_attention
MOST_DEVICE_BYTES = 2**30  # that a process may hold on its device between cells, beyond those after its first cell
MOST_RESIDENT_BYTES = 2**32  # the same for main memory, where it holds decoded images


class WarmProcess:
    """What must be equal before each cell, and what a cell may leave behind."""

    def __init__(self) -> None:
        self.device = Device("cpu", "")
        self._shape: str | None = None
        self._state: Mapping[str, Any] | None = None
        self._used: tuple[int, int] | None = None

    def begin_cell(self, cell: Cell, device: Device) -> None:
        """Restore the state of a new process: its random numbers, and no compiled code of another shape."""
        self.device = device
        torch.manual_seed(FRESH_SEED)
        shape = shape_key(cell)
        if self._shape is not None and shape != self._shape:
            torch.compiler.reset()
        self._shape = shape
        if self._state is None:
            self._state = global_state()

    def why_retire(self) -> str | None:
        """Free what the last cell used; the reason why no other cell should run in this process, or None."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device.name)  # raises if a kernel has failed
            torch.cuda.empty_cache()
        state = global_state()
        assert self._state is not None, "a cell has run"
        if changed := [name for name in {**self._state, **state} if self._state.get(name) != state.get(name)]:
            return f"the cell changed {', '.join(changed)} of its process"
        used = used_bytes(self.device)
        self._used = self._used or used
        for name, now, first, most in zip(
            ("the device", "main memory"), used, self._used, (MOST_DEVICE_BYTES, MOST_RESIDENT_BYTES), strict=True
        ):
            if now > first + most:
                return f"its cells have left {now - first:,} bytes in {name}"
        return None


def shape_key(cell: Cell) -> str:
    """What compiled code depends on. Cells that differ only in their orders, data and seeds have the same key."""
    backbone = None if cell.backbone is None else cell.backbone.model_dump(mode="json")
    condition = None if cell.condition is None else cell.condition.model_dump(mode="json")
    facts = [
        backbone, cell.shape, condition, cell.train.batch, cell.train.precision, cell.sample.batch, cell.backend,
        cell.train.compile, cell.sample.compile,
    ]  # fmt: skip
    return json.dumps(facts, sort_keys=True)


def global_state() -> dict[str, Any]:
    """The settings of a process that change what later cells compute."""
    variables = [key for key in os.environ if key.startswith(COMPUTING) and not key.endswith(("_DIR", "_PATH"))]
    environment = {f"${key}": os.environ[key] for key in variables}
    return {
        **environment,
        "the default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the default device": str(torch.get_default_device()),
        "autocast": torch.is_autocast_enabled(),
        "the backends of attention": tuple(getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ATTENTION),
        "the precision of float32 products": torch.get_float32_matmul_precision(),
        "cuDNN's flags": (
            torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
        ),
        "TF32": torch.backends.cuda.matmul.allow_tf32,
        "the current folder": os.getcwd(),
    }  # fmt: skip


def used_bytes(device: Device) -> tuple[int, int]:
    """The bytes that this process holds on a GPU (0 on a CPU) and in main memory (0 if the system doesn't say)."""
    held = torch.cuda.memory_allocated(device.name) if device.type == "cuda" else 0
    statm = Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    return held, resident
