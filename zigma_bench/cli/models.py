"""`import`: released checkpoints as folders; `sample`: images of such a folder, or of a suite."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, Smoke
from zigma_bench.cli.suites import sample as sample_of_suite
from zigma_bench.errors import UsageError

KIND_HELP = "zigma, dit or sit: whose layout the file has."
CONFIG_HELP = "The official constructor's arguments, YAML or JSON; DiT's and SiT's defaults are XL/2 at 256 x 256."
SET_HELP = "KEY=VALUE, an argument laid over the config."
PATH_HELP = "The path that a SiT or ZigMa was trained on: linear (default), gvp or vp."
TARGET_HELP = "A suite, a YAML file, or the folder of an imported model."
SETTINGS_HELP = "SUITE: KEY.PATH=VALUE, laid over it. MODEL: KEY=VALUE, a key of a suite's sample."
SOLVER_HELP = "MODEL: euler, heun, dopri5, euler-maruyama, heun-sde, ddpm, ddim; euler if absent, ddpm for DiT."
LABELS_HELP = "MODEL: labels that images take in turn, such as 207,360; every class in turn if absent."
AUTOENCODER_HELP = "MODEL of latents: the autoencoder's folder, or owner/name@COMMIT on the Hub, to make pictures with."
NO_PICTURE = "these are clips, or have other channels than a picture: each lies as .npy"
SAYS_HELP = "What it was trained to say: velocity (default), score or noise."


def import_model(
    kind: Annotated[str, typer.Argument(help=KIND_HELP, metavar="zigma|dit|sit")],
    file: Annotated[Path, typer.Argument(help="The released file: .pt, .pth or .safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="The new folder of the model.")],
    config: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    weights: Annotated[
        Literal["ema", "model"] | None, typer.Option("--weights", help="ema (default where there is one) or model.")
    ] = None,
    path: Annotated[Literal["linear", "gvp", "vp"] | None, typer.Option("--path", help=PATH_HELP)] = None,
    prediction: Annotated[
        Literal["velocity", "score", "noise"] | None, typer.Option("--prediction", help=SAYS_HELP)
    ] = None,
    space: Annotated[
        Literal["pixels", "latents"] | None,
        typer.Option(
            "--space", help="What it draws: pixels (default for 1 and 3 channels), or an autoencoder's latents."
        ),
    ] = None,
) -> None:
    """Keep a released checkpoint of ZigMa, DiT or SiT as a folder: safetensors, checked name by name, and a card."""
    from zigma_bench.models.official import import_checkpoint
    from zigma_bench.models.official.config import read_config

    card = import_checkpoint(
        kind,
        file,
        read_config(config, settings or ()),
        out,
        weights=weights,
        path=path,
        prediction=prediction,
        space=space,
    )
    typer.echo(card.readme().partition("\n\n`")[0])
    typer.echo(f"\nmodel: {out}")


def sample(
    target: Annotated[Path, typer.Argument(help=TARGET_HELP, metavar="SUITE|MODEL")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTINGS_HELP)] = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", help="MODEL: the folder of what is drawn.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="MODEL: images; 1000 if absent.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="MODEL: images at once; 250 if absent.")] = None,
    solver: Annotated[str | None, typer.Option("--solver", help=SOLVER_HELP)] = None,
    evaluations: Annotated[int | None, typer.Option("--evaluations", help="MODEL: 50 if absent.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="MODEL: of all noise; 0 if absent.", min=0)] = None,
    labels: Annotated[str | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    label: Annotated[int | None, typer.Option("--class", help="MODEL: one label for all images.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="MODEL: the scale; 1 is none.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="MODEL: of scan and convolution; auto.")] = None,
    autoencoder: Annotated[str | None, typer.Option("--autoencoder", help=AUTOENCODER_HELP)] = None,
) -> None:
    """Draw the images of a suite's trained cells, or of an imported model."""
    from zigma_bench.standalone.target import is_model

    of_model = {
        "out": out, "count": count, "batch": batch, "solver": solver, "evaluations": evaluations, "seed": seed,
        "labels": labels, "class": label, "guidance": guidance, "backend": backend, "autoencoder": autoencoder,
    }  # fmt: skip
    if not is_model(target):
        _refuse("a model, and this is a suite", "set sample.KEY in the suite or with --set", of_model)
        sample_of_suite(target, settings, only, results, smoke, device, as_json)
        return
    elsewhere = None if results == DEFAULT_RESULTS else results
    _refuse(
        "a suite, and this is a model", "leave it out", {"only": only, "smoke": smoke or None, "results": elsewhere}
    )
    given = {key: of_model[key] for key in ("count", "batch", "solver", "evaluations", "guidance")}
    _draw(target, out, given, settings or [], seed or 0, labels, label, device, backend or "auto", autoencoder, as_json)


def _refuse(owner: str, do: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name} goes with {owner}", got=str(value), do=do)


def _draw(
    model: Path,
    out: Path | None,
    given: Mapping[str, object],
    settings: list[str],
    seed: int,
    labels: str | None,
    label: int | None,
    device: str,
    backend: str,
    autoencoder: str | None,
    as_json: bool,
) -> None:
    from zigma_bench.device import find_device
    from zigma_bench.models.official.card import read_card
    from zigma_bench.standalone.decode import decode_folder, decoder_of
    from zigma_bench.standalone.draw import UNDECODED, draw_to_folder
    from zigma_bench.standalone.model import make_order
    from zigma_bench.standalone.words import labels_of, sample_keys

    if out is None:
        raise UsageError("what a model draws needs a folder", do="give --out DIR")
    target = find_device(device)
    keys, places = sample_keys(given, settings)
    card = read_card(model)
    order = make_order(card, keys, seed=seed, labels=labels_of(labels, label), places=places)
    total = order.recipe.sample.count
    space = None if autoencoder is None else decoder_of(card, autoencoder)  # what is missing is said before drawing
    print(f"device: {target.name} ({target.card})\ndrawn: {order}", file=sys.stderr)
    files = draw_to_folder(
        order, model, out, device=target.name, backend=backend,
        tell=lambda done: print(f"{done:,} of {total:,}", file=sys.stderr, flush=True),
    )  # fmt: skip
    facts, what = order.facts(), str(card.space)
    if space is not None:
        files = decode_folder(
            card, space, out, count=total, device=target.name,
            tell=lambda done: print(f"decoded {done:,} of {total:,}", file=sys.stderr, flush=True),
        )  # fmt: skip
        facts, what = {**facts, "autoencoder": space.decoding}, f"pictures, decoded in {space.given.precision}"
    if as_json:
        typer.echo(json.dumps({"folder": str(files), "count": total, **facts}, indent=1))
    else:
        typer.echo(f"{total:,} {what}: {files}")
    if space is None and not card.image:
        print(UNDECODED if card.space == "latents" else NO_PICTURE, file=sys.stderr)
