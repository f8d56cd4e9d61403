"""`import`: released checkpoints as folders; `sample`: images of such a folder, or of a suite."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zigma_bench.cli.suites import DEFAULT_RESULTS, AsJson, DeviceName, Only, Results, RunName, Smoke
from zigma_bench.cli.suites import sample as sample_of_suite
from zigma_bench.errors import UsageError

if TYPE_CHECKING:
    from zigma_bench.sampling.model import Order

KIND_HELP = "zigma, dit or sit: whose layout the file has."
CONFIG_HELP = "The official constructor's arguments, YAML or JSON; DiT's and SiT's defaults are XL/2 at 256 x 256."
SET_HELP = "KEY=VALUE, an argument laid over the config."
PATH_HELP = "The path that a SiT or ZigMa was trained on: linear (default), gvp or vp."
TARGET_HELP = "A suite, a YAML file, or the folder of an imported model or of a trained cell."
SETTINGS_HELP = "SUITE: KEY.PATH=VALUE, laid over it. MODEL, CELL: KEY=VALUE, a key of a suite's sample."
SOLVER_HELP = "MODEL, CELL: euler, heun, dopri5, euler-maruyama, heun-sde, ddpm, ddim; euler if absent, ddpm for DiT."
LABELS_HELP = "MODEL, CELL: labels that images take in turn, such as 207,360; every class in turn if absent."
AUTOENCODER_HELP = "MODEL of latents: the autoencoder's folder, or owner/name@COMMIT on the Hub, to make pictures with."
NO_PICTURE = "these have other channels than a picture: each lies as .npy"
PROMPT_HELP = "MODEL, CELL of texts: a text to draw; several take turns."
ENCODER_HELP = "MODEL of texts: what reads the prompts, minilm, a folder, or owner/name@COMMIT on the Hub."
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
    from zigma_bench.backbones.official import import_checkpoint
    from zigma_bench.backbones.official.config import read_config

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
    print(card.readme().partition("\n\n`")[0])
    print(f"\nmodel: {out}")


def sample(
    target: Annotated[Path, typer.Argument(help=TARGET_HELP, metavar="SUITE|MODEL|CELL")],
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTINGS_HELP)] = None,
    only: Only = None,
    results: Results = DEFAULT_RESULTS,
    smoke: Smoke = False,
    device: DeviceName = "auto",
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", help="MODEL, CELL: the folder of what is drawn.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", help="MODEL, CELL: images; else 1000, CELL: its own, or a prompt each.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="MODEL, CELL: images at once; 250 if absent.")] = None,
    solver: Annotated[str | None, typer.Option("--solver", help=SOLVER_HELP)] = None,
    evaluations: Annotated[int | None, typer.Option("--evaluations", help="MODEL, CELL: 50 if absent.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="MODEL, CELL: of all noise; 0 if absent.", min=0)] = None,
    labels: Annotated[str | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    prompts: Annotated[list[str] | None, typer.Option("--prompt", help=PROMPT_HELP)] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help=ENCODER_HELP)] = None,
    label: Annotated[int | None, typer.Option("--class", help="MODEL, CELL: one label for all images.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="MODEL, CELL: the scale; 1 is none.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="MODEL, CELL: of scan and convolution; auto.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option("--autoencoder", help=AUTOENCODER_HELP)] = None,
    name: RunName = None,
) -> None:
    """Draw the images of a suite's trained cells, or of an imported model or one trained cell as you ask."""
    from zigma_bench.sampling.target import kind_of

    of_model = {
        "out": out, "count": count, "batch": batch, "solver": solver, "evaluations": evaluations, "seed": seed,
        "labels": labels, "class": label, "guidance": guidance, "backend": backend, "autoencoder": autoencoder,
        "prompt": prompts, "encoder": encoder,
    }  # fmt: skip
    if (kind := kind_of(target)) == "suite":
        _refuse("a model, and this is a suite", "set sample.KEY in the suite or with --set", of_model)
        sample_of_suite(target, settings, only, results, smoke, device, as_json, name)
        return
    elsewhere = None if results == DEFAULT_RESULTS else results
    vain = {"only": only, "smoke": smoke or None, "results": elsewhere, "name": name}
    _refuse(f"a suite, and this is a {kind}", "leave it out", vain)
    given = {key: of_model[key] for key in ("count", "batch", "solver", "evaluations", "guidance")}
    if prompts and count is None:
        given["count"] = len(prompts)
    asked = _Asked(given, settings or [], seed or 0, labels, label, tuple(prompts) if prompts else None, encoder)
    _draw(target, kind, out, asked, device, backend or "auto", autoencoder, as_json)


def _refuse(owner: str, do: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            got = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            raise UsageError(f"--{name} goes with {owner}", got=got, do=do)


@dataclass(frozen=True)
class _Asked:
    """What is to be drawn, in the words of the command."""

    given: Mapping[str, object]
    settings: list[str]
    seed: int
    labels: str | None
    label: int | None
    prompts: tuple[str, ...] | None
    encoder: str | None

    def order(self, target: Path, kind: str) -> Order:
        """The order of a model's or a cell's folder."""
        from zigma_bench.backbones.official.card import read_card
        from zigma_bench.sampling.drawable import imported
        from zigma_bench.sampling.model import make_order
        from zigma_bench.sampling.trained import trained
        from zigma_bench.sampling.words import labels_of, sample_keys

        keys, places = sample_keys(self.given, self.settings)
        if kind == "cell" and self.encoder is not None:
            raise UsageError("the cell knows the encoder of its texts", where="--encoder", do="leave it out")
        source = imported(read_card(target), target, self.encoder) if kind == "model" else trained(target)
        labels = labels_of(self.labels, self.label)
        return make_order(source, keys, seed=self.seed, labels=labels, places=places, prompts=self.prompts)


def _draw(
    target: Path,
    kind: str,
    out: Path | None,
    asked: _Asked,
    device: str,
    backend: str,
    autoencoder: str | None,
    as_json: bool,
) -> None:
    from zigma_bench.sampling.decode import decode_folder, decoder_of
    from zigma_bench.sampling.draw import UNDECODED, draw_to_folder
    from zigma_bench.system.device import find_device

    if out is None:
        raise UsageError("what a model draws needs a folder", do="give --out DIR")
    place = find_device(device)
    order = asked.order(target, kind)
    total = order.recipe.sample.count
    # what is missing is said before drawing
    space = order.source.latents if autoencoder is None else decoder_of(order.source, autoencoder)
    print(f"device: {place.name} ({place.card})\ndrawn: {order}", file=sys.stderr)
    files = draw_to_folder(
        order, out, device=place.name, backend=backend,
        tell=lambda done: print(f"{done:,} of {total:,}", file=sys.stderr, flush=True),
    )  # fmt: skip
    facts, what = order.facts(), str(order.source.space)
    if space is not None:
        files = decode_folder(
            order.source, space, out, count=total, device=place.name,
            tell=lambda done: print(f"decoded {done:,} of {total:,}", file=sys.stderr, flush=True),
        )  # fmt: skip
        facts, what = {**facts, "autoencoder": space.decoding}, f"pictures, decoded in {space.given.precision}"
    if as_json:
        print(json.dumps({"folder": str(files), "count": total, **facts}, indent=1))
    else:
        print(f"{total:,} image{'s' * (total > 1)} ({what}): {files}")
    if space is None and not order.source.image:
        print(UNDECODED if order.source.space == "latents" else NO_PICTURE, file=sys.stderr)
