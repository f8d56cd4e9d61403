"""The files of a pretrained model, in a local folder or in the cache of the Hub at one commit. Imports no torch.

Only `fetch` uses the network: it downloads missing files, unless HF_HUB_OFFLINE is set.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from zigma_bench.errors import NotReady, UsageError
from zigma_bench.plugins.registry import Missing

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Pretrained:
    """The `files` of a model: in the folder `name`, or in owner/name on the Hub at the commit `revision`.

    They may be in a `subfolder` of it. Errors call the model a `kind`, such as `autoencoder`. Raises UsageError for an
    invalid revision or subfolder.
    """

    kind: str
    name: str
    revision: str | None
    subfolder: str | None
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.revision is not None and not COMMIT.fullmatch(self.revision):
            raise self._wrong("revision must be the full commit of a model of the Hub", "40 hex digits", self.revision)
        if self.revision is not None and not NAME.fullmatch(self.name):
            raise self._wrong("only a model of the Hub has a revision", "owner/name", self.name)
        if self.subfolder is not None and not PART.fullmatch(self.subfolder):
            raise self._wrong("subfolder must be the name of a folder", "a name such as vae", self.subfolder)

    @property
    def folder(self) -> Path:
        """The folder of the files, which may not exist yet."""
        base = _snapshot(self.name, self.revision) if self.revision else Path(self.name).expanduser()
        return base / self.subfolder if self.subfolder else base

    @property
    def absent(self) -> tuple[str, ...]:
        """The missing files."""
        return tuple(file for file in self.files if not (self.folder / file).is_file())

    def missing(self) -> tuple[Missing, ...]:
        """The missing files and how to get them, for a plan; empty if all files exist."""
        if not self.absent:
            return ()
        return (Missing(f"the {self.kind} {self.name} (missing: {' and '.join(self.absent)})", self.get()),)

    def get(self) -> str:
        """How a person gets the files."""
        if self.revision is None:
            hint = ", or set revision to a commit of the model on the Hub" if NAME.fullmatch(self.name) else ""
            return f"put {' and '.join(self.files)} into {self.folder.absolute()}{hint}"
        how = "unset HF_HUB_OFFLINE and run again" if hub_is_offline() else "run"
        return (
            f"{how}, to download commit {self.revision[:8]} of {self.name} to {hub_cache()}, "
            "or download it elsewhere and name its folder"
        )

    def fetch(self) -> None:
        """Download the missing files of a model of the Hub, unless offline; NotReady if the download fails."""
        if self.revision is None or not self.absent or hub_is_offline():
            return
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        try:
            for file in self.files:
                huggingface_hub.hf_hub_download(self.name, prefix + file, revision=self.revision, cache_dir=hub_cache())
        except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
            raise NotReady(
                f"the {self.kind} can't be downloaded from the Hub: {error}", where=self.name, do=self.get()
            ) from error

    def _wrong(self, what: str, expected: str, got: object) -> UsageError:
        return UsageError(what, where=self.kind, expected=expected, got=got)


def hub_is_offline() -> bool:
    """Whether the environment variable HF_HUB_OFFLINE is set, as Hugging Face's libraries read it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, cached while its size and modification time don't change."""
    state = path.stat()
    return _file_sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_cache() -> Path:
    """The cache folder of the Hub, from the same environment variables as in Hugging Face's libraries."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))).absolute()


def _snapshot(name: str, commit: str) -> Path:
    return hub_cache() / ("models--" + name.replace("/", "--")) / "snapshots" / commit
