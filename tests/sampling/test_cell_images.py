"""Samples: the noise depends on the image, not on the batch; and a grid that shows the samples."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from zigma_bench.errors import CellFailed, Interrupted, NotFinite
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.records.sealed import Parts, file_sha256
from zigma_bench.sampling.cell_images import image_noise, load_samples, sample_images, to_pixels
from zigma_bench.sampling.sheets import write_grid
from zigma_bench.suite import load_suite
from zigma_bench.system.device import Device

CPU = Device("cpu", "test")


@pytest.fixture
def cell(write_suite):
    suite, source = load_suite(write_suite())
    return make_plan(suite, source, catalogue()).cells[0]


def halfway(x, t):
    return torch.tanh(x) - t[:, None, None, None]


def draw(cell, folder, *, batch, network=halfway, stopped=lambda: False, inputs=MappingProxyType({})):
    cell = cell.model_copy(update={"sample": cell.sample.model_copy(update={"batch": batch})})
    return sample_images(cell, Parts(folder, inputs), network, CPU, lambda done, text: None, stopped)


def test_the_same_set_for_any_batch(cell, tmp_path):
    sets = [draw(cell, tmp_path / str(batch), batch=batch)[0] for batch in (1, 7, 32, 100)]
    assert sets[0].shape == (32, 1, 8, 8)
    assert all(np.array_equal(sets[0], other) for other in sets[1:])
    assert len({image.tobytes() for image in sets[0]}) == 32


def test_a_stopped_sampling_resumes(cell, tmp_path):
    whole, evaluations = draw(cell, tmp_path / "whole", batch=8)
    calls: list[int] = []
    with pytest.raises(Interrupted):
        draw(cell, tmp_path / "part", batch=8, stopped=lambda: len(calls) > 2 or bool(calls.append(1)))
    drawn: list[int] = []

    def counting(x, t):
        drawn.append(len(x))
        return halfway(x, t)

    again, _ = draw(cell, tmp_path / "part", batch=8, network=counting)
    assert np.array_equal(again, whole)
    assert sum(drawn) == 8 * evaluations  # three of the four parts were stored
    samples = tmp_path / "part" / "samples.npy"
    assert np.array_equal(load_samples(tmp_path / "part", sha256=file_sha256(samples)).pixels, whole)
    with pytest.raises(CellFailed, match="have changed since they were sampled") as caught:
        load_samples(tmp_path / "part", sha256="0" * 64)
    assert "run the suite again" in str(caught.value)


@pytest.mark.parametrize("solver", ["euler-maruyama", "heun-sde", "ddpm", "ddim"])
def test_noise_of_steps_is_an_images_own(write_suite, tmp_path, solver):
    """The same set for any batch, and after a stop between two parts; images and their noise differ."""
    vp = ("{batch: 16}", "{batch: 16, path: vp, prediction: noise}")
    more = {"ddim": ", eta: 1.0"}.get(solver, "")
    suite, source = load_suite(write_suite(vp, ("evaluations: 2", f"solver: {solver}, evaluations: 5{more}")))
    cell = make_plan(suite, source, catalogue()).cells[0]
    whole, spent = draw(cell, tmp_path / "whole", batch=32)
    assert spent == 5
    assert len({image.tobytes() for image in whole}) == 32
    for batch in (1, 7):
        assert np.array_equal(draw(cell, tmp_path / str(batch), batch=batch)[0], whole)
    stops: list[int] = []
    with pytest.raises(Interrupted):
        draw(cell, tmp_path / "part", batch=8, stopped=lambda: len(stops) > 1 or bool(stops.append(1)))
    assert np.array_equal(draw(cell, tmp_path / "part", batch=8)[0], whole)


def test_noise_belongs_to_seed_and_image():
    shape = (3, 4, 4)
    assert torch.equal(image_noise(0, 5, shape), image_noise(0, 5, shape))
    assert not torch.equal(image_noise(0, 5, shape), image_noise(0, 6, shape))
    assert not torch.equal(image_noise(0, 5, shape), image_noise(1, 5, shape))
    many = torch.stack([image_noise(0, i, shape) for i in range(500)])
    assert abs(many.mean()) < 0.03
    assert abs(many.std() - 1) < 0.03


def test_a_sample_that_is_not_finite_is_an_error(cell, tmp_path):
    with pytest.raises(NotFinite, match="one of the samples 0 to 7"):
        draw(cell, tmp_path, batch=8, network=lambda x, t: x * torch.nan)


def test_pixels_are_rounded_and_clamped():
    values = torch.tensor([-3.0, -1.0, -0.001, 0.0, 0.004, 1.0, 9.0]).reshape(1, 1, 1, 7)
    assert to_pixels(values).ravel().tolist() == [0, 0, 127, 128, 128, 255, 255]


@pytest.mark.parametrize(("channels", "count", "side"), [(1, 64, 8), (3, 10, 8), (3, 64, 64)])
def test_a_grid_shows_the_first_64(tmp_path, channels, count, side):
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    write_grid(tmp_path / "grid.png", pixels)
    with Image.open(tmp_path / "grid.png") as image:
        sheet = np.asarray(image)
    scale = 6 if side == 8 else 1
    tile = side * scale + 2
    assert sheet.shape[:2] == (-(-count // 8) * tile, 8 * tile)
    assert np.array_equal(sheet[1, tile + 1 : tile + 1 + side * scale : scale].reshape(side, -1), pixels[1, :, 0].T)


def test_parts_of_another_batch_are_not_mixed_in(cell, tmp_path):
    whole, _ = draw(cell, tmp_path / "whole", batch=8)
    calls: list[int] = []
    with pytest.raises(Interrupted):
        draw(cell, tmp_path / "part", batch=8, stopped=lambda: len(calls) > 1 or bool(calls.append(1)))
    again, _ = draw(cell, tmp_path / "part", batch=5)
    assert np.array_equal(again, whole)


def test_parts_of_other_weights_are_not_mixed_in(cell, tmp_path):
    """A killed sampling, a training that ran again with other weights, and the sampling after it."""
    calls: list[int] = []
    with pytest.raises(Interrupted):
        draw(cell, tmp_path, batch=8, inputs={"w": "1"}, stopped=lambda: len(calls) > 1 or bool(calls.append(1)))
    assert len(list(tmp_path.glob("part-*"))) == 2
    whole, _ = draw(cell, tmp_path / "whole", batch=8, network=lambda x, t: -x)
    again, _ = draw(cell, tmp_path, batch=8, inputs={"w": "2"}, network=lambda x, t: -x)
    assert np.array_equal(again, whole)


def test_an_altered_part_is_reported_and_drawn_again(cell, tmp_path, capsys):
    whole, _ = draw(cell, tmp_path / "whole", batch=8)
    calls: list[int] = []
    with pytest.raises(Interrupted):
        draw(cell, tmp_path, batch=8, stopped=lambda: len(calls) > 1 or bool(calls.append(1)))
    np.savez(tmp_path / "part-0000000-0000008.npz", pixels=whole[8:16], evaluations=np.array(2))
    again, _ = draw(cell, tmp_path, batch=8)
    assert np.array_equal(again, whole)
    assert "part-0000000-0000008.npz: the file is altered" in capsys.readouterr().err
