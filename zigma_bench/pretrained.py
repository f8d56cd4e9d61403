"""Pretrained models by name: a local folder, or a repository of the Hugging Face Hub at one commit. Without torch.

Nothing here touches the network but `fetch`, which downloads unless HF_HUB_OFFLINE is set. Weights are safetensors;
other formats can run code when they are read, and are never looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.registry import Missing

CACHE_VARIABLE = "ZIGMA_BENCH_CACHE"
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]  # what of a repository is downloaded


@dataclass(frozen=True)
class Pretrained:
    """A model by the name that a suite gives it; `folder`: where it lies or would lie; `revision` of a repository."""

    name: str
    revision: str | None
    folder: Path

    @property
    def here(self) -> bool:
        """Whether its configuration and all of its weights are in the folder."""
        return (self.folder / CONFIG).is_file() and bool(self.weights())

    def config(self) -> dict[str, Any]:
        """config.json; NotReady where it is none."""
        path = self.folder / CONFIG
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NotReady(f"the model's configuration can't be read ({error})", where=str(path)) from None
        if not isinstance(found, dict):
            raise NotReady("the model's configuration is no mapping", where=str(path))
        return found

    def weights(self) -> list[Path]:
        """The files of its weights; empty where one is missing."""
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        except FileNotFoundError:
            names = [WEIGHTS]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NotReady("this is no index of weights", where=str(self.folder / INDEX)) from None
        if any(Path(name).name != name for name in names):
            raise NotReady("the index of weights names a file outside its folder", where=str(self.folder / INDEX))
        files = [self.folder / name for name in names]
        return files if all(file.is_file() for file in files) else []

    def weights_sha256(self) -> str:
        """The sha256 of the file of weights; of several, that of their hashes in order of name."""
        hashes = []
        for file in self.weights():
            with file.open("rb") as data:
                hashes.append(hashlib.file_digest(data, "sha256").hexdigest())
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def listed(self) -> str:
        """The sha256 of its configuration, and of the names and sizes of its weights: quick, for a plan."""
        sizes = [(file.name, file.stat().st_size) for file in self.weights()]
        facts = {"config": self.config(), "weights": sizes}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def missing(self) -> Missing:
        """How to get a model that is not here."""
        if self.revision is not None:
            where = f"commit {self.revision[:8]} of {self.name} to {hub_cache()}"
            return Missing(f"the model {self.name}", f"unset HF_HUB_OFFLINE and run again, to download {where}")
        if self.folder.is_dir():
            lacking = CONFIG if not (self.folder / CONFIG).is_file() else f"{WEIGHTS} (or its shards)"
            return Missing(f"{lacking} of the model {self.name}", f"put it into {self.folder.absolute()}")
        return Missing(f"the model {self.name}", f"put its folder at {self.folder.absolute()}")


def find(name: str, revision: str | None, where: str | None = None) -> Pretrained:
    """The model of a name, here or not: owner/name with a commit is of the Hub, all else a folder.

    UsageError for a commit of a folder, and for a repository's name that has no folder and no commit.
    """
    folder = Path(name).expanduser()
    if revision is None or folder.is_dir():
        if revision is not None:
            raise UsageError(f"{name!r} is a folder, which has no revision", where=where, do="leave revision out")
        return Pretrained(name, None, folder)
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no repository of the Hub", where=where, expected="owner/name", got=name)
    if not COMMIT.fullmatch(revision):
        raise UsageError(
            "a model of the Hub needs its full commit as revision", where=where, expected="40 hex digits", got=revision
        )
    place = hub_cache() / ("models--" + name.replace("/", "--")) / "snapshots" / revision
    return Pretrained(name, revision, place)


def fetch(model: Pretrained) -> Path:
    """The folder of a model, downloaded now where it is a repository's and not here; NotReady where that can't be."""
    if model.here:
        return model.folder
    missing = model.missing()
    if model.revision is None or offline():
        raise NotReady(f"{missing.what} is not here", where=model.name, do=missing.do)
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        huggingface_hub.snapshot_download(
            model.name, revision=model.revision, cache_dir=hub_cache(), allow_patterns=PATTERNS
        )
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
        raise NotReady(f"the Hub does not give the model: {error}", where=model.name, do=missing.do) from error
    if not model.here:
        raise NotReady(
            "the repository has no weights as safetensors", where=model.name, expected=WEIGHTS,
            do="take a revision that has them, or convert the model to a local folder",
        )  # fmt: skip
    return model.folder


def offline() -> bool:
    """Whether the environment forbids the network to Hugging Face's libraries."""
    texts = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(text.upper() in ("1", "ON", "YES", "TRUE") for text in texts)


def hub_cache() -> Path:
    """Where the Hub's library keeps what it downloads."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))).absolute()


def cache_root() -> Path:
    """Where features are kept: the folder of ZIGMA_BENCH_CACHE, else ~/.cache/zigma-bench."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "zigma-bench"
