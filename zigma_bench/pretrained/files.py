"""The files of a pretrained model: a local folder, or the Hub's cache at one commit. Found and hashed without torch.

Looking never touches the network. `fetch` downloads what is absent, unless HF_HUB_OFFLINE forbids it.
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
    """A model's `files` in a folder, or in owner/name on the Hub at the commit `revision`; in its `subfolder` if given.

    `kind` is what errors call it, such as `autoencoder`.
    """

    kind: str
    name: str
    revision: str | None
    subfolder: str | None
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.revision is not None and not COMMIT.fullmatch(self.revision):
            raise self._wrong("revision is the full commit of a model of the Hub", "40 hex digits", self.revision)
        if self.revision is not None and not NAME.fullmatch(self.name):
            raise self._wrong("what has a revision is a model of the Hub", "owner/name", self.name)
        if self.subfolder is not None and not PART.fullmatch(self.subfolder):
            raise self._wrong("subfolder is the name of a folder", "a name such as vae", self.subfolder)

    @property
    def folder(self) -> Path:
        """Where the files lie, or would lie."""
        base = _snapshot(self.name, self.revision) if self.revision else Path(self.name).expanduser()
        return base / self.subfolder if self.subfolder else base

    @property
    def absent(self) -> tuple[str, ...]:
        """Those of the files that are not there."""
        return tuple(file for file in self.files if not (self.folder / file).is_file())

    def missing(self) -> tuple[Missing, ...]:
        """What is absent, and how to get it."""
        if not self.absent:
            return ()
        return (Missing(f"the {self.kind} {self.name} (it lacks {' and '.join(self.absent)})", self.get()),)

    def get(self) -> str:
        """What a person does to have the files."""
        if self.revision is None:
            hint = ", or give the commit of the Hub's model as revision" if NAME.fullmatch(self.name) else ""
            return f"put {' and '.join(self.files)} into {self.folder.absolute()}{hint}"
        how = "unset HF_HUB_OFFLINE and run again" if offline() else "run"
        return (
            f"{how}, to download commit {self.revision[:8]} of {self.name} to {hub_cache()}, "
            "or download it elsewhere and give its folder"
        )

    def fetch(self) -> None:
        """Download what is absent of a model of the Hub; NotReady when that can't be done. A folder is left alone."""
        if self.revision is None or not self.absent or offline():
            return
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        try:
            for file in self.files:
                huggingface_hub.hf_hub_download(self.name, prefix + file, revision=self.revision, cache_dir=hub_cache())
        except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
            raise NotReady(f"the Hub does not give the {self.kind}: {error}", where=self.name, do=self.get()) from error

    def _wrong(self, what: str, expected: str, got: object) -> UsageError:
        return UsageError(what, where=self.kind, expected=expected, got=got)


def offline() -> bool:
    """Whether the environment forbids the network to Hugging Face's libraries."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read once for as long as the file does not change."""
    state = path.stat()
    return _file_sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))).absolute()


def _snapshot(name: str, commit: str) -> Path:
    return hub_cache() / ("models--" + name.replace("/", "--")) / "snapshots" / commit
