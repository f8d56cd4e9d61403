"""`data check`: list all problems of a data set, or of the data sets of a suite, before a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zigma_bench.cli.suites import AsJson
from zigma_bench.errors import UsageError, ZigmaBenchError

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

NAME_HELP = "The name of a data set, or a suite (YAML file) whose data sets are checked."
FROM_HELP = "The folder of the data set. Default: its option root or data_dir."
SET_HELP = "OPTION=VALUE of the data set, or KEY.PATH=VALUE of a suite."
PLACES = ("root", "data_dir")  # options that name the folder of a data set
PROGRESS_IMAGES = 5000  # images between two lines of progress


@dataclass(frozen=True)
class CheckRequest:
    """A data set to check, with its options; `where` names its source in errors."""

    name: str
    options: dict[str, Any]
    where: str
    random_crop: int | None = None


def check_data(
    name: Annotated[str, typer.Argument(help=NAME_HELP, metavar="NAME|SUITE")],
    folder: Annotated[Path | None, typer.Option("--from", metavar="DIR", help=FROM_HELP)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """List all problems of a data set.

    Missing files, broken images, missing captions. Exit code 3 if there is any.
    """
    is_suite = name.endswith((".yaml", ".yml"))
    requests = _requests_of_suite(Path(name), settings) if is_suite else [_request_of_name(name, settings)]
    if folder is not None:
        requests = [_in_folder(request, folder) for request in requests]
    found = [(request, _check(request)) for request in _without_duplicates(requests)]
    if is_suite and not any(result.problems for _, result in found):
        found += _check_caches(Path(name), settings, folder)  # a cache can only be compared with complete images
    if as_json:
        typer.echo(json.dumps({"checked": [_document(*pair) for pair in found]}, indent=1))
    else:
        for pair in found:
            _show(*pair)
    if any(result.problems for _, result in found):
        raise typer.Exit(3)


def _requests_of_suite(path: Path, settings: list[str] | None) -> list[CheckRequest]:
    from zigma_bench.plan.resolve import data_entries
    from zigma_bench.suite import load_suite

    suite, source = load_suite(path, settings=settings or ())
    crop = suite.train.random_crop
    found = [
        CheckRequest(entry.name, _plain(entry.options), source.where(*place), crop)
        for place, entry in data_entries(suite)
    ]
    if not found:
        raise UsageError("the suite has no data", where=str(path), expected="the key data")
    return found


def _check_caches(
    path: Path, settings: list[str] | None, folder: Path | None
) -> list[tuple[CheckRequest, CheckResult]]:
    """The problems of the caches that a suite names: latents and text features.

    With --from they are not checked, because they belong to the images in the suite's own folder.
    """
    from zigma_bench.data.checks.dataset import CheckResult
    from zigma_bench.plan.data import data_sets
    from zigma_bench.plugins.discovery import catalogue
    from zigma_bench.run.encode import cache_problems, text_problems, text_state
    from zigma_bench.suite import load_suite

    suite, source = load_suite(path, settings=settings or ())
    sets = data_sets(suite, catalogue(), source, smoke=False)
    spaces = [item.space for item in sets if item.space is not None]
    texts = {item.text.folder: item.text for item in sets if item.text is not None}
    if (spaces or texts) and folder is not None:
        print("caches are not checked with --from: set the folder in the suite", file=sys.stderr)
        return []
    here = [space for space in spaces if space.given.cache is not None and space.weights_sha256]
    found = [(f"latents in {space.given.cache}", cache_problems(space)) for space in here]
    found += [(f"texts: {text_state(text)}", text_problems(text)) for text in texts.values()]
    return [(CheckRequest(name, {}, str(path)), CheckResult(0, tuple(problems))) for name, problems in found]


def _request_of_name(name: str, settings: list[str] | None) -> CheckRequest:
    from zigma_bench.suite import parse_value

    options = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError("not a KEY=VALUE setting", where=f"--set {setting}", expected="OPTION=VALUE")
        options[key] = parse_value(value, f"--set {setting}")
    return CheckRequest(name, options, f"data check {name}")


def _in_folder(request: CheckRequest, folder: Path) -> CheckRequest:
    """The same data set in another folder; UsageError for a data set that has no folder."""
    from zigma_bench.plugins.discovery import catalogue

    known = {option.name for option in catalogue().get("dataset", request.name, where=request.where).options}
    place = next((name for name in PLACES if name in known), None)
    if place is None:
        raise UsageError(f"the data set {request.name!r} is not in a folder", where="--from", do="leave --from out")
    return replace(request, options={**request.options, place: str(folder)})


def _without_duplicates(requests: list[CheckRequest]) -> list[CheckRequest]:
    """Each data set once; of two that differ only in the resolution, the larger."""
    found: dict[str, CheckRequest] = {}
    for request in sorted(requests, key=lambda request: int(request.options.get("resolution", 0))):
        rest = {key: value for key, value in request.options.items() if key != "resolution"}
        found[json.dumps([request.name, rest], sort_keys=True)] = request
    return list(found.values())


def _check(request: CheckRequest) -> CheckResult:
    from zigma_bench.data.checks.dataset import check_dataset_files as check_data_set
    from zigma_bench.plugins.discovery import catalogue

    spec = catalogue().get("dataset", request.name, where=request.where)
    options = spec.make_options(spec.resolve(request.options, where=request.where))
    checked = 0

    def progress(images: int) -> None:
        nonlocal checked
        if images // PROGRESS_IMAGES > checked // PROGRESS_IMAGES:
            print(f"{request.name}: {images:,} images checked", file=sys.stderr)
        checked = images

    return check_data_set(spec, options, progress=progress, random_crop=request.random_crop)


def _document(request: CheckRequest, found: CheckResult) -> dict[str, Any]:
    return {
        "data": request.name,
        "options": request.options,
        "images": found.images,
        "enlarged": found.enlarged,
        "train_images": None if found.counts is None else found.counts.train,
        "validation_images": None if found.counts is None else found.counts.validation,
        "classes_found": None if found.counts is None else found.counts.classes,
        "problems": [_problem(problem) for problem in found.problems],
    }


def _problem(problem: ZigmaBenchError) -> dict[str, Any]:
    got = None if problem.got is None else str(problem.got)
    return {
        "where": problem.where, "what": problem.what, "expected": problem.expected, "got": got, "do": problem.do,
    }  # fmt: skip


def _show(request: CheckRequest, found: CheckResult) -> None:
    for problem in found.problems:
        typer.echo(str(problem))
    words = f"{len(found.problems):,} problem(s)" if found.problems else "no problems"
    checked = f"{found.images:,} images checked, " if found.images else ""
    counts = "" if found.counts is None else f" ({found.counts})"
    small = f"; {found.enlarged:,} are smaller than the resolution and are enlarged" if found.enlarged else ""
    typer.echo(f"{request.name}: {checked}{words}{counts}{small}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
