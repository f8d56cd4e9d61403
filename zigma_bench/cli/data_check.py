"""`data check`: everything that is wrong with a data set, or with those of a suite, listed before a run meets it."""

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
    from zigma_bench.data.checks.dataset import Found

NAME_HELP = "The name of a data set, or a suite, a YAML file, whose data sets are looked at."
FROM_HELP = "The folder that holds it; the data set's own option root or data_dir else."
SET_HELP = "OPTION=VALUE of the data set; a suite's are in its file."
PLACES = ("root", "data_dir")  # options that name the folder of a data set
TOLD_IMAGES = 5000  # how often progress is told


@dataclass(frozen=True)
class Asked:
    """A data set and its options."""

    name: str
    options: dict[str, Any]
    where: str
    random_crop: int | None = None


def check(
    name: Annotated[str, typer.Argument(help=NAME_HELP, metavar="NAME|SUITE")],
    folder: Annotated[Path | None, typer.Option("--from", metavar="DIR", help=FROM_HELP)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """List all that is wrong with a data set: missing files, broken images, absent texts; code 3 where anything is."""
    asked = _of_suite(Path(name), settings) if name.endswith((".yaml", ".yml")) else [_of_words(name, settings)]
    if folder is not None:
        asked = [_from(item, folder) for item in asked]
    found = [(item, _look(item)) for item in _once(asked)]
    if name.endswith((".yaml", ".yml")) and not any(result.problems for _, result in found):
        found += _caches(Path(name), settings, folder)  # of images that are whole: a cache belongs to all of them
    if as_json:
        typer.echo(json.dumps({"checked": [_document(*pair) for pair in found]}, indent=1))
    else:
        for pair in found:
            _show(*pair)
    if any(result.problems for _, result in found):
        raise typer.Exit(3)


def _of_suite(path: Path, settings: list[str] | None) -> list[Asked]:
    from zigma_bench.plan.resolve import entries
    from zigma_bench.suite import load_suite

    suite, source = load_suite(path, settings=settings or ())
    crop = suite.train.random_crop
    found = [Asked(given.name, _plain(given.options), source.where(*place), crop) for place, given in entries(suite)]
    if not found:
        raise UsageError("the suite has no data", where=str(path), expected="the key data")
    return found


def _caches(path: Path, settings: list[str] | None, folder: Path | None) -> list[tuple[Asked, Found]]:
    """What is wrong with the caches of latents that a suite names, and with the features of captions that are kept;
    they belong to images where the suite has them."""
    from zigma_bench.data.checks.dataset import Found
    from zigma_bench.plan.data import data_sets
    from zigma_bench.plugins.discovery import catalogue
    from zigma_bench.run.encode import cache_problems, text_problems, text_state
    from zigma_bench.suite import load_suite

    suite, source = load_suite(path, settings=settings or ())
    sets = data_sets(suite, catalogue(), source, smoke=False)
    spaces = [item.space for item in sets if item.space is not None]
    texts = {item.text.folder: item.text for item in sets if item.text is not None}
    if (spaces or texts) and folder is not None:
        print("caches are not looked at with --from: set the folder in the suite", file=sys.stderr)
        return []
    here = [space for space in spaces if space.given.cache is not None and space.weights_sha256]
    found = [(f"latents in {space.given.cache}", cache_problems(space)) for space in here]
    found += [(f"texts: {text_state(text)}", text_problems(text)) for text in texts.values()]
    return [(Asked(name, {}, str(path)), Found(0, tuple(problems))) for name, problems in found]


def _of_words(name: str, settings: list[str] | None) -> Asked:
    from zigma_bench.suite import parse_value

    options = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError("this is no setting", where=f"--set {setting}", expected="OPTION=VALUE")
        options[key] = parse_value(value, f"--set {setting}")
    return Asked(name, options, f"data check {name}")


def _from(asked: Asked, folder: Path) -> Asked:
    """The same data set in another folder."""
    from zigma_bench.plugins.discovery import catalogue

    known = {option.name for option in catalogue().get("dataset", asked.name, where=asked.where).options}
    place = next((name for name in PLACES if name in known), None)
    if place is None:
        raise UsageError(f"the data set {asked.name!r} is of no folder", where="--from", do="leave --from out")
    return replace(asked, options={**asked.options, place: str(folder)})


def _once(asked: list[Asked]) -> list[Asked]:
    """Each data set once: where two differ in their resolution alone, the larger."""
    kept: dict[str, Asked] = {}
    for item in sorted(asked, key=lambda item: int(item.options.get("resolution", 0))):
        rest = {key: value for key, value in item.options.items() if key != "resolution"}
        kept[json.dumps([item.name, rest], sort_keys=True)] = item
    return list(kept.values())


def _look(asked: Asked) -> Found:
    from zigma_bench.data.checks.dataset import check as look
    from zigma_bench.plugins.discovery import catalogue

    spec = catalogue().get("dataset", asked.name, where=asked.where)
    options = spec.make_options(spec.resolve(asked.options, where=asked.where))
    told = 0

    def progress(images: int) -> None:
        nonlocal told
        if images // TOLD_IMAGES > told // TOLD_IMAGES:
            print(f"{asked.name}: {images:,} looked at", file=sys.stderr)
        told = images

    return look(spec, options, progress=progress, random_crop=asked.random_crop)


def _document(asked: Asked, found: Found) -> dict[str, Any]:
    return {
        "data": asked.name,
        "options": asked.options,
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


def _show(asked: Asked, found: Found) -> None:
    for problem in found.problems:
        typer.echo(str(problem))
    words = f"{len(found.problems):,} problem(s)" if found.problems else "nothing is wrong"
    looked_at = f"{found.images:,} images looked at, " if found.images else ""
    counts = "" if found.counts is None else f" ({found.counts})"
    small = f"; {found.enlarged:,} are smaller than asked for, and are enlarged" if found.enlarged else ""
    typer.echo(f"{asked.name}: {looked_at}{words}{counts}{small}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
