"""Encode the latents of a data set, shard by shard.

The checksums of existing shards are compared, and only missing and broken shards are encoded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zigma_bench.data.images import Images, Splits, to_network_floats
from zigma_bench.data.latents.autoencoder import Autoencoder, open_autoencoder
from zigma_bench.data.latents.cache import RECONSTRUCTED, SPLITS, folder_of, latents_of, layout_of, stores_of
from zigma_bench.data.reading.arrays import Array, ArrayWriter, Fault, broken_shards, open_writer, require_same
from zigma_bench.errors import Interrupted, UsageError
from zigma_bench.plan.space import LatentSpace
from zigma_bench.records.store import check_writable, only_writer

CHUNK_BYTES = 2**26  # pixels that are decoded at a time
OnProgress = Callable[[int, int, str], None]  # encoded images, all images to encode, name of the store


@dataclass(frozen=True)
class Part:
    """A store of the cache, and the function that computes some of its rows."""

    writer: ArrayWriter
    rows_of: Callable[[Autoencoder, range], dict[str, Array]]


def encode_latents(
    splits: Splits,
    space: LatentSpace,
    cache: Path,
    *,
    device: str,
    on_progress: OnProgress,
    stopped: Callable[[], bool],
) -> int:
    """Complete a cache, and return the number of images that were encoded, or decoded for the reference.

    Raises NotReady for a folder with other latents and for an autoencoder that isn't the planned one, BadImage for a
    broken image, and Interrupted if `stopped()` becomes true; complete shards stay.
    """
    folder = folder_of(space, cache)
    _check_unused(folder)
    check_writable(folder)
    with only_writer(folder, "this cache", wait=True, stopped=stopped):
        due = [(part, part.writer.due()) for part in _open_parts(splits, space, cache)]
        total = sum(len(part.writer.layout.shards[shard]) for part, shards in due for shard in shards)
        done, autoencoder = 0, open_autoencoder(space, device) if total else None
        for part, shards in due:
            for shard in shards:
                if stopped():
                    raise Interrupted(f"stopped after {done:,} images; the same command resumes there")
                assert autoencoder is not None, "shards are due"
                rows = part.writer.layout.shards[shard]
                part.writer.write(shard, part.rows_of(autoencoder, rows))
                done += len(rows)
                on_progress(done, total, part.writer.folder.name)
    return done


def check_latents(splits: Splits, space: LatentSpace, cache: Path) -> dict[str, list[Fault]]:
    """The missing and broken shards of each store, after comparing all checksums; NotReady for other latents."""
    found = {}
    for name in stores_of(space):
        folder, layout = (
            folder_of(space, cache) / name,
            layout_of(space, name, len(_images_of_store(splits, space, name))),
        )
        require_same(folder, layout, do="run the command again without --check, which encodes them")
        found[name] = broken_shards(folder, layout)
    return found


def _open_parts(splits: Splits, space: LatentSpace, cache: Path) -> list[Part]:
    """The stores in the order in which they are written; all are opened before encoding starts."""
    parts = []
    for name in stores_of(space):
        images = _images_of_store(splits, space, name)
        writer = open_writer(folder_of(space, cache) / name, layout_of(space, name, len(images)))
        if name in SPLITS:
            parts.append(Part(writer, functools.partial(_encode_moments, images, tuple(writer.layout.fields))))
        else:
            parts.append(Part(writer, functools.partial(_decode_reconstructions, splits, space, cache)))
    return parts


def _images_of_store(splits: Splits, space: LatentSpace, name: str) -> Images:
    """The images of a store."""
    side: Images = getattr(splits, name if name in SPLITS else space.reconstructed or "")
    return side


def _check_unused(folder: Path) -> None:
    """Raise UsageError for a folder that contains files other than those of a cache."""
    names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    known = (*SPLITS, ".lock", ".owner")
    if foreign := [name for name in names if name not in known and not name.startswith(RECONSTRUCTED)]:
        raise UsageError(
            "the folder of the cache contains other files", where=str(folder), got=foreign[0], do="use another folder"
        )


def _encode_moments(images: Images, names: tuple[str, ...], autoencoder: Autoencoder, rows: range) -> dict[str, Array]:
    """The moments of some images; a thread decodes the next images while the autoencoder runs."""
    found: dict[str, list[Array]] = {name: [] for name in names}
    chunks = _chunks(rows, autoencoder.space)
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(images.take, chunks[0])]
        for chunk in [*chunks[1:], None]:
            pixels = coming.pop().result()
            if chunk is not None:
                coming.append(reader.submit(images.take, chunk))
            for name, parts in found.items():
                parts.append(autoencoder.moments(pixels if name == "moments" else pixels[..., ::-1]))
    dtype = autoencoder.space.given.dtype
    return {name: np.concatenate(parts).astype(dtype) for name, parts in found.items()}


def _decode_reconstructions(
    splits: Splits, space: LatentSpace, cache: Path, autoencoder: Autoencoder, rows: range
) -> dict[str, Array]:
    """Some images of the reference, decoded from the cached latents."""
    latents: Images = getattr(latents_of(splits, space, cache), space.reconstructed or "")
    batch = space.given.batch
    parts = [
        autoencoder.pixels(to_network_floats(latents.take(rows[i : i + batch]))) for i in range(0, len(rows), batch)
    ]
    return {"pixels": np.concatenate(parts)}


def _chunks(rows: range, space: LatentSpace) -> list[range]:
    """The rows in chunks of whole batches of the autoencoder: at most CHUNK_BYTES of pixels, at least one batch."""
    batches = max(1, CHUNK_BYTES // (space.frames * space.channels * space.height * space.width * space.given.batch))
    size = batches * space.given.batch
    return [rows[i : i + size] for i in range(0, len(rows), size)]
