"""The device of a run, found without importing torch."""

from __future__ import annotations

import contextlib
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

QUOTAS = Path("/sys/fs/cgroup")  # of this container
KFD = Path("/sys/class/kfd/kfd/topology/nodes")  # the kernel driver lists AMD GPUs here


@dataclass(frozen=True)
class Device:
    """A device: `name` in torch's notation (`cpu`, `cuda:0`); `model_name` is that of the GPU or processor."""

    name: str
    model_name: str

    @property
    def type(self) -> str:
        return self.name.partition(":")[0]


def precision_on(device_type: str, requested: str) -> str:
    """The precision that a recipe trains in: `auto` means bf16 on a CUDA device and fp32 elsewhere."""
    if requested != "auto":
        return requested
    return "bf16" if device_type == "cuda" else "fp32"


def find_device(requested: str) -> Device:
    """The device named `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the first GPU, or the CPU if there is no GPU.

    Raises UsageError for another name and NotReady for a GPU that this machine doesn't have.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", requested)
    if match is None:
        raise UsageError(
            "there is no such device",
            where="--device",
            expected="auto, cpu, cuda or cuda:N",
            got=requested,
            do="for several devices, use run --devices all, 0,1 or cpu:N",
        )
    found = gpu_names()
    if requested == "cpu" or (requested == "auto" and not found):
        return Device("cpu", processor_name())
    index = int(match.group(1) or 0)
    if index >= len(found):
        raise NotReady(
            f"there is no device cuda:{index}", where="--device", expected=f"one of {len(found)} GPU(s)", do="use cpu"
        )
    return Device(f"cuda:{index}", found[index])


def find_devices(requested: str) -> tuple[Device, ...]:
    """The devices named `all` (every GPU, or the CPU), `0,1` (GPUs by number) or `cpu:N` (N workers on the CPU), or the
    one that `find_device` knows.

    Raises UsageError for another name or for GPUs of different models, and NotReady for a GPU that this machine doesn't
    have.
    """
    workers = re.fullmatch(r"cpu:([1-9]\d{0,3})", requested)
    if workers is not None:
        return (find_device("cpu"),) * int(workers[1])
    if requested == "all":
        found = tuple(find_device(f"cuda:{number}") for number in range(len(gpu_names()))) or (find_device("cpu"),)
    elif re.fullmatch(r"\d+(,\d+)*", requested):
        numbers = list(map(int, requested.split(",")))
        if len(set(numbers)) < len(numbers):
            raise UsageError("a GPU is listed twice", where="--devices", got=requested)
        found = tuple(find_device(f"cuda:{number}") for number in numbers)
    else:
        found = (find_device(requested),)
    models = dict.fromkeys(device.model_name for device in found)
    if len(models) > 1:
        raise UsageError(
            "the devices differ, and their figures can't share a table", where="--devices",
            expected="devices of one model", got=", ".join(models), do="name those of one model, such as 0,1",
        )  # fmt: skip
    return found


def gpu_names() -> tuple[str, ...]:
    """The names of the GPUs `cuda:0`, `cuda:1`, ...: the NVIDIA GPUs, or the AMD GPUs if there are no NVIDIA GPUs."""
    return nvidia_gpus() or amd_gpus()


@functools.cache
def nvidia_gpus() -> tuple[str, ...]:
    """The names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES allows, in its order (whole indices only)."""
    names = _from_nvidia_smi() or _from_driver()
    return _visible(names, os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def amd_gpus() -> tuple[str, ...]:
    """The architectures of the AMD GPUs that HIP_VISIBLE_DEVICES allows (or, if unset, CUDA_VISIBLE_DEVICES).

    Empty unless torch is a ROCm build, because the driver also lists the integrated graphics of processors.
    """
    if not _torch_is_for_rocm():
        return ()
    versions = (_gfx_version(node) for node in sorted(KFD.glob("*"), key=lambda node: int(node.name)))
    names = [f"AMD gfx{v // 10000}{v // 100 % 100:x}{v % 100:x}" for v in versions if v]
    return _visible(names, os.environ.get("HIP_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")))


def _torch_is_for_rocm() -> bool:
    """Whether torch is a ROCm build, read from torch/version.py because importing torch takes seconds."""
    found = importlib.util.find_spec("torch")
    version = None if found is None or found.origin is None else Path(found.origin).with_name("version.py")
    return version is not None and version.exists() and bool(re.search(r"^hip\b.*=\s*['\"]", version.read_text(), re.M))


def _gfx_version(node: Path) -> int:
    """The gfx version of a node: 90402 for gfx942; 0 for a processor, or for a GPU that the container can't use."""
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
        return tuple(names[: len(wanted)])  # UUIDs: assume that all GPUs of the machine are the same model
    found: list[str] = []
    for part in wanted:  # as in CUDA, the first invalid index ends the list
        if not part.isdigit() or int(part) >= len(names):
            break
        found.append(names[int(part)])
    return tuple(found)


def gpu_facts(device: Device) -> dict[str, str | float | None]:
    """The driver version and the power limit in watts of an NVIDIA GPU; None for what is unknown or on a CPU."""
    found: dict[str, str | float | None] = {"driver": None, "power_limit_watts": None}
    if device.type != "cuda":
        return found
    lines = _visible(_from_nvidia_smi("driver_version,power.limit"), os.environ.get("CUDA_VISIBLE_DEVICES"))
    index = int(device.name.partition(":")[2] or 0)
    if index < len(lines):
        driver, _, watts = (word.strip() for word in lines[index].partition(","))
        found["driver"] = driver
        with contextlib.suppress(ValueError):  # [N/A] for some GPUs
            found["power_limit_watts"] = float(watts)
    return found


def _from_nvidia_smi(fields: str = "name") -> list[str]:
    """These fields of every NVIDIA GPU, as nvidia-smi prints them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _from_driver() -> list[str]:
    """The names of the NVIDIA GPUs from the driver's files, for containers without nvidia-smi."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    found = [re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE) for file in files]
    return [match.group(1).strip() for match in found if match]


@functools.cache
def processor_name() -> str:
    """The CPU's model and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else model
    return f"{model} ({core_count()} cores)"


def core_count() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """The number of cores whose time this process may use: fewer than `core_count` in a container with a quota."""
    quotas = [core_count()]
    with contextlib.suppress(OSError, ValueError):  # cgroup v2
        quota, period = (QUOTAS / "cpu.max").read_text().split()
        if quota != "max":
            quotas.append(int(quota) // int(period))
    with contextlib.suppress(OSError, ValueError):  # cgroup v1
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota_us, period_us = (int((QUOTAS / "cpu" / name).read_text()) for name in names)
        if quota_us > 0:
            quotas.append(quota_us // period_us)
    return max(1, min(quotas))


def reduce_garbage_collection() -> None:
    """Make Python's garbage collector run less often: it took 20% of the time of importing torch."""
    gc.set_threshold(50_000)
