"""The facts of the registered data sources."""

from __future__ import annotations

from typing import Any

from zigma_bench import data
from zigma_bench.plugins.registry import Spec, target_spec


def specs() -> dict[str, Spec]:
    found: dict[str, Spec] = {}

    def register(name: str, target: str, **rest: Any) -> None:
        found[name] = target_spec("dataset", name, target, owner="test", **rest)

    data.register_datasets(register)
    return found


def test_all_sources_load_and_describe_themselves() -> None:
    found = specs()
    assert sorted(found) == [
        "coco", "digits", "faceshq", "gaussian-random-field", "huggingface", "mm-celeba", "moving-digits", "ucf101",
    ]  # fmt: skip
    given = {"huggingface": {"path": "parquet", "resolution": 8, "data_files": "absent.parquet", "validation": 1}}
    given["gaussian-random-field"] = {"slope": 2.0}
    for name, spec in found.items():
        options = spec.make_options(spec.resolve(given.get(name, {}), where="test"))
        facts = spec.facts.describe(options)
        held_out = {"coco": 40_504, "ucf101": None}.get(name, getattr(options, "validation", None))
        assert len(facts.fingerprint) == 64 and facts.held_out == held_out
        assert callable(spec.load())


def test_the_digits_of_the_registry_are_as_described() -> None:
    spec = specs()["digits"]
    options = spec.make_options(spec.resolve({"validation": 7}, where="test"))
    assert len(spec.load()(options).validation) == 7
