"""The runs of a suite: which run a command belongs to, how a new run is named, and which run is the latest.

    RESULTS/<suite>/<run>/

A run is a suite with one set of options. Two commands belong to the same run if their suites are equal after settings
are applied and defaults are left out (`RunOptions.content`). So repeating a command finds its run again, and comments
in the suite's file don't matter. An edited suite, or other settings, make another run; the earlier run's table stays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import ComparisonRefused, NewerFormat, UsageError, names_near, nearest
from zigma_bench.escaping import shortened
from zigma_bench.records.table_file import TABLE, TableFile, read_table_file

MAIN, SMOKE = "main", "smoke"  # the names of the run without settings and of the smoke run
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
MOST_DERIVED = 40  # characters of a derived name before its hash
HASH_DIGITS = 8
MOST_VALUE = 60  # characters of a value in a message


@dataclass(frozen=True)
class RunOptions:
    """The options of a command: the suite with its settings, as JSON without defaults, and the settings as written."""

    content: Mapping[str, Any]
    settings: tuple[str, ...]
    smoke: bool

    def equals(self, table: TableFile) -> bool:
        """Whether an existing run has these options."""
        return self.smoke == table.smoke and self.content == table.content


@dataclass(frozen=True)
class ExistingRun:
    """A run of a suite that has a table file."""

    folder: Path
    table: TableFile

    @property
    def name(self) -> str:
        """The name of the run and of its folder."""
        return self.folder.name


@dataclass(frozen=True)
class ChosenRun:
    """The run that a command belongs to. `existing` is None for a new one.

    `options`: what distinguishes the run from the plain suite, as KEY=VALUE.
    """

    name: str
    options: tuple[str, ...]
    existing: ExistingRun | None

    def __str__(self) -> str:
        state = "new" if self.existing is None else f"started {self.existing.table.created[:16].replace('T', ' ')} UTC"
        return f"run: {self.name} ({'; '.join([state, *self.options])})"


def find_runs(suite_folder: Path) -> tuple[list[ExistingRun], dict[Path, str]]:
    """The runs of a suite, with the latest last, and the folders with an unreadable table file, each with the reason.

    NewerFormat for a table file of a later version.
    """
    runs, broken = list[ExistingRun](), dict[Path, str]()
    for path in sorted(suite_folder.glob(f"*/{TABLE}")):
        try:
            table = read_table_file(path.parent)
        except NewerFormat:
            raise
        except ComparisonRefused as error:
            broken[path.parent] = str(error)
            continue
        if table is not None:
            runs.append(ExistingRun(path.parent, table))
    runs.sort(key=lambda run: (run.table.updated, run.table.created, run.name))
    return runs, broken


def check_run_name(name: str) -> None:
    """UsageError for a name that can't be the folder of a run."""
    if not NAME_PATTERN.fullmatch(name):
        expected = "1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter, a digit or '_'"
        raise UsageError("this can't be the name of a run", where="--name", expected=expected, got=name)


def get_run(runs: Sequence[ExistingRun], name: str, where: Path) -> ExistingRun:
    """The run of this name; UsageError if it doesn't exist."""
    check_run_name(name)
    found = next((run for run in runs if run.name == name), None)
    if found is None:
        names = [run.name for run in runs]
        raise UsageError(
            "the suite has no run of this name",
            where=str(where),
            expected=f"one of {names_near(name, names) or '(no run)'}",
            got=name,
            nearest=nearest(name, names),
        )
    return found


def choose_run(runs: Sequence[ExistingRun], asked: RunOptions, name: str | None = None) -> ChosenRun:
    """The run that a command belongs to: the one called `name`; without a name, the one with equal options. If there is
    no such run, a new one.

    UsageError for a name that is not allowed, and for the name of a run with other options.
    """
    if name is not None:
        return _choose_named(runs, asked, name)
    same = [run for run in runs if asked.equals(run.table)]
    if same:
        return ChosenRun(same[-1].name, tuple(same[-1].table.options), same[-1])
    options = _options_of(runs, asked)
    return ChosenRun(_derive_name(runs, asked, options), options, None)


def _choose_named(runs: Sequence[ExistingRun], asked: RunOptions, name: str) -> ChosenRun:
    check_run_name(name)
    found = next((run for run in runs if run.name == name), None)
    if found is None:
        return ChosenRun(name, _options_of(runs, asked), None)
    if not asked.equals(found.table):
        raise UsageError(
            f"the run {name!r} has other options: {_explain_differences(found.table, asked)}", where=f"--name {name}",
            do="choose another name, or omit --name: the new run then gets its own name, and both runs stay",
        )  # fmt: skip
    return ChosenRun(name, tuple(found.table.options), found)


def _explain_differences(table: TableFile, asked: RunOptions) -> str:
    """The differences between a run and a command, for an error."""
    found = [
        f"{key} is {_value_text(old)} in the run and {_value_text(new)} now"
        for key, old, new in _compare_content(table, asked)
    ]
    rest = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + rest


def _value_text(value: object) -> str:
    return "the default" if value is None else shortened(_setting_value(value), MOST_VALUE)


def _compare_content(table: TableFile, asked: RunOptions) -> list[tuple[str, Any, Any]]:
    smoke = [("smoke", table.smoke, asked.smoke)] if table.smoke != asked.smoke else []
    return [*smoke, *find_differences(table.content, asked.content)]


def find_differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: the dotted key, the old and the new value (None if the key is missing)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Iterator[Any] = iter(dict.fromkeys([*old, *new]))
        pairs = [(str(key), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *both) for index, both in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [(place, old, new)]
    return [one for key, a, b in pairs for one in find_differences(a, b, f"{place}.{key}" if place else key)]


def _options_of(runs: Sequence[ExistingRun], asked: RunOptions) -> tuple[str, ...]:
    """What distinguishes a new run: its settings, or, without settings, the suite's edits since the main run."""
    if asked.settings:
        return asked.settings
    plain = next((run for run in runs if run.name == (SMOKE if asked.smoke else MAIN)), None)
    if plain is None:
        return ()
    return tuple(
        f"{key}={'default' if new is None else _setting_value(new)}"
        for key, _, new in _compare_content(plain.table, asked)
    )


def _setting_value(value: object) -> str:
    """A value as it is written in a setting: text without quotes, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _derive_name(runs: Sequence[ExistingRun], asked: RunOptions, options: Sequence[str]) -> str:
    """A name from what distinguishes the run: `main`, `smoke`, `learning_rate-1e-4`; with a hash if that name is taken
    or would be too long."""
    pairs = [(_last_key(key), value) for key, _, value in (option.partition("=") for option in options)]
    base = [SMOKE] if asked.smoke else [] if pairs else [MAIN]
    name = _make_slug("-".join([*base, *(f"{key}-{value}" for key, value in pairs)]))
    content = json.dumps([asked.content, asked.smoke], sort_keys=True)
    digits = hashlib.sha256(content.encode()).hexdigest()[:HASH_DIGITS]
    if len(name) > MOST_DERIVED:
        return f"{_make_slug('-'.join([*base, *(key for key, _ in pairs)]))[:MOST_DERIVED].strip('-.')}-{digits}"
    return f"{name}-{digits}" if any(run.name == name for run in runs) else name


def _last_key(key: str) -> str:
    """`scans` of `compare.0.scans`, `seeds` of `seeds.1`."""
    return next((part for part in reversed(key.split(".")) if not part.isdigit()), key)


def _make_slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "run"
