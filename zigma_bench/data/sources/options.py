"""The options of the built-in data sources, as suites give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval, Le, MultipleOf

Count = Annotated[int, Interval(ge=1, le=10**12)]  # more images than any data set has
Resolution = Annotated[int, Ge(1), Le(4096)]


@dataclass(frozen=True)
class DigitsOptions:
    """The 1,797 handwritten digits that come with scikit-learn: 8 x 8, one channel, no download.

    `validation`: images held out by a fixed permutation; at least one image is left for training.
    `resolution`: a multiple of 8; more than 8 is upscaled (bicubic).
    `caption`: a text beside each image, such as "the digit seven", or `several`, of which one is drawn at each use.
    """

    validation: Count = 1000
    resolution: Annotated[int, Ge(8), Le(1024), MultipleOf(8)] = 8
    caption: Literal["one", "several"] | None = None


@dataclass(frozen=True)
class HuggingFaceOptions:
    """Images read with Hugging Face `datasets`: parquet, a folder of images, or a data set of the Hub.

    `path`: `parquet`, `arrow`, `webdataset` or `imagefolder` (with `data_files` or `data_dir`), a local folder, or the
    name `owner/name` of a data set of the Hub. `data_files`: paths or globs, as a list or separated by commas, relative
    to `data_dir`, to the local folder or else to the current folder. `name`: a configuration of the data set.
    `revision`: for the Hub, the full commit (40 hex digits), so that the figures stay tied to the same pixels.

    Validation images come from exactly one of `validation_split`, `validation_files` (files beside the training ones)
    and `validation` (so many images of the training split, held out by a fixed permutation).

    `label`: the column of each image's class, whole numbers below `classes`, for networks that are conditioned on it.
    `caption`: the column of each image's text, or of a list of texts of which one is drawn at each use; of a folder of
    images a column of its `metadata.csv`, `.jsonl` or `.parquet`.
    `streaming`: `count` images are read one after another, from the Hub, parquet, arrow or webdataset files, and never
    stored; the first `validation` of the stream are held out (or `validation_files` are). Each epoch shuffles them
    through a buffer of `shuffle_buffer` images (absent: 10,000), without which images that lie together stay together.
    Captions are read once before the training, without the images, so that their features are there when it begins.

    `image`: the column. `resize`: `short-side-center-crop` scales the short side to `resolution` (bicubic, antialiased)
    and cuts the centre out, `adm-center-crop` halves the image first as ADM and DiT do, `squash` scales both sides,
    and with `none` an image of any other size is an error. Transparent images are laid on white, 16 bits become 8, CMYK
    and palettes RGB, and of an animation the first frame is taken.
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

    `root`: the folder; every .png, .jpg and .jpeg file below it is an image. Larger images are scaled down to
    `resolution`. `validation`: images held out by a fixed permutation.
    """

    root: str = "data/faceshq"
    resolution: Literal[256, 512, 1024] = 1024
    validation: Count = 5000


@dataclass(frozen=True)
class MmCelebaOptions:
    """Multi-Modal-CelebA-HQ: the 30,000 faces of CelebA-HQ, each with ten texts, in a folder that you provide.

    `root`: the folder of images/N.jpg and celeba-caption/N.txt. Images are scaled down to `resolution`. `images`: how
    many there must be, the first so many of the set. `validation`: images held out by a fixed permutation.
    """

    root: str = "data/mm-celeba"
    resolution: Resolution = 256
    images: Annotated[int, Ge(2), Le(30_000)] = 30_000
    validation: Count = 6000


@dataclass(frozen=True)
class CocoOptions:
    """MS-COCO: photographs with about five texts each, in a folder that you provide; its own validation split.

    `root`: the folder of train2014, val2014 and annotations (`edition`: or those of 2017). The short side is scaled to
    `resolution` and the centre cut out. `train_images`, `validation_images`: how many there must be, if not all.
    """

    root: str = "data/coco"
    edition: Literal["2014", "2017"] = "2014"
    resolution: Resolution = 256
    train_images: Count | None = None
    validation_images: Count | None = None


@dataclass(frozen=True)
class Ucf101Options:
    """UCF101: clips of videos of 101 human actions, in a folder that you provide; videos are read by PyAV.

    `root`: the folder of UCF-101 and ucfTrainTestlist; `split`: which of its three lists, whose test videos are held
    out. A clip has `frames` that lie `stride` apart, and a video gives `clips`: one from its middle, or so many evenly
    spread from its first frame to its last. The short side is scaled to `resolution` and the centre cut out.
    """

    root: str = "data/ucf101"
    resolution: Resolution = 256
    frames: Annotated[int, Ge(2), Le(256)] = 16
    stride: Annotated[int, Ge(1), Le(64)] = 1
    clips: Annotated[int, Ge(1), Le(64)] = 1
    split: Literal[1, 2, 3] = 1


@dataclass(frozen=True)
class MovingDigitsOptions:
    """Clips of the digits of scikit-learn, each moving through a dark field: one channel, ten classes, no download.

    `frames` of a clip, `resolution` of the field. `clips`: of the first so many digits, one each; `validation` of them
    are held out by a fixed permutation.
    """

    frames: Annotated[int, Ge(2), Le(64)] = 8
    resolution: Annotated[int, Ge(9), Le(256)] = 16
    clips: Annotated[int, Ge(2), Le(1797)] = 1797
    validation: Count = 1000


@dataclass(frozen=True)
class GaussianRandomFieldOptions:
    """Gaussian random fields with the power spectrum k^-slope, drawn when they are taken: nothing to download.

    `count` images to train on and `validation` others, all drawn from `seed`; the channels are independent.
    """

    slope: Annotated[float, Interval(ge=-4, le=8)]
    resolution: Annotated[int, Ge(2), Le(1024)] = 32
    channels: Literal[1, 3] = 1
    count: Count = 10_000
    validation: Count = 2000
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
