"""Official checkpoints: every released layout, an error for every fault, and the meaning of the official names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import CASES, golden_condition, golden_input, golden_output, official_weights
from torch import nn
from torch.nn.functional import gelu, layer_norm, silu

from zigma_bench.backbones.official import load_official
from zigma_bench.backbones.official.scans import ReversedInTime, official_scan
from zigma_bench.errors import NotReady, UnknownName, UsageError
from zigma_bench.scans.grid import Grid

PATHS = json.loads((Path(__file__).parents[1] / "scans" / "golden" / "zigma_paths.json").read_text())
TEXT = CASES["zigzagN8_text_d3"]
DIT = {
    "input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 4,
    "num_classes": 10, "learn_sigma": True,
}  # fmt: skip


def output(network, case):
    with torch.no_grad():
        return network(golden_input(case["input_shape"]), torch.tensor(case["t"]), golden_condition(case)).numpy()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_layouts_of_zigma(prefix):
    right = {prefix + name: value for name, value in official_weights(TEXT["param_order"]).items()}
    wrong = {name: torch.zeros_like(value) for name, value in right.items()}
    released = {"model": wrong, "ema": right, "opt": {}, "args": None, "train_steps": 1, "best_fid": 3.0}
    for given, chosen in (
        (right, {}),
        (released, {}),
        ({**released, "model": right, "ema": wrong}, {"weights": "model"}),
    ):
        found = output(load_official("zigma", given, TEXT["config"], **chosen), TEXT)
        np.testing.assert_allclose(found, golden_output(TEXT), atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match=r"no weights 'ema'.*one of model"):
        load_official("zigma", {"model": right}, TEXT["config"])


def test_every_key_that_does_not_fit_is_listed():
    weights = official_weights(TEXT["param_order"])
    del weights["blocks.1.msa.to_q.weight"], weights["norm_f.weight"]
    weights["blocks.0.mixer.D_b"] = torch.zeros(32)
    weights["pos_embed"] = torch.zeros(1, 4, 16)
    with pytest.raises(UsageError) as caught:
        load_official("zigma", weights, TEXT["config"])
    told = str(caught.value)
    assert "missing: blocks.1.msa.to_q.weight, norm_f.weight;" in told
    assert "unexpected: blocks.0.mixer.D_b;" in told
    assert "of another shape: pos_embed [1, 4, 16] instead of [1, 16, 16]" in told


def test_a_text_checkpoint_does_not_load_into_the_plain_network():
    with pytest.raises(UsageError, match=r"unexpected: y_embedder\.weight, y_embedder\.bias, blocks\.0\.msa"):
        load_official("zigma", official_weights(TEXT["param_order"]), {**TEXT["config"], "has_text": False})


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("zigmo", {}, UnknownName, "did you mean 'zigma'"),
        ("zigma", {"embed_dims": 16}, UsageError, "did you mean 'embed_dim'"),
        ("zigma", {"depth": "3"}, UsageError, "option 'depth' has a wrong value"),
        ("zigma", {"scan_type": "zigzagN9"}, UnknownName, "zigzagN1 to zigzagN8"),
        ("zigma", {"scan_type": "v1"}, UnknownName, "no official scan_type is called 'v1'"),
        ("zigma", {"scan_type": "randomN8"}, NotReady, "without a seed"),
        ("zigma", {"scan_type": "parallelN2"}, NotReady, "no forward pass"),
        ("zigma", {"video_frames": 2}, NotReady, "order for single images"),
        ("zigma", {"video_frames": 1}, NotReady, r"got \{'video_frames': 1\}"),
        ("zigma", {"patch_size": 3}, NotReady, "do not divide an image of 4 x 4"),
        ("zigma", {"rms_norm": False}, NotReady, "rms_norm"),
        ("zigma", {"ssm_cfg": {"dt_rank": 3}}, NotReady, "dt_rank"),
        ("zigma", {"has_text": True, "d_context": 0}, NotReady, "d_context"),
    ],
)
def test_arguments_that_do_not_fit(name, change, error, words):
    with pytest.raises(error, match=words):
        load_official(name, official_weights(TEXT["param_order"]), {**TEXT["config"], **change})


def test_a_checkpoint_is_no_other_thing():
    for given in ({"args": 3}, {}, "zigma.pt"):
        with pytest.raises(UsageError, match="not a state dict"):
            load_official("zigma", given, TEXT["config"])


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("scan", ["zigzagN8", "zigzagN4", "hilbertN8"])
def test_scan_names_mean_what_the_official_code_runs(scan, side):
    """The visit times of the Hilbert curve, used as an order, layer by layer."""
    known = PATHS["hilbertN8_official_as_executed" if scan == "hilbertN8" else scan][f"{side}x{side}"]
    found = official_scan(scan, grid=Grid(side, side), depth=11).routes
    for layer, route in enumerate(found):
        assert route.paths.tolist() == [known[layer % len(known)]]


def test_hilbert_names_of_fewer_paths_take_the_first():
    known = PATHS["hilbertN8_official_as_executed"]["4x4"]
    found = official_scan("hilbertN3", grid=Grid(4, 4), depth=5).routes
    assert [route.paths[0].tolist() for route in found] == [known[i] for i in (0, 1, 2, 0, 1)]


CLIP = {**CASES["zigzagN8_uncond_d3"]["config"], "video_frames": 2}
CLIP_WEIGHTS = official_weights([
    (name, [1, 32, 16] if name == "pos_embed" else shape)
    for name, shape in CASES["zigzagN8_uncond_d3"]["param_order"]
])  # fmt: skip
CLIPS, TIMES = golden_input([2, 2, 2, 4, 4]), torch.tensor([0.2, 0.7])


def test_the_walk_of_a_clip_is_factorised_as_officially():
    """Order sst: the paths of the official schedule, layer by layer, and frames that come back reversed."""
    grid = Grid(4, 4, 2)
    frames, places = (
        next(PATHS[key]["2x4x4"] for key in PATHS if key.startswith(f"video_factorized_{kind}")) for kind in "st"
    )
    scan = official_scan("zzvideo_sst", grid=grid, depth=9)
    assert scan == official_scan("video_sst", grid=grid, depth=9)
    assert scan.reversed_layers == (2, 5, 8)
    number = {"s": 0, "t": 0}
    for layer, route in enumerate(scan.routes):
        kind = "sst"[layer % 3]
        known = frames if kind == "s" else places
        assert route.paths[0].tolist() == known[number[kind] % len(known)]
        number[kind] += 1


@torch.no_grad()
def test_official_temporal_layers_reverse_the_frames():
    """Each output token comes from the token that the official composition of a path and its wrong inverse selects."""
    known = next(PATHS[key]["2x4x4"] for key in PATHS if key.startswith("video_t_official_output"))
    back = ReversedInTime(nn.Identity(), frames=2)(torch.arange(32)[None, :, None])[0, :, 0].tolist()
    assert known == [back, back]
    network = load_official("zigma", CLIP_WEIGHTS, {**CLIP, "scan_type": "zzvideo_st"})
    kinds = [isinstance(block.mixer, ReversedInTime) for block in network.blocks]
    assert kinds == [False, True, False]
    assert network(CLIPS, TIMES).shape == CLIPS.shape


@torch.no_grad()
def test_v2_reads_a_clip_as_one_sequence_frame_after_frame():
    """The same as one tall picture made of the rows of all frames."""
    from zigma_bench.backbones.zigma.facts import VisionMambaOptions
    from zigma_bench.backbones.zigma.network import VisionMamba
    from zigma_bench.scans.route import Route

    order = CASES["v2_bidirectional_uncond_d3"]["param_order"]
    weights = official_weights([(n, [1, 32, 16] if n == "pos_embed" else shape) for n, shape in order])
    clip = load_official("zigma", weights, {**CLIP, "scan_type": "v2"}, backend="naive")
    both = Route(np.stack([np.arange(32), np.arange(32)[::-1]]))
    options = VisionMambaOptions(width=16, depth=3, patch=1)
    tall = VisionMamba(options, grid=Grid(8, 4), channels=2, routes=[both] * 3, backend="naive").eval()
    tall.load_state_dict(clip.state_dict())
    picture = CLIPS.transpose(1, 2).reshape(2, 2, 8, 4)
    found = tall(picture, TIMES).reshape(2, 2, 2, 4, 4).transpose(1, 2)
    torch.testing.assert_close(clip(CLIPS, TIMES), found, atol=1e-5, rtol=1e-5)


def test_positions_that_are_no_formula_s_are_kept_with_the_weights():
    config = {**CASES["zigzagN8_uncond_d3"]["config"], "use_pe": 1}
    weights = official_weights(CASES["zigzagN8_uncond_d3"]["param_order"])
    odd = load_official("zigma", weights, config)
    np.testing.assert_allclose(
        output(odd, CASES["zigzagN8_uncond_d3"]), golden_output(CASES["zigzagN8_uncond_d3"]), atol=1e-4, rtol=0
    )
    assert torch.equal(odd.state_dict()["positions.table"], weights["pos_embed"])
    from zigma_bench.layers.embed import sincos_2d

    plain = load_official("zigma", {**weights, "pos_embed": sincos_2d(Grid(4, 4), 16)[None]}, config)
    assert "positions.table" not in plain.state_dict()


def dit_weights(config, seed=0):
    """Random weights under the official names of DiT and SiT."""
    D, C, p = config["hidden_size"], config["in_channels"], config["patch_size"]
    tokens = (config["input_size"] // p) ** 2
    out = p * p * C * (2 if config["learn_sigma"] else 1)
    shapes = {
        "pos_embed": (1, tokens, D), "x_embedder.proj.weight": (D, C, p, p), "x_embedder.proj.bias": (D,),
        "t_embedder.mlp.0.weight": (D, 256), "t_embedder.mlp.0.bias": (D,), "t_embedder.mlp.2.weight": (D, D),
        "t_embedder.mlp.2.bias": (D,), "y_embedder.embedding_table.weight": (config["num_classes"] + 1, D),
        "final_layer.linear.weight": (out, D), "final_layer.linear.bias": (out,),
        "final_layer.adaLN_modulation.1.weight": (2 * D, D), "final_layer.adaLN_modulation.1.bias": (2 * D,),
    }  # fmt: skip
    for i in range(config["depth"]):
        for name, rows, columns in (
            ("attn.qkv", 3 * D, D), ("attn.proj", D, D), ("mlp.fc1", 4 * D, D), ("mlp.fc2", D, 4 * D),
            ("adaLN_modulation.1", 6 * D, D),
        ):  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": (rows, columns), f"blocks.{i}.{name}.bias": (rows,)}
    draw = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def dit_by_hand(w, config, x, t, y):
    """DiT's equations written out on its official tensors: all channels of the head, for one image at a time."""
    D, heads, p, C = config["hidden_size"], config["num_heads"], config["patch_size"], config["in_channels"]
    side = config["input_size"] // p

    def affine(name, value):
        return value @ w[name + ".weight"].T + w[name + ".bias"]

    def modulated(value, shift, scale):
        return layer_norm(value, (D,), eps=1e-6) * (1 + scale) + shift

    pictures = []
    for image, time, label in zip(x, t, y, strict=True):
        cells = torch.stack([
            image[:, r * p : r * p + p, c * p : c * p + p].reshape(-1) for r in range(side) for c in range(side)
        ])  # fmt: skip
        h = cells @ w["x_embedder.proj.weight"].reshape(D, -1).T + w["x_embedder.proj.bias"] + w["pos_embed"][0]
        angles = time * torch.tensor([10_000 ** (-k / 128) for k in range(128)])
        c = affine("t_embedder.mlp.2", silu(affine("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()]))))
        c = silu(c + w["y_embedder.embedding_table.weight"][label])
        for i in range(config["depth"]):
            name = f"blocks.{i}."
            s1, m1, g1, s2, m2, g2 = affine(name + "adaLN_modulation.1", c).split(D)
            q, k, v = (
                part.reshape(-1, heads, D // heads)
                for part in affine(name + "attn.qkv", modulated(h, s1, m1)).split(D, -1)
            )
            weights = torch.einsum("ihd,jhd->hij", q, k).div(math.sqrt(D // heads)).softmax(-1)
            h = h + g1 * affine(name + "attn.proj", torch.einsum("hij,jhd->ihd", weights, v).reshape(-1, D))
            hidden = gelu(affine(name + "mlp.fc1", modulated(h, s2, m2)), approximate="tanh")
            h = h + g2 * affine(name + "mlp.fc2", hidden)
        shift, scale = affine("final_layer.adaLN_modulation.1", c).split(D)
        values = affine("final_layer.linear", modulated(h, shift, scale))  # a patch's row, column, channel
        channels = 2 * C if config["learn_sigma"] else C
        rows = [torch.cat([values[r * side + c].reshape(p, p, channels) for c in range(side)], 1) for r in range(side)]
        pictures.append(torch.cat(rows, 0).permute(2, 0, 1))
    return torch.stack(pictures)


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("name", ["dit", "sit"])
def test_equals_the_equations_of_dit_and_sit(name, learn_sigma):
    """DiT returns all channels at steps 0 to 999; SiT returns the first half at t in [0, 1]; label 10 is the dropped
    class."""
    config = {**DIT, "learn_sigma": learn_sigma}
    weights = dit_weights(config)
    x, y = golden_input([3, 3, 8, 8]), torch.tensor([0, 7, 10])
    t = torch.tensor([0, 421, 999]) if name == "dit" else torch.tensor([0.0, 0.421, 0.999])
    expected = dit_by_hand(weights, config, x, t, y)
    with torch.no_grad():
        found = load_official(name, weights, config)(x, t, y)
    torch.testing.assert_close(found, expected if name == "dit" else expected[:, :3], atol=1e-4, rtol=1e-4)


def test_a_training_checkpoint_of_dit_gives_its_ema():
    good, bad = dit_weights(DIT), dit_weights(DIT, seed=1)
    given = {"model": {f"module.{name}": value for name, value in bad.items()}, "ema": good, "opt": {}, "args": {}}
    network, plain = load_official("dit", given, DIT), load_official("dit", good, DIT)
    for a, b in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_network_without_dropped_labels_has_no_row_for_them():
    weights = dit_weights(DIT)
    table = "y_embedder.embedding_table.weight"
    network = load_official("dit", {**weights, table: weights[table][:10]}, {**DIT, "class_dropout_prob": 0.0})
    with pytest.raises(UsageError, match="from 0 to 9"):
        network(golden_input([1, 3, 8, 8]), torch.tensor([5]), torch.tensor([10]))
    with pytest.raises(UsageError, match="got no labels"):
        network(golden_input([1, 3, 8, 8]), torch.tensor([5]))


WEIGHTS = official_weights(TEXT["param_order"])
NAME = "blocks.1.msa.to_q.weight"
VALUE = WEIGHTS[NAME]


def renamed(change):
    return {change(name): value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "given",
    [
        renamed(lambda name: f"_orig_mod.{name}"),
        renamed(lambda name: f"module._orig_mod.{name}"),
        renamed(lambda name: name.replace("blocks.0.", "blocks.0._orig_mod.")),
        {"state_dict": {"ema": renamed(lambda name: f"ema.{name}")}, "epoch": 3},
        {**renamed(lambda name: f"_orig_mod.module.{name}"), "n_averaged": torch.tensor(3)},
        {**renamed(lambda name: f"ema.{name}"), **{f"model.{n}": 0 * v for n, v in WEIGHTS.items()}},
    ],
    ids=["compiled", "both", "inside", "nested", "averaged", "side by side"],
)
def test_what_wrappers_add_to_names_is_taken_away(given):
    np.testing.assert_allclose(
        output(load_official("zigma", given, TEXT["config"]), TEXT), golden_output(TEXT), atol=1e-4, rtol=0
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: VALUE}, "a name that is not a string: 0 .int"),
        ({NAME: None}, f"not a tensor: {NAME} .NoneType"),
        ({NAME: VALUE.to("meta")}, f"a meta tensor.*{NAME}"),
        ({NAME: VALUE.to_sparse()}, f"not dense: {NAME} .torch.sparse_coo"),
        ({NAME: VALUE.to(torch.int8)}, f"not floating-point: {NAME} .torch.int8"),
        ({NAME: VALUE.to(torch.complex64)}, f"not floating-point: {NAME} .torch.complex64"),
        ({NAME: VALUE * math.nan}, f"NaN or infinite: {NAME} .8,192 of 8,192 values"),
        ({NAME: VALUE.double().fill_(1e300)}, f"NaN or infinite: {NAME}"),
        ({f"_orig_mod.{NAME}": VALUE}, f"two tensors have the same name.*{NAME}"),
        ({"x": torch.ones(1).expand(10**12)}, "unexpected: x"),
        ({f"x{i}": VALUE for i in range(99)}, "and 79 more of 99"),
    ],
)
def test_tensors_that_no_network_can_have_are_named(change, words):
    with pytest.raises(UsageError, match=words):
        load_official("zigma", {**WEIGHTS, **change}, TEXT["config"])


def test_mappings_within_themselves_are_refused():
    given: dict = {}
    given["model"] = given
    with pytest.raises(UsageError, match="within 8 mappings"):
        load_official("zigma", given, TEXT["config"])
