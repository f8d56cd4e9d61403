"""A pretrained text encoder by the name that a suite gives it, as its files say: width, tokens, identity. No torch.

Weights are safetensors, in one file or in shards with an index; other formats can run code when they are read, and are
never looked at.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.files import Pretrained, file_sha256, hub_cache, offline

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("*token*.json", "vocab*", "merges.txt", "*.model")
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]  # what of a repository is downloaded


@dataclass(frozen=True)
class TextModel:
    """The files of an encoder, here or not."""

    files: Pretrained

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def revision(self) -> str | None:
        return self.files.revision

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def here(self) -> bool:
        """Whether its configuration and all of its weights are in the folder."""
        return (self.folder / CONFIG).is_file() and bool(self.weights())

    def config(self) -> dict[str, Any]:
        """config.json; NotReady where it is none."""
        return _mapping(self.folder / CONFIG)

    def weights(self) -> list[Path]:
        """The files of its weights; empty where one is missing."""
        names = [WEIGHTS]
        if (self.folder / INDEX).is_file():
            shards = _mapping(self.folder / INDEX).get("weight_map")
            names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        if any(Path(name).name != name for name in names):
            raise NotReady("the index of weights names a file outside its folder", where=str(self.folder / INDEX))
        files = [self.folder / name for name in names]
        return files if all(file.is_file() for file in files) else []

    def weights_sha256(self) -> str:
        """The sha256 of the file of weights; of several, that of their hashes in order of name."""
        hashes = [file_sha256(file) for file in self.weights()]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def fingerprint(self) -> str:
        """The repository at its commit; of a folder that is here, the sha256 of its weights, settings and tokenizer."""
        if self.revision is not None:
            return f"{self.name}@{self.revision}"
        small = {file for pattern in TOKENIZER for file in self.folder.glob(pattern)}
        hashes = {file.name: file_sha256(file) for file in small}
        text = json.dumps([self.config(), self.weights_sha256(), hashes], sort_keys=True)
        return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"

    def shape(self) -> tuple[int | None, int | None]:
        """Channels of the features and the most tokens, as the configuration has them."""
        config = self.config()
        text = config.get("text_config", config)  # of CLIP, which has a picture's beside it
        widths = [text[name] for name in ("hidden_size", "d_model", "dim") if isinstance(text.get(name), int)]
        limit = text.get("max_position_embeddings")
        return (widths[0] if widths else None), (limit if isinstance(limit, int) else None)

    def missing(self) -> tuple[Missing, ...]:
        """How to get a model that is not here."""
        if self.here:
            return ()
        if self.revision is None and self.folder.is_dir():
            lacking = CONFIG if not (self.folder / CONFIG).is_file() else f"{WEIGHTS} (or its shards)"
            return (Missing(f"{lacking} of the text encoder {self.name}", f"put it into {self.folder.absolute()}"),)
        return (Missing(f"the text encoder {self.name}", self.files.get()),)

    def fetch(self) -> Path:
        """Its folder, downloaded now where it is a repository's and not here; NotReady where that can't be."""
        if self.here:
            return self.folder
        if self.revision is None or offline():
            (missing,) = self.missing()
            raise NotReady(f"{missing.what} is not here", do=missing.do)
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        try:
            huggingface_hub.snapshot_download(
                self.name, revision=self.revision, cache_dir=hub_cache(), allow_patterns=PATTERNS
            )
        except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
            raise NotReady(
                f"the Hub does not give the encoder: {error}", where=self.name, do=self.files.get()
            ) from error
        if not self.here:
            raise NotReady(
                "the repository has no weights as safetensors", where=self.name, expected=WEIGHTS,
                do="take a revision that has them, or convert the model to a local folder",
            )  # fmt: skip
        return self.folder


def find(name: str, revision: str | None) -> TextModel:
    """The encoder of a name: owner/name with a commit is of the Hub, all else a folder.

    UsageError for a revision that is no commit, or that of a folder.
    """
    if revision is not None and Path(name).expanduser().is_dir():
        raise UsageError(f"{name!r} is a folder, which has no revision", do="leave revision out")
    return TextModel(Pretrained("text encoder", name, revision, None, (CONFIG, WEIGHTS)))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotReady(f"a file of the text encoder can't be read ({error})", where=str(path)) from None
    if not isinstance(found, dict):
        raise NotReady("a file of the text encoder is no mapping", where=str(path))
    return found
