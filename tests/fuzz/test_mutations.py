"""Mutated suites, records and tables: each ends normally or with one error of the documented kind, on one inert line.

ZIGMA_BENCH_MUTATIONS sets how many of each there are (300), ZIGMA_BENCH_MUTATION_SEED the first seed.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import random
import shutil
import signal
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from made_tables import make_cell, make_table
from mutations import as_json, mutated_document, mutated_text

from zigma_bench.errors import ZigmaBenchError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.pack import pack_run
from zigma_bench.records.packed import PACKED
from zigma_bench.records.record import Measurement, Record
from zigma_bench.records.store import stage_folder, write_record
from zigma_bench.reports.formats import print_report, report_format
from zigma_bench.reports.table import find_tables
from zigma_bench.suite import load_suite

COUNT = int(os.environ.get("ZIGMA_BENCH_MUTATIONS", "300"))
FIRST = int(os.environ.get("ZIGMA_BENCH_MUTATION_SEED", "0"))
SECONDS = 10
CODES = {1, 2, 3, 4, 75}


@contextlib.contextmanager
def within(seconds):
    """Fail if it takes longer."""

    def late(number, frame):
        raise AssertionError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ended(work) -> int:
    """The exit code of a function. Any exception that isn't an error of the project is a fault."""
    try:
        with within(SECONDS):
            work()
    except ZigmaBenchError as error:
        caught = error
    else:
        return 0
    assert inert(str(caught)), repr(str(caught))
    assert len(str(caught)) < 5000
    return caught.exit_code


def inert(text: str, allowed: str = "") -> bool:
    return not any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in allowed for sign in text)


def planned(path: Path) -> None:
    suite, source = load_suite(path)
    make_plan(suite, source, catalogue())


def test_mutated_suites(tmp_path, suite_text):
    path, document, codes = tmp_path / "suite.yaml", yaml.safe_load(suite_text), Counter()
    for seed in range(FIRST, FIRST + COUNT):
        draw = random.Random(seed)
        text = mutated_text(suite_text, draw) if seed % 2 else as_json(mutated_document(document, draw)) or "{"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            codes[ended(functools.partial(planned, path))] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    print("suites:", dict(codes))
    assert set(codes) <= CODES | {0}
    assert codes[2] > COUNT / 4  # the mutations do break suites


@pytest.fixture
def results(tmp_path):
    """A run of two scans with two seeds and both anchors."""
    folder, cells = tmp_path / "base" / "toy" / "main", []
    rows = [("floor", "held-out images", None), ("cell", "zigma", "raster"), ("cell", "zigma", "zigzag"),
            ("ceiling", "untrained zigma", "raster")]  # fmt: skip
    origin = {"card": "a card", "precision": "fp32", "backend": "cpu"}
    for number, (role, backbone, scan) in enumerate(rows):
        for seed in range(2 if role == "cell" else 1):
            identity, name = f"{number}{seed}".ljust(64, "0"), f"cell-{number}-{seed}"
            cells.append(make_cell(name, identity, role=role, seed=seed, backbone=backbone, scan=scan))
            found = Measurement.of(
                "val-loss", 1.0 + number + seed / 8, "1", fingerprint={"n_images": 9}, raw=(1.0, 2.0)
            )
            cell = {"quality": [{"name": "val-loss"}]}
            made = Record("quality", identity, cell, "done", (found,), provenance=origin)
            write_record(stage_folder(folder / name, "quality", identity), made)
    make_table(folder, cells, content={"name": "toy", "seeds": [0, 1]})
    return folder


def reported(folder: Path, broken: list[str]) -> None:
    """All formats, with escaped control characters."""
    tables = find_tables([folder])
    broken += [fault for table in tables for fault in table.broken]
    for output in ("terminal", "markdown", "csv", "json"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print_report(report_format(output), tables)
        assert inert(out.getvalue(), "\n"), output
        if output == "json":
            json.loads(out.getvalue(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_mutated_records_and_tables(results, tmp_path):
    files = [results / "table.json", *sorted(results.rglob("record.json"))]
    folder, codes, broken = tmp_path / "toy" / "main", Counter(), 0
    for seed in range(FIRST, FIRST + COUNT):
        draw = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(results, folder)
        source = files[0] if draw.random() < 0.5 else draw.choice(files[1:])
        text = source.read_text()
        made = mutated_text(text, draw) if seed % 2 else as_json(mutated_document(json.loads(text), draw)) or "[" * 9999
        (folder / source.relative_to(results)).write_bytes(made.encode("utf-8", "surrogatepass"))
        try:
            found: list[str] = []
            codes[ended(functools.partial(reported, folder, found))] += 1
            broken += bool(found)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {source.name}: {type(error).__name__}: {error}") from error
    print("records and tables:", dict(codes), "with a broken row:", broken)
    assert set(codes) <= {0, 4}
    assert codes[4] > COUNT / 8
    assert broken > COUNT / 8


DECLARED = {
    "primary": "val-loss", "secondary": None, "family": {"one": {"row": ["zigma zigzag"], "against": ["zigma raster"]}},
    "margin": {"val-loss": {"difference": 0.1, "reason": "an equal gain by more images"}}, "alpha": 0.05, "power": 0.8,
    "tests_at_seeds": None, "draws": {"x": ["zigma *"]}, "scales": {"a": ["zigma *"], "b": ["zigma *"]},
    "multiplier": {"metric": "val-loss", "fit": "interpolation", "arms": {"a": ["zigma *"], "b": ["* raster"]},
                   "against": "a"},
}  # fmt: skip


def test_mutated_tests_of_a_study(results, tmp_path):
    """The declaration, the seeds and the values of a run with three seeds."""
    table, codes = json.loads((results / "table.json").read_text()), Counter()
    folder = tmp_path / "toy" / "main"
    shutil.copytree(results, folder)
    for seed in range(FIRST, FIRST + COUNT):
        draw = random.Random(seed)
        made = mutated_document({"statistics": DECLARED, "content": table["content"]}, draw)
        text = as_json({**table, **made}) if isinstance(made, dict) else None
        (folder / "table.json").write_text(text or "{", errors="replace")
        try:
            codes[ended(functools.partial(reported, folder, []))] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    print("tests of a study:", dict(codes))
    assert set(codes) <= {0, 2, 4} and codes[4] > COUNT / 8 and codes[0] > COUNT / 40


def test_mutated_packed_records(results, tmp_path):
    """Bytes of the compressed file, its lines, and one of its documents."""
    folder, codes = tmp_path / "toy" / "main", Counter()
    shutil.copytree(results, folder)
    pack_run(folder, remove=True)
    data = (folder / PACKED).read_bytes()
    lines = gzip.decompress(data).decode().splitlines()
    for seed in range(FIRST, FIRST + COUNT):
        draw = random.Random(seed)
        if seed % 3 == 0:
            made = bytearray(data)
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
        elif seed % 3 == 1:
            made = gzip.compress(mutated_text("\n".join(lines), draw).encode("utf-8", "surrogatepass"))
        else:
            at = draw.randrange(len(lines))
            other = as_json(mutated_document(json.loads(lines[at]), draw)) or "[" * 9999
            made = gzip.compress("\n".join([*lines[:at], other, *lines[at + 1 :]]).encode("utf-8", "surrogatepass"))
        (folder / PACKED).write_bytes(made)
        try:
            codes[ended(functools.partial(reported, folder, []))] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    print("packed records:", dict(codes))
    assert set(codes) <= {0, 4}
