"""FacesHQ: the faces of CelebA-HQ and FFHQ, read as a folder of images."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zigma_bench.data.images import Counts, Splits
from zigma_bench.data.reading.files import Listing, source_fingerprint, visible_files_below
from zigma_bench.data.reading.folder import check_none_passed_over
from zigma_bench.data.sources.options import FacesHQOptions, HuggingFaceOptions
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import DataFacts, Missing

if TYPE_CHECKING:
    from zigma_bench.data.checks.dataset import CheckResult

SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGES = 100_000  # 30,000 of CelebA-HQ and 70,000 of FFHQ
WHAT = (
    "FacesHQ (as in taming-transformers: 30,000 faces of CelebA-HQ, for non-commercial research only, and 70,000 of "
    "FFHQ, CC BY-NC-SA 4.0; 1024 x 1024 pixels)"
)
GET = (
    "get the images from the projects CelebA-HQ (tkarras/progressive_growing_of_gans) and FFHQ (NVlabs/ffhq-dataset) "
    "under their licences, and put them, in any folders, as {root}/**/*.png or *.jpg, or set root; then check them: "
    "zigma-bench data check faceshq --from {root}"
)


def describe(options: FacesHQOptions) -> DataFacts:
    """The facts of the data set, from the names and contents of its files; without images it is missing."""
    files = _list_faces(options)
    missing = () if files.files else (Missing(f"{WHAT} in {options.root}", GET.format(root=_root(options))),)
    parts = {"resolution": options.resolution, "validation": options.validation, "files": files.hashes()}
    side, identity = options.resolution, source_fingerprint("faceshq", parts)
    return DataFacts(3, side, side, identity, missing, options.validation, crops=True)


def load(options: FacesHQOptions) -> Splits:
    """The faces as uint8 [N, 3, resolution, resolution]; NotReady without any, BadImage when a broken one is read."""
    if missing := describe(options).missing:
        raise NotReady(f"{missing[0].what} is missing", where="data: faceshq", do=missing[0].do)
    from zigma_bench.data.sources import huggingface  # imports Pillow; describe() must not

    return huggingface.load(_as_folder(options))


def count(options: FacesHQOptions) -> Counts:
    """The numbers of training and held-out faces."""
    return Counts(len(_list_faces(options).files) - options.validation, options.validation)


def parts(options: FacesHQOptions) -> Iterator[Callable[[], CheckResult]]:
    """The parts of a check: the number of images, and every image."""
    from zigma_bench.data.checks import files as check_files

    if not describe(options).missing:
        yield lambda: _check_count(options)
        yield from check_files.check_parts(_as_folder(options))


def _check_count(options: FacesHQOptions) -> CheckResult:
    from zigma_bench.data.checks.dataset import CheckResult

    images = len(_list_faces(options).files)
    if images == IMAGES:
        return CheckResult(0, ())
    error = NotReady(
        "these are not all images of FacesHQ", where=str(_root(options)), expected=f"{IMAGES:,} images", got=images,
        do="add the missing images; a run uses the existing ones",
    )  # fmt: skip
    return CheckResult(0, (error,))


def _as_folder(options: FacesHQOptions) -> HuggingFaceOptions:
    """The same images for `imagefolder`, as a list of files, since folders called train or test aren't splits here."""
    files = [glob.escape(file) for file in _list_faces(options).files]
    return HuggingFaceOptions("imagefolder", options.resolution, data_files=files, validation=options.validation)


def _list_faces(options: FacesHQOptions) -> Listing:
    """All images below the root; NotReady for an image of another format, which would be skipped."""
    listing = visible_files_below(_root(options))
    check_none_passed_over(listing.files, SUFFIXES, "faceshq")
    return Listing(tuple(file for file in listing.files if file.lower().endswith(SUFFIXES)))


def _root(options: FacesHQOptions) -> Path:
    return Path(options.root).expanduser().absolute()
