"""Strict listing of files below folders: an entry that can't be read is an error, and is never skipped silently.

Symbolic links are followed. Hidden files and folders (.NAME, and the folders in LEFT_OUT) are skipped. Notes, such as
README.txt, may be next to the images; images in a format that no reader supports are an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zigma_bench.errors import NotReady, ZigmaBenchError

IMAGES = (  # in the formats that decode.py reads
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".avif",
)  # fmt: skip
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
OTHER_IMAGES = (  # in other formats
    ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm", ".jxr", ".wdp", ".jif",
    ".jfi", ".mpo", ".svg", ".svgz", ".tga", ".icb", ".vda", ".vst", ".ico", ".cur", ".icns", ".psd", ".psb", ".xcf",
    ".exr", ".hdr", ".dds", ".pcx", ".dcx", ".dib", ".pfm", ".pam", ".qoi", ".ras", ".sgi", ".rgb", ".rgba", ".bw",
    ".xbm", ".xpm", ".pcd", ".wmf", ".emf", ".eps", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
    ".raf", ".pef", ".srw", ".fits", ".fit", ".dcm", ".blp", ".jng", ".flif", ".bpg", ".ktx",
)  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
SHARDS = (".parquet", ".pq", ".parq", ".arrow", ".feather", ".tar")
NOTES = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".html", ".xml", ".py", ".pdf", ".db")
SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device file",
    stat.S_IFBLK: "a device file",
}
LEFT_OUT = ("__MACOSX", "__pycache__")  # folders that are created by systems, not by people
HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
REMOVE = "remove it, or replace it by a file"
CONVERT = "convert it to PNG, or remove it"


def files_below(folder: Path) -> list[str]:
    """The absolute paths of all files below a folder, sorted, except hidden ones.

    Raises NotReady, naming the entry, for a broken link, a link to a folder that is already listed, a named pipe, a
    socket, a device file, a name that isn't UTF-8, and a folder that can't be listed.
    """
    found: list[str] = []
    listed: dict[tuple[int, int], str] = {}
    due = [str(folder.absolute())]
    while due:
        place = due.pop()
        _check_new(place, listed)
        for entry in _entries(place):
            if _is_folder(entry):
                due += [] if entry.name in LEFT_OUT else [entry.path]
            else:
                if entry.is_symlink() or not entry.is_file():  # checking all would cost 1 s per 100,000 files
                    check_file(entry.path)
                found.append(entry.path)
    return sorted(found)


def files_in(folder: Path) -> list[Path]:
    """The files directly in a folder, sorted, except hidden ones; raises as `files_below` does."""
    files = [entry for entry in _entries(str(folder.absolute())) if not _is_folder(entry)]
    for entry in files:
        check_file(entry.path)
    return sorted(Path(entry.path) for entry in files)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted, except hidden ones; raises as `files_below` does."""
    return sorted(
        Path(entry.path)
        for entry in _entries(str(folder.absolute()))
        if _is_folder(entry) and entry.name not in LEFT_OUT
    )


def check_file(path: str) -> None:
    """Raise NotReady unless a path is a regular file or a link to one."""
    if os.path.isfile(path):
        return
    try:
        kind = SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode), "not a file")
    except FileNotFoundError:
        if os.path.islink(path):
            what = f"the link is broken: its target {os.readlink(path)} doesn't exist"
            raise NotReady(what, where=path, do="remove the link, or put the file there") from None
        raise NotReady("the file doesn't exist", where=path) from None
    except OSError as error:  # such as a link to itself
        raise NotReady(f"the file can't be reached ({error.strerror})", where=path, do=REMOVE) from None
    raise NotReady(f"this is {kind}, not a regular data file", where=path, do=REMOVE)


def check_none_passed_over(files: Iterable[str], suffixes: Sequence[str], what: str, *, shards: bool = False) -> None:
    """Raise NotReady for images and archives that a reader (`what`) of files with these suffixes would skip.

    With `shards`, the folder contains shards: other kinds of shards are an error, and single images are ignored.
    """
    others = [file for file in files if not file.lower().endswith(tuple(suffixes))]
    skipped = [file for file in others if (_is_shard(file) if shards else _is_image(file))]
    if skipped:
        more = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
        raise NotReady(
            f"{what} would skip this file", where=f"{skipped[0]}{more}",
            expected=f"files that end in {', '.join(suffixes)}",
            do="unpack it, or remove it" if skipped[0].lower().endswith(ARCHIVES) else CONVERT,
        )  # fmt: skip


def _is_shard(file: str) -> bool:
    return file.lower().endswith((*SHARDS, *ARCHIVES))


def _is_image(file: str) -> bool:
    """Whether the name or the first bytes of a file are those of an image, a video, a shard or an archive."""
    name = file.lower()
    if name.endswith((*IMAGES, *OTHER_IMAGES, *VIDEOS, *ARCHIVES, *SHARDS)):
        return True
    if name.endswith(NOTES):
        return False
    try:
        with open(file, "rb") as opened:
            head = opened.read(16)
    except OSError as error:
        raise unreadable_entry(file, error) from None
    return head.startswith(HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:8] == b"ftyp"


def unreadable_entry(path: str, error: OSError) -> ZigmaBenchError:
    """The error for a file or folder that can't be read."""
    return NotReady(
        f"the file or folder can't be read ({error.strerror})", where=path, do="make it readable, or remove it"
    )


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder except hidden ones."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise NotReady(
            f"the folder can't be listed ({error.strerror})", where=folder, do="make it readable, or remove it"
        ) from None
    for entry in shown:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            name = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            raise NotReady("the name is not UTF-8", where=name, do="rename it") from None
    yield from shown


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which `check_file` reports
        return False


def _check_new(folder: str, listed: dict[tuple[int, int], str]) -> None:
    """Raise NotReady for a folder that is already listed under another name, as by a link to a parent folder."""
    try:
        state = os.stat(folder)
    except OSError as error:
        raise unreadable_entry(folder, error) from None
    first = listed.setdefault((state.st_dev, state.st_ino), folder)
    if first != folder:
        raise NotReady(
            "this link leads to a folder that is already read", where=folder, got=first,
            do="remove the link, or one of the two",
        )  # fmt: skip
