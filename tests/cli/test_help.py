"""The help explains every command with an example, completion works, and errors can be read."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from zigma_bench.cli.app import app
from zigma_bench.cli.help import PANELS
from zigma_bench.errors import NotReady, UnknownName

WIDEST = 62  # characters of a first sentence, so that a list of commands fits 80 columns


def commands(command: Any = None, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    command = command or typer.main.get_command(app)
    children = getattr(command, "commands", {})
    if not children:
        yield name, command
    for child, found in children.items():
        yield from commands(found, (*name, child))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zigma_bench", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(("name", "command"), [pytest.param(*one, id="-".join(one[0])) for one in commands()])
def test_the_help_of_a_command(name, command):
    """A short first sentence, and examples of this command whose options exist."""
    first = command.help.split("\n\n")[0]
    assert len(first) <= WIDEST and first.endswith("."), first
    examples = command.epilog.replace("\\[", "[").split("\n\n")[1:]
    assert examples
    known = {flag for one in command.params for flag in one.opts}
    for example in examples:
        dollar, program, *words = shlex.split(example)
        assert (dollar, program, *words[: len(name)]) == ("$", "zigma-bench", *name)
        assert {word for word in words if word.startswith("--")} <= known
    assert all(getattr(one, "help", "--help") for one in command.params), "an option without help"


def test_the_list_of_commands_fits_a_terminal():
    shown = run("-h", COLUMNS="80").stdout
    assert [found for found in re.findall(r"─ ([\w ]+) ─", shown) if found != "Options"] == list(PANELS)
    top = typer.main.get_command(app)
    for name, command in top.commands.items():
        assert re.search(rf"│ {name} +{re.escape(command.help.split(chr(10))[0])} *│", shown), name


@pytest.mark.parametrize("kind", ["suites", "scans", "backbones", "mixers", "data", "metrics", "plugins"])
def test_every_kind_is_listed(kind, root, monkeypatch):
    monkeypatch.chdir(root)
    listed, documents = run(kind, "list"), run(kind, "list", "--json")
    assert listed.returncode == documents.returncode == 0, listed.stderr + documents.stderr
    found = json.loads(documents.stdout)
    names = [one["name"] for one in (found if isinstance(found, list) else found[kind])]
    assert len(names) > 2 or kind == "plugins"
    assert all(re.search(rf"^{re.escape(name)} ", listed.stdout, re.MULTILINE) for name in names)


def test_a_suite_that_can_not_be_read_is_named(tmp_path):
    (tmp_path / "good.yaml").write_text(
        "# Is it?\nname: good\nefficiency: {tokens: [16]}\ncompare: [{backbone: dit}]\n"
    )
    (tmp_path / "bad.yaml").write_text("name: bad\nnme: 3\n")
    done = run("suites", "list", str(tmp_path))
    assert done.returncode == 2
    assert "good (" in done.stdout
    assert re.search(r"1 suites can't be read\n  - .*bad.yaml", done.stderr), done.stderr


def test_the_shell_completes_commands():
    code = "import sys; sys.argv[0] = 'zigma-bench'; from zigma_bench.__main__ import main; main()"
    words = {"_ZIGMA_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": "zigma-bench sc", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert set(done.stdout.split()) == {"scans", "schema"}, done.stderr


def test_an_unknown_name_lists_the_nearest_first_and_counts_the_rest():
    names = [f"scan-{number}" for number in range(30)] + ["zigzag"]
    text = str(UnknownName("scan", "zigzga", names))
    assert re.search(r"expected one of zigzag, .*, \.\.\. \(31 in all\); did you mean 'zigzag'\?", text)
    assert str(UnknownName("scan", "b", ["a", "c"])).endswith("expected one of a, c")


def test_several_problems_are_a_list():
    error = NotReady("2 things are missing", where="suite.yaml", problems=("a: get it", "b: get it"))
    assert error.lines() == ["suite.yaml: 2 things are missing", "- a: get it", "- b: get it"]
    assert str(error) == "suite.yaml: 2 things are missing; a: get it; b: get it"


def test_a_terminal_gets_wrapped_errors():
    """Between words, within its width; a file gets one line."""
    words = ["scans", "show", "nothing-like-a-scan"]
    assert run(*words).stderr.count("\n") == 1
    leader, follower = pty.openpty()
    command = f"stty cols 60 && exec {shlex.join([sys.executable, '-m', 'zigma_bench', *words])}"
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with subprocess.Popen(
        ["sh", "-c", command], stdin=follower, stdout=subprocess.DEVNULL, stderr=follower, env=environment
    ) as process:
        process.wait()
    text = os.read(leader, 10_000).decode()
    os.close(leader)
    os.close(follower)
    assert text.count("\n") > 1
    assert max(map(len, text.splitlines())) <= 60
    assert " ".join(text.split()) == " ".join(run(*words).stderr.split())
