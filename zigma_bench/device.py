"""Which device a run uses, found without importing torch."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import NotReady, UsageError


@dataclass(frozen=True)
class Device:
    """`name` as torch spells it (`cpu`, `cuda:0`), and the card or processor that it is."""

    name: str
    card: str

    @property
    def type(self) -> str:
        return self.name.partition(":")[0]


def find_device(requested: str) -> Device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the first NVIDIA card, else the CPU."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", requested)
    if match is None:
        raise UsageError(
            "there is no such device", where="--device", expected="auto, cpu, cuda or cuda:N", got=requested
        )
    cards = nvidia_cards()
    if requested == "cpu" or (requested == "auto" and not cards):
        return Device("cpu", processor())
    index = int(match.group(1) or 0)
    if index >= len(cards):
        raise NotReady(
            f"there is no device cuda:{index}", where="--device", expected=f"one of {len(cards)} card(s)", do="take cpu"
        )
    return Device(f"cuda:{index}", cards[index])


@functools.cache
def nvidia_cards() -> tuple[str, ...]:
    """The names of the NVIDIA cards that CUDA_VISIBLE_DEVICES leaves, in its order (whole indices only)."""
    names = _from_nvidia_smi() or _from_driver()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not names:
        return tuple(names)
    wanted = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.startswith(("GPU-", "MIG-")) for part in wanted):
        return tuple(names[: len(wanted)])  # by UUID: the cards of one machine are alike
    found: list[str] = []
    for part in wanted:  # as CUDA reads it: the first that is no card ends the list
        if not part.isdigit() or int(part) >= len(names):
            break
        found.append(names[int(part)])
    return tuple(found)


def _from_nvidia_smi() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    answer = subprocess.run([program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _from_driver() -> list[str]:
    """Where a container has the driver and no nvidia-smi."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    found = [re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE) for file in files]
    return [match.group(1).strip() for match in found if match]


@functools.cache
def processor() -> str:
    """The CPU's model and how many of its cores this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model} ({cores} cores)"
