"""Which run a command belongs to, the name of a new run, and valid names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from zigma_bench.errors import NewerFormat, UsageError
from zigma_bench.records.runs import ExistingRun, RunOptions, choose_run, find_differences, find_runs, get_run
from zigma_bench.records.table_file import TableFile, read_table_file, write_table_file

SUITE = {"name": "toy", "budget": {"images": 5}, "compare": [{"scans": [{"name": "raster"}]}]}


def asked(*settings: str, smoke: bool = False, **content: object) -> RunOptions:
    return RunOptions({**SUITE, **content}, settings, smoke)


def table(name: str, options: RunOptions, *, updated: int = 0) -> TableFile:
    return TableFile(
        format=1, suite="toy", run=name, created="2026-11-30T00:00:00.000000Z",
        updated=f"2026-11-30T00:00:{updated:02}.000000Z", options=list(options.settings),
        suite_sha256=hashlib.sha256(b"").hexdigest(), content=dict(options.content), question="", smoke=options.smoke,
        budget={"images": 5}, reference="train", sample_count=9, residual=[],
        baseline={"backbone": None, "scan": None}, cells=[],
    )  # fmt: skip


def run(name: str, options: RunOptions, **rest: int) -> ExistingRun:
    return ExistingRun(Path("results/toy") / name, table(name, options, **rest))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (asked(), "main"),
        (asked(smoke=True), "smoke"),
        (asked("train.learning_rate=1e-4", train={"learning_rate": 1e-4}), "learning_rate-1e-4"),
        (asked("seeds.1=7", seeds=[0, 7]), "seeds-7"),
        (asked("compare.0.scans=[raster, zigzag]", seeds=[1]), "scans-raster-zigzag"),
        (asked("a.b=1", "a.c=x/../y", seeds=[1]), "b-1-c-x-..-y"),
        (asked("a.b=1", smoke=True, seeds=[1]), "smoke-b-1"),
    ],
)
def test_a_new_run_is_named_by_what_distinguishes_it(options: RunOptions, name: str) -> None:
    chosen = choose_run([], options)
    assert (chosen.name, chosen.options, chosen.existing) == (name, options.settings, None)


def test_the_same_options_find_their_run_again() -> None:
    main, other = run("main", asked()), run("lr-3", asked("train.lr=3", train={"lr": 3}))
    assert choose_run([main, other], asked()).existing == main
    assert choose_run([main, other], asked("lr=3", train={"lr": 3})).existing == other  # however they are written
    assert choose_run([main, other], asked(smoke=True)).existing is None
    assert choose_run([main, other], asked(), "main").existing == main


def test_an_edited_suite_is_another_run_that_says_what_was_edited() -> None:
    chosen = choose_run([run("main", asked())], asked(budget={"images": 320}))
    assert (chosen.name, chosen.options) == ("images-320", ("budget.images=320",))
    chosen = choose_run([run("main", asked(seeds=[0, 1]))], asked())
    assert (chosen.name, chosen.options) == ("seeds-default", ("seeds=default",))


def test_two_runs_never_get_one_name() -> None:
    first = run("images-320", asked("budget.images=320", budget={"images": 320}))
    second = choose_run([first], asked("sample.images=320", sample={"images": 320}))
    assert second.name.startswith("images-320-") and len(second.name) == len("images-320-") + 8
    long = [choose_run([], asked(f"data.path={'x' * 90}{end}", seeds=[end])).name for end in (1, 2)]
    assert long[0] != long[1] and all(len(name) < 64 and name.startswith("path-") for name in long)


def test_a_taken_name_is_refused_with_what_differs() -> None:
    with pytest.raises(UsageError, match=r"budget.images is 5 in the run and 320 now; choose another name") as caught:
        choose_run([run("main", asked())], asked(budget={"images": 320}), "main")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="smoke is false in the run and true now"):
        choose_run([run("main", asked())], asked(smoke=True), "main")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\n", "x" * 65, "ä"])
def test_a_name_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(UsageError, match="can't be the name of a run"):
        choose_run([], asked(), name)
    with pytest.raises(UsageError, match="can't be the name of a run"):
        get_run([], name, Path("results/toy"))


def test_differences_name_the_keys() -> None:
    old = {"a": 1, "b": {"c": [1, {"d": 2}]}, "e": [1]}
    new = {"a": 1, "b": {"c": [1, {"d": 3}]}, "e": [1, 2], "f": None, "g": "x"}
    assert find_differences(old, new) == [("b.c.1.d", 2, 3), ("e", [1], [1, 2]), ("g", None, "x")]
    assert find_differences(old, old) == []


def test_the_latest_run_is_the_one_that_worked_last(tmp_path: Path) -> None:
    """By the recorded time: what a copy or a checkout does to the times of files doesn't matter."""
    for name, second in (("b", 1), ("a", 2), ("c", 0)):
        write_table_file(tmp_path / name, table(name, asked(), updated=second))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "table.json").write_text('{"format": 1')
    (tmp_path / "empty").mkdir()
    runs, broken = find_runs(tmp_path)
    assert [run.name for run in runs] == ["c", "b", "a"]
    assert list(broken) == [tmp_path / "torn"] and "this is not a table file" in broken[tmp_path / "torn"]
    (tmp_path / "torn" / "table.json").write_text('{"format": 2}')
    with pytest.raises(NewerFormat, match="expected format 1; got 2"):
        find_runs(tmp_path)


def test_a_table_file_comes_back(tmp_path: Path) -> None:
    made = table("main", asked("a.b=1", seeds=[1, 2.5, None]))
    write_table_file(tmp_path, made)
    assert read_table_file(tmp_path) == made
    assert type(made.budget["images"]) is int  # 102,400 images, not 102,400.0
    assert read_table_file(tmp_path / "nowhere") is None
