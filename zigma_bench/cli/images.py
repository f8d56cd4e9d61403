"""`quality`: measure the quality of a suite's samples, or of any other images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, RunName, Settings, Smoke
from zigma_bench.cli.suites import quality as quality_of_suite
from zigma_bench.errors import UsageError

if TYPE_CHECKING:
    from zigma_bench.sampling.image_quality import QualityRequest, QualityResult

SUITE_HELP = "A suite (YAML file) whose trained cells are measured; or use --samples."
SAMPLES_HELP = "Images or clips to measure instead: a folder, a .zip of images, or a .npz with arr_0 [N, (T,) H, W, C]."
REFERENCE_HELP = "The reference for --samples: a folder, .zip, .npz (images, or mu and sigma), or a suite (YAML file)."
DATA_HELP = "The data set of the --reference suite, if it has several."
SAVE_HELP = "Write mu and sigma of --samples to this .npz file, for the Frechet distance in --metrics (default: fid)."
METRICS_HELP = "With --samples: names separated by commas, each NAME or NAME:OPTION=VALUE."


def quality(
    suite: Annotated[Path | None, typer.Argument(help=SUITE_HELP, metavar="[SUITE]")] = None,
    samples: Annotated[Path | None, typer.Option("--samples", help=SAMPLES_HELP)] = None,
    reference: Annotated[Path | None, typer.Option("--reference", help=REFERENCE_HELP)] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help=METRICS_HELP)] = None,
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None,
    save: Annotated[Path | None, typer.Option("--save-statistics", help=SAVE_HELP)] = None,
    settings: Settings = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    name: RunName = None,
) -> None:
    """Measure the quality of samples, or of any images.

    SUITE measures the samples of its cells; --samples measures a folder of images or clips.
    """
    if samples is None:
        _refuse("--samples", reference=reference, metrics=metrics, data=data, save_statistics=save)
        if suite is None:
            raise UsageError("there is nothing to measure", expected="a suite's file, or --samples and --reference")
        quality_of_suite(suite, settings, only, results, smoke, device, as_json, name)
        return
    if suite is not None:
        raise UsageError("--samples can't be combined with a suite", got=str(suite), do="leave one of them out")
    _refuse("a suite", set=settings, only=only, smoke=smoke or None, name=name)
    if save is not None:
        if reference is not None or data is not None:
            raise UsageError("--save-statistics uses no reference", do="leave --reference and --data out")
        _save(samples, metrics, save, results, device, as_json)
        return
    _measure(samples, reference, data, metrics, results, device, as_json)


def _refuse(owner: str, **options: object) -> None:
    """Raise UsageError for the first option that is set, since it needs `owner`."""
    for name, value in options.items():
        if value is not None:
            name = name.replace("_", "-")
            raise UsageError(f"--{name} needs {owner}", got=str(value), do=f"leave it out, or add {owner}")


def _measure(
    samples: Path,
    reference: Path | None,
    data: str | None,
    metrics: str | None,
    results: Path,
    device: str,
    as_json: bool,
) -> None:
    from zigma_bench.sampling.image_quality import measure_quality

    requested = None if metrics is None else _parse_metrics(metrics)
    place = _device(device, results)
    found = measure_quality(samples, reference, requested, device=place, cache=results / ".cache", data=data)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _print(found)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _save(samples: Path, metrics: str | None, out: Path, results: Path, device: str, as_json: bool) -> None:
    from zigma_bench.sampling.statistics import save_statistics

    requested = _parse_metrics("fid" if metrics is None else metrics)
    if len(requested) != 1:
        raise UsageError("statistics belong to one metric", where="--metrics", expected="one metric", got=metrics)
    count = save_statistics(samples, requested[0], out, device=_device(device, results), cache=results / ".cache")
    found = {"file": str(out), "metric": requested[0].name, "n": count}
    print(
        json.dumps(found, indent=1) if as_json else f"{out}: mu and sigma of {count:,} images for {requested[0].name}"
    )


def _device(name: str, results: Path) -> str:
    """Print and return the device for the computation, after checking that results can be written."""
    from zigma_bench.records.store import check_writable
    from zigma_bench.system.device import find_device

    target = find_device(name)
    check_writable(results)
    print(f"device: {target.name} ({target.model_name})", file=sys.stderr)
    return target.name


def _parse_metrics(text: str) -> list[QualityRequest]:
    """The metrics in a text such as `fd-efflite0:size=128,fid`."""
    from zigma_bench.cli.scans_common import setting_of, split_settings
    from zigma_bench.sampling.image_quality import QualityRequest

    found: list[QualityRequest] = []
    for word in split_settings(text):
        name, colon, setting = word.strip().partition(":")
        found.append(QualityRequest(name, dict([setting_of(setting, "--metrics")]) if colon else {}))
    return found


def _print(found: QualityResult) -> None:
    from rich.table import Table
    from rich.text import Text

    from zigma_bench.reports.terminal import print_wide

    known = found.n_reference is not None
    what = "images" if found.frames is None else f"clips of {found.frames} frames"
    title = f"{found.n_samples:,} {what}" + (f" against {found.n_reference:,}" if known else "")
    table = Table(title=Text(title), title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("")
    for m in found.measurements:
        table.add_row(m.name, m.status if m.value is None else f"{m.value:.6g}", Text(m.reason or ""))
    print_wide(table)
