"""Open a trained cell of the results as a network to sample from, with any labels or prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from zigma_bench.backbones.build import build_network
from zigma_bench.backbones.official.card import CardCondition
from zigma_bench.conditioning.prompts import encode_prompts
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.guidance import TextLookup
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plan import Cell, cell_routes
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.record import Record
from zigma_bench.records.store import EMA, SPEC, read_record
from zigma_bench.sampling.drawable import Drawable
from zigma_bench.scans.grid import Grid
from zigma_bench.training.checkpoint import load_weights
from zigma_bench.training.step import autocast


def open_trained(folder: Path) -> Drawable:
    """The EMA weights of a trained cell, with the cell's own sampling settings as defaults.

    Raises NotReady if the training isn't done or the scan has changed since; opening it raises CellFailed if the
    weights have changed.
    """
    stage, cell, record = _find_training(folder)
    _check_orders(cell, folder)
    weights = stage / EMA
    sha256 = record.files[EMA]

    def opened(prompts: tuple[str, ...] | None, device: str, backend: str) -> tuple[Network, TextLookup | None]:
        texts = None
        if cell.text is not None:
            texts = encode_prompts(cell.text, prompts or (), device)
        return _network(cell if backend == "auto" else cell.model_copy(update={"backend": backend}), device), texts

    def _network(cell: Cell, device: str) -> Network:
        network = build_network(cell, torch.device(device).type)
        load_weights(weights, network, sha256=sha256)
        network.to(device).eval().requires_grad_(False)

        def denoiser(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
            with autocast(cell.train, torch.device(device)):
                return network(x, t, *condition).float()  # type: ignore[no-any-return]

        return denoiser

    return Drawable(
        sha256=sha256,
        shape=cell.shape,
        image=cell.latents is None and cell.channels in (1, 3),
        space="pixels" if cell.latents is None else "latents",
        condition=_card_condition(cell),
        train=cell.train.model_dump(),
        sample=_sampling_settings(cell),
        open=opened,
        reads_prompts=cell.text is not None,
        latents=cell.latents,
    )


def _find_training(folder: Path) -> tuple[Path, Cell, Record]:
    """The folder of the finished train stage, its cell and its record."""
    specs = sorted(folder.glob(f"train-*/{SPEC}"))
    for spec in specs:
        record = read_record(spec.parent)
        if record is not None and record.status == "done":
            return spec.parent, _read_cell(spec), record
    raise NotReady("the cell's training is not done", where=str(folder), do="run its suite until it is done")


def _read_cell(spec: Path) -> Cell:
    try:
        facts: Any = json.loads(spec.read_text(encoding="utf-8"))
        return Cell.model_validate_json(json.dumps(facts["cell"]))
    except (OSError, ValueError, KeyError, TypeError, pydantic.ValidationError) as error:
        raise UsageError(
            f"this version can't read the cell: {str(error).splitlines()[0]}", where=str(spec),
            do="run its suite again",
        ) from None  # fmt: skip


def _check_orders(cell: Cell, folder: Path) -> None:
    """NotReady if the scan orders have changed since the training."""
    assert cell.backbone is not None, "a trained cell has a network"
    options = catalogue().get("backbone", cell.backbone.name).make_options(cell.backbone.options)
    grid = Grid.of_image(cell.height, cell.width, options.patch, cell.frames)
    routes = cell_routes(cell.scan, grid=grid, depth=options.depth, seed=cell.seed, catalogue=catalogue())
    if tuple(route.digest for route in routes) != cell.order_digests:
        raise NotReady(
            f"the orders of the scan {cell.scan_label!r} have changed since the network was trained",
            where=str(folder), do="install the version of the scan that the network was trained with",
        )  # fmt: skip


def _card_condition(cell: Cell) -> CardCondition:
    condition = cell.condition
    if condition is None:
        return CardCondition(kind="none")
    if condition.kind == "text":
        return CardCondition(kind="text", text_width=condition.size, null_class=condition.drop_rate(cell.train) > 0)
    return CardCondition(kind="class", classes=condition.size, null_class=condition.droppable)


def _sampling_settings(cell: Cell) -> dict[str, Any]:
    """The cell's own sampling settings, without compilation and CUDA graphs, which don't pay off for few images."""
    own = cell.sample.model_dump(exclude_none=True)
    return {**own, "compile": False, "graph": False}
