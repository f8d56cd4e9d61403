"""Captions as features: encoded once for a data set, kept on disk, and read by number.

FOLDER/  store.json, 0000000.features.npy, ...   features float16 [tokens, width] and mask [tokens] of every distinct
                                                 caption in the order of first use, then of the empty text
         captions.json                           those captions, for a person and for prompts
         stream.npz                              which of them each training image of a stream has, in its order

The folder holds what the features depend on: the captions' sha256, the encoder's name, commit and fingerprint, the
sha256 of its weights, and the number of tokens. It can be copied to a machine without the encoder: there captions,
name, commit and fingerprint are compared, and the weights' sha256 is taken as it stands; where the weights are, they
are compared too.
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

from zigma_bench.conditioning.captioned import CaptionedStream, numbered
from zigma_bench.conditioning.text_encoder import Encoder, open_encoder
from zigma_bench.data.images import Images, Splits, Texts, has_order
from zigma_bench.data.reading.arrays import STORE, ArrayStore, Field, Layout, faults, open_store, open_writer
from zigma_bench.errors import Interrupted, NotReady, UsageError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.pretrained import text_encoders as encoders
from zigma_bench.pretrained.text_model import find
from zigma_bench.records.store import check_writable, only_writer, write_atomic, write_json

DTYPE = "float16"
MOST = float(np.finfo(np.float16).max)
CAPTIONS, STREAM = "captions.json", "stream.npz"
RESIDENT_BYTES = 2**31  # a table of this size or less is kept on the device

Tell = Callable[[int, str], None]


class TextTable:
    """Features of texts by number, on a device: see `diffusion.guidance.Texts`.

    A call gives features float32 [n, tokens, width] and, where `masked`, a mask bool [n, tokens].
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
        """The whole table on the device, where it is small."""
        values = int(np.prod(self.store.layout.fields["features"].shape)) * len(self.store)
        if values * 2 > RESIDENT_BYTES:
            return None
        rows = range(len(self.store))
        return tuple(torch.from_numpy(self.store.take(name, rows)).to(self.device) for name in self.names)


def with_texts(
    splits: Splits, text: TextFeatures, *, device: str, tell: Tell = lambda done, said: None
) -> tuple[Splits, TextTable]:
    """Both sides of a data set with numbered captions, and the features of them all, encoded now if they aren't kept.

    NotReady where they are neither kept nor can be encoded here, or belong to other captions or another encoder.
    """
    captioned, captions = numbered(splits, _of_stream(splits.train, text.folder))
    if encoders.kept(text.folder) is None:
        _encode(captions, text, device, tell)
        _remember(captioned.train, text.folder)
    return captioned, TextTable(open_kept(captions, text), masked=text.mask, device=device)


def encode_captions(splits: Splits, text: TextFeatures, device: str, tell: Tell, stopped: Callable[[], bool]) -> int:
    """Write what is missing or broken of the features of a data set's captions, and give the number of captions.

    Raises as `with_texts` does, and Interrupted when `stopped()`.
    """
    captioned, captions = numbered(splits)
    if check_captions(splits, text):
        _encode(captions, text, device, tell, stopped)
        _remember(captioned.train, text.folder)
    return len(captions)


def check_captions(splits: Splits, text: TextFeatures) -> list[str]:
    """What is missing or broken of the features of a data set's captions; all checksums are compared."""
    captioned, captions = numbered(splits)
    if encoders.kept(text.folder) is None:
        return [f"the captions' features in {text.folder} are missing or not whole"]
    store = open_kept(captions, text)
    found = [f"captions, shard {fault.shard} {fault.reason}" for fault in faults(text.folder, store.layout)]
    if has_order(splits.train):
        rows = range(len(captioned.train))
        if _of_stream(splits.train, text.folder) != captioned.train.captions(rows):  # type: ignore[attr-defined]
            found.append(f"{text.folder / STREAM} is missing or not of this stream")
    return found


def _of_stream(images: Images, folder: Path) -> list[Texts] | None:
    """The captions of a stream as they were read when they were encoded; None where they are to be read."""
    if not has_order(images):
        return None
    try:
        captions = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        with np.load(folder / STREAM, allow_pickle=False) as held:
            numbers, starts = held["numbers"].tolist(), held["starts"].tolist()
        texts = [tuple(captions[n] for n in numbers[i:j]) for i, j in itertools.pairwise(starts)]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    return texts if len(texts) == len(images) else None


def _remember(images: Images, folder: Path) -> None:
    """Keep which captions the images of a stream have, so that no other process reads it for them."""
    if isinstance(images, CaptionedStream):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, numbers=images.numbers, starts=images.starts)
        write_atomic(folder / STREAM, buffer.getvalue())


def _encode(
    captions: Sequence[str],
    text: TextFeatures,
    device: str,
    tell: Tell,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write the features of all captions, a shard at a time; what a kill left is gone on from."""
    encoder, folder = open_encoder(text.encoder, text.revision, device), text.folder
    check_writable(folder)
    texts = [*captions, ""]
    with filelock.FileLock(folder / ".turn"), only_writer(folder, "these features"):  # cells that start at once wait
        held = _held(folder)
        name = text.encoder if held is None else str(held["identity"].get("encoder"))
        layout = _layout(captions, text, encoder.width, encoder.weights_sha256(), name)
        writer = open_writer(folder, layout)
        write_json(folder / CAPTIONS, list(captions))
        cut = 0
        for shard in writer.due():
            if stopped():
                raise Interrupted(f"stopped before shard {shard} of the captions; the same command goes on from there")
            rows = layout.shards[shard]
            arrays, longer = _rows(encoder, texts[rows.start : rows.stop], text)
            writer.write(shard, arrays)
            cut += longer
            tell(rows.stop, f"captions encoded, {cut} of them cut to {text.tokens} tokens")


def _rows(encoder: Encoder, texts: Sequence[str], text: TextFeatures) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """The arrays of some texts, and how many of them were longer than the tokens."""
    features, mask, cut = encoder(texts, text.tokens)
    if not bool((np.abs(features) <= MOST).all()):
        bad = int(np.flatnonzero(~(np.abs(features) <= MOST).all(axis=(1, 2)))[0])
        raise NotReady(
            f"the encoder's features of {texts[bad]!r} don't fit {DTYPE}", where=text.encoder, do="take another encoder"
        )
    return {"features": features.astype(DTYPE), "mask": mask}, cut


def open_kept(captions: Sequence[str], text: TextFeatures) -> ArrayStore:
    """Features that are kept, if they are those of these captions and this encoder; NotReady if they are not."""
    folder = text.folder
    held = _held(folder)
    assert held is not None, "it was found, or written just now"
    identity, width = held["identity"], int(held["fields"]["features"]["shape"][1])
    sha256 = str(identity.get("weights_sha256"))
    if (found := _weights_here(text)) is not None and found != sha256:
        raise NotReady(
            f"the features were made by other weights than those of {text.encoder} here", where=str(folder),
            expected=found, got=sha256, do="remove the folder, and they are made again",
        )  # fmt: skip
    layout = _layout(captions, text, width, sha256, str(identity.get("encoder")))
    return open_store(folder, layout, do="run `zigma-bench data encode SUITE`, which mends it")


def _weights_here(text: TextFeatures) -> str | None:
    """The sha256 of an encoder's weights, where they lie in a folder of the user's, whose name says nothing of them."""
    if text.encoder in (encoders.RANDOM_WORDS, encoders.MINILM) or text.revision is not None:
        return None  # their name and version, or commit, are their identity
    model = find(text.encoder, None)
    return model.weights_sha256() if model.here else None


def _held(folder: Path) -> dict[str, Any] | None:
    """What the folder's store.json says, where there is one."""
    if not (folder / STORE).exists():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / STORE).read_text(encoding="utf-8"))
        found["identity"].keys(), found["fields"]["features"]["shape"][1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise NotReady("this is no store of features", where=str(folder / STORE), do="remove the folder") from None
    return found


def _layout(captions: Sequence[str], text: TextFeatures, width: int, weights_sha256: str, name: str) -> Layout:
    """`name`: the encoder's as the suite had it that the features were first made for; another name may be the same."""
    identity = {
        "captions_sha256": hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest(),
        "encoder": name,
        "revision": text.revision,
        "fingerprint": text.fingerprint,
        "weights_sha256": weights_sha256,
        "tokens": text.tokens,
    }
    fields = {"features": Field(DTYPE, (text.tokens, width)), "mask": Field("bool", (text.tokens,))}
    return Layout.of(identity, fields, len(captions) + 1)


def check_width(table: TextTable, width: int) -> None:
    """UsageError for a network that reads features of another width, which a plan without the encoder can't know."""
    found = table.store.layout.fields["features"].shape[1]
    if found != width:
        raise UsageError(
            "the network reads features of another width than the encoder's", expected=f"text_width: {found}", got=width
        )
