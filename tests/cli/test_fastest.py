"""What `fastest` prints, with a worker that answers from a formula."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from zigma_bench.bench.fastest import run as fastest_run
from zigma_bench.bench.fastest.search import Search
from zigma_bench.cli.app import app
from zigma_bench.errors import Interrupted, UsageError

UNSTABLE = "u-vit"


class Worker:
    """Answers jobs with times that are linear in the tokens for Mamba and quadratic for all other networks."""

    starts = 1

    def __init__(self, device, limit_bytes):
        self.limit_bytes = limit_bytes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, cell, seconds, most):
        label, tokens = cell["backbone_label"], cell["tokens"]
        if "torch" in label:
            return {"kind": "memory", "why_not": "it needs more than the memory limit of 1 GiB: 2 GiB", "ends": False}
        one = 1e-2 * (0.25 * tokens / 64 if "mamba" in label else (tokens / 256) ** 2) * cell["train"]["batch"]
        return {
            "seconds": [one * (1 + 0.01 * i) for i in range(8)], "first_call_seconds": one, "stable": label != UNSTABLE,
            "peak_bytes": 2**29, "parameters": 12_000_000, "attention": ["flash"] if "mamba" not in label else [],
        }  # fmt: skip


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(fastest_run, "WorkerProcess", Worker)

    def call(*words):
        return CliRunner().invoke(app, ["fastest", "--device", "cpu", *words], env={"COLUMNS": "200"})

    return call


def test_the_tables_and_everything_below_them(call):
    done = call("--tokens", "1024", "--memory", "1")
    assert done.exit_code == 0, done.output
    text = done.stdout
    assert "inference on" in text and "1,024 tokens (32x32), batch 1" in text
    assert "memory limit: 1.00 GiB" in text and "held equal: width 64" in text
    assert "attention baseline: dit" in text
    assert "zigma · mamba · cpu (eager) is faster than dit from about 256 tokens" in text
    assert "zigma · mamba · torch" in text and "it needs more than the memory limit of 1 GiB" in text
    assert "refused: backend fused" in text and "not on this device: graph" in text
    assert "draw no conclusion" in text and "gains less than 3%" in text
    keys = yaml.safe_load(text[text.index("# the best throughput") :])
    assert keys["compare"][0]["backbone"]["mixer"] == "mamba" and keys["backend"] == "cpu"


def test_one_document(call):
    done = call("--tokens", "1024", "--json", "--mode", "training", "--batch", "2")
    document = json.loads(done.stdout)
    assert document["mode"] == "training" and document["batch"] == 2
    first = document["ranking"][0]
    assert "mamba" in first["network"] and first["latency"][0]["batch"] == 2
    assert {row["network"] for row in document["controls"]} >= {"zigma · identity · cpu"}
    assert document["provenance"]["command"] and document["crossings"][0]["launch"] == "eager"
    assert yaml.safe_load(document["yaml"]["latency"])["train"]["batch"] == 2


def test_wrong_options(call):
    for words, reason in (
        (("--tokens", "64", "--mode", "both"), "inference or training"),
        ((), "--tokens, such as 4096"),
        (("--tokens", "65", "--grid", "8x8"), "--tokens and --grid differ"),
    ):
        error = call(*words).exception
        assert isinstance(error, UsageError) and reason in str(error)


def test_an_interruption_is_said(call, monkeypatch):
    def stop(search):
        raise KeyboardInterrupt

    monkeypatch.setattr(Search, "run", stop)
    assert isinstance(call("--tokens", "64").exception, Interrupted)
