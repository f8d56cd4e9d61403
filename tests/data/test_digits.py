"""The digits: the pixels of scikit-learn, always split in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zigma_bench.data.images import Subset, pixels_digest
from zigma_bench.data.sources import digits
from zigma_bench.data.sources.options import DigitsOptions
from zigma_bench.errors import NotReady, UsageError


@pytest.mark.parametrize(("validation", "resolution"), [(1000, 8), (1, 16), (1796, 32)])
def test_shapes_are_as_described(validation: int, resolution: int) -> None:
    options = DigitsOptions(validation, resolution)
    splits, facts = digits.load(options), digits.describe(options)
    assert (len(splits.train), len(splits.validation)) == (1797 - validation, validation)
    pixels = splits.train.take([0])
    assert pixels.shape == (1, facts.channels, facts.height, facts.width) == (1, 1, resolution, resolution)
    assert pixels.dtype == np.uint8 and facts.held_out == validation and not facts.missing


def test_pixels_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    splits = digits.load(DigitsOptions())
    assert isinstance(splits.train, Subset)
    ours = splits.train.images.take(range(1797))[:, 0].astype(np.float64)
    assert np.abs(ours - load_digits().images * 255 / 16).max() <= 0.5
    assert (ours.min(), ours.max()) == (0, 255)


def test_splits_share_no_index_and_cover_all() -> None:
    splits = digits.load(DigitsOptions(validation=300))
    assert isinstance(splits.train, Subset) and isinstance(splits.validation, Subset)
    together = np.concatenate([splits.train.indices, splits.validation.indices])
    assert sorted(together) == list(range(1797))


def test_splits_share_no_content_but_true_duplicates() -> None:
    splits = digits.load(DigitsOptions())
    assert isinstance(splits.train, Subset)
    everything = [image.tobytes() for image in splits.train.images.take(range(1797))]
    both = {image.tobytes() for image in splits.train.take(range(797))} & {
        image.tobytes() for image in splits.validation.take(range(1000))
    }
    assert all(everything.count(image) > 1 for image in both)


def test_two_loads_are_the_same_and_the_permutation_is_fixed() -> None:
    first, second = digits.load(DigitsOptions()), digits.load(DigitsOptions())
    assert pixels_digest(first.train) == pixels_digest(second.train) and pixels_digest(
        first.validation
    ) == pixels_digest(second.validation)
    assert isinstance(first.validation, Subset)
    assert list(first.validation.indices[:4]) == [326, 979, 1238, 722]  # the protocol: never another


@pytest.mark.parametrize(
    "options", [DigitsOptions(1797), DigitsOptions(0), DigitsOptions(10, 12), DigitsOptions(10, 0)]
)
def test_what_does_not_fit_is_refused_by_the_plan_and_the_run(options: DigitsOptions) -> None:
    for function in (digits.describe, digits.load):
        with pytest.raises(UsageError, match="expected"):
            function(options)


def test_fingerprint_contains_the_options_and_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = {
        digits.describe(options).fingerprint for options in (DigitsOptions(), DigitsOptions(5), DigitsOptions(5, 16))
    }
    assert len(prints) == 3
    other = tmp_path / "digits.csv.gz"
    other.write_bytes(b"others")
    monkeypatch.setattr(digits, "_file", lambda: other)
    assert digits.describe(DigitsOptions()).fingerprint not in prints


def test_without_scikit_learn_the_digits_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install scikit-learn" in digits.describe(DigitsOptions()).missing[0].do
    with pytest.raises(NotReady, match="pip install scikit-learn"):
        digits.load(DigitsOptions())


def test_another_file_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "digits.csv"
    file.write_text("1,2,3\n4,5,6\n")
    monkeypatch.setattr(digits, "_file", lambda: file)
    with pytest.raises(NotReady, match="not the file of digits"):
        digits.load(DigitsOptions())
