"""Find the I3D file of FVD and check which one it is, without torch. Nothing is ever downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from zigma_bench.metrics.extractors.weights import FOLDER_VARIABLE, check_named_hash
from zigma_bench.metrics.options import I3dOptions
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.files import file_sha256

# The conversion of DeepMind's I3D (Kinetics-400) to TorchScript that StyleGAN-V published and that is usually used
# for FVD (universome/fvd-comparison).
I3D_FILE = "i3d_torchscript.pt"
I3D_SHA = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
FVD_MINIMUM = 400  # as many clips as features; with fewer clips the covariance is singular
# The network has four convolutions and poolings of stride 2 in time, which leave no frame of a shorter clip.
SHORTEST_CLIP = 10


def i3d_path(options: I3dOptions) -> Path:
    """The file: the option, else the folder of ZIGMA_BENCH_WEIGHTS, else ~/.cache/zigma-bench/weights."""
    if options.weights is not None:
        return Path(options.weights).expanduser()
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder).expanduser() if folder else Path.home() / ".cache/zigma-bench/weights") / I3D_FILE


def i3d_missing(options: I3dOptions) -> tuple[Missing, ...]:
    """What to do if the file is missing or isn't the one that its name says."""
    path = i3d_path(options)
    if path.is_file():
        return check_named_hash(path)
    return (
        Missing(
            f"no I3D at {path}",
            f"put {I3D_FILE} (of universome/fvd-comparison; its sha256 starts with {I3D_SHA[:8]}) there, or in a "
            f"folder that {FOLDER_VARIABLE} names, or give any TorchScript file as the metric's option 'weights'",
        ),
    )


def is_published(path: Path) -> bool:
    """Whether a file is the published one, by its content and not its name. Only its distance is called FVD."""
    return file_sha256(path) == I3D_SHA


def fvd_minimum(options: I3dOptions) -> int:
    """The least number of clips: 400 for FVD, 2 for the distance on another file, which has another name."""
    path = i3d_path(options)
    return 2 if path.is_file() and not is_published(path) else FVD_MINIMUM


def i3d_fingerprint(options: I3dOptions) -> str:
    """The sha256 of the file that the options name; empty if it is missing."""
    path = i3d_path(options)
    return file_sha256(path) if path.is_file() else ""
