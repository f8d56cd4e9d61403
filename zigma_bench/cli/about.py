"""The commands `doctor` and `schema`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def doctor(as_json: AsJson = False) -> None:
    """Print versions, devices, kernels, weights and plugins.

    Includes plugins that can't be loaded, with the reason.
    """
    from zigma_bench.run.doctor import examine_installation

    found = examine_installation()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for part, facts in found.items():
        print(part)
        together: dict[str, list[str]] = {}  # metrics of one extractor miss the same file
        for name, value in facts.items():
            together.setdefault(str(value) if part == "metrics" else name, []).append(name)
        for names in together.values():
            print(f"  {', '.join(names)}: {facts[names[0]]}")


def schema() -> None:
    """Print the JSON schema of a suite."""
    from zigma_bench.suite import Suite

    document: dict[str, Any] = Suite.model_json_schema()
    print(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **document}, indent=1))
