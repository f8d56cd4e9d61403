"""Text features of captions: encoded once for a data set, cached on disk, and read by caption number.

FOLDER/  store.json, 0000000.features.npy, ...   features float16 [tokens, width] and mask [tokens] of every distinct
                                                 caption in the order of first use, then of the empty text
         captions.json                           these captions, for readers and for prompts
         stream.npz                              the caption numbers of each training image of a stream, in order

The identity of the store is everything that the features depend on: the sha256 of the captions, the name, commit and
fingerprint of the encoder, the sha256 of its weights, and the number of tokens. The folder can be copied to a machine
without the encoder. There, everything except the sha256 of the weights is compared; if the weights exist, that too.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zigma_bench.conditioning.captioned import CaptionedStream, number_captions
from zigma_bench.conditioning.text_encoder import Encoder, open_encoder
from zigma_bench.data.images import Captions, Images, Splits, has_order
from zigma_bench.data.reading.arrays import (
    STORE,
    ArrayField,
    ArrayLayout,
    ArrayStore,
    broken_shards,
    open_store,
    open_writer,
)
from zigma_bench.errors import Interrupted, NotReady, UsageError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.pretrained.text_model import find_text_model
from zigma_bench.records.store import check_writable, only_writer, write_atomic, write_json

DTYPE = "float16"
MOST = float(np.finfo(np.float16).max)
CAPTIONS, STREAM = "captions.json", "stream.npz"
RESIDENT_BYTES = 2**31  # a table of at most this size stays on the device

OnProgress = Callable[[int, str], None]


class TextTable:
    """Features of texts by number, on a device. Implements `diffusion.guidance.TextLookup`.

    A call returns features, float32 [n, tokens, width], and if `masked` a mask, bool [n, tokens].
    """

    def __init__(self, store: ArrayStore, *, masked: bool, device: str) -> None:
        self.store, self.masked, self.device = store, masked, device
        self.null = len(store) - 1
        self.names = ("features", "mask") if masked else ("features",)

    def __call__(self, numbers: Tensor) -> tuple[Tensor, ...]:
        if self._resident is not None:
            found = tuple(table[numbers] for table in self._resident)
        else:
            rows = numbers.cpu().numpy()
            found = tuple(torch.from_numpy(self.store.take(name, rows)).to(self.device) for name in self.names)
        return (found[0].float(), *found[1:])

    @cached_property
    def _resident(self) -> tuple[Tensor, ...] | None:
        """The whole table on the device; None if it is larger than RESIDENT_BYTES."""
        values = int(np.prod(self.store.layout.fields["features"].shape)) * len(self.store)
        if values * 2 > RESIDENT_BYTES:
            return None
        rows = range(len(self.store))
        return tuple(torch.from_numpy(self.store.take(name, rows)).to(self.device) for name in self.names)


def load_text_features(
    splits: Splits, text: TextFeatures, *, device: str, on_progress: OnProgress = lambda done, text: None
) -> tuple[Splits, TextTable]:
    """The splits of a data set with numbered captions, and their features, which are encoded now if not cached.

    Raises NotReady if the features are not cached and can't be encoded here, or if the cache belongs to other captions
    or to another encoder.
    """
    captioned, captions = number_captions(splits, _stream_captions(splits.train, text.folder))
    if encoders.cached_features(text.folder) is None:
        _encode_missing(captions, text, device, on_progress)
        _write_stream(captioned.train, text.folder)
    return captioned, TextTable(open_features(captions, text), masked=text.mask, device=device)


def encode_captions(
    splits: Splits, text: TextFeatures, device: str, on_progress: OnProgress, stopped: Callable[[], bool]
) -> int:
    """Write the missing or broken features of a data set's captions, and return the number of captions.

    Raises the errors of `load_text_features`, and Interrupted if `stopped()` becomes true.
    """
    captioned, captions = number_captions(splits)
    if check_captions(splits, text):
        _encode_missing(captions, text, device, on_progress, stopped)
        _write_stream(captioned.train, text.folder)
    return len(captions)


def check_captions(splits: Splits, text: TextFeatures) -> list[str]:
    """The missing or broken parts of the features of a data set's captions; compares all checksums."""
    captioned, captions = number_captions(splits)
    if encoders.cached_features(text.folder) is None:
        return [f"the captions' features in {text.folder} are missing or incomplete"]
    store = open_features(captions, text)
    found = [f"captions, shard {fault.shard} {fault.reason}" for fault in broken_shards(text.folder, store.layout)]
    if has_order(splits.train):
        rows = range(len(captioned.train))
        if _stream_captions(splits.train, text.folder) != captioned.train.captions(rows):  # type: ignore[attr-defined]
            found.append(f"{text.folder / STREAM} is missing or belongs to another stream")
    return found


def _stream_captions(images: Images, folder: Path) -> list[Captions] | None:
    """The captions of a stream from stream.npz; None if they must be read from the stream."""
    if not has_order(images):
        return None
    try:
        captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        with np.load(folder / STREAM, allow_pickle=False) as arrays:
            numbers, starts = arrays["numbers"].tolist(), arrays["starts"].tolist()
        texts = [tuple(captions[n] for n in numbers[i:j]) for i, j in itertools.pairwise(starts)]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    return texts if len(texts) == len(images) else None


def _write_stream(images: Images, folder: Path) -> None:
    """Write the caption numbers of a stream's images, so that no other process reads the stream for them."""
    if isinstance(images, CaptionedStream):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, numbers=images.numbers, starts=images.starts)
        write_atomic(folder / STREAM, buffer.getvalue())


def _encode_missing(
    captions: Sequence[str],
    text: TextFeatures,
    device: str,
    on_progress: OnProgress,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write the missing shards of the features of all captions."""
    encoder, folder = open_encoder(text.encoder, text.revision, device), text.folder
    check_writable(folder)
    texts = [*captions, ""]
    with filelock.FileLock(folder / ".turn"), only_writer(folder, "these features"):  # other cells wait
        store = _read_store(folder)
        name = text.encoder if store is None else str(store["identity"].get("encoder"))
        layout = _store_layout(captions, text, encoder.width, encoder.weights_sha256(), name)
        writer = open_writer(folder, layout)
        write_json(folder / CAPTIONS, list(captions))
        cut = 0
        for shard in writer.due():
            if stopped():
                raise Interrupted(f"stopped before shard {shard} of the captions; the same command resumes there")
            rows = layout.shards[shard]
            arrays, longer = _encode_rows(encoder, texts[rows.start : rows.stop], text)
            writer.write(shard, arrays)
            cut += longer
            on_progress(rows.stop, f"captions encoded, {cut} of them truncated to {text.tokens} tokens")


def _encode_rows(encoder: Encoder, texts: Sequence[str], text: TextFeatures) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """The arrays of some texts, and the number of truncated ones; NotReady for features beyond float16."""
    features, mask, cut = encoder(texts, text.tokens)
    if not bool((np.abs(features) <= MOST).all()):
        bad = int(np.flatnonzero(~(np.abs(features) <= MOST).all(axis=(1, 2)))[0])
        raise NotReady(
            f"the encoder's features of {texts[bad]!r} don't fit {DTYPE}", where=text.encoder, do="use another encoder"
        )
    return {"features": features.astype(DTYPE), "mask": mask}, cut


def open_features(captions: Sequence[str], text: TextFeatures) -> ArrayStore:
    """The cached features of captions; NotReady if they belong to other captions or another encoder."""
    folder = text.folder
    store = _read_store(folder)
    assert store is not None, "the caller found or wrote the store"
    identity, width = store["identity"], int(store["fields"]["features"]["shape"][1])
    sha256 = str(identity.get("weights_sha256"))
    if (found := _weights_here(text)) is not None and found != sha256:
        raise NotReady(
            f"the features were encoded with other weights than those of {text.encoder}", where=str(folder),
            expected=found, got=sha256, do="remove the folder to encode them again",
        )  # fmt: skip
    layout = _store_layout(captions, text, width, sha256, str(identity.get("encoder")))
    return open_store(folder, layout, do="run `zigma-bench data encode SUITE`, which repairs it")


def _weights_here(text: TextFeatures) -> str | None:
    """The sha256 of the weights in a local folder; None for other encoders and for a missing folder."""
    if text.encoder in (encoders.RANDOM_WORDS, encoders.MINILM) or text.revision is not None:
        return None  # the name and version, or the commit, identify the weights
    model = find_text_model(text.encoder, None)
    return model.weights_sha256() if model.here else None


def _read_store(folder: Path) -> dict[str, Any] | None:
    """The contents of store.json, or None without one; NotReady if it is invalid."""
    if not (folder / STORE).exists():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / STORE).read_text(encoding="utf-8"))
        found["identity"].keys(), found["fields"]["features"]["shape"][1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise NotReady("not a store of text features", where=str(folder / STORE), do="remove the folder") from None
    return found


def _store_layout(
    captions: Sequence[str], text: TextFeatures, width: int, weights_sha256: str, name: str
) -> ArrayLayout:
    """The layout of the store; `name` is the encoder's name in the suite that first encoded these features."""
    identity = {
        "captions_sha256": hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest(),
        "encoder": name,
        "revision": text.revision,
        "fingerprint": text.fingerprint,
        "weights_sha256": weights_sha256,
        "tokens": text.tokens,
    }
    fields = {"features": ArrayField(DTYPE, (text.tokens, width)), "mask": ArrayField("bool", (text.tokens,))}
    return ArrayLayout.of(identity, fields, len(captions) + 1)


def check_width(table: TextTable, width: int) -> None:
    """Raise UsageError if the network expects features of another width, which a plan without the encoder can't see."""
    found = table.store.layout.fields["features"].shape[1]
    if found != width:
        raise UsageError(
            "the network's text_width is not the width of the features", expected=f"text_width: {found}", got=width
        )
