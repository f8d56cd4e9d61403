"""The files of a pretrained text encoder: its width, its limit of tokens, its fingerprint. Imports no torch.

Weights are safetensors, in one file or in shards with an index. Other formats are never read, because they can run
code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.files import Pretrained, file_sha256, hub_cache, hub_is_offline

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("*token*.json", "vocab*", "merges.txt", "*.model")
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]  # files of a repository to download


@dataclass(frozen=True)
class TextModel:
    """The files of an encoder, which may be missing."""

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
        """Whether the configuration and all weights are in the folder."""
        return (self.folder / CONFIG).is_file() and bool(self.weights())

    def config(self) -> dict[str, Any]:
        """The contents of config.json; NotReady if it is missing or invalid."""
        return _mapping(self.folder / CONFIG)

    def weights(self) -> list[Path]:
        """The files of the weights; empty if one is missing."""
        names = [WEIGHTS]
        if (self.folder / INDEX).is_file():
            shards = _mapping(self.folder / INDEX).get("weight_map")
            names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        if any(Path(name).name != name for name in names):
            raise NotReady("the index of the weights names a file outside its folder", where=str(self.folder / INDEX))
        files = [self.folder / name for name in names]
        return files if all(file.is_file() for file in files) else []

    def weights_sha256(self) -> str:
        """The sha256 of the file of weights; for several files, the sha256 of their hashes, sorted by file name."""
        hashes = [file_sha256(file) for file in self.weights()]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def fingerprint(self) -> str:
        """NAME@COMMIT for a repository; for a folder, a sha256 of its weights, configuration and tokenizer."""
        if self.revision is not None:
            return f"{self.name}@{self.revision}"
        small = {file for pattern in TOKENIZER for file in self.folder.glob(pattern)}
        hashes = {file.name: file_sha256(file) for file in small}
        text = json.dumps([self.config(), self.weights_sha256(), hashes], sort_keys=True)
        return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"

    def shape(self) -> tuple[int | None, int | None]:
        """The number of channels and the most tokens in the configuration, None if unknown."""
        config = self.config()
        text = config.get("text_config", config)  # CLIP also has a vision_config
        widths = [text[name] for name in ("hidden_size", "d_model", "dim") if isinstance(text.get(name), int)]
        limit = text.get("max_position_embeddings")
        return (widths[0] if widths else None), (limit if isinstance(limit, int) else None)

    def missing(self) -> tuple[Missing, ...]:
        """The missing files and how to get them, for a plan; empty if all files exist."""
        if self.here:
            return ()
        if self.revision is None and self.folder.is_dir():
            absent = CONFIG if not (self.folder / CONFIG).is_file() else f"{WEIGHTS} (or its shards)"
            return (Missing(f"{absent} of the text encoder {self.name}", f"put it into {self.folder.absolute()}"),)
        return (Missing(f"the text encoder {self.name}", self.files.get()),)

    def fetch(self) -> Path:
        """The folder of the model, after downloading a missing repository; NotReady if the model is missing."""
        if self.here:
            return self.folder
        if self.revision is None or hub_is_offline():
            (missing,) = self.missing()
            raise NotReady(f"{missing.what} is missing", do=missing.do)
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        try:
            huggingface_hub.snapshot_download(
                self.name, revision=self.revision, cache_dir=hub_cache(), allow_patterns=PATTERNS
            )
        except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
            raise NotReady(
                f"the text encoder can't be downloaded from the Hub: {error}", where=self.name, do=self.files.get()
            ) from error
        if not self.here:
            raise NotReady(
                "the repository has no weights in safetensors", where=self.name, expected=WEIGHTS,
                do="use a revision that has them, or convert the model to a local folder",
            )  # fmt: skip
        return self.folder


def find_text_model(name: str, revision: str | None) -> TextModel:
    """The encoder of a name: a model of the Hub if there is a revision, else a folder.

    Raises UsageError for a revision that isn't a full commit, and for a folder with a revision.
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
        raise NotReady("a file of the text encoder is not a JSON object", where=str(path))
    return found
