"""What the metrics say of themselves before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plugins import catalogue

NAMES = {"val-loss", "fd-efflite0", "kid-efflite0", "fid", "kid"}
NAMES |= {"frame-fid", "frame-fd-efflite0", "frame-kid-efflite0", "fvd"}


def test_the_metrics_are_registered_and_load():
    specs = {spec.name: spec for spec in catalogue().metrics if spec.owner == "zigma-bench"}
    assert set(specs) == NAMES
    for spec in specs.values():
        assert callable(spec.load())
        assert spec.facts.better == "lower"
        assert spec.make_options(spec.resolve({}, where="here")) == spec.options_class()


def test_they_are_listed_without_torch():
    code = (
        "import sys; from zigma_bench import metrics; from zigma_bench.metrics import options, weights;"
        "metrics.register_metrics(lambda name, target, options, facts, doc:"
        " (facts.missing(options()), facts.minimum_images(options())));"
        "heavy = {'torch', 'torch_fidelity', 'scipy', 'pandas', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("val-loss", {"images": 0}), ("fd-efflite0", {"size": 96}), ("fid", {"weights": 3}), ("kid", {"weight": "x"})],
)
def test_wrong_options_are_usage_errors(name, options):
    with pytest.raises(UsageError):
        catalogue().get("metric", name).resolve(options, where="quality")
