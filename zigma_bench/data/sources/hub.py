"""A data set of the Hugging Face Hub at one commit: its local copy, whether that is complete, and its download.

`is_here` only reads the local cache. `fetch` downloads unless HF_HUB_OFFLINE (or HF_DATASETS_OFFLINE) is set, and
writes a list of all files, because an interrupted download looks like a smaller data set.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from zigma_bench.errors import NotReady

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def hub_data_is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set, as Hugging Face's libraries read them."""
    texts = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("HF_DATASETS_OFFLINE", ""))
    return any(text.upper() in ("1", "ON", "YES", "TRUE") for text in texts)


def is_here(name: str, commit: str) -> bool:
    """Whether the cache contains a complete copy of the commit: every listed file exists with its size."""
    try:
        sizes = json.loads(_list_file(name, commit).read_text())
        return all((_snapshot(name, commit) / file).stat().st_size == size for file, size in sizes.items())
    except FileNotFoundError:
        return False


def fetch_data_set(name: str, commit: str) -> Path:
    """The folder of the commit, downloaded if incomplete; NotReady if it can't be downloaded."""
    if is_here(name, commit):
        return _snapshot(name, commit)
    if hub_data_is_offline():
        raise NotReady("the data set is missing, and downloads are off", where=name, do=how_to_get(name, commit))
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        folder = huggingface_hub.snapshot_download(name, repo_type="dataset", revision=commit, cache_dir=_cache())
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors or ValueErrors
        raise NotReady(
            f"the data set can't be downloaded from the Hub: {error}", where=name, do=how_to_get(name, commit)
        ) from error
    assert Path(folder) == _snapshot(name, commit), folder
    _write_list(name, commit)
    return _snapshot(name, commit)


def how_to_get(name: str, commit: str) -> str:
    """How a person gets the data set."""
    return f"unset HF_HUB_OFFLINE and run again, to download commit {commit[:8]} of {name} to {_cache()}"


def _cache() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))).absolute()


def _repository(name: str) -> Path:
    return _cache() / ("datasets--" + name.replace("/", "--"))


def _snapshot(name: str, commit: str) -> Path:
    return _repository(name) / "snapshots" / commit


def _list_file(name: str, commit: str) -> Path:
    return _repository(name) / f"zigma-bench-{commit}.json"


def _write_list(name: str, commit: str) -> None:
    folder, file = _snapshot(name, commit), _list_file(name, commit)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(sizes, sort_keys=True))
    os.replace(part, file)
