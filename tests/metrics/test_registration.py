"""The facts of the metrics, without heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zigma_bench.errors import UsageError
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.testing import check_metric

OTHERS = ("efflite0", "efflite2", "dinov2", "clip")
COVERS = ("precision", "recall", "density", "coverage")
NAMES = {"val-loss", "fid", "fid-infinity", "kid", "is", *COVERS}
NAMES |= {f"{kind}-{other}" for other in OTHERS for kind in ("fd", "kid", *COVERS)}
NAMES |= {f"fd-{other}-infinity" for other in OTHERS}
NAMES |= {"frame-fid", "frame-kid", "frame-fd-efflite0", "frame-kid-efflite0", "fvd"}
NAMES |= {f"frame-{kind}-{other}" for kind in ("fd", "kid") for other in ("efflite2", "dinov2", "clip")}
HIGHER = {name for name in NAMES if name == "is" or name.split("-")[0] in COVERS}


def test_the_metrics_are_registered_and_load():
    specs = {spec.name: spec for spec in catalogue().metrics if spec.owner == "zigma-bench"}
    assert set(specs) == NAMES
    for spec in specs.values():
        assert callable(spec.load())
        assert spec.facts.better == ("higher" if spec.name in HIGHER else "lower")
        assert spec.make_options(spec.resolve({}, where="here")) == spec.options_class()


def test_they_are_listed_without_torch():
    code = (
        "import sys; from zigma_bench.plugins.discovery import catalogue;"
        "ours = [m for m in catalogue().metrics if m.owner == 'zigma-bench'];"
        "facts = [(m.facts.missing(m.options_class()), m.facts.minimum_images(m.options_class())) for m in ours];"
        "assert len(facts) > 40;"
        "heavy = {'torch', 'torch_fidelity', 'scipy', 'pandas', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["fd", "kid", "precision", "recall", "density", "coverage"])
def test_each_passes_what_plugins_are_checked_by(kind):
    assert check_metric(f"{kind}-efflite0").ok


def test_the_second_extractor_passes_too():
    assert check_metric("kid-efflite2").ok


@pytest.mark.parametrize(
    ("name", "options"),
    [("val-loss", {"images": 0}), ("fd-efflite0", {"size": 96}), ("fid", {"weights": 3}), ("kid", {"weight": "x"})],
)
def test_wrong_options_are_usage_errors(name, options):
    with pytest.raises(UsageError):
        catalogue().get("metric", name).resolve(options, where="quality")
