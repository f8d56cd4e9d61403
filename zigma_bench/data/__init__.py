"""The built-in data sets and transforms, registered through the same hooks as those of plugins."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.data.sources import (
    coco,
    digits,
    faceshq,
    mm_celeba,
    moving_digits,
    random_field,
    ucf101,
)
from zigma_bench.data.sources import (
    huggingface_files as source,
)
from zigma_bench.data.sources.options import (
    CocoOptions,
    DigitsOptions,
    FacesHQOptions,
    GaussianRandomFieldOptions,
    HuggingFaceOptions,
    MmCelebaOptions,
    MovingDigitsOptions,
    Ucf101Options,
)
from zigma_bench.data.transforms import built_in as transforms
from zigma_bench.plugins.hookspecs import hookimpl
from zigma_bench.plugins.registry import DatasetFacts, TransformFacts


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    register(
        "digits",
        "zigma_bench.data.sources.digits:load",
        options=DigitsOptions,
        facts=DatasetFacts(describe=digits.describe, count="zigma_bench.data.sources.digits:count"),
    )
    register(
        "huggingface",
        "zigma_bench.data.sources.huggingface:load",
        options=HuggingFaceOptions,
        facts=DatasetFacts(
            describe=source.describe,
            check="zigma_bench.data.checks.files:check_parts",
            count="zigma_bench.data.reading.counts:count_huggingface",
            places=("data_dir", "data_files", "validation_files"),
        ),
    )
    register(
        "faceshq",
        "zigma_bench.data.sources.faceshq:load",
        options=FacesHQOptions,
        facts=DatasetFacts(
            describe=faceshq.describe,
            check="zigma_bench.data.sources.faceshq:parts",
            count="zigma_bench.data.sources.faceshq:count",
            places=("root",),
        ),
    )
    register(
        "mm-celeba",
        "zigma_bench.data.sources.mm_celeba:load",
        options=MmCelebaOptions,
        facts=DatasetFacts(
            describe=mm_celeba.describe,
            check="zigma_bench.data.sources.mm_celeba:parts",
            count="zigma_bench.data.sources.mm_celeba:count",
            places=("root",),
        ),
    )
    register(
        "coco",
        "zigma_bench.data.sources.coco:load",
        options=CocoOptions,
        facts=DatasetFacts(
            describe=coco.describe,
            check="zigma_bench.data.sources.coco:parts",
            count="zigma_bench.data.sources.coco:count",
            places=("root",),
        ),
    )
    register(
        "ucf101",
        "zigma_bench.data.sources.ucf101:load",
        options=Ucf101Options,
        facts=DatasetFacts(
            describe=ucf101.describe,
            check="zigma_bench.data.sources.ucf101:parts",
            count="zigma_bench.data.sources.ucf101:count",
            places=("root",),
            toy="moving-digits",
        ),
    )
    register(
        "moving-digits",
        "zigma_bench.data.sources.moving_digits:load",
        options=MovingDigitsOptions,
        facts=DatasetFacts(
            describe=moving_digits.describe,
            count="zigma_bench.data.sources.moving_digits:count",
            smoke={"frames": 3, "resolution": 12, "clips": 160, "validation": 80},
        ),
    )
    register(
        "gaussian-random-field",
        "zigma_bench.data.sources.random_field:load",
        options=GaussianRandomFieldOptions,
        facts=DatasetFacts(
            describe=random_field.describe,
            count="zigma_bench.data.sources.random_field:count",
            smoke={"resolution": 8, "channels": 1, "count": 200, "validation": 100},
        ),
    )


@hookimpl
def register_transforms(register: Callable[..., None]) -> None:
    register(
        "shuffle-patches",
        "zigma_bench.data.transforms.built_in:shuffle_patches",
        options=transforms.ShufflePatches,
        facts=TransformFacts(check=transforms.check_shuffle, digest=transforms.digest_of_shuffle, smoke={"patch": 2}),
    )
    register(
        "rotate",
        "zigma_bench.data.transforms.built_in:rotate",
        options=transforms.Rotate,
        facts=TransformFacts(check=transforms.check_rotate),
    )
    register(
        "blur",
        "zigma_bench.data.transforms.built_in:blur",
        options=transforms.Blur,
        facts=TransformFacts(),
    )
