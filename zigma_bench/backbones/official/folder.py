"""Import a released checkpoint into a model folder, and open the network of such a folder.

DIR/  model.safetensors  the weights, by our names
      card.json          the description (card.py)
      README.md          the description as a page
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zigma_bench import __version__
from zigma_bench.backbones.official import dit, zigma
from zigma_bench.backbones.official.card import (
    CARD,
    README,
    TIMES,
    WEIGHTS,
    Card,
    CardCondition,
    CardTokens,
    Origin,
    Space,
    Weights,
    read_card,
)
from zigma_bench.backbones.official.released import read_released, sha256_of
from zigma_bench.backbones.official.state import Loading, fill_weights, tensors_of, weight_sets
from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.layers.tensors import list_faults, not_finite
from zigma_bench.ops.backends import resolve
from zigma_bench.plan import Resolved
from zigma_bench.records.store import sync_folder, write_atomic, write_json
from zigma_bench.suite import PathName, Prediction

NETWORKS: dict[str, Callable[..., Loading]] = {
    "zigma": zigma.build_official_zigma,
    "dit": dit.build_dit,
    "sit": dit.build_sit,
}
SIZES = ("embed_dim", "hidden_size", "in_channels", "img_dim", "input_size", "num_classes", "d_context")
OMITTED = (
    "device",
    "dtype",
)  # arguments of ZigMa's constructor that the model card omits: where it ran, and a dtype that is always float32


def network_of(name: str) -> Callable[..., Loading]:
    """The function that builds an official network. UnknownName for an unknown name."""
    if name not in NETWORKS:
        raise UnknownName("official network", name, NETWORKS)
    return NETWORKS[name]


def import_checkpoint(
    name: str,
    file: Path,
    config: Mapping[str, Any],
    folder: Path,
    *,
    weights: Literal["ema", "model"] | None = None,
    path: PathName | None = None,
    prediction: Prediction | None = None,
    space: Space | None = None,
) -> Card:
    """Write the model of a released file to a new folder, atomically, and return its model card.

    `config`: the arguments of the official constructor; empty for the released XL/2 of DiT and SiT. Defaults: `weights`
    is ema if the file has an EMA; `path` and `prediction` are linear and velocity for ZigMa and SiT, and fixed to vp
    and noise for DiT; `space` is pixels for 1 or 3 channels, else latents.

    Raises UnknownName for an unknown `name`, NotReady if the file is missing, and UsageError if the file is damaged or
    contains code, for unknown constructor arguments, for different names or shapes (all are listed), and if the folder
    is in use.
    """
    network_of(name)
    _check_free(folder)
    _check_objective(name, path, prediction)
    checkpoint = read_released(file)
    chosen = _choose_weights(checkpoint, weights, file)
    tensors = _select_tensors(checkpoint, chosen, file)
    _check_sizes(name, config, tensors)
    loading = _build_network(name, config)
    fill_weights(loading.layout, tensors, where=str(file))
    loading.finish()
    origin = Origin(file=file.name, bytes=file.stat().st_size, sha256=sha256_of(file), weights=chosen)
    facts = _card_facts(name, loading, space)
    if name == "dit":
        return _write_model(folder, loading, facts, origin, "vp", "noise")
    return _write_model(folder, loading, facts, origin, path or "linear", prediction or "velocity")


def open_model(folder: str | Path, *, backend: str = "auto", device: str = "cpu") -> nn.Module:
    """Load the network of a model folder, float32, in eval mode. `official.load` describes its inputs.

    Raises UsageError if the folder contains no model or the weights don't match the hash in the model card.
    """
    folder = Path(folder)
    card = read_card(folder)
    loading = network_of(card.official)(card.config, backend=resolve(backend, torch.device(device).type))
    loading.finish()
    weights = _read_weights(folder / WEIGHTS, card)
    positions: Any = loading.network.positions
    if (
        positions.kind == "sincos" and "positions.table" in weights
    ):  # a table that differs from the formula (see keep_positions)
        positions.register_buffer("table", positions.table, persistent=True)
    try:
        loading.network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UsageError(f"the weights don't match the model card: {error}", where=str(folder / WEIGHTS)) from None
    return loading.network.to(device).eval()


def _choose_weights(checkpoint: Mapping[str, Any], requested: Literal["ema", "model"] | None, file: Path) -> Weights:
    """The set of weights to import: the requested one, else the EMA, else the model, else the plain state dict."""
    try:
        sets = weight_sets(checkpoint)
    except UsageError as error:
        raise error.at(str(file)) from None
    if "only" not in sets:
        return requested or ("ema" if "ema" in sets else "model")
    if requested is not None:
        raise UsageError(f"the file has only one set of weights, and it is not called {requested!r}", where=str(file))
    return "only"


def _select_tensors(checkpoint: Mapping[str, Any], chosen: Weights, file: Path) -> dict[str, Tensor]:
    try:
        return tensors_of(checkpoint, chosen)
    except UsageError as error:
        raise error.at(str(file)) from None


def _build_network(name: str, config: Mapping[str, Any]) -> Loading:
    """Build the network before loading its weights. UsageError if that fails, for example for lack of memory."""
    try:
        return network_of(name)(config, backend=resolve("torch", "cpu"))
    except (
        RuntimeError,
        MemoryError,
        OverflowError,
        ValueError,
        TypeError,
    ) as error:  # torch and NumPy raise these for bad sizes
        first = (str(error).splitlines() or ["no reason"])[0][:200]
        raise UsageError(
            f"the network that the config describes can't be built ({type(error).__name__}: {first})",
            where=f"config of {name}", do="use the arguments that the network was trained with",
        ) from None  # fmt: skip


def _check_sizes(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """UsageError if the network is far larger than the file. Checked before its memory is allocated."""
    values = sum(tensor.numel() for tensor in tensors.values())
    limits = dict.fromkeys(SIZES, values) | {"depth": len(tensors)}
    for key, most in limits.items():
        if type(config.get(key)) is int and config[key] > most:
            raise UsageError(
                "the network of the config is larger than the file", where=f"config of {name}, key {key}",
                expected=f"at most {most:,}, for {len(tensors):,} tensors of {values:,} values", got=config[key],
                do="use the arguments that the network was trained with",
            )  # fmt: skip


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("the folder is in use", where=str(folder), expected="a new folder", do="choose another --out")


def _check_objective(name: str, path: PathName | None, prediction: Prediction | None) -> None:
    if name == "dit" and (path, prediction) not in ((None, None), ("vp", "noise")):
        raise UsageError("DiT predicts the noise on DDPM's path", got=[path, prediction], do="omit path and prediction")


def _card_facts(name: str, loading: Loading, space: Space | None) -> dict[str, Any]:
    """The fields of the model card that describe the network."""
    network: Any = loading.network
    grid, options = network.grid, loading.options
    picture = (network.channels, grid.height * options.patch, grid.width * options.patch)
    return {
        "official": name,
        "config": {key: value for key, value in asdict(loading.config).items() if key not in OMITTED},
        "backbone": Resolved(name=loading.backbone.name, owner=loading.backbone.owner, options=asdict(options)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "grid": CardTokens(frames=grid.frames, height=grid.height, width=grid.width, patch=options.patch),
        "channels": network.channels,
        "shape": (grid.frames, *picture) if grid.video else picture,
        "space": space or ("pixels" if network.channels in (1, 3) else "latents"),
        "condition": _card_condition(options),
        "time": TIMES[name],
        "learned_sigma": name == "dit" and options.learn_sigma,
    }


def _card_condition(options: Any) -> CardCondition:
    if options.condition == "class":
        return CardCondition(kind="class", classes=options.classes, null_class=options.null_class)
    if options.condition == "text":
        return CardCondition(kind="text", text_width=options.text_width)
    return CardCondition(kind="none")


def _write_model(
    folder: Path, loading: Loading, facts: dict[str, Any], origin: Origin, path: PathName, prediction: Prediction
) -> Card:
    """Write all files to a temporary folder next to the final one, then rename it."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        tensors = {key: value.detach().contiguous() for key, value in loading.network.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)  # save_file makes it readable by its owner only
        with (temporary / WEIGHTS).open("rb") as file:
            os.fsync(file.fileno())
        card = Card(
            format=1, **facts, path=path, prediction=prediction, source=origin,
            model_sha256=sha256_of(temporary / WEIGHTS), zigma_bench=__version__,
        )  # fmt: skip
        write_atomic(temporary / README, card.readme())
        write_json(temporary / CARD, card.model_dump(mode="json"))
        os.replace(temporary, folder)  # also replaces an empty folder
        sync_folder(folder.parent)
    except OSError as error:
        raise NotReady(
            f"the model can't be written: {error.strerror}", where=str(folder), do="choose another --out"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return card


def _read_weights(path: Path, card: Card) -> dict[str, Tensor]:
    try:
        if (found := sha256_of(path)) != card.model_sha256:
            raise UsageError(
                "the weights don't match the model card", where=str(path), expected=f"sha256 {card.model_sha256}",
                got=found, do="import the model again",
            )  # fmt: skip
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"the weights can't be read: {error}", where=str(path), do="import the model again") from None
    if bad := not_finite(weights):
        raise UsageError(f"the weights are not finite: {list_faults(bad)}", where=str(path), do="import another file")
    return weights
