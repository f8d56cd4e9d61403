"""The data sets of a suite, resolved: sources, transforms, latents, text features and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zigma_bench.errors import UsageError, ZigmaBenchError
from zigma_bench.plan.cells import Resolved, TextFeatures, Transform, facts_digest
from zigma_bench.plan.latents import latent_space
from zigma_bench.plan.resolve import data_entries, describe_source, option_label, resolve_option
from zigma_bench.plan.settings import NO_DATA
from zigma_bench.plan.space import LatentSpace
from zigma_bench.plan.text import condition_of, text_of
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import DataFacts
from zigma_bench.suite import Data, Suite, YamlSource

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class DataSet:
    """One entry of a suite's `data`; `data` is None in an efficiency suite.

    `facts` describe the input of the networks: the images after the transforms, or their latents in `space`. `text` is
    the features of the captions, if the suite names a text encoder. `places` are the options that only locate files.
    `label` distinguishes the data set from the suite's others; None if there is only one.
    """

    data: Resolved | None
    transforms: tuple[Transform, ...]
    facts: DataFacts
    label: str | None = None
    space: LatentSpace | None = None
    text: TextFeatures | None = None
    places: tuple[str, ...] = ()


def data_sets(suite: Suite, catalogue: Catalogue, source: YamlSource, *, smoke: bool) -> tuple[DataSet, ...]:
    """The data sets of a suite.

    Raises UsageError for two data sets with the same images; in a smoke run, equal toys are merged.
    """
    if suite.data is None:
        if suite.train.random_crop is not None:
            raise _crop_error(source, "an efficiency suite has no images to crop", "leave it out")
        return (DataSet(None, (), NO_DATA),)
    found: dict[str, DataSet] = {}
    for place, entry in data_entries(suite):
        pixels = _resolve_entry(entry, place, catalogue, source)
        if suite.train.random_crop is not None:
            _check_crop(suite.train.random_crop, entry, pixels.facts, source)
        data = _with_latents(pixels, entry, place, suite, source, smoke)
        if data.facts.fingerprint in found and not smoke:
            raise UsageError(
                f"the data set {entry.name!r} is listed twice", where=source.where(*place), do="remove one"
            )
        found.setdefault(data.facts.fingerprint, data)
    return _label_data_sets(tuple(found.values()), catalogue)


def _resolve_entry(entry: Data, place: Place, catalogue: Catalogue, source: YamlSource) -> DataSet:
    data = resolve_option(catalogue, "dataset", entry, source.where(*place))
    facts = describe_source(catalogue, data, source.where(*place))
    text: TextFeatures | None = None
    if entry.text is not None:
        text, missing = text_of(entry.text, facts, data.name, source.where(*place, "text"))
        conditions = (*facts.conditions, condition_of(text))
        facts = replace(facts, conditions=conditions, missing=(*facts.missing, *missing))
    transforms = []
    for index, choice in enumerate(entry.transforms):
        where = source.where(*place, "transforms", index)
        transforms.append(
            _resolve_transform(resolve_option(catalogue, "transform", choice, where), facts, catalogue, where)
        )
    facts = replace(facts, fingerprint=fingerprint_after(facts.fingerprint, transforms))
    places = catalogue.get("dataset", data.name).facts.places
    return DataSet(data, tuple(transforms), facts, text=text, places=places)


def fingerprint_after(images: str, transforms: Sequence[Transform]) -> str:
    """The fingerprint of images after transforms; without transforms, that of the images themselves."""
    if not transforms:
        return images
    return facts_digest({"images": images, "transforms": [item.model_dump(mode="json") for item in transforms]})


def _check_crop(short_side: int, entry: Data, facts: DataFacts, source: YamlSource) -> None:
    """Raise UsageError if the training images of a data set can't be cropped at random."""
    name = entry.name
    if entry.latents is not None:
        raise _crop_error(
            source, f"the latents of {name!r} are encoded once, from the centre of each image",
            "leave it out, or train on pixels",
        )  # fmt: skip
    if facts.frames > 1:
        raise _crop_error(source, f"the clips of {name!r} are always cropped at the centre", "leave it out")
    if not facts.crops:
        raise _crop_error(
            source, f"the images of the data set {name!r} have exactly the resolution, so there is nothing to crop",
            "leave it out, or use image files with another resize than none",
        )  # fmt: skip
    if short_side < max(facts.height, facts.width):
        raise _crop_error(
            source, "the crop is larger than the image", "raise it, or lower the resolution",
            expected=f"at least the resolution, {max(facts.height, facts.width)}", got=short_side,
        )  # fmt: skip


def _crop_error(source: YamlSource, what: str, do: str, **rest: Any) -> UsageError:
    return UsageError(what, where=source.where("train", "random_crop"), do=do, **rest)


def _with_latents(data: DataSet, entry: Data, place: Place, suite: Suite, source: YamlSource, smoke: bool) -> DataSet:
    """The data set with latents, if the suite names an autoencoder for it; else unchanged."""
    recon = suite.reference.images == "reconstructions"
    if entry.latents is None and recon:
        raise UsageError(
            "reconstructions need an autoencoder, and this data has none",
            where=source.where("reference", "images"), do="add data.latents, or set reference.images to pixels",
        )  # fmt: skip
    if entry.latents is None:
        return data
    where = source.where(*place, "latents")
    try:
        space, facts = latent_space(entry.latents, data.facts, mirrored=suite.train.flip, smoke=smoke, where=where)
        space = space.model_copy(update={"reconstructed": suite.reference.split if recon else None})
    except ZigmaBenchError as error:
        raise error.at(where) from None
    return replace(data, facts=facts, space=space)


def _resolve_transform(found: Resolved, facts: DataFacts, catalogue: Catalogue, where: str) -> Transform:
    """A transform that accepts these images, with the digest of what it draws for them."""
    spec = catalogue.get("transform", found.name)
    options = spec.make_options(found.options)
    shape = {"channels": facts.channels, "height": facts.height, "width": facts.width}
    try:
        if spec.facts.check is not None:
            spec.facts.check(options, **shape)
        drawn = str(spec.facts.digest(options, **shape))
    except ZigmaBenchError as error:
        raise error.at(where) from None
    return Transform(name=found.name, owner=found.owner, options=found.options, digest=drawn)


def _label_data_sets(sets: tuple[DataSet, ...], catalogue: Catalogue) -> tuple[DataSet, ...]:
    """The data sets with labels: name, options that differ among data sets of that name, transforms and latents."""
    if len(sets) == 1:
        return sets
    return tuple(replace(item, label=_data_set_label(item, sets, catalogue)) for item in sets)


def _data_set_label(item: DataSet, sets: Sequence[DataSet], catalogue: Catalogue) -> str:
    data = item.data
    assert data is not None, "a suite that lists data sets has data"
    others = [other.data.options for other in sets if other.data is not None and other.data.name == data.name]
    differing = {
        key: value for key, value in data.options.items() if len({option_label(other[key]) for other in others}) > 1
    }
    parts = [_option_words(data.name, differing)]
    for transform in item.transforms:
        defaults = {option.name: option.default for option in catalogue.get("transform", transform.name).options}
        shown = {key: value for key, value in transform.options.items() if value != defaults[key]}
        parts.append(_option_words(transform.name, shown))
    if item.space is not None:
        parts.append(f"latents of {option_label(item.space.given.autoencoder)}")
    return ", ".join(parts)


def _option_words(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={option_label(value)}" for key, value in sorted(options.items()))])
