"""Every order from published code equals one of ours, on every stored grid.

They were computed by running that code; entry i of a path is the token that is visited at step i, -1 an inserted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zigma_bench.plugins.discovery import catalogue
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.layers import layer_routes
from zigma_bench.scans.route import Route

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "scans.json").read_text())
ZIGMA = json.loads((HERE / "zigma_paths.json").read_text())
SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden"
Paths = list[list[int]]


def layers(name: str, grid: str, depth: int = 1, **options) -> tuple[Route, ...]:
    spec = catalogue().get("scan", name)
    return layer_routes(spec, grid=Grid.parse(grid), depth=depth, options=spec.resolve(options, where="test"))


def one(name: str, number: int = 0, **options) -> Callable[[str], Paths]:
    """The paths of layer `number`."""
    return lambda grid: layers(name, grid, number + 1, **options)[number].paths.tolist()


def by_layer(name: str, depth: int, **options) -> Callable[[str], Paths]:
    """The one path of each layer."""
    return lambda grid: [path for route in layers(name, grid, depth, **options) for path in route.paths.tolist()]


def quarter(parts: int) -> Callable[[str], Paths]:
    """QuadMamba's leaves: windows of H / parts x W / parts."""

    def make(grid: str) -> Paths:
        size = Grid.parse(grid)
        return one("local", window=size.height // parts, window_width=size.width // parts)(grid)

    return make


def diffma_spirals(grid: str) -> Paths:
    """Both spirals of each of the eight layers of a cycle."""
    return [path for route in layers("diffma", grid, 8) for path in route.paths[1:].tolist()]


def diffma_executed(grid: str) -> Paths:
    return [path for r in layers("diffma", grid, 8, compatibility="diffma") for path in r.paths[1:].tolist()]


def local_mamba(name: str) -> Callable[[str], Paths]:
    def make(grid: str) -> Paths:
        (path,) = one("local-mamba", table=[[name]])(grid)
        return [path]

    return make


ALONE = {"one-way": "unidi", "two-way": "bidi", "rotate": "rot90(scans=3)", "cascade": "cascade2d[segments]"}
PUBLISHED: dict[str, Callable[[str], Paths]] = {
    "CompVis/zigma:zigzagN8": by_layer("zigzag", 8),
    "CompVis/zigma:hilbertN8[as_executed]": by_layer("hilbert", 8, paths=8, compatibility="zigma"),
    "CompVis/zigma:hilbertN8[true_curve=argsort]": by_layer("hilbert", 8, paths=8),
    "CompVis/zigma:traverse_grid_v1_continuous": lambda g: one("continuous")(g)[:2],
    "CompVis/zigma:gilbert_xy2d[x=row,y=col]": one("hilbert"),
    "CompVis/zigma:zzvideo_sst[segments]": by_layer("zigzag-video", 6),
    "MzeroMiko/VMamba:cross2d": one("cross-scan"),
    **{f"MzeroMiko/VMamba:{key}": one("cross-scan", mode=mode) for mode, key in ALONE.items()},
    "hustvl/Vim:bimamba_v2": one("bidirectional"),
    "ChenhongyiYang/PlainMamba:continuous2d": one("continuous"),
    "ChenhongyiYang/PlainMamba:continuous2d.directions[0=start,1=right,2=left,3=up,4=down]": (
        lambda g: layers("continuous", g)[0].step_feature.tolist()
    ),
    **{f"hunto/LocalMamba:{n}{flip}": local_mamba(n + flip) for n in ("h", "v", "w2", "w7") for flip in ("", "_flip")},
    "hunto/LocalMamba:w2_column_first": one("local", columns=True),
    "TerryPei/EfficientVMamba:ES2D_step2": one("atrous"),
    "VinAIResearch/DiMSUM:sweep_8": by_layer("sweep", 8),
    "VinAIResearch/DiMSUM:zigma_8": by_layer("zigzag", 8),
    "VinAIResearch/DiMSUM:jpeg_8": by_layer("jpeg", 8, paths=8),
    "VinAIResearch/DiMSUM:sweep4_alternating(scan_type=none)": by_layer("mamba-nd", 4),
    "VinAIResearch/DiMSUM:sweep4_alternating+scanning_continuity": by_layer("mamba-nd", 4, continuous=True),
    "VinAIResearch/DiMSUM:local_scan_w2": one("local"),
    "VinAIResearch/DiMSUM:local_scan_w2_column_first": one("local", columns=True),
    "VinAIResearch/DiMSUM:local_scan_w4": one("local", window=4),
    "VinAIResearch/DiMSUM:local_scan_w4_column_first": one("local", window=4, columns=True),
    "tyshiwo1/DiM:rowcol4_pad0": by_layer("dim", 4, pads=0, mirrored=False),
    "tyshiwo1/DiM:rowcol4_pad3": by_layer("dim", 4, mirrored=False),
    "wongzbb/DiffMa:spiral16[as_executed]": diffma_executed,
    "wongzbb/DiffMa:spiral16[true_curve=argsort]": diffma_spirals,
    "wongzbb/DiffMa:zig[as_executed]": by_layer("zigzag", 8, compatibility="diffma"),
    "wongzbb/DiffMa:zig[true_curve=argsort]": (
        lambda g: [np.argsort(path).tolist() for path in by_layer("zigzag", 8, compatibility="diffma")(g)]
    ),
    "wongzbb/DiffMa:vmamba_[as_executed]": one("continuous", variant="diffma"),
    **{f"lewandofskee/MambaAD:HSCANS.{c}": (lambda g, c=c: one("hybrid", curve=c)(g)[:1])
       for c in ("sweep", "scan", "zorder", "zigzag", "hilbert")},
    **{f"lewandofskee/MambaAD:HSCANS.{c}.8dir": one("hybrid", curve=c)
       for c in ("sweep", "scan", "zorder", "zigzag", "hilbert")},
    "daidaijr/EAMamba:None.count4": by_layer("mamba-nd", 4),
    **{f"daidaijr/EAMamba:{c}": one("multi-head", curve=c, paths=1) for c in ("diagonal", "zigzag", "hilbert")},
    **{f"daidaijr/EAMamba:{c}.count{k}": one("multi-head", curve=c, paths=k)
       for c in ("diagonal", "zigzag", "hilbert") for k in (4, 8)},
    "daidaijr/EAMamba:zorder": one("morton", compatibility="eamamba"),
    **{f"daidaijr/EAMamba:zorder.count{k}": one("multi-head", curve="zorder", compatibility="eamamba", paths=k)
       for k in (4, 8)},
    "walking-shadow/RS-Mamba:omnidirectional8": one("omnidirectional"),
    "VISION-SJTU/QuadMamba:local_scan_quad": quarter(2),
    "VISION-SJTU/QuadMamba:local_scan_quad_quad": quarter(4),
    **{f"XLearning-SCU/MaIR:nested_S_len{s}_shift{shift}": one("nested-s", 1 if shift else 0, stripe=s)
       for s, shift in ((2, 0), (2, 1), (4, 0), (4, 2))},
    "hustvl/DiG:SREM_qdir": by_layer("mamba-nd", 4),
    "jacklishufan/Mamba-ND:2d_alternating": by_layer("mamba-nd", 4),
    "jacklishufan/Mamba-ND:3d_alternating": by_layer("mamba-nd", 6),
    "OpenGVLab/VideoMamba:spatial_first_bidirectional": one("video-mamba"),
    "wangf3014/Mamba-Reg:registers3": lambda g: one("mamba-r", registers=3)(g)[:1],
    "wangf3014/Adventurer:causal+heading_avg": by_layer("adventurer", 2),
    "yunxiangfu2001/LaMamba-Diff:cross_scan_continuous": one("continuous", variant="lamamba-diff"),
}  # fmt: skip
AS_SETS: dict[str, Callable[[str], Paths]] = {"ErgastiAlex/USM:snake8": by_layer("zigzag", 8)}  # numbered otherwise


def test_no_published_order_is_left_out():
    assert set(GOLDEN) == set(PUBLISHED) | set(AS_SETS)


@pytest.mark.parametrize(("key", "grid"), [(key, grid) for key in PUBLISHED for grid in GOLDEN.get(key, ())])
def test_equals_the_published_order(key, grid):
    assert PUBLISHED[key](grid) == GOLDEN[key][grid]


@pytest.mark.parametrize(("key", "grid"), [(key, grid) for key in AS_SETS for grid in GOLDEN[key]])
def test_equals_the_published_set(key, grid):
    assert sorted(AS_SETS[key](grid)) == sorted(GOLDEN[key][grid])


def zigma(kind: str, paths: int) -> Callable[[str], Paths]:
    return by_layer(kind, paths, paths=paths)


BY_ZIGMA: dict[str, Callable[[str], Paths]] = {
    **{f"zigzagN{k}": zigma("zigzag", k) for k in (1, 2, 4, 8)},
    "parallelN8(paths only; forward raises NotImplementedError upstream)": one("zigzag", mode="parallel"),
    "hilbertN8_official_as_executed": by_layer("hilbert-inverse", 8, paths=8),
    "hilbertN8_true_curve(argsort of official array)": zigma("hilbert", 8),
    "hilbert_path_square_official_array(unused util, needs numpy-hilbert-curve)": by_layer(
        "hilbert-inverse", 8, paths=8
    ),
    "hilbert_path_square_true_curve": zigma("hilbert", 8),
    "v2_bidirectional_raster(forward branch, backward branch)": one("bidirectional"),
    "v1_raster(Mamba class only; ZigMa ctor rejects it)": one("raster"),
    "EXT_zigzag8_rect(not official; same formula with H,W)": zigma("zigzag", 8),
    "EXT_gilbert_rect_true_curve(official gilbert_xy2d(x=row,y=col,w=H,h=W), argsorted)": one("hilbert"),
    "video_factorized_s(flattened t-major gather; T independent segments of length H*W)": by_layer(
        "zigzag-video", 16, order="st"
    ),
    "video_factorized_t(flattened t-major gather; H*W independent segments of length T)": by_layer(
        "zigzag-video", 4, order="ts"
    ),
    "video_v2_bidirectional_flat_thw(one sequence of T*H*W)": one("bidirectional"),
    "traverse_grid_v1_continuous(unused util)": (
        lambda g: [by_layer("zigzag", 5)(g)[0], by_layer("mamba-nd", 2, continuous=True)(g)[1]]
    ),
}
EVERY_SECOND = ("video_factorized_s", "video_factorized_t")  # the other letter's layers stand between


@pytest.mark.parametrize(("key", "grid"), [(key, grid) for key in BY_ZIGMA for grid in ZIGMA.get(key, ())])
def test_equals_zigmas_order(key, grid):
    found = BY_ZIGMA[key](grid)
    expected = ZIGMA[key][grid]
    if key.startswith(EVERY_SECOND):
        found = found[::2][: len(expected)]
    assert found == expected


def test_no_order_of_zigma_is_left_out():
    others = [key for key in ZIGMA if not key.startswith("_")]
    left = [
        key for key in others if key not in BY_ZIGMA and "illustrative" not in key and "_official_output_" not in key
    ]
    assert left == []


@pytest.mark.parametrize("order", ["st", "sst", "sstt", "stst", "ts"])
def test_the_schedule_of_the_video_letters_is_zigmas(order):
    schedule = ZIGMA["_layer_schedule"][f"zzvideo_{order}"]["depth24"]
    numbers = {"s": by_layer("zigzag-video", 16, order="st")("2x4x4")[::2],
               "t": by_layer("zigzag-video", 4, order="ts")("2x4x4")[::2]}  # fmt: skip
    expected = [numbers[kind][number % len(numbers[kind])] for kind, number in schedule]
    assert by_layer("zigzag-video", 24, order=order)("2x4x4") == expected


def by_the_table(height: int, width: int, number: int, *, serpentine: bool) -> list[int]:
    """ZigMa's table, cell by cell: corner (r0, c0) with directions (dr, dc), rows or columns."""
    corners = [(0, 0, 1, 1), (0, width - 1, 1, -1), (height - 1, 0, -1, 1), (height - 1, width - 1, -1, -1)]
    r0, c0, dr, dc = corners[number // 2]
    outer, inner = (width, height) if number % 2 else (height, width)
    path = []
    for i in range(outer):
        for j in range(inner):
            k = inner - 1 - j if serpentine and i % 2 else j
            r, c = (k, i) if number % 2 else (i, k)
            path.append((r0 + dr * r) * width + c0 + dc * c)
    return path


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 5), Grid(4, 1), Grid(3, 5), Grid(6, 4), Grid(8, 12), Grid(7, 7)])
@pytest.mark.parametrize("scan", ["sweep", "zigzag"])
def test_the_table_on_any_rectangle(scan, grid):
    table = [by_the_table(grid.height, grid.width, n, serpentine=scan == "zigzag") for n in range(8)]
    for paths in (1, 2, 4, 8):
        assert by_layer(scan, 10, paths=paths)(str(grid)) == [table[layer % paths] for layer in range(10)]


@pytest.mark.parametrize("paths", [1, 2, 4, 8])
def test_the_schedule_over_24_layers_is_zigmas(paths):
    schedule = ZIGMA["_layer_schedule"][f"zigzagN{paths}"]["depth24"]
    assert by_layer("zigzag", 24, paths=paths)("4x4") == [ZIGMA["zigzagN8"]["4x4"][number] for number in schedule]


@pytest.mark.parametrize("grid", list(ZIGMA["_inverse"]["zigzagN8"]))
def test_the_derived_inverse_is_zigmas(grid):
    found = [route.inverse[0].tolist() for route in layers("zigzag", grid, 8)]
    assert found == ZIGMA["_inverse"]["zigzagN8"][grid]


def test_a_swap_of_a_path_and_its_inverse_would_be_seen():
    """Not all stored paths are involutions."""
    assert any(np.argsort(path).tolist() != path for path in ZIGMA["zigzagN8"]["4x4"])


@pytest.mark.parametrize("name", ["scans.json", "zigma_paths.json"])
def test_the_stored_files_are_the_shared_ones(name):
    if not (SHARED / name).exists():
        pytest.skip("the shared reference data does not lie beside the repository")
    assert json.loads((SHARED / name).read_text()) == json.loads((HERE / name).read_text())


def test_half_a_bank_of_mambaads_keeps_the_reverses():
    """Upstream's K = 2 is a curve and its reverse, K = 4 these and their transposes (model/mambaad.py, SS2D)."""
    for curve in ("sweep", "hilbert", "zigzag"):
        two, four = (one("hybrid", curve=curve, paths=k)("8x8") for k in (2, 4))
        assert two == [two[0], two[0][::-1]]
        transposed = [(token % 8) * 8 + token // 8 for token in two[0]]
        assert four == [two[0], transposed, two[0][::-1], transposed[::-1]]


def test_registers_are_where_mamba_r_puts_them():
    """After each 64 // 13 tokens, and the rest at the end (utils.py, get_cls_idx); here 12 registers on 8 x 8."""
    (path,) = one("mamba-r")("8x8")[:1]
    assert [step for step, token in enumerate(path) if token == -1] == list(range(4, 60, 5))


@pytest.mark.parametrize("grid", ["5x7", "3x3", "4x6"])
def test_eamambas_zigzag_on_odd_heights(grid):
    """Upstream turns by the parity of the diagonal's number counted from the bottom left corner."""
    size = Grid.parse(grid)
    cells = np.arange(size.tokens).reshape(size.height, size.width)[::-1]
    walks = [np.diagonal(cells, k)[:: 2 * (k % 2) - 1] for k in range(1 - size.height, size.width)]
    found = one("multi-head", curve="zigzag", paths=1, compatibility="eamamba")(grid)
    assert found == [np.concatenate(walks).tolist()]
