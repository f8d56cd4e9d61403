"""Crashes of a run: kills at random moments, and an end before each single file operation.

    python tests/run/crashes.py kills --count 100 --seed 0       processes are killed, the parent or a worker
    python tests/run/crashes.py operations                       every file operation of a small run, one after another

After each crash the same command runs to its end. It must come to the figures, weights and images of a run that nobody
disturbed, and leave no file over. `test_crashes.py` does a few of each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "zigma_bench")
COMMON = """# Does a crash change a figure?
compare:
  - backbone: {name: zigma, width: 16, depth: 2, patch: 2}
    scans: [{name: zigzag, paths: 2}]
"""
QUALITY = (
    COMMON
    + """name: crash
data: {name: digits, validation: 1760, latents: {autoencoder: vae}}
budget: {images: IMAGES}
reference: {split: train}
train: {batch: 16, checkpoint_seconds: SECONDS}
sample: {count: 24, batch: 8, evaluations: 2}
quality: [{name: val-loss, images: 32}, {name: kid-efflite0, size: 64}]
"""
)
SPEED = (
    COMMON
    + """name: crash-speed
baseline: {backbone: zigma, scan: zigzag}
train: {batch: 2}
efficiency: {tokens: [16], batch: [1], backends: [torch], rounds: 2, repeats: 3, stages: [forward]}
"""
)
TIMED = ("efficiency", "seconds", "curve")  # what differs between two runs that nobody disturbed
LEFT_OVER = ("*.tmp", "checkpoint-*", "part-*", "written.json", ".owner", ".progress")


def write_suites(folder: Path, *, images: int = 320, seconds: float = 0.05) -> None:
    """Two suites that together have all stages: encoding, training, sampling, quality, and timing in two rounds."""
    import torch
    from diffusers import AutoencoderKL

    text = QUALITY.replace("IMAGES", str(images)).replace("SECONDS", str(seconds))
    (folder / "quality.yaml").write_text(text)
    (folder / "speed.yaml").write_text(SPEED)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            in_channels=1, out_channels=1, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4,
            layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        ).save_pretrained(folder / "vae")  # fmt: skip


def state(results: Path) -> dict[str, object]:
    """What a run has come to: every figure, the hash of each file that records name, and how stages ended."""
    found: dict[str, object] = {}
    for path in sorted(results.glob("*/*/*/*/record.json")):
        record = json.loads(path.read_text())
        timed = record["stage"] == "efficiency"
        measured = [(m["name"], None if timed else m["value"]) for m in record["measurements"]]
        files = sorted(record["files"]) if timed else record["files"]
        found[str(path.relative_to(results))] = (record["status"], measured, files, record["inputs"])
    return found


def left_over(results: Path) -> list[str]:
    """Files that only an unfinished run may have."""
    return sorted(str(path.relative_to(results)) for pattern in LEFT_OVER for path in results.rglob(pattern))


# Kills at random moments


@dataclass(frozen=True)
class Kill:
    """What was killed, when, and how far the run had come."""

    target: str
    second: float
    stage: str


def kill_at_random(folder: Path, suites: tuple[str, ...], results: Path, chance: random.Random, longest: float) -> Kill:
    """Start a suite on one or two devices, and kill the parent, or a worker with it left alive, at a random moment."""
    suite, target = chance.choice(suites), chance.choice(("parent", "worker", "worker"))
    devices = chance.choice((("--device", "cpu"), ("--devices", "cpu:2")))
    second = chance.uniform(0.5, longest)
    with subprocess.Popen(
        [*PROGRAM, "run", suite, "--results", str(results), *devices],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < began + second:
            time.sleep(0.01)
        children = _children(process.pid)
        if process.poll() is None and (target == "parent" or children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid if target == "parent" else chance.choice(children), signal.SIGKILL)
        else:
            target = "nothing"
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    return Kill(target, second, lines[-1][:80] if lines else "")


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []


def finish(folder: Path, suites: tuple[str, ...], results: Path) -> None:
    """Run the suites to their ends."""
    for suite in suites:
        done = subprocess.run(
            [*PROGRAM, "run", suite, "--results", str(results), "--device", "cpu"],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Traceback" not in done.stderr, done.stderr[-3000:]


def kills(folder: Path, count: int, seed: int, *, longest: float, each: int = 5) -> list[Kill]:
    """So many kills, `each` of them before a run to the end, whose result is compared with an undisturbed one."""
    suites, chance, found = ("quality.yaml", "speed.yaml"), random.Random(seed), list[Kill]()
    finish(folder, suites, folder / "whole")
    wanted = state(folder / "whole")
    while len(found) < count:
        results = folder / f"killed-{len(found)}"
        for _ in range(min(each, count - len(found))):
            kill = kill_at_random(folder, suites, results, chance, longest)
            found += [kill] if kill.target != "nothing" else []
        finish(folder, suites, results)
        assert state(results) == wanted, f"other figures after the kills {found[-each:]} in {results}"
        assert not left_over(results), (left_over(results), found[-each:])
        shutil.rmtree(results)
        print(f"{len(found)} kills, all ending in the undisturbed figures; the last: {found[-1]}", flush=True)
    return found


# An end before each file operation

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}


class Operations:
    """Counts the file operations of this process below a folder, and ends it before number `last`, as a kill would."""

    def __init__(self, root: Path, last: int | None) -> None:
        self.root, self.last, self.count = str(root), last, 0
        sys.addaudithook(self._before)

    def _before(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            counts = isinstance(flags, int) and bool(flags & WRITES)
        else:
            path, counts = (arguments[0] if arguments else None), event in CHANGES
        if counts and isinstance(path, str | bytes | os.PathLike) and self._below(os.fsdecode(path)):
            self.count += 1
            if self.count == self.last:
                os._exit(137)

    def _below(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self.root) or not os.path.isabs(path)  # relative: within a removal


def run_here(folder: Path, results: Path, suite: str) -> None:
    """A suite in this process, where a process of its own takes seconds to import torch."""
    from in_process import InProcessWorker

    from zigma_bench.efficiency import measure
    from zigma_bench.plan import STAGES
    from zigma_bench.records import progress
    from zigma_bench.run import encode
    from zigma_bench.run.executors import local
    from zigma_bench.run.executors.options import LocalOptions
    from zigma_bench.run.prepare import prepare
    from zigma_bench.run.run_plan import run_plan
    from zigma_bench.run.workers import encode as encode_worker
    from zigma_bench.system.device import Device

    class Silent:
        def begin(self, *rest: object) -> None: ...

        def event(self, *rest: object) -> None: ...

        def end(self, *rest: object) -> None: ...

    def encoded(cell, results, device, emit, check):
        return encode_worker._encode(cell, results / ".cache", device, emit, lambda: False)

    def no_memory(*rest: object) -> None:
        raise MemoryError("not measured: it takes seconds and writes no file")

    encode._run_worker, local.WorkerProcess = encoded, InProcessWorker
    progress.WRITE_SECONDS = float("inf")  # each run has the same operations: only a stage's start is written
    measure.scan_alone = measure.measure_ceilings = no_memory
    os.chdir(folder)
    plan = prepare(Path(suite), settings=(), only=(), smoke=False)
    devices = (Device("cpu", "test"),)
    outcomes = run_plan(plan, results, devices, Silent(), local.LocalExecutor(LocalOptions()), stages=STAGES)
    failed = [outcome.reason for outcome in outcomes if outcome.status not in ("done", "skipped")]
    assert not failed, failed


def _child(folder: Path, results: Path, suite: str, last: int | None, answer: Path) -> None:
    """Run a suite, ended before a file operation; the number of operations is the answer."""
    with (answer.parent / "log.txt").open("w") as log, contextlib.redirect_stderr(log):
        operations = Operations(results, last)
        run_here(folder, results, suite)
        count, operations.root = operations.count, "/nowhere"
    answer.write_text(str(count))


def run_in_child(folder: Path, results: Path, suite: str, last: int | None = None) -> int | None:
    """The number of file operations of a suite in a child process, or None where it was ended before one."""
    answer = folder / "answer.txt"
    answer.unlink(missing_ok=True)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(folder, results, suite, last, answer))
    child.start()
    child.join()
    assert child.exitcode in ((0,) if last is None else (0, 137)), (folder / "log.txt").read_text()[-3000:]
    return int(answer.read_text()) if child.exitcode == 0 else None


def operations(folder: Path, suite: str, first: int = 1, every: int = 1) -> int:
    """End the run of a suite before file operations, all of them by default, and give how many ends there were."""
    shutil.rmtree(folder / "whole", ignore_errors=True)
    total = run_in_child(folder, folder / "whole", suite)
    assert total is not None
    wanted, ended = state(folder / "whole"), 0
    for number in range(first, total + 1, every):
        results = folder / f"ended-{number}"
        if run_in_child(folder, results, suite, number) is None:
            ended += 1
        run_in_child(folder, results, suite)
        assert state(results) == wanted, f"other figures after an end before operation {number}"
        assert not left_over(results), (number, left_over(results))
        shutil.rmtree(results)
        if ended % 20 == 0:
            print(
                f"{suite}: {number} of {total} operations, {ended} ended there; all came to the undisturbed figures",
                flush=True,
            )
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "operations"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="of the file operations, every so many")
    parser.add_argument("--suites", nargs="+", default=["quality.yaml", "speed.yaml"], help="of the operations")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--each", type=int, default=5, help="kills before each run to the end")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds: the latest moment of a kill")
    words = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if words.what == "kills":
            write_suites(folder)
            found = kills(folder, words.count, words.seed, longest=words.longest, each=words.each)
            print(f"{len(found)} kills: {sum(kill.target == 'parent' for kill in found)} of the parent")
        else:
            write_suites(folder, images=32, seconds=1.0e-6)
            for suite in words.suites:
                with contextlib.redirect_stdout(io.StringIO()):
                    run_in_child(folder, folder / "warm", suite)  # what is compiled and cached for all
                ended = operations(folder, suite, words.first, words.every)
                print(f"{suite}: {ended} ends, each followed by a run to the undisturbed figures", flush=True)


if __name__ == "__main__":
    main()
