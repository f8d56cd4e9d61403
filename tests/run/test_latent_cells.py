"""Suites on latents as a user runs them: encoding, training, decoding, quality on pixels; kills and broken caches."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from zigma_bench.data.cell_images import load_cell_images, network_inputs
from zigma_bench.errors import NotReady
from zigma_bench.plan import make_plan
from zigma_bench.plugins.discovery import catalogue
from zigma_bench.pretrained.files import Pretrained
from zigma_bench.run.prepare import prepare
from zigma_bench.suite import load_suite

PROGRAM = [sys.executable, "-m", "zigma_bench"]
DATA = "{name: digits, resolution: 16, validation: 1600,"
SUITE = """# Do latents train?
name: latent
data: {name: digits, resolution: 16, validation: 1600, latents: {autoencoder: vae}}
compare:
  - backbone: {name: zigma, width: 32, depth: 2, patch: 2}
    scans: [{name: zigzag, paths: 2}]
budget: {images: 48}
reference: {split: train}
train: {batch: 16, flip: true}
sample: {count: 24, batch: 10, evaluations: 2}
quality: [{name: val-loss, images: 32}, fd-efflite0]
"""


def run(*words: object, **rest) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, **rest)


def clear_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("zigma-bench: ")]
    error = "\n".join([line, *(line for line in done.stderr.splitlines() if line.startswith("  - "))])
    assert all(word in error for word in words), error


def trained(folder: Path, seed: int = 0) -> None:
    """A small autoencoder of gray images with random weights, as diffusers saves one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        AutoencoderKL(
            in_channels=1, out_channels=1, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4,
            layers_per_block=1, **blocks,
        ).save_pretrained(folder)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the suite and its autoencoder, run once."""
    folder = tmp_path_factory.mktemp("latents")
    (folder / "suite.yaml").write_text(SUITE)
    trained(folder / "vae")
    done = run("run", "suite.yaml", "--json", "--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "table.json").write_text(done.stdout)
    return folder


def test_the_table_has_both_floors_and_says_which(place):
    rows = json.loads((place / "table.json").read_text())["rows"]
    assert [row["role"] for row in rows] == ["floor", "reconstruction", "cell", "ceiling"]
    assert all(row["status"] == "done" for row in rows)
    assert all(row["metrics"]["fd-efflite0"]["mean"] > 0 for row in rows)
    assert rows[0]["metrics"]["fd-efflite0"]["mean"] < rows[1]["metrics"]["fd-efflite0"]["mean"]
    assert rows[2]["metrics"]["val-loss"]["mean"] > 0
    text = run("report", "results/latent", "--format", "markdown", cwd=place).stdout
    assert "reconstruction: the floor's images, encoded and decoded" in text


def test_samples_are_pixels_and_so_is_what_they_are_compared_with(place):
    found = {path.parts[-3].split("-")[0]: np.load(path) for path in place.glob("results/latent/main/*/*/samples.npy")}
    assert found.keys() == {"floor", "reconstruction", "zigma", "ceiling"}
    assert {(pixels.dtype.name, pixels.shape) for pixels in found.values()} == {("uint8", (24, 1, 16, 16))}
    records = [json.loads(path.read_text()) for path in place.glob("results/latent/main/*/quality-*/record.json")]
    judged = [m for record in records for m in record["measurements"] if m["name"] == "fd-efflite0"]
    assert len({json.dumps(m["fingerprint"], sort_keys=True) for m in judged}) == 1 and len(judged) == 4


def test_the_reconstruction_is_what_diffusers_gives_back_of_the_floors_images(place, monkeypatch):
    monkeypatch.chdir(place)
    (cell,) = [c for c in prepare(Path("suite.yaml"), settings=(), only=(), smoke=False).cells if c.role == "floor"]
    parts = load_cell_images(cell)
    latents = network_inputs(cell, parts, Path("results/.cache")).validation.take(parts.floor.indices)
    (path,) = place.glob("results/latent/main/reconstruction-*/sample-*/samples.npy")
    network = AutoencoderKL.from_pretrained("vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        images = network.decode(torch.from_numpy(latents) / 0.18215).sample
    wanted = ((images + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(np.load(path).astype(float) - wanted).max() <= 1


def test_a_second_run_does_nothing(place):
    before = {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*") if path.is_file()}
    again = run("run", "suite.yaml", "--json", "--device", "cpu", cwd=place)
    assert again.stdout == (place / "table.json").read_text() and again.stderr.count("already done") == 4
    assert before == {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*") if path.is_file()}


def test_the_plan_says_where_the_latents_are(place, tmp_path):
    words = ("plan", "suite.yaml", "--device", "cpu")
    there, absent = run(*words, cwd=place), run(*words, "--results", tmp_path, cwd=place)
    line = "latents: 4 x 8 x 8 of 1 x 16 x 16 through vae"
    assert line in there.stdout and "encoded, 1,797 images in results" in there.stdout
    assert line in absent.stdout and "not encoded yet; a run encodes first" in absent.stdout
    assert "4x8x8" in there.stdout  # what networks see


def test_a_truncated_cache_is_found_by_check_and_repaired_by_a_run(place):
    (file,) = place.glob("results/.cache/latents/*/validation/0000002.moments.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    clear_error(run("data", "encode", "suite.yaml", "--check", cwd=place), 3, "validation, shard 2", "without --check")
    (record,) = place.glob("results/latent/main/zigma-*/quality-*/record.json")
    measured = record.read_text()
    record.unlink()  # so that something is to be done
    done = run("run", "suite.yaml", "--device", "cpu", cwd=place)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == whole
    assert json.loads(record.read_text())["measurements"] == json.loads(measured)["measurements"]
    checked = run("data", "encode", "suite.yaml", "--check", "--json", cwd=place)
    assert checked.returncode == 0 and "encoded, 1,797 images" in json.loads(checked.stdout)[0]["state"]


def test_an_encoding_killed_midway_ends_in_the_same_bytes(place):
    with subprocess.Popen(
        [*PROGRAM, "data", "encode", "suite.yaml", "--results", "killed", "--device", "cpu"],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(place.glob("killed/.cache/latents/*/validation/0000001.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    shards = len(list(place.glob("killed/.cache/latents/*/*/0*.json")))
    done = run("data", "encode", "suite.yaml", "--results", "killed", "--device", "cpu", cwd=place)
    assert done.returncode == 0 and shards >= 2, done.stderr
    kept = {path.parts[-2:]: path for path in place.glob("results/.cache/latents/*/*/*.npy")}
    again = {path.parts[-2:]: path for path in place.glob("killed/.cache/latents/*/*/*.npy")}
    assert kept.keys() == again.keys() and len(kept) > 2
    assert all(kept[name].read_bytes() == again[name].read_bytes() for name in kept)


def test_another_autoencoder_does_not_read_the_cache_of_the_first(place, tmp_path):
    (cache,) = place.glob("results/.cache/latents/*")
    shared = f"data.latents.cache={cache}"
    trained(tmp_path / "other", seed=1)
    words = ("suite.yaml", "--set", shared, "--set", f"data.latents.autoencoder={tmp_path / 'other'}")
    for command in (("data", "encode"), ("run",)):
        done = run(*command, *words, "--results", tmp_path, cwd=place)
        clear_error(done, 3, "another weights_sha256", "use another folder")
    done = run("data", "encode", "--check", *words, "--results", tmp_path, cwd=place)
    clear_error(done, 3, "another weights_sha256", "use another folder")
    done = run("data", "check", *words, cwd=place)
    assert done.returncode == 3 and "another weights_sha256" in done.stdout, done.stdout
    planned = run("plan", *words, cwd=place).stdout
    assert "another weights_sha256" in planned and "images in results" not in planned
    done = run("data", "check", "suite.yaml", "--set", shared, cwd=place)
    assert done.returncode == 0 and f"latents in {cache}: no problems" in done.stdout, done.stdout


def test_a_check_finds_broken_shards_and_gaps_in_a_cache(place, tmp_path):
    (kept,) = place.glob("results/.cache/latents/*")
    shutil.copytree(kept, cache := tmp_path / "cache")
    words = ("data", "check", "suite.yaml", "--set", f"data.latents.cache={cache}")
    file = cache / "validation" / "0000002.moments.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (cache / "validation" / "0000004.json").unlink()
    done = run(*words, cwd=place)
    assert done.returncode == 3 and "2 problem(s)" in done.stdout, done.stdout
    assert "shard 2 is broken" in done.stdout and "shard 4 is missing; run `zigma-bench data encode" in done.stdout
    for mark in (cache / "validation").glob("00000*.json"):  # an encoding that was stopped has none of the last ones
        if mark.name >= "0000002":
            mark.unlink()
    done = run(*words, cwd=place)
    assert done.returncode == 0 and "no problems" in done.stdout, done.stdout
    (cache / "train" / "store.json").write_text("{")
    assert "not a description of a store" in run(*words, cwd=place).stdout


def test_a_suite_without_its_autoencoder_stops_and_its_smoke_runs(tmp_path):
    text = SUITE.replace("autoencoder: vae", f"autoencoder: some/vae, revision: {'ab' * 20}")
    (tmp_path / "suite.yaml").write_text(text)
    clear_error(run("run", "suite.yaml", cwd=tmp_path), 3, "some/vae", "download commit abababab")
    planned = run("plan", "suite.yaml", cwd=tmp_path)
    assert "4x2x2" in planned.stdout  # as Stable Diffusion's: an eighth of the side
    words = ("--smoke", "--set", "quality=[val-loss]", "--json", "--device", "cpu")
    done = run("run", "suite.yaml", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(row["smoke"] and row["status"] == "done" for row in rows)
    assert [row["role"] for row in rows] == ["floor", "reconstruction", "cell", "ceiling"]


def test_files_that_the_user_must_provide_are_reported_before_a_download(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(Pretrained, "fetch", lambda files: fetched.append(files.name))
    hub = f"{{autoencoder: owner/vae, revision: {'a' * 40}}}"
    for data, downloads in ((f"{{name: faceshq, root: {tmp_path}, resolution: 256,", []), (DATA, ["owner/vae"])):
        (tmp_path / "suite.yaml").write_text(SUITE.replace(DATA, data).replace("{autoencoder: vae}", hub))
        plan = prepare(tmp_path / "suite.yaml", settings=["quality=[val-loss]"], only=(), smoke=False, fetch=True)
        assert fetched == downloads
        with pytest.raises(NotReady, match=r"owner/vae") as caught:
            plan.check_ready()
        assert ("FacesHQ" in str(caught.value)) == (not downloads)


def test_an_encoding_that_can_not_be_says_why_before_any_cell_runs(place, tmp_path):
    """Truncated weights are found before anything is encoded."""
    trained(tmp_path / "cut")
    file = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    words = ("--set", f"data.latents.autoencoder={tmp_path / 'cut'}", "--results", tmp_path, "--device", "cpu")
    clear_error(run("run", "suite.yaml", *words, cwd=place), 3, "the autoencoder can't be read", "safetensors")
    assert not list(tmp_path.glob("latent/*/*/*/record.json"))


def test_a_suite_without_latents_has_none_to_encode(write_suite):
    clear_error(run("data", "encode", write_suite()), 2, "no data of this suite has latents")


def test_two_autoencoders_of_one_data_set_make_two_tables(place, write_suite, monkeypatch):
    monkeypatch.chdir(place)
    trained(place / "second", seed=1)
    both = [f"{{name: digits, resolution: 16, latents: {{autoencoder: {name}}}}}" for name in ("vae", "second")]
    path = write_suite(("{name: digits}", f"[{', '.join(both)}]"), ("patch: 2", "patch: 1"))
    cells = make_plan(*load_suite(path), catalogue()).cells
    assert {cell.data_label for cell in cells} == {"digits, latents of vae", "digits, latents of second"}


def test_the_quality_command_takes_a_suites_real_images(place):
    (samples,) = place.glob("results/latent/main/zigma-*-seed-0-*/sample-*")
    done = run(
        "quality", "--samples", samples, "--reference", "suite.yaml", "--metrics", "fd-efflite0", "--json", cwd=place
    )
    rows = json.loads((place / "table.json").read_text())["rows"]
    assert json.loads(done.stdout)["fd-efflite0"]["value"] == pytest.approx(rows[2]["metrics"]["fd-efflite0"]["mean"])
    with Image.open(samples / "grid.png") as grid:
        assert grid.mode == "L"


def test_only_an_autoencoder_gives_reconstructions(write_suite):
    path = write_suite(("reference: {split: train}", "reference: {split: train, images: reconstructions}"))
    clear_error(run("plan", path), 2, "reconstructions need an autoencoder", "suite.yaml:10")


def test_reconstructions_as_the_reference_change_what_is_measured_and_nothing_else(place):
    before = {path: path.stat().st_mtime_ns for path in place.glob("results/latent/main/*/*/samples.npy")}
    old = json.loads((place / "table.json").read_text())["rows"]
    words = ("--set", "reference.images=reconstructions", "--json", "--device", "cpu")
    done = run("run", "suite.yaml", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in place.glob("results/latent/main/*/*/samples.npy")}
    was, now = ({row["role"]: row["metrics"] for row in rows} for rows in (old, json.loads(done.stdout)["rows"]))
    shown = run("report", "results/latent", "--format", "markdown", cwd=place).stdout
    assert "against the reconstructed train split" in shown
    assert was["cell"]["val-loss"] == now["cell"]["val-loss"]
    assert now["reconstruction"]["fd-efflite0"]["mean"] < was["reconstruction"]["fd-efflite0"]["mean"] / 2
    assert now["floor"]["fd-efflite0"]["mean"] > 2 * was["floor"]["fd-efflite0"]["mean"]
