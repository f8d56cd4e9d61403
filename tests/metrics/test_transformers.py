"""DINOv2 and CLIP as extractors: the authors' features on tiny random weights of their layout, names, and refusals."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from feature_figures import measured
from PIL import Image
from torch.nn import functional

from zigma_bench.data.images import ArrayImages
from zigma_bench.errors import NotReady
from zigma_bench.metrics import features as features_module
from zigma_bench.metrics.extractors import weights
from zigma_bench.metrics.extractors.dinov2 import dinov2, resized_positions
from zigma_bench.metrics.extractors.openai_clip import clip
from zigma_bench.metrics.features import features_of_images
from zigma_bench.metrics.options import WeightsOptions
from zigma_bench.metrics.subject import Subject

pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(features_module, "_memory", {})


def drawn(shapes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=draw) * 0.2 for name, shape in shapes.items()}
    norms = [name for name in found if "norm" in name or ".ln_" in name or name.startswith("ln_")]
    return found | {name: found[name] + 1 for name in norms if name.endswith("weight")}


def dinov2_state(width=64, depth=2, side=37):
    shapes = {
        "cls_token": (1, 1, width), "mask_token": (1, width), "pos_embed": (1, 1 + side**2, width),
        "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,), "norm.weight": (width,),
        "norm.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        block = {
            "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "ls1.gamma": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,), "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,), "ls2.gamma": (width,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return drawn(shapes)


def clip_state(width=64, layers=2, side=4, patch=8, embedding=16):
    shapes = {
        "class_embedding": (width,), "positional_embedding": (side**2 + 1, width), "proj": (width, embedding),
        "conv1.weight": (width, 3, patch, patch), "ln_pre.weight": (width,), "ln_pre.bias": (width,),
        "ln_post.weight": (width,), "ln_post.bias": (width,),
    }  # fmt: skip
    for i in range(layers):
        block = {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,), "ln_1.weight": (width,),
            "ln_1.bias": (width,), "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,), "ln_2.weight": (width,),
            "ln_2.bias": (width,),
        }  # fmt: skip
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    visual = {f"visual.{name}": value.half().float() for name, value in drawn(shapes).items()}
    return visual | {"text_projection": torch.zeros(8, embedding), "logit_scale": torch.tensor(1.0)}


def pictures(count, height, width):
    """Noise on backgrounds of different colours, so that features differ."""
    draw = np.random.default_rng(0)
    ground = draw.integers(0, 200, (count, 3, 1, 1))
    return ArrayImages((ground + draw.integers(0, 56, (count, 3, height, width))).astype(np.uint8))


STATES = {"dinov2": dinov2_state, "clip": clip_state}


@pytest.fixture
def weights_file(tmp_path):
    """`weights_file(given)`: a tiny file in the authors' layout."""

    def write(given):
        torch.save(STATES[given](), tmp_path / f"{given}.pt")
        return tmp_path / f"{given}.pt"

    return write


def authors_dinov2(state, x):
    """The class token [B, d] of images [B, 3, 224, 224], written from the paper and the authors' hub model."""
    width = state["norm.weight"].shape[0]
    norm = functools.partial(functional.layer_norm, normalized_shape=(width,), eps=1e-6)
    tokens = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    tokens = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens.flatten(2).transpose(1, 2)], 1)
    positions = state["pos_embed"]
    grid = positions[:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    tokens = tokens + torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, width)], 1)
    for i in range(2):
        part = {name.removeprefix(f"blocks.{i}."): v for name, v in state.items() if name.startswith(f"blocks.{i}.")}
        y = norm(tokens, weight=part["norm1.weight"], bias=part["norm1.bias"])
        q, k, v = (y @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]).chunk(3, -1)
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(64), -1) @ v  # one head of 64 channels
        tokens = tokens + part["ls1.gamma"] * (mixed @ part["attn.proj.weight"].T + part["attn.proj.bias"])
        y = norm(tokens, weight=part["norm2.weight"], bias=part["norm2.bias"])
        y = functional.gelu(y @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"])
        tokens = tokens + part["ls2.gamma"] * (y @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"])
    return norm(tokens, weight=state["norm.weight"], bias=state["norm.bias"])[:, 0]


def test_dinov2_is_the_authors_network_on_dgm_evals_images(weights_file):
    from torchvision import transforms

    path, images = weights_file("dinov2"), pictures(3, 40, 40)
    prepare = transforms.Compose(  # as dgm-eval does
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    x = torch.stack([prepare(Image.fromarray(p.transpose(1, 2, 0))) for p in images.take(range(3))])
    expected = authors_dinov2({name: v.double() for name, v in dinov2_state().items()}, x.double())
    found = features_of_images(images, dinov2(path))
    assert found.shape == (3, 64)
    assert np.ptp(found, axis=0).max() > 0.1
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_clip_is_torch_fidelitys_network_on_clean_fids_images(weights_file):
    from torch_fidelity.feature_extractor_clip import build_model
    from torchvision import transforms

    path, images = weights_file("clip"), pictures(3, 40, 60)
    prepare = transforms.Compose(  # as clean-fid does, at this network's size
        [
            transforms.Resize(32, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )  # fmt: skip
    x = torch.stack([prepare(Image.fromarray(p.transpose(1, 2, 0))) for p in images.take(range(3))])
    expected = build_model(clip_state(), torch.float32).visual(x).numpy()
    found = features_of_images(images, clip(path))
    assert found.shape == (3, 16)
    assert np.ptp(found, axis=0).max() > 1e-3
    assert found == pytest.approx(expected, abs=1e-5)


def test_positions_of_their_own_size_stay_as_they_are():
    positions = torch.randn(1, 257, 8)
    assert resized_positions(positions, 16) is positions


@pytest.mark.parametrize("given", ["dinov2", "clip"])
def test_every_measure_has_the_hash_of_other_weights_in_its_name(given, weights_file, noise):
    options = WeightsOptions(str(weights_file(given)))
    subject = Subject(samples=noise(9, (3, 16, 16)), reference=noise(8, (3, 16, 16), seed=1))
    sha8 = weights.file_sha256(weights.weights_path(given, options))[:8]
    for kind in ("fd", "kid", "precision", "recall", "density", "coverage"):
        found = measured(kind, given, options, subject)
        assert (found.name, found.status) == (f"{kind}-{given}-{sha8}", "ok")
    assert measured("fd-infinity", given, options, subject).name == f"fd-{given}-{sha8}-infinity"


@pytest.mark.parametrize("given", ["dinov2", "clip"])
def test_only_the_published_file_gives_the_plain_name(given, weights_file, noise, monkeypatch):
    path = weights_file(given)
    published = dataclasses.replace(weights.PUBLISHED[given], sha256=weights.file_sha256(path))
    monkeypatch.setitem(weights.PUBLISHED, given, published)
    if given == "clip":  # which its authors publish as a TorchScript program
        path = _program(path)
        monkeypatch.setitem(
            weights.PUBLISHED, given, dataclasses.replace(published, sha256=weights.file_sha256(path))
        )  # fmt: skip
    subject = Subject(samples=noise(5, (3, 16, 16)), reference=noise(5, (3, 16, 16), seed=1))
    assert measured("fd", given, WeightsOptions(str(path)), subject).name == f"fd-{given}"


def _program(path):
    """The same tensors as a TorchScript program, next to the file."""
    import warnings

    class Holder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    holder = Holder()
    for name, value in clip_state().items():
        place = holder
        *folders, leaf = name.split(".")
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, torch.nn.Module())
            place = getattr(place, folder)
        place.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(holder, torch.zeros(1)).save(str(path.with_name("program.pt")))
    return path.with_name("program.pt")


def test_a_program_that_is_not_the_published_one_is_never_opened(weights_file, monkeypatch):
    path = _program(weights_file("clip"))
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("it was opened"))
    with pytest.raises(NotReady, match=r"program\.pt.*aren't weights of CLIP"):
        clip(path)


@pytest.mark.parametrize("given", ["dinov2", "clip"])
def test_what_is_no_such_file_is_refused_with_the_place(given, tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    published = weights.PUBLISHED[given]
    (missing,) = weights.weights_missing(given, WeightsOptions())
    assert str(tmp_path / published.file) in missing.what and published.sha256[:8] in missing.do
    (tmp_path / published.file).write_bytes(b"cut short")  # under the published name it must be the published file
    (missing,) = weights.weights_missing(given, WeightsOptions())
    assert f"starts with {published.sha256[:8]}" in missing.what
    other = tmp_path / "other.pt"
    for content in ({"a": torch.zeros(3)}, torch.zeros(3), {"pos_embed": torch.zeros(1, 5, 63)}):
        torch.save(content, other)
        with pytest.raises(NotReady, match=rf"other\.pt.*aren't weights of {published.network.split()[0]}"):
            (dinov2 if given == "dinov2" else clip)(other)
    state = STATES[given]()
    del state[next(name for name in state if "norm1" in name or "ln_1" in name)]
    torch.save(state, other)
    with pytest.raises(NotReady, match=r"other\.pt.*Missing key|other\.pt.*Error"):
        (dinov2 if given == "dinov2" else clip)(other).build()


def test_safetensors_are_read(weights_file, tmp_path):
    from safetensors.torch import save_file

    place = tmp_path / "w.safetensors"
    save_file(dinov2_state(), place)
    images = pictures(2, 20, 20)
    assert np.array_equal(
        features_of_images(images, dinov2(place)), features_of_images(images, dinov2(weights_file("dinov2")))
    )
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(NotReady, match=r"w\.safetensors.*aren't weights of DINOv2"):
        dinov2(place)


def test_timm_is_asked_for(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    assert any("zigma-bench[features]" in missing.do for missing in weights.dinov2_missing(WeightsOptions()))


def test_the_published_hash_of_clip_is_torch_fidelitys():
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA

    assert MODEL_METADATA["clip-vit-b-32"]["hash"] == weights.PUBLISHED["clip"].sha256
    assert MODEL_METADATA["clip-vit-b-32"]["filename"] + ".pt" == weights.PUBLISHED["clip"].file


def test_grey_images_are_taken(weights_file):
    grey = ArrayImages(np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8))
    assert features_of_images(grey, dinov2(weights_file("dinov2"))).shape == (4, 64)
