"""Writing the latents of a data set: a shard after another, each kept as soon as it is encoded.

What was written before is checked against its checksums; what is missing or broken is encoded, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zigma_bench.data.arrays import Array, ArrayWriter, Fault, faults, open_writer, require_same
from zigma_bench.data.autoencoder import Autoencoder, open_autoencoder
from zigma_bench.data.latents import SPLITS, Split, folder_of, layout_of
from zigma_bench.errors import Interrupted, UsageError
from zigma_bench.images import Images, Splits
from zigma_bench.plan.space import LatentSpace
from zigma_bench.store import check_writable, only_writer

CHUNK_BYTES = 2**26  # of pixels that are decoded at a time
Tell = Callable[[int, int, str], None]  # images that are encoded, of so many, and a word


def encode(
    splits: Splits, space: LatentSpace, cache: Path, *, device: str, tell: Tell, stopped: Callable[[], bool]
) -> int:
    """Bring a cache up to date and give the number of images that were encoded.

    Raises NotReady for a folder of other latents and for an autoencoder that is not the planned one, BadImage for an
    image that is broken, Interrupted when `stopped()`: what was written stays.
    """
    folder = folder_of(space, cache)
    _check_free(folder)
    check_writable(folder)
    with only_writer(folder, "this cache"):
        due = [(writer, images, writer.due()) for writer, images in _writers(splits, space, folder)]
        total = sum(len(writer.layout.shards[shard]) for writer, _, shards in due for shard in shards)
        done, autoencoder = 0, open_autoencoder(space, device) if total else None
        for writer, images, shards in due:
            for shard in shards:
                if stopped():
                    raise Interrupted(f"stopped after {done:,} images; the same command goes on from there")
                assert autoencoder is not None, "there is something to encode"
                writer.write(shard, _moments(autoencoder, images, writer, shard))
                done += len(writer.layout.shards[shard])
                tell(done, total, writer.folder.name)
    return done


def check(splits: Splits, space: LatentSpace, cache: Path) -> dict[Split, list[Fault]]:
    """The shards of each split that are missing or broken, all checksums compared; NotReady for other latents."""
    found = {}
    for split in SPLITS:
        folder, layout = folder_of(space, cache) / split, layout_of(space, split, len(getattr(splits, split)))
        require_same(folder, layout)
        found[split] = faults(folder, layout)
    return found


def _writers(splits: Splits, space: LatentSpace, folder: Path) -> list[tuple[ArrayWriter, Images]]:
    """The store of each split and its images; both are opened before anything is encoded."""
    sides: list[Images] = [getattr(splits, split) for split in SPLITS]
    layouts = [layout_of(space, split, len(images)) for split, images in zip(SPLITS, sides, strict=True)]
    writers = [open_writer(folder / split, layout) for split, layout in zip(SPLITS, layouts, strict=True)]
    return list(zip(writers, sides, strict=True))


def _check_free(folder: Path) -> None:
    """A folder of a suite's choice must be a cache's already, or hold nothing."""
    known = {*SPLITS, ".lock", ".owner"}
    if folder.is_dir() and (foreign := sorted(item.name for item in folder.iterdir() if item.name not in known)):
        raise UsageError("the folder of the cache is in use", where=str(folder), got=foreign[0], do="give another one")


def _moments(autoencoder: Autoencoder, images: Images, writer: ArrayWriter, shard: int) -> dict[str, Array]:
    """The rows of a shard; the next images are decoded while the autoencoder is at work."""
    found: dict[str, list[Array]] = {name: [] for name in writer.layout.fields}
    chunks = _chunks(writer.layout.shards[shard], autoencoder.space)
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(images.take, chunks[0])]
        for chunk in [*chunks[1:], None]:
            pixels = coming.pop().result()
            if chunk is not None:
                coming.append(reader.submit(images.take, chunk))
            for name, parts in found.items():
                parts.append(autoencoder.moments(pixels if name == "moments" else pixels[..., ::-1]))
    kept = autoencoder.space.given.dtype
    return {name: np.concatenate(parts).astype(kept) for name, parts in found.items()}


def _chunks(rows: range, space: LatentSpace) -> list[range]:
    """The rows in whole batches of the autoencoder, as many as CHUNK_BYTES of pixels hold, and one at least."""
    batches = max(1, CHUNK_BYTES // (space.frames * space.channels * space.height * space.width * space.given.batch))
    size = batches * space.given.batch
    return [rows[i : i + size] for i in range(0, len(rows), size)]
