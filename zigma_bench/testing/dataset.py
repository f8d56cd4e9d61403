"""Check a dataset: uint8 images as described, always the same, and no validation images in training."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from zigma_bench.data.images import Images, Splits, captions_of, needs_workers, random_crops, take_crops
from zigma_bench.errors import NotReady
from zigma_bench.plugins.registry import DataFacts, Spec
from zigma_bench.testing.lookup import check_options, imports_without_torch, option_sets, planning_module
from zigma_bench.testing.report import CheckFailed, CheckStep, Report, run_checks

MOST_COMPARED = 20_000  # the most images of each split that are compared
ALLOWED_DUPLICATES = 0.01  # the allowed share of held-out images in training; real data sets contain a few duplicates


def dataset_report(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a dataset."""
    values = option_sets(spec, options, ranges=False)[0]
    for item in _facts(spec, values).missing:
        raise NotReady(f"{spec.name} can't be checked here: {item.what}", do=item.do)
    yes = imports_without_torch
    checks = run_checks([
        CheckStep("options", "a type and a default of that type for each", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: yes(planning_module(spec, plugin)), essential=True),
        CheckStep("description", "DataFacts, the same each time", lambda: _check_description(spec, values), True),
        CheckStep("loads", "training and validation images", lambda: _check_splits(_load(spec, values)), True),
    ])  # fmt: skip
    if checks[-1].ok:
        facts, splits = _facts(spec, values), _load(spec, values)
        expected = f"uint8 [n, {', '.join(map(str, facts.shape))}], as described"
        checks += run_checks([
            CheckStep("training images", expected, lambda: _check_images(splits.train, facts), essential=True),
            CheckStep("validation images", expected, lambda: _check_images(splits.validation, facts), essential=True),
            CheckStep("taken by index", "the same images as when taken one by one", lambda: _check_indexing(splits)),
            CheckStep("taken by processes", "images with `decodes` can be pickled", lambda: _check_pickling(splits)),
            CheckStep("loaded again", "the same images", lambda: _check_reload(splits, _load(spec, values))),
            CheckStep("held out", "no validation image in training", lambda: _check_held_out(splits)),
            CheckStep("captions", "texts for each image, if described", lambda: _check_captions(splits, facts)),
            CheckStep("crops", "crops of the described size, if described", lambda: _check_crops(splits, facts)),
            CheckStep("fingerprint", "a different one for different images", lambda: _check_fingerprint(spec, options)),
        ])  # fmt: skip
    return Report("dataset", spec.name, spec.owner, checks)


def _facts(spec: Spec, values: Mapping[str, Any]) -> DataFacts:
    facts: DataFacts = spec.facts.describe(spec.make_options(values))
    return facts


def _load(spec: Spec, values: Mapping[str, Any]) -> Splits:
    splits: Splits = spec.load()(spec.make_options(values))
    return splits


def _check_description(spec: Spec, values: Mapping[str, Any]) -> str:
    first, second = _facts(spec, values), _facts(spec, values)
    if not isinstance(first, DataFacts):
        raise CheckFailed(f"a {type(first).__name__}")
    if first != second:
        raise CheckFailed(f"{first}, then {second}")
    if first.channels not in (1, 3) or not first.fingerprint:
        raise CheckFailed(f"{first}; channels must be 1 or 3, and the fingerprint a text")
    if unknown := set(spec.facts.places) - {option.name for option in spec.options}:
        raise CheckFailed(f"places names {min(unknown)!r}, which isn't an option of the data set")
    return f"{first.channels} x {first.height} x {first.width}, fingerprint {first.fingerprint[:12]}"


def _check_splits(splits: Splits) -> str:
    if not isinstance(splits, Splits):
        raise CheckFailed(f"a {type(splits).__name__}")
    if not len(splits.train) or not len(splits.validation):
        raise CheckFailed(f"{len(splits.train)} for training and {len(splits.validation)} held out")
    return f"{len(splits.train):,} for training, {len(splits.validation):,} held out"


def _check_images(images: Images, facts: DataFacts) -> str:
    count = min(len(images), 8)
    found = images.take(range(count))
    expected = (count, *facts.shape)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != expected:
        raise CheckFailed(f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}")
    return f"{found.dtype} {list(found.shape)}"


def _check_indexing(splits: Splits) -> str:
    for images in (splits.train, splits.validation):
        last = len(images) - 1
        wanted = [last, 0, last]
        one_by_one = np.concatenate([images.take([index]) for index in wanted])
        if not np.array_equal(images.take(np.array(wanted)), one_by_one):
            raise CheckFailed(f"take({wanted}) differs from its images one by one")
    return "the same"


def _check_pickling(splits: Splits) -> str:
    """Images that need workers must be the same after pickling."""
    if not needs_workers(splits.train):
        return "not needed: the images are in memory"
    try:
        sent = pickle.loads(pickle.dumps(splits.train))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckFailed(f"{error}; define their class at the top level of a module") from error
    if not np.array_equal(sent.take([0]), splits.train.take([0])):
        raise CheckFailed("different images after pickling")
    return "the same"


def _check_reload(first: Splits, second: Splits) -> str:
    for a, b in ((first.train, second.train), (first.validation, second.validation)):
        indices = range(min(len(a), 64))
        if len(a) != len(b) or not np.array_equal(a.take(indices), b.take(indices)):
            raise CheckFailed("different images; draw random numbers from a fixed seed")
    return "the same"


def _check_held_out(splits: Splits) -> str:
    seen, held_out = _contents(splits.train), _contents(splits.validation)
    duplicates = len(set(seen) & set(held_out))
    if duplicates > ALLOWED_DUPLICATES * len(held_out):
        raise CheckFailed(f"{duplicates:,} of {len(held_out):,} validation images are training images")
    return f"{duplicates} of {len(held_out):,}"


def _check_captions(splits: Splits, facts: DataFacts) -> str:
    """Every image of both splits must have at least one text and no empty text."""
    if not facts.captions:
        return "not described"
    count = 0
    for images in (splits.train, splits.validation):
        found = captions_of(images, range(len(images)))
        bare = [row for row, texts in enumerate(found) if not texts or not all(text.strip() for text in texts)]
        if bare or len(found) != len(images):
            raise CheckFailed(f"no caption, or an empty one, for image {bare[0] if bare else len(found)}")
        count += sum(map(len, found))
    return f"{count:,}"


def _check_crops(splits: Splits, facts: DataFacts) -> str:
    """Cropped training images must have the described size and depend only on the crop."""
    if not facts.crops:
        return "not described"
    count = min(len(splits.train), 8)
    crops = random_crops(count, facts.height + 2, 0)
    first, again = (take_crops(splits.train, range(count), crops) for _ in range(2))
    if first.dtype != np.uint8 or first.shape != (count, *facts.shape):
        raise CheckFailed(f"{first.dtype} {list(first.shape)}")
    if not np.array_equal(first, again):
        raise CheckFailed("different images for the same crops")
    return "the same size"


def _contents(images: Images) -> list[bytes]:
    """The pixels of the images, up to a limit."""
    count, batch, found = min(len(images), MOST_COMPARED), 256, list[bytes]()
    for start in range(0, count, batch):
        found += [image.tobytes() for image in images.take(range(start, min(start + batch, count)))]
    return found


def _check_fingerprint(spec: Spec, options: Mapping[str, Any] | None) -> str:
    """Options that give different images must have different fingerprints."""
    known: dict[str, bytes] = {}
    sets = option_sets(spec, options, ranges=False)
    for values in sets:
        images = _load(spec, values).train
        content = b"".join(image.tobytes() for image in images.take(range(min(len(images), 8))))
        if known.setdefault(_facts(spec, values).fingerprint, content) != content:
            raise CheckFailed(f"the same fingerprint with {values}, which gives different images")
    return f"{len(known)} for {len(sets)} set(s) of options"
