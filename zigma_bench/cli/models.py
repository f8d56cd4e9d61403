"""`import`: released checkpoints as folders that `sample` draws from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

KIND_HELP = "zigma, dit or sit: whose layout the file has."
CONFIG_HELP = "The official constructor's arguments, YAML or JSON; DiT's and SiT's defaults are XL/2 at 256 x 256."
SET_HELP = "KEY=VALUE, an argument laid over the config."
PATH_HELP = "The path that a SiT or ZigMa was trained on: linear (default), gvp or vp."
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
