"""Compute the features of images with torch-fidelity's extractors, once for each set of images.

torch-fidelity's own cache is not used, because its key is a name that the caller makes up. Here the key is the sha256
of the pixels and of everything else that the features depend on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from zigma_bench.data.images import ArrayImages, Images, Pixels, pixels_digest
from zigma_bench.errors import BrokenPlugin, UsageError
from zigma_bench.metrics.extractors.golden import check_golden, golden_images
from zigma_bench.records.sealed import read_entry, write_entry

Features = npt.NDArray[np.float32]

FEATURE_BATCH = 64  # fixed: kernels are chosen by batch size, and features differ in the last digits
FEATURES = "features"  # a subfolder of the cache
REMEMBERED = 4  # sets of features in the memory of this process, for several metrics on one extractor

_memory: dict[str, Features] = {}


@dataclass(frozen=True)
class Extractor:
    """An extractor that torch-fidelity knows by `name`, its feature layer, and what its features depend on.

    `build()` returns torch-fidelity's module on the CPU, in eval mode. `prepare(pixels)` converts uint8 [n, 3, H, W] to
    the input of the module, if the module itself doesn't resize. `golden()`: every 40th feature of eight fixed images
    (golden.py), if these are known. `origin`: the owner and the options of a plugin's extractor.
    """

    name: str
    layer: str
    dimensions: int
    weights_sha256: str
    resize: str
    build: Callable[[], Any] = field(compare=False, repr=False)
    prepare: Callable[[Pixels], Pixels] | None = field(default=None, compare=False, repr=False)
    golden: Callable[[], Any] | None = field(default=None, compare=False, repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def fingerprint(self) -> dict[str, Any]:
        return {
            **self.origin,
            "extractor": self.name,
            "layer": self.layer,
            "weights_sha256": self.weights_sha256,
            "resize": self.resize,
            "feature_batch": FEATURE_BATCH,
        }


class RgbPixels(Dataset[torch.Tensor]):
    """Images as torch-fidelity needs them: uint8 [3, H, W]. One channel is repeated three times; then `prepare`
    runs."""

    def __init__(self, images: Images, prepare: Callable[[Pixels], Pixels] | None = None) -> None:
        self.images, self.prepare = images, prepare

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        pixels = self.images.take(indices)
        if pixels.shape[1] not in (1, 3):
            raise UsageError("the extractor needs images of 1 or 3 channels", got=pixels.shape[1])
        pixels = np.repeat(pixels, 3 // pixels.shape[1], axis=1)  # always a copy
        return list(torch.from_numpy(pixels if self.prepare is None else self.prepare(pixels)))


def features_of_images(
    images: Images, extractor: Extractor, *, device: str = "cpu", cache: Path | None = None, store: bool = True
) -> Features:
    """The features of all images in order, float32 [N, d], read-only.

    `cache`: a folder for the first features of an extractor, which later ones are compared with (golden.py). With
    `store`, the features of the images are stored there too. NotReady if the extractor no longer returns the same
    features as before.
    """
    key = content_key(images, extractor, device)
    if key not in _memory:
        folder = cache if store else None
        found = _read_features(folder, key, (len(images), extractor.dimensions))
        if found is None:
            found = extract_features(images, extractor, device, cache)
            _write_features(folder, key, found)
        while len(_memory) >= REMEMBERED:
            del _memory[next(iter(_memory))]
        found.flags.writeable = False
        _memory[key] = found
    _memory[key] = _memory.pop(key)  # the latest comes last, so that the reference of many cells stays
    return _memory[key]


def content_key(images: Images, extractor: Extractor, device: str) -> str:
    """The hash of everything that features depend on: the pixels in order, the extractor, and the kind of device."""
    kind = device.partition(":")[0]  # CPUs and GPUs differ in the last digits
    facts = {**extractor.fingerprint(), "pixels": digest_once(images), "device": kind}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_once(images: Images) -> str:
    """The digest of a set of images. All metrics of a set share it, because computing it decodes every image."""
    for number, entry in enumerate(_digested):
        if entry[0] is images:
            del _digested[number]
            _digested.append(entry)  # the latest comes last, so that the reference of many cells stays
            return entry[1]
    _digested.append((images, pixels_digest(images)))
    return _digested[-1][1]


_digested: deque[tuple[Images, str]] = deque(maxlen=3)  # samples and reference


def extract_features(images: Images, extractor: Extractor, device: str, cache: Path | None) -> Features:
    """Compute the features of all images. NotReady if the features of the fixed images are wrong (golden.py)."""
    cuda = torch.device(device).type == "cuda"
    selected = torch.cuda.device(device) if cuda else contextlib.nullcontext()
    with (
        selected,
        exact_float32(device),
        torch.random.fork_rng(devices=[]),
    ):  # a DataLoader draws from the global generator
        network = _checked_network(extractor, device, cache, cuda)
        return _run_extractor(images, extractor, network, cuda)


def _checked_network(extractor: Extractor, device: str, cache: Path | None, cuda: bool) -> Any:
    """The network of an extractor, and a check of its features of the fixed images.

    This process builds the network and computes these features once. Each call compares them again, because another
    cell may have another cache.
    """
    kept = next((one for one in _built if one.serves(extractor, device)), None)
    if kept is None:
        network = extractor.build().to(device)
        run = functools.cache(lambda: _run_extractor(ArrayImages(golden_images()), extractor, network, cuda))
        kept = _BuiltExtractor(extractor, device, network, run)
    check_golden(lambda pixels: kept.golden_features(), extractor, cache)
    if kept not in _built:
        _built.append(kept)
    return kept.network


@dataclass(frozen=True, eq=False)
class _BuiltExtractor:
    """A network of an extractor on a device, and its features of the fixed images."""

    extractor: Extractor
    device: str
    network: Any
    golden_features: Callable[[], Features]

    def serves(self, extractor: Extractor, device: str) -> bool:
        """Whether an extractor on a device has the same code, weights and options."""
        calls = ((self.extractor.build, extractor.build), (self.extractor.golden, extractor.golden))
        return (self.extractor, self.device) == (extractor, device) and all(_is_same_call(*pair) for pair in calls)


def _is_same_call(a: Callable[[], Any] | None, b: Callable[[], Any] | None) -> bool:
    """Whether two functions are the same, or partial calls of the same function with the same arguments."""
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
    return a is b


_built: deque[_BuiltExtractor] = deque(maxlen=2)  # for the next cells of this process


def _run_extractor(images: Images, extractor: Extractor, network: Any, cuda: bool) -> Features:
    from torch_fidelity.utils import get_featuresdict_from_dataset

    found = get_featuresdict_from_dataset(
        RgbPixels(images, extractor.prepare),
        network,
        batch_size=FEATURE_BATCH,
        cuda=cuda,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    result: Features = found[extractor.layer].numpy().astype(np.float32, copy=False)
    if extractor.origin and result.shape != (len(images), extractor.dimensions):
        raise BrokenPlugin(
            f"the extractor {extractor.name!r} returns features of another shape",
            expected=f"[{len(images)}, {extractor.dimensions}], as its facts say", got=list(result.shape),
            do="repair the plugin",
        )  # fmt: skip
    assert result.shape == (len(images), extractor.dimensions), result.shape
    return result


@contextlib.contextmanager
def exact_float32(device: str) -> Iterator[None]:
    """Compute in true float32: no TF32, no autocast, and no kernels chosen by timing."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            torch.autocast(torch.device(device).type, enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _read_features(cache: Path | None, key: str, shape: tuple[int, int]) -> Features | None:
    """The features stored by an earlier process; None if there are none."""
    data = None if cache is None else read_entry(cache / FEATURES, key, ".npy")
    if data is None:
        return None
    found: Features = np.load(io.BytesIO(data), allow_pickle=False)
    assert found.shape == shape and found.dtype == np.float32, (found.shape, found.dtype)
    return found


def _write_features(cache: Path | None, key: str, found: Features) -> None:
    if cache is not None:
        buffer = io.BytesIO()
        np.save(buffer, found, allow_pickle=False)
        write_entry(cache / FEATURES, key, ".npy", buffer.getvalue())
