"""`scans gallery`: a page of every scan, of the catalogue or made up; and learned scans, of which no path is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from zigma_bench.cli import scans_common, scans_gallery
from zigma_bench.errors import NotReady
from zigma_bench.plugins import registry
from zigma_bench.plugins.discovery import Catalogue, catalogue
from zigma_bench.scans.route import BrokenScan


def plain(grid):
    """Raster."""
    return np.arange(grid.tokens)


def only_nines(grid):
    """Refuses all but 9 x 9."""
    if str(grid) != "9x9":
        raise NotReady("nine by nine or nothing")
    return np.arange(81)


def never(grid):
    """Refuses everything."""
    raise NotReady("no grid will do")


def needy(grid, *, start: int):
    """Has an option without a default."""
    return np.roll(np.arange(grid.tokens), start)


def many(grid, layer):
    """Another path a layer."""
    return np.roll(np.arange(grid.tokens), layer)


def broken(grid):
    """No order at all."""
    return np.zeros(grid.tokens, dtype=int)


def small_catalogue(*functions) -> Catalogue:
    made = Catalogue()
    for function in functions:
        made.scans.add(registry.scan_spec(function.__name__.replace("_", "-"), function, owner="test"))
    facts = registry.LearnedScan(cost=dict)
    made.scans.add(registry.target_spec("scan", "taught", "module:Order", options=Taught, facts=facts, owner="test"))
    return made


@dataclass(frozen=True)
class Taught:
    """Learned."""


def test_a_gallery_drops_no_scan(tmp_path, monkeypatch, call, words_of):
    made = small_catalogue(plain, only_nines, never, needy, many)
    monkeypatch.setattr(scans_gallery, "catalogue", lambda: made)
    call("gallery", "--svg", str(tmp_path / "a.svg"), "--grid", "4x4")
    text = words_of(tmp_path / "a.svg")
    told = ["many", "needy", "never", "only-nines", "plain", "taught", "6 scans on 4x4", "on 9x9", "4 of 8 paths"]
    for words in [*told, "no grid will do", "needs the option", "learned:"]:
        assert words in text
    places = [text.index(f" {name} ") for name in told[:6]]
    assert places == sorted(places), "by name"


def test_a_broken_scan_in_a_gallery_is_reported(tmp_path, monkeypatch, call):
    monkeypatch.setattr(scans_gallery, "catalogue", lambda: small_catalogue(broken))
    with pytest.raises(BrokenScan, match="'broken' of test, layer 0"):
        call("gallery", "--png", str(tmp_path / "a.png"))
    assert list(tmp_path.iterdir()) == []


def test_learned_scans_are_marked_and_compared(monkeypatch, tmp_path, call):
    monkeypatch.setattr(scans_common, "catalogue", lambda: small_catalogue(plain))
    assert "the order is learned" in call("show", "taught", "--png", str(tmp_path / "a.png"))
    out = call("compare", "plain", "taught", "--grid", "4x4", "--png", str(tmp_path / "b.png"))
    assert "taught (learned)" in out
    assert call("compare", "taught", "--grid", "4x4", "--json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_gallery_of_all_scans(tmp_path, call):
    call("gallery", "--png", str(tmp_path / "a.png"), "--svg", str(tmp_path / "a.svg"), "--grid", "16x16")
    text = (tmp_path / "a.svg").read_text()
    for spec in catalogue().scans:
        assert f"<!-- {spec.name} -->" in text
    assert (tmp_path / "a.png").stat().st_size < 1_000_000, "docs/scans.png is this page"
