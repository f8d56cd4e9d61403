"""FacesHQ: the faces of CelebA-HQ and FFHQ together, read as a folder of images."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.data.images import Counts, Splits
from zigma_bench.data.reading.files import Listing, below, fingerprint
from zigma_bench.data.reading.folder import check_none_passed_over
from zigma_bench.data.sources.options import FacesHQOptions, HuggingFaceOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import DataFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import Found

SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGES = 100_000  # 30,000 and 70,000
WHAT = (
    "FacesHQ (as in taming-transformers: 30,000 faces of CelebA-HQ, for non-commercial research only, and 70,000 of "
    "FFHQ, CC BY-NC-SA 4.0; 1024 x 1024 pixels)"
)
GET = (
    "get the images from the projects CelebA-HQ (tkarras/progressive_growing_of_gans) and FFHQ (NVlabs/ffhq-dataset) "
    "under their licences, and put them, in any folders, as {root}/**/*.png or *.jpg, or set root; then look at them "
    "all: zigma-bench data check faceshq --from {root}"
)


def describe(options: FacesHQOptions) -> DataFacts:
    """Facts of the folder, from names and contents of its files; without images it is missing."""
    files = _faces(options)
    missing = () if files.files else (Missing(f"{WHAT} in {options.root}", GET.format(root=_root(options))),)
    parts = {"resolution": options.resolution, "validation": options.validation, "files": files.hashes()}
    side, told = options.resolution, fingerprint("faceshq", parts)
    return DataFacts(3, side, side, told, missing, options.validation, crops=True)


def load(options: FacesHQOptions) -> Splits:
    """The faces as uint8 [N, 3, resolution, resolution]; NotReady without any, BadImage on taking a broken one."""
    if missing := describe(options).missing:
        raise NotReady(f"{missing[0].what} is missing", where="data: faceshq", do=missing[0].do)
    from zigma_bench.data.sources import huggingface  # brings Pillow, which a description needs not

    return huggingface.load(_as_folder(options))


def count(options: FacesHQOptions) -> Counts:
    """How many faces are trained on and held out."""
    return Counts(len(_faces(options).files) - options.validation, options.validation)


def parts(options: FacesHQOptions) -> Iterator[Callable[[], Found]]:
    """The parts of a check: how many images there are, and each of them."""
    from zigma_bench.data.checks import files as check_files

    if not describe(options).missing:
        yield lambda: _counted(options)
        yield from check_files.parts(_as_folder(options))


def _counted(options: FacesHQOptions) -> Found:
    from zigma_bench.data.checks.dataset import Found

    there = len(_faces(options).files)
    if there == IMAGES:
        return Found(0, ())
    error = NotReady(
        "these are not all of FacesHQ", where=str(_root(options)), expected=f"{IMAGES:,} images", got=there,
        do="add what lacks; a run takes what is there",
    )  # fmt: skip
    return Found(0, (error,))


def _as_folder(options: FacesHQOptions) -> HuggingFaceOptions:
    """The same images for `imagefolder`: each by its name, since folders called train or test are no splits here."""
    files = [glob.escape(file) for file in _faces(options).files]
    return HuggingFaceOptions("imagefolder", options.resolution, data_files=files, validation=options.validation)


def _faces(options: FacesHQOptions) -> Listing:
    """Every image below the root; NotReady for an image of another format, which would be passed over."""
    listing = below(_root(options))
    check_none_passed_over(listing.files, SUFFIXES, "faceshq")
    return Listing(tuple(file for file in listing.files if file.lower().endswith(SUFFIXES)))


def _root(options: FacesHQOptions) -> Path:
    return Path(options.root).expanduser().absolute()
