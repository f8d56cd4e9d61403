"""Features of captions: encoded once, read by number, and usable on another machine without the encoder."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import WIDTH, write_encoder

from zigma_bench.conditioning import text_features
from zigma_bench.conditioning.prompts import encode_prompts
from zigma_bench.conditioning.random_words import RandomWords
from zigma_bench.conditioning.text_encoder import open_encoder
from zigma_bench.conditioning.text_features import check_captions, check_width, encode_captions, load_text_features
from zigma_bench.data.images import ArrayImages, Splits, draw_labels, labels_of
from zigma_bench.data.reading import arrays
from zigma_bench.errors import Interrupted, NotReady, UsageError
from zigma_bench.plan.cells import TextFeatures
from zigma_bench.pretrained import text_encoders as encoders

CAPTIONS = [("a red cat", "a cat"), ("a dog",), ("a cat",), ("the digit", "a green dog", "many")]
HELD = [("a dog", "a red dog")]
NUMBERS = ["a red cat", "a cat", "a dog", "the digit", "a green dog", "many", "a red dog"]  # by first use


def images(captions: list[tuple[str, ...]]) -> ArrayImages:
    return ArrayImages(np.zeros((len(captions), 1, 2, 2), dtype=np.uint8), None, captions)


SPLITS = Splits(images(CAPTIONS), images(HELD))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "cache"))


def told(
    encoder: str = "random-words", *, mask: bool = True, tokens: int = 6, cache: str | None = None
) -> TextFeatures:
    facts = encoders.describe_encoder(encoder, None, cache)
    return TextFeatures(
        encoder=encoder, revision=None, fingerprint=facts.fingerprint, images="data", width=facts.width,
        tokens=tokens, mask=mask, cache=cache,
    )  # fmt: skip


def folder_of(text: TextFeatures) -> Path:
    return encoders.features_folder(text.images, text.fingerprint, text.tokens, text.cache)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_the_features_are_the_encoders(resident: bool, mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resident:
        monkeypatch.setattr(text_features, "RESIDENT_BYTES", 0)
    _, table = load_text_features(SPLITS, told(mask=mask), device="cpu")
    features, seen, _ = RandomWords()([*NUMBERS, ""], 6)
    found = table(torch.arange(8))
    assert len(found) == 1 + mask and found[0].dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), features, rtol=1e-3, atol=1e-6)  # kept in float16
    assert not mask or np.array_equal(found[1].numpy(), seen)
    assert table.null == 7
    again = table(torch.tensor([5, 0, 5]))
    assert torch.equal(again[0], found[0][[5, 0, 5]])
    check_width(table, 64)
    with pytest.raises(UsageError, match="text_width: 64; got 32"):
        check_width(table, 32)


def test_labels_are_numbers_of_an_images_own_captions() -> None:
    splits, _ = load_text_features(SPLITS, told(), device="cpu")
    assert [NUMBERS[i] for i in labels_of(splits.train, range(4))] == [texts[0] for texts in CAPTIONS]
    assert [NUMBERS[i] for i in labels_of(splits.validation, [0])] == ["a dog"]
    drawn = np.stack([draw_labels(splits.train, [3, 0, 1], seed) for seed in range(300)])
    for column, texts in enumerate((CAPTIONS[3], CAPTIONS[0], CAPTIONS[1])):
        counts = np.bincount(drawn[:, column], minlength=7)
        own = [NUMBERS.index(text) for text in texts]
        assert counts.sum() == counts[own].sum() and (counts[own] > 200 / len(texts)).all()  # each about as often
    assert np.array_equal(drawn[7], draw_labels(splits.train, [3, 0, 1], 7))


def test_captions_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told()
    load_text_features(SPLITS, text, device="cpu")
    monkeypatch.setattr(text_features, "open_encoder", None)  # nobody opens one again
    load_text_features(SPLITS, text, device="cpu")
    with pytest.raises(TypeError):
        load_text_features(SPLITS, told(tokens=5), device="cpu")


def test_a_killed_encoding_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "FEWEST_ROWS", 3)
    text, encoded = told(), []

    class Killed(RandomWords):
        def __call__(self, texts, tokens):
            if len(encoded) == 6 and not encoded[-1:] == ["go on"]:
                raise KeyboardInterrupt
            encoded.extend(texts)
            return super().__call__(texts, tokens)

    monkeypatch.setattr(text_features, "open_encoder", lambda *words: Killed())
    with pytest.raises(KeyboardInterrupt):
        load_text_features(SPLITS, text, device="cpu")
    assert encoders.cached_features(folder_of(text)) is None
    before, encoded[:] = list(encoded), []
    _, table = load_text_features(SPLITS, text, device="cpu")
    assert before + encoded == [*NUMBERS, ""]
    assert np.allclose(table(torch.arange(8))[0], RandomWords()([*NUMBERS, ""], 6)[0], rtol=1e-3)


def test_cells_that_start_at_once_encode_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits, however long the first takes."""
    monkeypatch.setattr("zigma_bench.records.store.LOCK_SECONDS", 0.05)
    begun, encoded = threading.Event(), []

    class Slow(RandomWords):
        def __call__(self, texts, tokens):
            begun.set()
            time.sleep(0.5)
            encoded.extend(texts)
            return super().__call__(texts, tokens)

    monkeypatch.setattr(text_features, "open_encoder", lambda *words: Slow())
    text = told()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_text_features, SPLITS, text, device="cpu")
        begun.wait()
        second = pool.submit(load_text_features, SPLITS, text, device="cpu")
        tables = [found.result()[1] for found in (first, second)]
    assert encoded == [*NUMBERS, ""]
    assert torch.equal(tables[0](torch.arange(8))[0], tables[1](torch.arange(8))[0])


def test_broken_features_are_found_and_written_again() -> None:
    text, encoded = told(), []

    def encode() -> int:
        return encode_captions(SPLITS, text, "cpu", lambda done, words: encoded.append(done), lambda: False)

    assert check_captions(SPLITS, text) == [f"the captions' features in {folder_of(text)} are missing or incomplete"]
    assert encode() == 7 and check_captions(SPLITS, text) == [] and encoded == [8]
    file = folder_of(text) / "0000000.features.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (fault,) = check_captions(SPLITS, text)
    assert fault.startswith("captions, shard 0 is broken")
    encode()
    assert file.read_bytes() == whole and encoded == [8, 8]
    assert encode() == 7 and encoded == [8, 8]
    with pytest.raises(NotReady, match="another captions_sha256"):
        check_captions(Splits(SPLITS.validation, SPLITS.train), text)
    with pytest.raises(Interrupted, match="before shard 0"):
        encode_captions(SPLITS, told(tokens=5), "cpu", lambda done, words: None, lambda: True)


def test_features_go_to_a_machine_without_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite names the folder of an encoder. If the folder is missing, the features stored under its name identify
    it."""
    folder = write_encoder(tmp_path / "encoder", "bert")
    text = told(str(folder))
    _, table = load_text_features(SPLITS, text, device="cpu")
    kept = table(torch.arange(8))[0]
    shutil.copytree(tmp_path / "cache", tmp_path / "elsewhere")
    shutil.rmtree(folder)
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "elsewhere"))
    away = told(str(folder))
    assert away.fingerprint == text.fingerprint and encoders.describe_encoder(str(folder), None).missing
    _, table = load_text_features(SPLITS, away, device="cpu")
    assert torch.equal(table(torch.arange(8))[0], kept) and table.store.layout.fields["features"].shape == (6, WIDTH)
    with pytest.raises(NotReady, match="another captions_sha256"):
        load_text_features(Splits(SPLITS.train, images([("another dog",)])), away, device="cpu")
    monkeypatch.setenv("ZIGMA_BENCH_CACHE", str(tmp_path / "nowhere"))
    assert told(str(folder)).fingerprint != text.fingerprint
    with pytest.raises(NotReady, match="encoder"):
        load_text_features(SPLITS, told(str(folder)), device="cpu")


def test_features_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", "bert")
    text = told(str(folder))
    load_text_features(SPLITS, text, device="cpu")
    write_encoder(folder, "bert", seed=1)
    assert told(str(folder)).fingerprint != text.fingerprint  # a new plan encodes again
    with pytest.raises(NotReady, match="encoded with other weights"):
        load_text_features(SPLITS, text, device="cpu")


def test_an_encoder_that_moved_is_the_same(tmp_path: Path) -> None:
    first = write_encoder(tmp_path / "first", "clip")
    load_text_features(SPLITS, told(str(first)), device="cpu")
    before = folder_of(told(str(first)))
    moved = shutil.move(first, tmp_path / "moved")
    assert folder_of(told(str(moved))) == before and encoders.cached_features(before) is not None
    load_text_features(SPLITS, told(str(moved)), device="cpu")


def test_the_suite_may_name_the_folder(tmp_path: Path) -> None:
    load_text_features(SPLITS, told(cache=str(tmp_path / "here")), device="cpu")
    assert list((tmp_path / "here").glob("*/store.json")) and not (tmp_path / "cache" / "text").exists()


def test_features_that_are_too_large_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud(RandomWords):
        def __call__(self, texts, tokens):
            features, mask, cut = super().__call__(texts, tokens)
            features[[text == "many" for text in texts]] *= 1e6
            return features, mask, cut

    monkeypatch.setattr(text_features, "open_encoder", lambda *words: Loud())
    with pytest.raises(NotReady, match="features of 'many' don't fit float16"):
        load_text_features(SPLITS, told(), device="cpu")


def test_prompts_are_read_as_captions_were(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", "t5")
    text = told(str(folder))
    _, table = load_text_features(SPLITS, text, device="cpu")
    prompts = encode_prompts(text, ["a green dog", "a green red cat"], "cpu")
    assert prompts.null == 2
    for number, caption in ((0, 4), (2, table.null)):
        for ours, theirs in zip(prompts(torch.tensor([number])), table(torch.tensor([caption])), strict=True):
            assert torch.allclose(ours.float(), theirs.float(), atol=2e-3)
    alone = open_encoder(str(folder), None)(["a green red cat"], 6)[0]
    assert np.allclose(prompts(torch.tensor([1]))[0], alone, rtol=1e-3, atol=1e-3)
    with pytest.raises(NotReady, match=r"1 of the prompts are too long.*at most 6 tokens"):
        encode_prompts(text, ["a dog", "a a a a a a a"], "cpu")


def test_prompts_without_their_encoder(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", "t5")
    text = told(str(folder))
    _, table = load_text_features(SPLITS, text, device="cpu")
    shutil.rmtree(folder)
    captions = encode_prompts(text, ["many", "a dog"], "cpu")
    assert torch.equal(captions(torch.tensor([0, 1, 2]))[0], table(torch.tensor([5, 2, 7]))[0])
    with pytest.raises(NotReady, match=r"of the prompts is missing; the text encoder .* put"):
        encode_prompts(text, ["many", "a smile"], "cpu")
    write_encoder(folder, "t5", seed=1)
    with pytest.raises(NotReady, match="differs from the one that the network was trained with"):
        encode_prompts(text, ["a smile"], "cpu")
