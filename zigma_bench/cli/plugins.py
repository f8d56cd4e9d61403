"""`plugins`: list plugins, create one, check one."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zigma_bench.errors import UnknownName, UsageError
from zigma_bench.plugins import KINDS, TEMPLATES

if TYPE_CHECKING:
    from zigma_bench.plugins.discovery import Catalogue
    from zigma_bench.plugins.registry import Spec
    from zigma_bench.testing import Report

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def list_plugins(as_json: AsJson = False) -> None:
    """List plugins and what each registered.

    Plugins that can't be loaded are listed with the reason.
    """
    from zigma_bench.plugins.discovery import catalogue

    found = catalogue()
    if as_json:
        loaded = [{"name": p.name, "owner": p.owner, "registered": list(p.registered)} for p in found.plugins]
        problems = [{"name": p.name, "owner": p.owner, "reason": p.reason} for p in found.problems]
        typer.echo(json.dumps({"plugins": loaded, "problems": problems}, indent=1))
        return
    for plugin in found.plugins:
        typer.echo(f"{plugin.name} ({plugin.owner}): {', '.join(plugin.registered) or 'nothing yet'}")
    for problem in found.problems:
        typer.echo(f"{problem.name} ({problem.owner}): SET ASIDE: {problem.reason}")


def new_plugin(
    name: Annotated[str, typer.Argument(help="The name that suites will use: letters, digits, '.', '_' and '-'.")],
    kind: Annotated[str, typer.Option("--kind", help=f"{', '.join(TEMPLATES)}.")],
    folder: Annotated[Path, typer.Option("--dir", help="The folder in which the plugin's folder is created.")] = Path(
        "."
    ),
) -> None:
    """Create a plugin with working code and passing tests.

    The new folder is called zigma-bench-NAME.
    """
    from zigma_bench.plugins.kit import write_plugin

    made = write_plugin(name, kind, folder)
    typer.echo(f"{made}: {next_steps(made, name)}")


def next_steps(folder: Path, name: str) -> str:
    """The next shell commands; the path has a slash, because pip looks up a name without one on PyPI."""
    place = shlex.quote(str(folder) if folder.is_absolute() else f".{os.sep}{folder}")
    return f"pytest {place}; then pip install {place}; then zigma-bench plugins check {shlex.quote(name)}"


def check_plugin(
    name: Annotated[
        str,
        typer.Argument(
            help="A registered name, KIND:NAME, or the name of a plugin (checks everything that it registered)."
        ),
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", help="OPTION=VALUE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that registered objects keep their contract.

    Exit code 1 if a check fails.
    """
    from zigma_bench.plugins.discovery import catalogue

    found = catalogue()
    aside = [problem for problem in found.problems if problem.name == name]
    specs = _specs_of(found, name, known=bool(aside))
    reports = [_report(spec, _values(settings or [])) for spec in specs]
    documents = [{**asdict(report), "ok": report.ok} for report in reports]
    documents += [{"kind": "plugin", "name": p.name, "owner": p.owner, "ok": False, "reason": p.reason} for p in aside]
    if as_json:
        typer.echo(json.dumps(documents, indent=1))
    else:
        for report in reports:
            _print(report)
        for problem in aside:
            typer.echo(f"plugin {problem.name} ({problem.owner})\n  FAILED  registers: {problem.reason}")
    if not all(document["ok"] for document in documents):
        raise typer.Exit(1)


def _specs_of(found: Catalogue, name: str, *, known: bool) -> list[Spec]:
    """The objects of a name: KIND:NAME is one object; NAME is all objects of that name or from the plugin NAME.

    The metrics that an extractor brings are checked with it.
    """
    kind, colon, rest = name.partition(":")
    if colon:
        if kind not in KINDS:
            raise UnknownName("kind of plugin", kind, KINDS)
        return [found.get(kind, rest)]
    everything = {f"{kind} {spec.name}": spec for kind in KINDS for spec in found.registry(kind)}
    wanted = {key for key in everything if key.partition(" ")[2] == name}
    wanted |= {key for plugin in found.plugins if plugin.name == name for key in plugin.registered}
    if not wanted and not known:
        plugins = [plugin.name for plugin in found.plugins]
        raise UnknownName("plugin or registered object", name, {*plugins, *(spec.name for spec in everything.values())})
    found_specs = [everything[key] for key in everything if key in wanted]
    return [spec for spec in found_specs if spec.comes_with is None or spec.name == name]


def _values(settings: list[str]) -> Mapping[str, Any]:
    from zigma_bench.suite import parse_value

    values = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(
                "not a KEY=VALUE setting", where=f"--set {setting}", expected="OPTION=VALUE, such as paths=8"
            )
        values[option] = parse_value(value, f"--set {setting}")
    return values


def _report(spec: Spec, values: Mapping[str, Any]) -> Report:
    from zigma_bench.testing import NeedsOptions, report_of

    try:
        return report_of(spec, options=values)
    except NeedsOptions as error:
        raise UsageError(str(error), do="set each with --set OPTION=VALUE") from None


def _print(report: Report) -> None:
    typer.echo(f"{report.kind} {report.name} ({report.owner})")
    for check in report.checks:
        typer.echo(f"  {'ok    ' if check.ok else 'FAILED'}  {check}")
    failed = sum(not check.ok for check in report.checks)
    typer.echo(f"  {failed} of {len(report.checks)} checks FAILED" if failed else f"  all {len(report.checks)} pass")
