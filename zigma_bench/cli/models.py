"""`import`: convert a released checkpoint to a folder; `sample`: sample images from a folder or a suite."""

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
    from zigma_bench.sampling.model import SamplingRequest

KIND_HELP = "The official code that wrote the file: zigma, dit or sit."
CONFIG_HELP = "Arguments of the official constructor, as YAML or JSON. Default for DiT and SiT: XL/2 at 256 x 256."
SET_HELP = "KEY=VALUE, an argument that overrides the config."
PATH_HELP = "The probability path on which SiT or ZigMa was trained: linear (default), gvp or vp."
TARGET_HELP = "A suite (YAML file), or the folder of an imported model or of a trained cell."
SETTINGS_HELP = "SUITE: KEY.PATH=VALUE overrides a key. MODEL, CELL: KEY=VALUE, a key of the section sample of a suite."
SOLVER_HELP = "MODEL, CELL: euler, heun, dopri5, euler-maruyama, heun-sde, ddpm or ddim. Default: euler; ddpm for DiT."
LABELS_HELP = "MODEL, CELL: class labels of the images, repeated in turn, such as 207,360. Default: all classes."
AUTOENCODER_HELP = "MODEL of latents: the autoencoder that decodes them, a folder or owner/name@COMMIT on the Hub."
NO_PICTURE = "these arrays don't have the channels of a picture: each is saved as .npy"
PROMPT_HELP = "MODEL, CELL with a text condition: a prompt. Several prompts are repeated in turn."
ENCODER_HELP = "MODEL with a text condition: the text encoder, minilm, a folder or owner/name@COMMIT on the Hub."
PREDICTION_HELP = "The prediction that the network was trained for: velocity (default), score or noise."


def import_model(
    kind: Annotated[str, typer.Argument(help=KIND_HELP, metavar="zigma|dit|sit")],
    file: Annotated[Path, typer.Argument(help="The released file: .pt, .pth or .safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="The new folder of the model.")],
    config: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    weights: Annotated[
        Literal["ema", "model"] | None, typer.Option("--weights", help="ema (default if the file has it) or model.")
    ] = None,
    path: Annotated[Literal["linear", "gvp", "vp"] | None, typer.Option("--path", help=PATH_HELP)] = None,
    prediction: Annotated[
        Literal["velocity", "score", "noise"] | None, typer.Option("--prediction", help=PREDICTION_HELP)
    ] = None,
    space: Annotated[
        Literal["pixels", "latents"] | None,
        typer.Option("--space", help="The space of its samples: pixels (default for 1 and 3 channels) or latents."),
    ] = None,
) -> None:
    """Convert a released checkpoint to a folder.

    The folder has the weights of ZigMa, DiT or SiT as safetensors, with checked names, and a model card.
    """
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
    out: Annotated[Path | None, typer.Option("--out", help="MODEL, CELL: the folder for the samples.")] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", help="MODEL, CELL: images. Default: one per prompt, a cell's count, or 1000."),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="MODEL, CELL: batch size. Default: 250.")] = None,
    solver: Annotated[str | None, typer.Option("--solver", help=SOLVER_HELP)] = None,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", help="MODEL, CELL: network evaluations per image. Default: 50.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="MODEL, CELL: of the noise. Default: 0.", min=0)] = None,
    labels: Annotated[str | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    prompts: Annotated[list[str] | None, typer.Option("--prompt", help=PROMPT_HELP)] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help=ENCODER_HELP)] = None,
    label: Annotated[int | None, typer.Option("--class", help="MODEL, CELL: one label for all images.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="MODEL, CELL: the scale; 1 means none.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="MODEL, CELL: of scan and convolution. Default: auto.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option("--autoencoder", help=AUTOENCODER_HELP)] = None,
    name: RunName = None,
) -> None:
    """Sample from trained cells, or from an imported model.

    SUITE: all trained cells of a suite. MODEL: the folder of an imported model. CELL: the folder of one trained cell.
    """
    from zigma_bench.sampling.target import kind_of

    model_options = {
        "out": out, "count": count, "batch": batch, "solver": solver, "evaluations": evaluations, "seed": seed,
        "labels": labels, "class": label, "guidance": guidance, "backend": backend, "autoencoder": autoencoder,
        "prompt": prompts, "encoder": encoder,
    }  # fmt: skip
    if (kind := kind_of(target)) == "suite":
        _refuse("a model, and this is a suite", "set sample.KEY in the suite or with --set", model_options)
        sample_of_suite(target, settings, only, results, smoke, device, as_json, name)
        return
    other_results = None if results == DEFAULT_RESULTS else results
    suite_options = {"only": only, "smoke": smoke or None, "results": other_results, "name": name}
    _refuse(f"a suite, and this is a {kind}", "leave it out", suite_options)
    keys = {key: model_options[key] for key in ("count", "batch", "solver", "evaluations", "guidance")}
    if prompts and count is None:
        keys["count"] = len(prompts)
    options = _Options(keys, settings or [], seed or 0, labels, label, tuple(prompts) if prompts else None, encoder)
    _draw(target, kind, out, options, device, backend or "auto", autoencoder, as_json)


def _refuse(owner: str, do: str, options: Mapping[str, object]) -> None:
    """Raise UsageError for the first option that is set, since it needs `owner`."""
    for name, value in options.items():
        if value is not None:
            got = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            raise UsageError(f"--{name} needs {owner}", got=got, do=do)


@dataclass(frozen=True)
class _Options:
    """The options of the command that describe the samples; `keys` are those of the section `sample` of a suite."""

    keys: Mapping[str, object]
    settings: list[str]
    seed: int
    labels: str | None
    label: int | None
    prompts: tuple[str, ...] | None
    encoder: str | None

    def make_request(self, target: Path, kind: str) -> SamplingRequest:
        """The sampling request for a folder of a model or of a cell."""
        from zigma_bench.backbones.official.card import read_card
        from zigma_bench.sampling.drawable import open_imported
        from zigma_bench.sampling.model import make_sampling_request
        from zigma_bench.sampling.trained import open_trained
        from zigma_bench.sampling.words import labels_of, sample_keys

        keys, places = sample_keys(self.keys, self.settings)
        if kind == "cell" and self.encoder is not None:
            raise UsageError("a cell already has a text encoder", where="--encoder", do="leave it out")
        source = open_imported(read_card(target), target, self.encoder) if kind == "model" else open_trained(target)
        labels = labels_of(self.labels, self.label)
        return make_sampling_request(source, keys, seed=self.seed, labels=labels, places=places, prompts=self.prompts)


def _draw(
    target: Path,
    kind: str,
    out: Path | None,
    options: _Options,
    device: str,
    backend: str,
    autoencoder: str | None,
    as_json: bool,
) -> None:
    from zigma_bench.sampling.decode import decode_folder, decoder_of
    from zigma_bench.sampling.draw import UNDECODED, draw_to_folder
    from zigma_bench.system.device import find_device

    if out is None:
        raise UsageError("the samples of a model or cell need a folder", do="add --out DIR")
    place = find_device(device)
    request = options.make_request(target, kind)
    total = request.recipe.sample.count
    # a missing autoencoder is an error before sampling starts
    space = request.source.latents if autoencoder is None else decoder_of(request.source, autoencoder)
    print(f"device: {place.name} ({place.model_name})\nsampling: {request}", file=sys.stderr)
    files = draw_to_folder(
        request, out, device=place.name, backend=backend,
        on_progress=lambda done: print(f"{done:,} of {total:,}", file=sys.stderr, flush=True),
    )  # fmt: skip
    facts, what = request.facts(), str(request.source.space)
    if space is not None:
        files = decode_folder(
            request.source, space, out, count=total, device=place.name,
            on_progress=lambda done: print(f"decoded {done:,} of {total:,}", file=sys.stderr, flush=True),
        )  # fmt: skip
        facts, what = {**facts, "autoencoder": space.decoding}, f"pictures, decoded in {space.given.precision}"
    if as_json:
        print(json.dumps({"folder": str(files), "count": total, **facts}, indent=1))
    else:
        print(f"{total:,} image{'s' * (total > 1)} ({what}): {files}")
    if space is None and not request.source.image:
        print(UNDECODED if request.source.space == "latents" else NO_PICTURE, file=sys.stderr)
