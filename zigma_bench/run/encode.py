"""Encode the latents and captions of a plan, in a fresh process for each cache.

Latents are encoded before any cell runs. Captions take less time: the first cell that needs them encodes them unless
the cache is complete already.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from zigma_bench.errors import CellFailed, Interrupted, NotReady, UsageError, ZigmaBenchError
from zigma_bench.plan import Cell, Plan
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.plan.latents import autoencoder_files
from zigma_bench.plan.space import TOY, LatentSpace
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.files import hub_is_offline
from zigma_bench.pretrained.text_encoders import cached_features
from zigma_bench.pretrained.text_model import find_text_model as text_model
from zigma_bench.records.store import check_writable
from zigma_bench.run.process import run_job
from zigma_bench.suite import Data, Suite
from zigma_bench.system.device import Device

Emit = Callable[[dict[str, Any]], None]
LOG = "encode.log"


@dataclass(frozen=True)
class EncodedCache:
    """A complete cache: its latent space, and the number of images that had to be encoded to complete it."""

    space: LatentSpace
    images: int


class HubModel(Protocol):
    """A model that a run downloads from the Hub if it is missing."""

    def missing(self) -> tuple[Missing, ...]: ...

    def fetch(self) -> object: ...


def hub_models(suite: Suite) -> list[HubModel]:
    """The autoencoders and text encoders of the Hub that a suite names; none in offline mode."""
    if hub_is_offline():
        return []
    sets: Sequence[Data] = () if suite.data is None else (suite.data,) if isinstance(suite.data, Data) else suite.data
    encoded = [data.latents for data in sets if data.latents is not None and data.latents.autoencoder != TOY]
    read = [data.text for data in sets if data.text is not None and data.text.revision is not None]
    named = dict.fromkeys(autoencoder_files(latents) for latents in encoded)
    return [
        *(files for files in named if files.revision is not None),
        *dict.fromkeys(text_model(text.encoder, text.revision) for text in read),
    ]


def cached_cells(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each latent cache of the cells."""
    found: dict[tuple[str, str | None], Cell] = {}
    for cell in cells:
        if cell.latents is not None:
            found.setdefault((cell.latents.folder_name, cell.latents.given.cache), cell)
    return list(found.values())


def encode_latents(
    cells: Sequence[Cell], results: Path, device: Device, emit: Callable[[Cell, dict[str, Any]], None]
) -> list[EncodedCache]:
    """Encode the missing and broken parts of the latent caches of the cells.

    Raises NotReady if a cache folder contains other latents, CellFailed if an image is broken or the process fails, and
    Interrupted. The parts written before an error remain valid.
    """
    done = []
    for cell in cached_cells(cells):
        assert cell.latents is not None, "a cached cell has latents"
        last = _run_worker(cell, results, device, functools.partial(emit, cell), check=False)
        done.append(EncodedCache(cell.latents, last["images"]))
    return done


def check_latents(plan: Plan, results: Path, device: Device) -> list[tuple[LatentSpace, list[str]]]:
    """The missing and broken parts of each latent cache of a plan. NotReady if a cache contains other latents."""
    found = []
    for cell in cached_cells(plan.cells):
        assert cell.latents is not None, "a cached cell has latents"
        found.append((cell.latents, _run_worker(cell, results, device, lambda event: None, check=True)["faults"]))
    return found


def text_cells(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each cache of text features of the cells."""
    found: dict[Path, Cell] = {}
    for cell in cells:
        if cell.text is not None:
            found.setdefault(cell.text.folder, cell)
    return list(found.values())


def encode_texts(
    cells: Sequence[Cell], results: Path, device: Device, emit: Callable[[Cell, dict[str, Any]], None]
) -> None:
    """Encode the missing and broken parts of the text features of the cells.

    Raises the errors of `encode_latents`, and NotReady if the text encoder isn't installed.
    """
    for cell in text_cells(cells):
        _run_worker(cell, results, device, functools.partial(emit, cell), check=False, texts=True)


def check_texts(plan: Plan, results: Path, device: Device) -> list[str]:
    """The missing and broken parts of the text features of a plan."""
    found: list[str] = []
    for cell in text_cells(plan.cells):
        found += _run_worker(cell, results, device, lambda event: None, check=True, texts=True)["faults"]
    return found


def _run_worker(
    cell: Cell, results: Path, device: Device, emit: Emit, *, check: bool, texts: bool = False
) -> dict[str, Any]:
    """Run one job in a fresh process and return its last event."""
    check_writable(results / ".cache")
    job = {
        "cell": cell.model_dump(mode="json"), "results": str(results.resolve()), "device": asdict(device),
        "check": check, "texts": texts,
    }  # fmt: skip
    log = results / ".cache" / LOG
    last: dict[str, Any] = {}

    def on_event(event: dict[str, Any]) -> None:
        last.clear()
        last.update(event)
        emit(event)

    code = run_job("zigma_bench.run.workers.encode", job, log, on_event)
    if code != 0:
        raise _worker_error(code, last["text"] if last.get("event") == "stopped" else None, log)
    return last


def _worker_error(code: int, reason: str | None, log: Path) -> ZigmaBenchError:
    """The error for the exit code of the process and the reason in its last event."""
    if reason is None:
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return CellFailed(f"the encoding process ended with {name}; its log: {log}")
    kinds: dict[int, type[ZigmaBenchError]] = {kind.exit_code: kind for kind in (UsageError, NotReady, Interrupted)}
    return kinds.get(code, CellFailed)(reason)


def cache_problems(space: LatentSpace) -> list[NotReady]:
    """The faults of a latent cache: latents of another autoencoder or of other images, broken shards, and shards that
    are missing before existing ones. Compares all checksums. Shards that are not written yet are not faults."""
    from zigma_bench.data.latents.cache import DO, folder_of, layout_of, stores_of
    from zigma_bench.data.reading.arrays import STORE, broken_shards, read_rows, require_same

    found = []
    for name in stores_of(space):
        folder = folder_of(space, Path()) / name
        if not (folder / STORE).exists():
            continue
        layout = layout_of(space, name, read_rows(folder) or 0)
        try:
            require_same(folder, layout)
        except NotReady as error:
            found.append(error)
            continue
        broken = broken_shards(folder, layout)
        ends = [shard for shard in range(len(layout.shards)) if shard not in {fault.shard for fault in broken}]
        for fault in broken:
            if not fault.absent or fault.shard < max(ends, default=0):
                found.append(NotReady(f"shard {fault.shard} {fault.reason}", where=str(folder), do=DO))
    return found


def cache_state(space: LatentSpace, results: Path) -> str:
    """The folder of a latent cache and whether it is complete, by file names and sizes; or the reason why it doesn't
    match."""
    from zigma_bench.data.latents.cache import SPLITS, folder_of, layout_of, stores_of
    from zigma_bench.data.reading.arrays import STORE, broken_shards, read_rows, require_same

    folder = folder_of(space, results / ".cache")
    rows = {name: read_rows(folder / name) or 0 for name in stores_of(space)}
    layouts = {name: layout_of(space, name, count) for name, count in rows.items()}
    try:
        there = [name for name in layouts if (folder / name / STORE).exists()]
        for name in there:
            require_same(folder / name, layouts[name])
    except NotReady as error:
        return str(error)
    if len(there) < len(layouts):
        return f"not encoded yet; a run encodes first, into {folder}"
    broken = sum(len(broken_shards(folder / name, layout, checksums=False)) for name, layout in layouts.items())
    if broken:
        return f"{broken} shards are not encoded yet; a run encodes them first, in {folder}"
    return f"encoded, {sum(rows[split] for split in SPLITS):,} images in {folder}"


def text_state(text: TextFeatures) -> str:
    """The folder of the text features and whether they are complete, by the marks of their shards."""
    if (store := cached_features(text.folder)) is None:
        return f"not encoded yet; a run encodes first, into {text.folder}"
    return f"encoded, {store['rows'] - 1:,} captions in {text.folder}"


def text_problems(text: TextFeatures) -> list[NotReady]:
    """The broken shards of complete text features. Compares all checksums. Incomplete features have no faults here,
    because a run completes them."""
    from zigma_bench.data.reading.arrays import ArrayField, ArrayLayout, broken_shards

    if (store := cached_features(text.folder)) is None:
        return []
    fields = {name: ArrayField(field["dtype"], tuple(field["shape"])) for name, field in store["fields"].items()}
    layout = ArrayLayout(store["identity"], fields, store["rows"], store["shard_rows"])
    do = "run `zigma-bench data encode SUITE`, which repairs it"
    found = broken_shards(text.folder, layout)
    return [NotReady(f"captions, shard {fault.shard} {fault.reason}", where=str(text.folder), do=do) for fault in found]
