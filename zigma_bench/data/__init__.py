"""The built-in data sources, registered by the same hook as a plugin's; this page decodes nothing."""

from __future__ import annotations

from collections.abc import Callable

from zigma_bench.data import digits, faceshq, source
from zigma_bench.data.options import DigitsOptions, FacesHQOptions, HuggingFaceOptions
from zigma_bench.hookspecs import hookimpl
from zigma_bench.registry import DatasetFacts


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    register(
        "digits",
        "zigma_bench.data.digits:load",
        options=DigitsOptions,
        facts=DatasetFacts(describe=digits.describe),
    )
    register(
        "huggingface",
        "zigma_bench.data.huggingface:load",
        options=HuggingFaceOptions,
        facts=DatasetFacts(describe=source.describe),
    )
    register(
        "faceshq",
        "zigma_bench.data.faceshq:load",
        options=FacesHQOptions,
        facts=DatasetFacts(describe=faceshq.describe),
    )
