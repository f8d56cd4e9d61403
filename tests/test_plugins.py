"""Plugins: taken whole or set aside by name, whatever they do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

from zigma_bench import hookimpl
from zigma_bench.errors import UnknownName
from zigma_bench.plugins import Catalogue, _add, catalogue


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
    assert {p.name for p in found.plugins} >= {"scans", "models", "data", "metrics"}


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


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (ImportError("no module named foo"), ["ImportError", "foo"]),
        (SyntaxError("bad"), ["SyntaxError"]),
        (module(register_scan=lambda register: None), ["'register_scan' is no hook", "did you mean 'register_scans'"]),
        (ModuleType("empty"), ["no function marked with zigma_bench.hookimpl"]),
        (module(register_scans=lambda register: 1 / 0), ["ZeroDivisionError"]),
        (module(register_scans=lambda register: register("a/b", order)), ["'a/b'", "letters, digits"]),
        (module(register_scans=lambda register: register("p", with_positional)), ["takes an argument 'paths'"]),
        (module(register_scans=lambda register: register("p", without_type)), ["no type annotation"]),
        (module(register_scans=lambda register: register("p", reserved)), ["reserved name 'seed'"]),
        (module(register_scans=lambda register: register("p", undocumented)), ["no docstring"]),
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
    assert "broken (broken-dist 1.0): SET ASIDE: ModuleNotFoundError: No module named 'no_such_thing'" in done.stdout
    assert done.stderr.count("set aside") == 1
    narrowed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"ZIGMA_BENCH_PLUGINS": "", "PATH": ""}
    )
    assert "broken" not in narrowed.stdout
    assert narrowed.stderr == ""
