"""A dataset's contract: uint8 images as it described them, the same whenever taken, and none held out in training."""

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

LOOKED_AT = 20_000  # images of each split that are compared; a larger one is compared in part
DOUBLES = 0.01  # the share of held-out images that may lie in training: a real data set holds a few twice


def dataset_report(spec: Spec, *, plugin: ModuleType | None = None, options: Mapping[str, Any] | None = None) -> Report:
    """All checks of a dataset."""
    values = option_sets(spec, options, ranges=False)[0]
    for item in _facts(spec, values).missing:
        raise NotReady(f"{spec.name} can't be checked here: {item.what}", do=item.do)
    yes = imports_without_torch
    checks = run_checks([
        CheckStep("options", "a type for each, and defaults of it", lambda: check_options(spec)),
        CheckStep("imports without torch", "yes", lambda: yes(planning_module(spec, plugin)), essential=True),
        CheckStep("description", "DataFacts, the same when asked again", lambda: _described(spec, values), True),
        CheckStep("loads", "Splits with images on both sides", lambda: _sizes(_load(spec, values)), essential=True),
    ])  # fmt: skip
    if checks[-1].ok:
        facts, splits = _facts(spec, values), _load(spec, values)
        expected = f"uint8 [n, {', '.join(map(str, facts.shape))}], as described"
        checks += run_checks([
            CheckStep("training images", expected, lambda: _fits(splits.train, facts), essential=True),
            CheckStep("validation images", expected, lambda: _fits(splits.validation, facts), essential=True),
            CheckStep("taken by index", "the same images one by one, twice and reversed", lambda: _by_index(splits)),
            CheckStep("taken by processes", "what `decodes` pickles", lambda: _pickles(splits)),
            CheckStep("loaded again", "the same images", lambda: _again(splits, _load(spec, values))),
            CheckStep("held out", "no validation image in training", lambda: _held_out(splits)),
            CheckStep("captions", "texts of each image, if described", lambda: _captions(splits, facts)),
            CheckStep("crops", "images of the same size, where the description says so", lambda: _crops(splits, facts)),
            CheckStep("fingerprint", "another one for other images", lambda: _fingerprint(spec, options)),
        ])  # fmt: skip
    return Report("dataset", spec.name, spec.owner, checks)


def _facts(spec: Spec, values: Mapping[str, Any]) -> DataFacts:
    facts: DataFacts = spec.facts.describe(spec.make_options(values))
    return facts


def _load(spec: Spec, values: Mapping[str, Any]) -> Splits:
    splits: Splits = spec.load()(spec.make_options(values))
    return splits


def _described(spec: Spec, values: Mapping[str, Any]) -> str:
    first, second = _facts(spec, values), _facts(spec, values)
    if not isinstance(first, DataFacts):
        raise CheckFailed(f"a {type(first).__name__}")
    if first != second:
        raise CheckFailed(f"{first}, then {second}")
    if first.channels not in (1, 3) or not first.fingerprint:
        raise CheckFailed(f"{first}; channels are 1 or 3, and the fingerprint is a text")
    if unknown := set(spec.facts.places) - {option.name for option in spec.options}:
        raise CheckFailed(f"places names {min(unknown)!r}, which is no option of the data set")
    return f"{first.channels} x {first.height} x {first.width}, fingerprint {first.fingerprint[:12]}"


def _sizes(splits: Splits) -> str:
    if not isinstance(splits, Splits):
        raise CheckFailed(f"a {type(splits).__name__}")
    if not len(splits.train) or not len(splits.validation):
        raise CheckFailed(f"{len(splits.train)} for training and {len(splits.validation)} held out")
    return f"{len(splits.train):,} for training, {len(splits.validation):,} held out"


def _fits(images: Images, facts: DataFacts) -> str:
    count = min(len(images), 8)
    found = images.take(range(count))
    expected = (count, *facts.shape)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.shape != expected:
        raise CheckFailed(f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}")
    return f"{found.dtype} {list(found.shape)}"


def _by_index(splits: Splits) -> str:
    for images in (splits.train, splits.validation):
        last = len(images) - 1
        wanted = [last, 0, last]
        one_by_one = np.concatenate([images.take([index]) for index in wanted])
        if not np.array_equal(images.take(np.array(wanted)), one_by_one):
            raise CheckFailed(f"take({wanted}) differs from its images one by one")
    return "the same"


def _pickles(splits: Splits) -> str:
    """Images that say that taking them is work are sent to processes, and give the same there."""
    if not needs_workers(splits.train):
        return "not needed: the images lie in memory"
    try:
        sent = pickle.loads(pickle.dumps(splits.train))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckFailed(f"{error}; make their class one of a module") from error
    if not np.array_equal(sent.take([0]), splits.train.take([0])):
        raise CheckFailed("other images after it")
    return "the same"


def _again(first: Splits, second: Splits) -> str:
    for a, b in ((first.train, second.train), (first.validation, second.validation)):
        indices = range(min(len(a), 64))
        if len(a) != len(b) or not np.array_equal(a.take(indices), b.take(indices)):
            raise CheckFailed("other images; draw random numbers from a fixed seed")
    return "the same"


def _held_out(splits: Splits) -> str:
    seen, held = _contents(splits.train), _contents(splits.validation)
    double = len(set(seen) & set(held))
    if double > DOUBLES * len(held):
        raise CheckFailed(f"{double:,} of {len(held):,} validation images are training images")
    return f"{double} of {len(held):,}"


def _captions(splits: Splits, facts: DataFacts) -> str:
    """Every image of both sides has a text or several, none of them empty."""
    if not facts.captions:
        return "none said"
    count = 0
    for images in (splits.train, splits.validation):
        found = captions_of(images, range(len(images)))
        bare = [row for row, texts in enumerate(found) if not texts or not all(text.strip() for text in texts)]
        if bare or len(found) != len(images):
            raise CheckFailed(f"no caption, or an empty one, of image {bare[0] if bare else len(found)}")
        count += sum(map(len, found))
    return f"{count:,}"


def _crops(splits: Splits, facts: DataFacts) -> str:
    """Training images that can be cut anew keep their size, and depend on their crop alone."""
    if not facts.crops:
        return "none said"
    count = min(len(splits.train), 8)
    crops = random_crops(count, facts.height + 2, 0)
    first, again = (take_crops(splits.train, range(count), crops) for _ in range(2))
    if first.dtype != np.uint8 or first.shape != (count, *facts.shape):
        raise CheckFailed(f"{first.dtype} {list(first.shape)}")
    if not np.array_equal(first, again):
        raise CheckFailed("other images under the same crops")
    return "the same size"


def _contents(images: Images) -> list[bytes]:
    """The pixels of the images, up to a limit."""
    count, batch, found = min(len(images), LOOKED_AT), 256, list[bytes]()
    for start in range(0, count, batch):
        found += [image.tobytes() for image in images.take(range(start, min(start + batch, count)))]
    return found


def _fingerprint(spec: Spec, options: Mapping[str, Any] | None) -> str:
    """Where two sets of options give other images, their fingerprints differ."""
    known: dict[str, bytes] = {}
    sets = option_sets(spec, options, ranges=False)
    for values in sets:
        images = _load(spec, values).train
        content = b"".join(image.tobytes() for image in images.take(range(min(len(images), 8))))
        if known.setdefault(_facts(spec, values).fingerprint, content) != content:
            raise CheckFailed(f"the same fingerprint with {values}, which gives other images")
    return f"{len(known)} for {len(sets)} set(s) of options"
