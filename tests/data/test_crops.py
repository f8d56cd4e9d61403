"""Random crops of training images: drawn from (seed, step) alone, refused where there is nothing to cut, and no part of
what is held out or compared with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zigma_bench.cli.app import app
from zigma_bench.data.cell_images import load_cell_images
from zigma_bench.data.checks.dataset import check_dataset_files
from zigma_bench.data.images import ArrayImages, Crop, Splits, random_crops, take_crops
from zigma_bench.data.latents.encoded import DecodedImages
from zigma_bench.data.reading.decode import decode_image
from zigma_bench.data.sources.huggingface import load
from zigma_bench.data.sources.options import HuggingFaceOptions
from zigma_bench.data.transforms.apply import apply_transforms
from zigma_bench.errors import BadImage, UsageError, ZigmaBenchError
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.suite import Train, load_suite
from zigma_bench.training.batch_plan import BatchPlan
from zigma_bench.training.feed import Feed
from zigma_bench.training.step import draw_batch

SIZE = 8


def picture(number: int, width: int = 24, height: int = 12) -> bytes:
    """Pixels that encode their position: red is the column, green the row, blue the image number."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([columns, rows, np.full_like(rows, number)], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def parquet(folder: Path, *sizes: tuple[int, int]) -> str:
    folder.mkdir(exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = [{"bytes": picture(number, *size), "path": None} for number, size in enumerate(sizes or [(24, 12)] * 40)]
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), folder / "train.parquet", row_group_size=5)
    return str(folder / "train.parquet")


def opened(files: str, **rest: Any) -> Splits:
    given: dict[str, Any] = {"path": "parquet", "validation": 10, "data_files": files, **rest}
    return load(HuggingFaceOptions(**given, resolution=SIZE))


def taken(splits: Splits, steps: range, workers: int = 0, crop: int = 12) -> list[np.ndarray]:
    recipe = Train(batch=7, random_crop=crop, workers=workers)
    with Feed(
        BatchPlan.of(splits.train, recipe, 3, labelled=False), recipe, start=steps[0], stop=steps[-1] + 1, on_gpu=False
    ) as feed:
        return [feed(step).pixels.numpy() for step in steps]


def places(pixels: np.ndarray) -> list[tuple[int, int]]:
    """The position of each crop, for pictures with an unscaled short side."""
    assert pixels.shape[1:] == (3, SIZE, SIZE)
    assert (pixels[:, 0] - pixels[:, 0, :, :1] == np.arange(SIZE)).all()
    assert (pixels[:, 1] - pixels[:, 1, :1] == np.arange(SIZE)[:, None]).all()
    return [(int(image[0, 0, 0]), int(image[1, 0, 0])) for image in pixels]


@pytest.mark.parametrize("streaming", [False, True])
def test_crops_are_the_same_for_any_number_of_processes_and_after_a_restart(tmp_path: Path, streaming: bool) -> None:
    more = {"streaming": True, "count": 30, "shuffle_buffer": 9} if streaming else {}
    files = parquet(tmp_path)
    whole = taken(opened(files, **more), range(12))
    for other in (taken(opened(files, **more), range(12), workers=2), taken(opened(files, **more), range(12))):
        np.testing.assert_array_equal(whole, other)
    np.testing.assert_array_equal(whole[5:], taken(opened(files, **more), range(5, 12)))
    found = [place for pixels in whole for place in places(pixels)]
    assert {across for across, _ in found} == set(range(24 - SIZE + 1))  # every place, and none beyond
    assert {down for _, down in found} == set(range(12 - SIZE + 1))


def test_another_step_and_another_seed_cut_elsewhere(tmp_path: Path) -> None:
    splits = opened(parquet(tmp_path))
    one = BatchPlan(splits.train, 7, 0, labelled=False, random_crop=12)
    other = BatchPlan(splits.train, 7, 1, labelled=False, random_crop=12)
    assert places(one.take(0).pixels.numpy()) != places(one.take(1).pixels.numpy())
    assert places(one.take(0).pixels.numpy()) != places(other.take(0).pixels.numpy())


def test_noise_times_and_flips_are_those_of_a_training_without_crops(tmp_path: Path) -> None:
    images, cpu = opened(parquet(tmp_path)).train, torch.device("cpu")
    plain, cut = (draw_batch(images, Train(batch=7, random_crop=crop), 0, 0, cpu) for crop in (None, 12))
    assert torch.equal(plain.x0, cut.x0) and torch.equal(plain.t, cut.t)
    assert torch.equal(plain.x1[:, 2], cut.x1[:, 2])  # the same images
    assert not torch.equal(plain.x1, cut.x1)


def test_held_out_images_and_the_reference_stay_at_the_centre(tmp_path: Path) -> None:
    splits = opened(parquet(tmp_path))
    before = splits.train.take(range(5)), splits.validation.take(range(5))
    taken(splits, range(2))
    for earlier, images in zip(before, (splits.train, splits.validation), strict=True):
        np.testing.assert_array_equal(earlier, images.take(range(5)))


@pytest.mark.parametrize(
    ("resize", "size"), [("short-side-center-crop", (20, 10)), ("adm-center-crop", (20, 10)), ("squash", (10, 10))]
)
def test_the_image_is_scaled_as_its_resize_says_before_it_is_cut(resize: Any, size: tuple[int, int]) -> None:
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (44, 88, 3)).astype(np.uint8))
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    scaled = noise
    if resize == "adm-center-crop":
        scaled = noise.resize((44, 22), Image.Resampling.BOX).resize((22, 11), Image.Resampling.BOX)
    scaled = scaled.resize(size, Image.Resampling.BICUBIC)
    given: dict[str, Any] = {"channels": 3, "resolution": SIZE, "resize": resize, "where": "here"}
    for across, left in ((0.0, 0), (0.999, size[0] - SIZE)):
        found = decode_image(stream.getvalue(), **given, crop=Crop(10, across, 0.999))
        expected = np.asarray(scaled.crop((left, 2, left + SIZE, 10))).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


def test_a_small_image_is_enlarged_and_a_smaller_one_than_the_crop_is_named(tmp_path: Path) -> None:
    files = parquet(tmp_path, *[(9, 8)] * 30, (7, 20))
    images = DecodedImages(opened(files, validation=1).train.images.rows, 3, SIZE, "short-side-center-crop")  # type: ignore[attr-defined]
    assert take_crops(images, range(30), random_crops(30, 12, 0)).shape == (30, 3, SIZE, SIZE)
    with pytest.raises(
        BadImage, match=r"row 30, .*smaller than the crops of train.random_crop.*8 pixels per side; got '7 x"
    ):
        take_crops(images, [30], random_crops(1, 12, 0))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_check_finds_images_that_are_too_small_to_be_cut(tmp_path: Path, streaming: bool) -> None:
    files = parquet(tmp_path, *[(9, 8)] * 20, (7, 20), (12, 12), (20, 6), (9, 9))
    given: dict[str, Any] = {"path": "parquet", "validation": 1, "data_files": files, "resolution": SIZE}
    if streaming:
        given |= {"streaming": True, "count": 23}
    spec = catalogue().get("dataset", "huggingface")
    assert not check_dataset_files(spec, HuggingFaceOptions(**given)).problems
    problems = check_dataset_files(spec, HuggingFaceOptions(**given), random_crop=10).problems
    assert [("row 20" in str(p), "row 22" in str(p)) for p in problems] == [(True, False), (False, True)]


def test_transforms_are_done_to_what_was_cut(tmp_path: Path) -> None:
    splits = opened(parquet(tmp_path))
    turned = apply_transforms(splits, [lambda pixels: 255 - pixels])
    for plain, other in zip(taken(splits, range(3)), taken(turned, range(3)), strict=True):
        np.testing.assert_array_equal(255 - plain, other)


def test_images_of_one_size_can_not_be_cut() -> None:
    with pytest.raises(UsageError, match="can't be cropped at random"):
        take_crops(ArrayImages(np.zeros((2, 1, 8, 8), np.uint8)), [0], random_crops(1, 9, 0))


CROPPED = ("{batch: 16}", "{batch: 16, random_crop: 10}")
ALONE = ("  - backbone: {name: dit, width: 32, depth: 2, patch: 2}\n", "")


def plan(path: Path, **rest: Any) -> Any:
    suite, source = load_suite(path)
    return make_plan(suite, source, catalogue(), **rest)


def test_a_crop_changes_what_is_trained_and_not_what_it_is_compared_with(write_suite: Any) -> None:
    plain, cut = (plan(write_suite(*more)).cells for more in ((), (CROPPED,)))
    assert plain[0].identity("train", device_model="") != cut[0].identity("train", device_model="")
    floor = [next(cell for cell in cells if cell.role == "floor") for cells in (plain, cut)]
    assert floor[0].identity("quality", device_model="") == floor[1].identity("quality", device_model="")
    assert plain[0].data_fingerprint == cut[0].data_fingerprint
    assert "random_crop" not in plain[0]._facts("train", "")["train"]
    one, other = (load_cell_images(cells[0]) for cells in (plain, cut))
    for part in ("train", "validation", "loss", "floor", "reference"):
        np.testing.assert_array_equal(getattr(one, part).take(range(9)), getattr(other, part).take(range(9)))


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([("{batch: 16}", "{batch: 16, random_crop: 7}")], ["at least the resolution, 8; got 7"]),
        ([("{name: digits}", "{name: digits, resolution: 16}")], ["have exactly the resolution"]),
        ([("{name: digits}", "{name: gaussian-random-field, slope: 1.0, resolution: 8}")], ["nothing to crop"]),
        ([("{name: digits}", "{name: moving-digits, frames: 3, resolution: 12}"), ALONE], ["clips", "at the centre"]),
        ([("{name: digits}", "{name: digits, latents: {autoencoder: here}}")], ["latents", "are encoded once"]),
        (
            [("{name: digits}", "{name: huggingface, path: parquet, data_files: a, resolution: 8, validation: 9, "
            "resize: none}")],
            ["have exactly the resolution", "another resize than none"],
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_cut_is_refused_by_the_plan(write_suite: Any, replacements: Any, words: list[str]) -> None:
    more = [] if "{batch: 16}" in replacements[0] else [CROPPED]
    with pytest.raises(ZigmaBenchError) as caught:
        plan(write_suite(*replacements, *more))
    for word in ("train.random_crop", *words):
        assert word in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_plan_and_the_record_say_it(write_suite: Any, tmp_path: Path) -> None:
    path = write_suite(
        CROPPED, ALONE, ("[raster, {name: zigzag, paths: 8}]", "[raster]"), ("seeds: [0, 1]", "seeds: [0]")
    )
    shown = CliRunner().invoke(app, ["plan", str(path), "--results", str(tmp_path / "r")])
    assert "training images: resized to a short side of 10 and cropped at random" in shown.stdout
    done = CliRunner().invoke(app, ["train", str(path), "--results", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    (record,) = (tmp_path / "r").glob("*/*/zigma*/train-*/record.json")
    assert '"random_crop": 10' in record.read_text()
    assert plan(path, smoke=True).cells[0].train.random_crop == 10


def test_data_check_of_a_suite_knows_its_crop(write_suite: Any, tmp_path: Path) -> None:
    files = parquet(tmp_path / "files", *[(9, 8)] * 20, (7, 20))
    data = f"{{name: huggingface, path: parquet, data_files: {files}, resolution: 8, validation: 1}}"
    path = write_suite(("{name: digits}", data), CROPPED)
    found = CliRunner().invoke(app, ["data", "check", str(path)])
    assert found.exit_code == 3 and "row 20" in found.stdout and "random_crop" in found.stdout


def test_an_efficiency_suite_has_nothing_to_cut(root: Path) -> None:
    suite, source = load_suite(root / "suites" / "efficiency.yaml", settings=["train.random_crop=300"])
    with pytest.raises(UsageError, match="an efficiency suite has no images to crop"):
        make_plan(suite, source, catalogue())
