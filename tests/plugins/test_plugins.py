"""Plugins: either loaded completely or set aside by name, whatever they do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from zigma_bench import hookimpl
from zigma_bench.errors import UnknownName
from zigma_bench.plugins.discovery import Catalogue, _add, catalogue
from zigma_bench.plugins.files import FOLDERS, take_option


def module(**functions) -> ModuleType:
    made = ModuleType("made")
    for name, function in functions.items():
        setattr(made, name, hookimpl(function))
    return made


def order(grid):
    """The raster order."""
    return list(range(grid.tokens))


def load(plugin_or_error) -> Catalogue:
    found = Catalogue()

    def loader():
        if isinstance(plugin_or_error, BaseException):
            raise plugin_or_error
        return plugin_or_error

    _add(found, "mine", "my-dist 1.0", loader)
    return found


def test_the_built_ins_come_in_through_the_hooks():
    found = catalogue()
    assert {"raster", "sweep", "zigzag", "bidirectional"} <= {spec.name for spec in found.scans}
    assert {"zigma", "vision-mamba", "dit"} <= {spec.name for spec in found.backbones}
    assert {"digits", "huggingface", "faceshq"} <= {spec.name for spec in found.datasets}
    assert {"val-loss", "fd-efflite0", "kid-efflite0", "fid"} <= {spec.name for spec in found.metrics}
    assert {p.name for p in found.plugins} >= {"scans", "backbones", "data", "metrics", "reports"}


def test_a_good_plugin_registers():
    found = load(module(register_scans=lambda register: register("mine", order)))
    assert found.problems == []
    assert found.scans.get("mine").owner == "my-dist 1.0"
    assert found.scans.get("mine").doc == "The raster order."


def with_positional(grid, paths):
    """Takes an option before the star."""


def without_type(grid, *, paths=3):
    """Has an option without a type."""


def reserved(grid, *, seed: int = 0):
    """Names a reserved argument as an option."""


def undocumented(grid):
    return None


def wrong_default(grid, *, flip: bool = "yes"):
    """Has a default of another type."""


def odd_type(grid, *, by: ModuleType | None = None):
    """Has an option that no suite can give."""


def twice(register):
    register("p", order)
    register("p", order)


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (ImportError("no module named foo"), ["ImportError", "foo"]),
        (SyntaxError("bad"), ["SyntaxError"]),
        (
            module(register_scan=lambda register: None),
            ["'register_scan' is not a hook", "did you mean 'register_scans'"],
        ),
        (ModuleType("empty"), ["no function marked with zigma_bench.hookimpl"]),
        (module(register_scans=lambda register: 1 / 0), ["ZeroDivisionError"]),
        (module(register_scans=lambda register: register("a/b", order)), ["'a/b'", "letters, digits"]),
        (module(register_scans=lambda register: register("p", with_positional)), ["has an argument 'paths'"]),
        (module(register_scans=lambda register: register("p", without_type)), ["no type annotation"]),
        (module(register_scans=lambda register: register("p", reserved)), ["reserved name 'seed'"]),
        (module(register_scans=lambda register: register("p", undocumented)), ["no docstring"]),
        (module(register_scans=lambda register: register("p", wrong_default)), ["not of its type", "true or", "'yes'"]),
        (
            module(register_scans=lambda register: register("p", odd_type)),
            ["'by'", "a suite can't express", "expected"],
        ),
        (module(register_scans=twice), ["registers the scan 'p' twice", "remove one"]),
    ],
)
def test_a_broken_plugin_is_set_aside_with_the_reason(plugin, words):
    found = load(plugin)
    (problem,) = found.problems
    assert (problem.name, problem.owner, found.plugins, len(found.scans)) == ("mine", "my-dist 1.0", [], 0)
    for word in words:
        assert word in problem.reason


def test_all_or_nothing():
    def half(register):
        register("good", order)
        register("bad", undocumented)

    found = load(module(register_scans=half))
    assert "good" not in found.scans
    with pytest.raises(UnknownName, match="no scan is called 'good'") as caught:
        found.get("scan", "good")
    assert "mine (my-dist 1.0)" in str(caught.value)


def test_a_duplicate_name_shows_both_owners():
    found = load(module(register_scans=lambda register: register("mine", order)))
    _add(found, "other", "other-dist 2.0", lambda: module(register_scans=lambda register: register("mine", order)))
    (problem,) = found.problems
    assert "other-dist 2.0" in problem.reason
    assert "my-dist 1.0" in problem.reason
    assert found.scans.get("mine").owner == "my-dist 1.0"


def test_a_distribution_that_breaks_does_not_take_the_program_down(tmp_path):
    """A real entry point whose module can't be imported: set aside with one line, and named by `plugins list`."""
    info = tmp_path / "broken_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zigma_bench]\nbroken = broken_module\n")
    (tmp_path / "broken_module.py").write_text("import no_such_thing\n")
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ["zigma-bench", "plugins", "list"]
        from zigma_bench.__main__ import main
        main()
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    place = f"{tmp_path / 'broken_module.py'}:1"
    reason = (
        f"{place}: ModuleNotFoundError: No module named 'no_such_thing'; install what it imports, or fix the import"
    )
    assert f"broken (broken-dist 1.0): SET ASIDE: {reason}" in done.stdout
    assert done.stderr.count("set aside") == 1
    narrowed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"ZIGMA_BENCH_PLUGINS": "", "PATH": ""}
    )
    assert "broken" not in narrowed.stdout
    assert narrowed.stderr == ""


GOOD = """
import numpy as np
from zigma_bench import hookimpl


def columns(grid):
    "Column by column."
    return {path}


@hookimpl
def register_scans(register):
    register("columns", columns)
"""
COLUMNS = GOOD.format(path="np.arange(grid.tokens).reshape(-1, grid.width).T.reshape(-1)")


def cli(folder, *words, **environment) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "zigma_bench", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=given)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("mine.py", "x = 1\nimport no_such_thing\n", ["mine.py:2: ModuleNotFoundError", "install what it imports"]),
        ("mine.py", "x = 1\n1 / 0\n", ["mine.py:2: ZeroDivisionError: division by zero; fix the plugin"]),
        ("mine.py", "def f(:\n", ["mine.py:1: SyntaxError", "fix the line"]),
        (
            "mine.py",
            COLUMNS.replace('register("columns', '1 / 0, register("columns'),
            ["mine.py:13: Zero"],
        ),
        (
            "mine.py",
            COLUMNS.replace("register_scans", "register_scan"),
            ["mine.py:11:", "mean 'register_scans'?"],
        ),
        ("mine.py", COLUMNS.replace("@hookimpl\n", ""), ["mine.py:11: 'register_scans' is not marked", "put @zigma"]),
        (
            "mine.py",
            COLUMNS.replace('"columns"', '"raster"'),
            ["'raster' of mine.py sha256:", "by zigma-bench"],
        ),
        ("mine.py", COLUMNS.replace("(grid)", "(grid, *, by: int = 'x')"), ["mine.py:13", "whole number; got 'x'"]),
        ("mine.py", "x = 1\n", ["mine.py: the plugin has no function marked with zigma_bench.hookimpl"]),
        ("json.py", COLUMNS, ["the name 'json' is taken by the module json of Python itself; rename the file"]),
        ("numpy.py", COLUMNS, ["the name 'numpy' is taken by the module", "rename the file"]),
        ("my-scan.py", COLUMNS, ["is not a valid module name", "got 'my-scan.py'; rename the file"]),
        ("mine.py", "raise SystemExit(3)\n", ["mine.py:1: SystemExit: 3"]),
    ],
)
def test_a_broken_file_is_set_aside_and_the_rest_continues(file, text, words, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / file).write_text(text)
    (tmp_path / "plugins" / "other.py").write_text(COLUMNS.replace('"columns"', '"other"'))
    (tmp_path / "plugins" / "_helper.py").write_text("1 / 0\n")
    done = cli(tmp_path, "plugins", "list", "--plugins", "plugins")
    assert done.returncode == 0, done.stderr
    assert "other (other.py sha256:" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "SET ASIDE" in line]
    assert line.startswith(f"{Path(file).stem} ({file} sha256:")
    for word in words:
        assert word in line
    assert line.partition("SET ASIDE: ")[2] in done.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "np.zeros(grid.tokens, int)",
            ["step 1 visits token 0 again", "token 1 is never visited", "no token twice"],
        ),
        ("np.arange(grid.tokens - 1)", ["it has 5 steps for 6 tokens; token 5 is never visited"]),
        ("np.arange(grid.tokens + 1)", ["step 6 visits token 6, outside 0 to 5"]),
        (
            "np.arange(grid.tokens) * 1.0",
            ["step 0 is 0.0, not an integer", "got 'float64'", "such as those of np.arange"],
        ),
        ("np.arange(grid.tokens)[None, None]", ["wrong shape", "(1, 1, 6)"]),
        ("1 / 0", ["ZeroDivisionError", "fix the scan", f"(raised at plugins{os.sep}columns.py:8)"]),
    ],
)
def test_a_scan_that_gives_no_order_is_refused_by_name(path, words, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "columns.py").write_text(GOOD.format(path=path))
    done = cli(tmp_path, "scans", "show", "columns", "--grid", "2x3", "--plugins=plugins")
    assert done.returncode == 3, done.stderr
    assert "scan 'columns' of columns.py sha256:" in done.stderr
    assert "layer 0" in done.stderr
    for word in words:
        assert word in done.stderr


def test_an_option_of_a_wrong_type_in_a_suite(tmp_path, write_suite):
    (tmp_path / "columns.py").write_text(COLUMNS.replace("(grid)", "(grid, *, by: int = 1)"))
    suite = write_suite(("raster", "{name: columns, by: two}"))
    done = cli(tmp_path, "plan", str(suite), "--plugins", ".")
    assert done.returncode == 2
    assert "suite.yaml:6, key compare.0.scans.0: option 'by' has a wrong value; expected whole" in done.stderr


def test_a_changed_file_is_another_plugin(tmp_path, write_suite):
    (tmp_path / "columns.py").write_text(COLUMNS)
    suite = write_suite(("raster", "columns"))

    def cells():
        return json.loads(cli(tmp_path, "plan", str(suite), "--json", "--plugins", ".").stdout)["cells"]

    first = cells()[0]
    digest = hashlib.sha256(COLUMNS.encode()).hexdigest()[:12]
    assert first["scan"]["owner"] == f"columns.py sha256:{digest}"
    (tmp_path / "columns.py").write_text(COLUMNS + "# a word\n")
    second = cells()[0]
    assert first["identity"]["train"] != second["identity"]["train"]
    assert not (tmp_path / "__pycache__").exists()


def test_a_cell_loads_the_file_in_its_own_process(tmp_path, write_suite):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "columns.py").write_text(COLUMNS)
    suite = write_suite(("raster", "columns"), ("[0, 1]", "[0]"), ("quality: [val-loss]", "quality: []"))
    done = cli(tmp_path, "--plugins=plugins", "train", str(suite), "--only", "columns")
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("results/tiny/*/zigma-columns-*/train-*/record.json")
    assert "columns.py sha256:" in record.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--plugins", "nowhere", "plugins", "list"], "--plugins: there is no such folder of plugins"),
        (["plugins", "list", "--plugins"], "--plugins needs a folder"),
        (["plugins", "list", "--plugins=file"], "expected a folder; got 'a file'"),
        (["--plugins=", "plugins", "list"], "there is no such folder of plugins"),
    ],
)
def test_a_folder_that_is_not_there(words, told, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(tmp_path, *words)
    assert done.returncode == 2
    assert told in done.stderr.replace(f"'{tmp_path}{os.sep}", "'")


def test_a_folder_of_the_environment_that_is_not_there(tmp_path):
    done = cli(tmp_path, "plugins", "list", ZIGMA_BENCH_PLUGIN_FOLDER=str(tmp_path / "gone"))
    assert done.returncode == 2
    assert "ZIGMA_BENCH_PLUGIN_FOLDER: there is no such folder" in done.stderr


def test_two_folders_narrowed_and_listed_by_the_doctor(tmp_path):
    for name, text in (("a", COLUMNS), ("b", COLUMNS.replace('"columns"', '"others"'))):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in_{name}.py").write_text(text)
    (tmp_path / "b" / "in_a.py").write_text(COLUMNS)
    words = ["--plugins", "a", "plugins", "list", "--plugins", "b"]
    both = cli(tmp_path, *words)
    assert "in_b (in_b.py" in both.stdout
    assert f"the name 'in_a' is taken by the module {tmp_path / 'a' / 'in_a.py'}" in both.stdout
    one = cli(tmp_path, *words, ZIGMA_BENCH_PLUGINS="in_b")
    assert "in_b (in_b.py" in one.stdout
    assert "in_a" not in one.stdout + one.stderr
    none = cli(tmp_path, *words, ZIGMA_BENCH_PLUGINS="in_c")
    assert none.returncode == 2
    assert "no plugin is called 'in_c'" in none.stderr
    doctor = json.loads(cli(tmp_path, "doctor", "--json", "--plugins", "a", "--plugins", "b").stdout)
    assert "mixers" in doctor
    assert [state for name, state in doctor["plugins"].items() if name.startswith("in_b")] == ["scan others"]
    assert any(state.startswith("SET ASIDE") for name, state in doctor["plugins"].items() if name.startswith("in_a"))


def test_the_option_is_removed_at_any_position(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDERS, "")
    monkeypatch.chdir(tmp_path)
    assert take_option(["run", "--plugins", ".", "x", "--", "--plugins", "y"]) == ["run", "x", "--", "--plugins", "y"]
    assert os.environ[FOLDERS] == str(tmp_path)
    take_option([f"--plugins={tmp_path}"])
    assert os.environ[FOLDERS] == str(tmp_path)
