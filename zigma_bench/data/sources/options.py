"""The options of the built-in data sets in suites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval, Le, MultipleOf

Count = Annotated[int, Interval(ge=1, le=10**12)]  # above the size of any data set
Resolution = Annotated[int, Ge(1), Le(4096)]


@dataclass(frozen=True)
class DigitsOptions:
    """The 1,797 handwritten digits that come with scikit-learn: 8 x 8, one channel, no download.

    `validation`: images held out by a fixed permutation; at least one image must remain for training.
    `resolution`: a multiple of 8; above 8, images are upscaled (bicubic).
    `caption`: `one` caption per image, such as "the digit seven", or `several`, of which one is drawn at each use.
    """

    validation: Count = 1000
    resolution: Annotated[int, Ge(8), Le(1024), MultipleOf(8)] = 8
    caption: Literal["one", "several"] | None = None


@dataclass(frozen=True)
class HuggingFaceOptions:
    """Images read with Hugging Face `datasets`: parquet, a folder of images, or a data set of the Hub.

    `path`: `parquet`, `arrow`, `webdataset` or `imagefolder` (with `data_files` or `data_dir`), a local folder, or the
    name `owner/name` of a data set of the Hub. `data_files`: paths or globs, as a list or separated by commas, relative
    to `data_dir`, to the local folder, or else to the current folder. `name`: a configuration of the data set.
    `revision`: for the Hub, the full commit (40 hex digits), so that figures always refer to the same images.

    Validation images come from exactly one of `validation_split`, `validation_files` (separate files) and `validation`
    (a number of images of the training split, held out by a fixed permutation).

    `label`: the column with the class label of each image, an integer below `classes`, for class conditioning.
    `caption`: the column with the caption of each image, or a list of captions of which one is drawn at each use; for a
    folder of images, a column of its `metadata.csv`, `.jsonl` or `.parquet`.
    `streaming`: read `count` images in order, from the Hub, parquet, arrow or webdataset files, without storing them;
    the first `validation` images of the stream (or `validation_files`) are held out. Each epoch shuffles the images in
    a buffer of `shuffle_buffer` images (default: 10,000), since neighbouring images of a stream are often similar.
    Captions are read once before training, without the images, to encode them.

    `image`: the image column. `resize`: `short-side-center-crop` resizes the short side to `resolution` (bicubic,
    antialiased) and crops the centre; `adm-center-crop` halves the image first, as ADM and DiT do; `squash` resizes
    both sides; with `none`, an image of another size is an error. Transparent images are composited on white, 16 bits
    become 8, CMYK and palettes become RGB, and only the first frame of an animation is used.
    """

    path: str
    resolution: Resolution
    data_files: list[str] | str | None = None
    data_dir: str | None = None
    split: str = "train"
    validation_split: str | None = None
    validation_files: list[str] | str | None = None
    validation: Count | None = None
    image: str = "image"
    channels: Literal[1, 3] = 3
    resize: Literal["short-side-center-crop", "adm-center-crop", "squash", "none"] = "short-side-center-crop"
    name: str | None = None
    revision: str | None = None
    label: str | None = None
    classes: Count | None = None
    caption: str | None = None
    streaming: bool = False
    count: Count | None = None
    shuffle_buffer: Count | None = None


@dataclass(frozen=True)
class FacesHQOptions:
    """FacesHQ: the 30,000 faces of CelebA-HQ and the 70,000 of FFHQ, as a folder of images that you provide.

    `root`: the folder; every .png, .jpg and .jpeg file below it is an image. Images are resized to `resolution`.
    `validation`: images held out by a fixed permutation.
    """

    root: str = "data/faceshq"
    resolution: Literal[256, 512, 1024] = 1024
    validation: Count = 5000


@dataclass(frozen=True)
class MmCelebaOptions:
    """Multi-Modal-CelebA-HQ: the 30,000 faces of CelebA-HQ with ten captions each, in a folder that you provide.

    `root`: the folder with images/N.jpg and celeba-caption/N.txt. Images are resized to `resolution`. `images`: the
    number of images, from 0 on, which must all exist. `validation`: images held out by a fixed permutation.
    """

    root: str = "data/mm-celeba"
    resolution: Resolution = 256
    images: Annotated[int, Ge(2), Le(30_000)] = 30_000
    validation: Count = 6000


@dataclass(frozen=True)
class CocoOptions:
    """MS-COCO: photographs with about five captions each, in a folder that you provide; its own validation split.

    `root`: the folder with train2014, val2014 and annotations (or those of 2017, see `edition`). The short side is
    resized to `resolution` and the centre is cropped. `train_images`, `validation_images`: the required numbers of
    images, if not all.
    """

    root: str = "data/coco"
    edition: Literal["2014", "2017"] = "2014"
    resolution: Resolution = 256
    train_images: Count | None = None
    validation_images: Count | None = None


@dataclass(frozen=True)
class Ucf101Options:
    """UCF101: clips of videos of 101 human actions, in a folder that you provide; videos are read with PyAV.

    `root`: the folder with UCF-101 and ucfTrainTestlist. `split`: the number of the official split; its test videos are
    held out. A clip has `frames` frames at a distance of `stride`. `clips`: the number of clips per video, one from its
    middle or several evenly spread from its first to its last frame. The short side is resized to `resolution` and the
    centre is cropped.
    """

    root: str = "data/ucf101"
    resolution: Resolution = 256
    frames: Annotated[int, Ge(2), Le(256)] = 16
    stride: Annotated[int, Ge(1), Le(64)] = 1
    clips: Annotated[int, Ge(1), Le(64)] = 1
    split: Literal[1, 2, 3] = 1


@dataclass(frozen=True)
class MovingDigitsOptions:
    """Clips of the digits of scikit-learn, which move across a dark field: one channel, ten classes, no download.

    `frames`: per clip. `resolution`: of the field. `clips`: the number of clips, one per digit; `validation` of them
    are held out by a fixed permutation.
    """

    frames: Annotated[int, Ge(2), Le(64)] = 8
    resolution: Annotated[int, Ge(9), Le(256)] = 16
    clips: Annotated[int, Ge(2), Le(1797)] = 1797
    validation: Count = 1000


@dataclass(frozen=True)
class GaussianRandomFieldOptions:
    """Gaussian random fields with the power spectrum k^-slope, generated when they are read: no download.

    `count` training images and `validation` other images, all drawn from `seed`; the channels are independent.
    """

    slope: Annotated[float, Interval(ge=-4, le=8)]
    resolution: Annotated[int, Ge(2), Le(1024)] = 32
    channels: Literal[1, 3] = 1
    count: Count = 10_000
    validation: Count = 2000
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
