"""The repository: lint, types, layers, plans of suites, commands of the README, fast commands without torch."""

from __future__ import annotations

import json
import re
import shlex
import shutil
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
    "words", [["--version"], ["scans", "list"], ["backbones", "list"], ["plugins", "list"], ["--help"]]
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


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("zigma-bench")]


@pytest.fixture(scope="module")
def quick_results(tmp_path_factory, quickstart):
    """A folder in which the quickstart has been run, at toy scale."""
    return shutil.copytree(quickstart / "results", tmp_path_factory.mktemp("readme") / "results")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that the README's commands need: a released checkpoint (tiny), a model, photographs."""
    import numpy as np
    import torch
    from PIL import Image

    from zigma_bench.backbones.official import import_checkpoint
    from zigma_bench.backbones.official.dit import build_dit

    place = tmp_path_factory.mktemp("files")
    config = {"input_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 4}
    weights = {item.name: torch.zeros(item.shape) for item in build_dit(config, backend="torch").layout}
    torch.save(weights, place / "DiT-XL-2-256x256.pt")
    import_checkpoint("dit", place / "DiT-XL-2-256x256.pt", config, place / "models" / "dit")
    (place / "photos").mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8), 60 * index, np.uint8)).save(place / "photos" / f"{index}.png")
    return place, [word for key, value in config.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_run(command, quick_results, files):
    """As written, except that `run` is a smoke run, the checkpoint is tiny and results are in a temporary folder."""
    words = shlex.split(command)
    if words[1] == "run":
        words = [w for w in words if w not in ("--smoke", "--results", "elsewhere")]
        words += ["--smoke", "--results", str(quick_results)]
    if words[1] == "bench" or words[1] == "quality":
        words += ["--results", str(quick_results)]
    if words[1] in ("import", "sample", "quality"):
        words = [str(files[0] / w) if (files[0] / w).exists() else w for w in words]
    if words[1] in ("import", "sample"):
        words[words.index("--out") + 1] = str(quick_results / words[1])
    if "--save-statistics" in words:
        words[words.index("--save-statistics") + 1] = str(quick_results / "statistics.npz")
    if words[1] == "import":
        words += files[1]
    words = [w.replace("results/quickstart", str(quick_results / "quickstart")) for w in words]
    done = run(str(BIN / words[0]), *words[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_suite_plans(tmp_path):
    (suite,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(suite)
    done = run(str(BIN / "zigma-bench"), "plan", str(tmp_path / "example.yaml"))
    assert done.returncode == 0, done.stderr


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
