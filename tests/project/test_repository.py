"""The repository: lint, types, layers, plans of suites, commands of the README, fast commands without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*words: str, **rest) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, **rest)


@pytest.mark.parametrize(
    "words",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
    ],
    ids=lambda words: " ".join(words),
)
def test_is_clean(words):
    done = run(str(BIN / words[0]), *words[1:])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["scans", "list"],
        ["backbones", "list"],
        ["plugins", "list"],
        ["--help"],
        ["gc"],
        ["status", "results/emoji"],
    ],
)
def test_lists_answer_without_torch(words):
    code = (
        f"import sys; sys.argv = ['zigma-bench', *{words!r}]\n"
        "from zigma_bench.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert not error.code\n"
        "heavy = {'torch', 'pandas', 'datasets', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suite", sorted((ROOT / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_plans_and_asks_a_question(suite):
    done = run(str(BIN / "zigma-bench"), "plan", str(suite.relative_to(ROOT)))
    assert done.returncode in (0, 3), done.stderr
    assert suite.read_text().startswith("# ")
    assert suite.read_text().splitlines()[0].endswith("?")
    if done.returncode == 3:
        assert "can't run" in done.stderr


def test_every_suite_fits_the_printed_schema():
    import jsonschema
    import yaml

    schema = json.loads(run(str(BIN / "zigma-bench"), "schema").stdout)
    for path in (ROOT / "suites").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x", "nme": 1}, schema)


def test_the_setup_commands_are_the_ones_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    first, second = (re.search(rf"<!-- {name} -->\n```sh\n(.+)\n```", text).group(1) for name in ("run", "tests"))
    assert first.endswith("zigma-bench run suites/quickstart.yaml")
    assert second.endswith("python -m pytest")
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()


def test_the_package_names_its_version_once():
    import zigma_bench

    assert zigma_bench.__all__ == sorted(zigma_bench.__all__)
    assert f"## {zigma_bench.__version__}" in (ROOT / "CHANGELOG.md").read_text()
