"""Which device a run uses, found without importing torch."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import NotReady, UsageError

KFD = Path("/sys/class/kfd/kfd/topology/nodes")  # where the kernel's driver lists AMD's cards


@dataclass(frozen=True)
class Device:
    """`name` as torch spells it (`cpu`, `cuda:0`), and the card or processor that it is."""

    name: str
    card: str

    @property
    def type(self) -> str:
        return self.name.partition(":")[0]


def precision_on(device_type: str, asked: str) -> str:
    """The precision of a recipe: `auto` is bf16 on a card, else fp32."""
    if asked != "auto":
        return asked
    return "bf16" if device_type == "cuda" else "fp32"


def find_device(requested: str) -> Device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the first card, else the CPU."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", requested)
    if match is None:
        raise UsageError(
            "there is no such device", where="--device", expected="auto, cpu, cuda or cuda:N", got=requested
        )
    found = cards()
    if requested == "cpu" or (requested == "auto" and not found):
        return Device("cpu", processor())
    index = int(match.group(1) or 0)
    if index >= len(found):
        raise NotReady(
            f"there is no device cuda:{index}", where="--device", expected=f"one of {len(found)} card(s)", do="take cpu"
        )
    return Device(f"cuda:{index}", found[index])


def cards() -> tuple[str, ...]:
    """The names of the cards that torch calls `cuda:0`, `cuda:1`, ...: NVIDIA's, else AMD's."""
    return nvidia_cards() or amd_cards()


@functools.cache
def nvidia_cards() -> tuple[str, ...]:
    """The names of the NVIDIA cards that CUDA_VISIBLE_DEVICES leaves, in its order (whole indices only)."""
    names = _from_nvidia_smi() or _from_driver()
    return _visible(names, os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def amd_cards() -> tuple[str, ...]:
    """The architectures of the AMD cards that HIP_VISIBLE_DEVICES leaves (else CUDA_VISIBLE_DEVICES).

    None where torch is no build for ROCm: processors have graphics that the driver lists too.
    """
    if not _torch_is_for_rocm():
        return ()
    versions = (_gfx_version(node) for node in sorted(KFD.glob("*"), key=lambda node: int(node.name)))
    names = [f"AMD gfx{v // 10000}{v // 100 % 100:x}{v % 100:x}" for v in versions if v]
    return _visible(names, os.environ.get("HIP_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")))


def _torch_is_for_rocm() -> bool:
    """As torch/version.py says, which importing torch would take seconds to tell."""
    found = importlib.util.find_spec("torch")
    version = None if found is None or found.origin is None else Path(found.origin).with_name("version.py")
    return version is not None and version.exists() and bool(re.search(r"^hip\b.*=\s*['\"]", version.read_text(), re.M))


def _gfx_version(node: Path) -> int:
    """Of a node's card: 90402 for gfx942; 0 for a processor, or a card that a container may not use."""
    try:
        match = re.search(r"^gfx_target_version (\d+)$", (node / "properties").read_text(), re.M)
    except OSError:
        return 0
    return int(match[1]) if match else 0


def _visible(names: list[str], visible: str | None) -> tuple[str, ...]:
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
    return f"{model} ({cores()} cores)"


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def calm_collector() -> None:
    """Have Python look for garbage less often: importing torch makes a million objects, and of the time that takes a
    fifth went to looking among them."""
    gc.set_threshold(50_000)
