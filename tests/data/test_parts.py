"""The parts of a data set are disjoint, depend on their seed alone, and are the same for latents and captions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from zigma_bench.data.cell_images import describe_parts, load_cell_images, network_inputs, reference_images
from zigma_bench.data.images import ArrayImages, Images, Splits, draw_labels, labels_of, pixels_digest
from zigma_bench.data.latents.encode import encode_latents
from zigma_bench.data.parts import cut_tuning, divide_images
from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError
from zigma_bench.plan import TuningCut, make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import load_suite
from zigma_bench.training.batch_plan import LatentPosteriors

FIELD = "data: {name: gaussian-random-field, slope: 2.0, resolution: 8, count: 300, validation: 150}"
TUNING = "tuning: {fraction: 0.1, seed: 3, loss_images: 60}\n"
LOSS = ("quality: [val-loss]", "quality: [{name: val-loss, images: 60}]")


def planned(write_suite, *replacements, smoke=False):
    suite, source = load_suite(write_suite(*replacements))
    return make_plan(suite, source, catalogue(), smoke=smoke).cells


def field_cell(write_suite, reference="validation", tuning=TUNING, **rest):
    data = ("data: {name: digits}\n", f"{FIELD}\n{tuning}")
    split = ("split: train", f"split: {reference}")
    return planned(write_suite, data, split, LOSS, **rest)[0]


def hashes(images: Images) -> set[str]:
    return {hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in images.take(range(len(images)))}


@pytest.mark.parametrize("reference", ["train", "validation"])
def test_no_image_is_in_two_parts(write_suite, reference):
    images = load_cell_images(field_cell(write_suite, reference))
    named = {"train": images.train, "tuning": images.tuning, "loss": images.loss, "floor": images.floor}
    if reference == "validation":
        named["reference"] = images.reference
    found = {name: hashes(part) for name, part in named.items()}
    assert all(len(found[name]) == len(part) for name, part in named.items())
    assert len(set().union(*found.values())) == sum(map(len, found.values()))
    assert (len(found["loss"]), len(found["floor"])) == (60, 32)
    assert len(found["tuning"]) == round(0.1 * (len(found["train"]) + len(found["tuning"])))
    assert reference == "validation" or images.reference is images.train


def test_the_record_has_counts_and_hashes(write_suite):
    images = load_cell_images(field_cell(write_suite))
    facts = describe_parts(images)
    assert set(facts) == {"train", "tuning", "loss", "floor"}
    assert facts["tuning"] == {"images": len(images.tuning), "pixels_sha256": pixels_digest(images.tuning)}
    assert facts["train"] == {"images": len(images.train)}


def test_without_a_tuning_part_all_is_as_before(write_suite):
    cell = field_cell(write_suite, tuning="")
    images = load_cell_images(cell)
    assert cell.tuning is None and images.tuning is None and describe_parts(images) == {}
    assert images.train is images.whole.train and images.loss is images.validation is images.whole.validation
    inputs = network_inputs(cell, images, None)
    assert (inputs.train, inputs.loss, inputs.tuning) == (images.train, images.validation, None)


def test_another_seed_or_fraction_is_another_cut_and_another_identity(write_suite):
    cells = [
        field_cell(write_suite, tuning=text)
        for text in ("", TUNING, TUNING.replace("seed: 3", "seed: 4"), TUNING.replace("0.1", "0.2"))
    ]
    for stage in ("train", "sample", "quality"):
        assert len({cell.identity(stage, device_model="") for cell in cells}) == len(cells)
    digests = [pixels_digest(load_cell_images(cell).tuning) for cell in cells[1:]]
    assert len(set(digests)) == len(digests)
    assert digests[0] == pixels_digest(load_cell_images(cells[1]).tuning)


def test_defaults_in_the_section_are_left_out_of_the_identity(write_suite):
    cells = [field_cell(write_suite, tuning=text) for text in
             ("tuning: {loss_images: 60}\n", "tuning: {fraction: 0.05, seed: 0, loss_images: 60}\n")]  # fmt: skip
    assert len({cell.identity("quality", device_model="") for cell in cells}) == 1


def test_the_number_of_samples_changes_neither_the_loss_nor_the_tuning_part(write_suite):
    cell = field_cell(write_suite)
    more = cell.model_copy(update={"sample": cell.sample.model_copy(update={"count": 40})})
    first, second = (load_cell_images(each) for each in (cell, more))
    for part in ("train", "tuning", "loss"):
        assert pixels_digest(getattr(first, part)) == pixels_digest(getattr(second, part))
    assert len(second.floor) == 40


def test_classes_keep_their_shares():
    classes = np.repeat(np.arange(4), [200, 100, 60, 1])
    cut = TuningCut(fraction=0.1, stratified=True)
    train, tuning = cut_tuning(cut, len(classes), classes)
    assert sorted([*train, *tuning]) == list(range(len(classes)))
    counts = np.bincount(classes[tuning], minlength=4)
    assert len(tuning) == 36
    assert np.abs(counts - np.array([20, 10, 6, 0.1])).max() <= 1
    assert len(set(classes[tuning[:12]])) > 1  # the first images of the part are not of one class


def test_digits_are_cut_by_class_and_fields_are_not(write_suite):
    digits = planned(write_suite, ("data: {name: digits}", "data: {name: digits}\n" + TUNING), LOSS)[0]
    assert digits.tuning.stratified and not field_cell(write_suite).tuning.stratified
    tuning = load_cell_images(digits).tuning
    assert np.bincount(labels_of(tuning, range(len(tuning)))).min() >= 7


def test_latents_have_the_same_parts_and_are_drawn_anew(write_suite, tmp_path):
    latents = FIELD.replace("resolution: 8", "resolution: 16")[:-1] + ", latents: {autoencoder: toy}}"
    cell = planned(
        write_suite, ("data: {name: digits}", f"{latents}\n{TUNING[:-1]}"), LOSS, ("split: train", "split: validation"),
        smoke=True,
    )[0]  # fmt: skip
    images = load_cell_images(cell)
    encode_latents(
        images.whole, cell.latents, tmp_path, device="cpu", on_progress=lambda *_: None, stopped=lambda: False
    )
    inputs = network_inputs(cell, images, tmp_path)
    for part in (inputs.train, inputs.tuning):
        assert isinstance(part, LatentPosteriors)
        moments = part.moments(np.array([2, 0]), flip=False, seed=1)
        assert moments.shape[0] == 2
    assert (len(inputs.train), len(inputs.tuning), len(inputs.loss)) == (
        len(images.train), len(images.tuning), len(images.loss),
    )  # fmt: skip
    whole = network_inputs(cell.model_copy(update={"tuning": None}), load_undivided(cell), tmp_path)
    assert np.array_equal(inputs.tuning.take([0]), whole.train.take(images.parts.tuning[:1]))
    assert reference_images(cell, images, tmp_path) is images.reference


def load_undivided(cell):
    return load_cell_images(cell.model_copy(update={"tuning": None}))


def test_captions_of_a_part_are_those_of_its_images(write_suite):
    text = "data: {name: digits, caption: several, text: {encoder: random-words}}\n"
    suite, source = load_suite(
        write_suite(
            ("data: {name: digits}\n", text + TUNING), LOSS,
            ("zigma, width: 32", "zigma, condition: text, text_width: 64, text_tokens: 8, width: 32"),
        )
    )  # fmt: skip
    images = load_cell_images(make_plan(suite, source, catalogue(), smoke=True).cells[0])
    assert images.texts is not None
    rows, chosen = np.arange(5), images.parts.tuning[:5]
    assert images.tuning.captions(rows) == images.whole.train.captions(chosen)
    assert np.array_equal(draw_labels(images.tuning, rows, 7), draw_labels(images.whole.train, chosen, 7))
    assert len(set(draw_labels(images.tuning, np.zeros(50, dtype=np.int64), 7))) > 1  # an image has several captions


@pytest.mark.parametrize(
    ("tuning", "more", "words"),
    [
        ("{fraction: 0.0001}", (), [":4", "key tuning.fraction", "leaves one side empty", "0 of"]),
        ("{fraction: 0.9999}", (), ["leaves one side empty", "change tuning.fraction"]),
        ("{fraction: 1.5}", (), [":4", "less than 1", "1.5"]),
        ("{fracton: 0.1}", (), ["unknown key 'fracton'", "did you mean 'fraction'"]),
        ("{loss_images: 990}", (), [":4", "the validation loss 990 others", "there are 1,000", "lower tuning.loss"]),
        ("{loss_images: 100}", (), ["key quality.0", "val-loss needs more images", "at most 100", "'512'"]),
    ],
)  # fmt: skip
def test_faults_are_found_by_the_plan(write_suite, tuning, more, words):
    with pytest.raises(ZigmaBenchError) as caught:
        planned(write_suite, ("data: {name: digits}\n", f"data: {{name: digits}}\ntuning: {tuning}\n"), *more)
    for word in words:
        assert word in str(caught.value)


def test_a_stream_is_refused_by_the_plan_and_when_it_is_loaded(write_suite):
    data = (
        "data: {name: huggingface, path: parquet, data_files: x.parquet, streaming: true, count: 100, validation: 80, "
        "image: image, resolution: 8}\n" + TUNING
    )
    with pytest.raises(UsageError, match="can't be cut from a stream") as caught:
        planned(write_suite, ("data: {name: digits}\n", data), LOSS)
    assert "key tuning" in str(caught.value)

    class Ordered(ArrayImages):
        def epoch(self, seed, number):
            raise AssertionError

    pixels = np.zeros((300, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(UsageError, match="stream"):
        divide_images(field_cell(write_suite), Splits(Ordered(pixels), ArrayImages(pixels)))


def test_too_few_images_are_found_when_their_number_is_known_late(write_suite):
    pixels = np.zeros((90, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(NotReady, match="the validation loss 60 others"):
        divide_images(field_cell(write_suite), Splits(ArrayImages(pixels), ArrayImages(pixels)))
