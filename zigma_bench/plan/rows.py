"""The rows of a suite's table: their labels, the baseline, and the anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.plan.cells import Cell, Resolved
from zigma_bench.plan.resolve import option_label
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import Spec
from zigma_bench.suite import Suite, Train, YamlSource, own_keys


def label_all(cells: Sequence[Cell], catalogue: Catalogue, recipe: Train) -> list[Cell]:
    """The cells with short labels.

    A backbone's label is its name, the options that differ among backbones of that name, and the keys in which its
    recipe differs from the suite's. A scan's label is its name with options.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        assert cell.backbone is not None
        for key, value in cell.backbone.options.items():
            values.setdefault((cell.backbone.name, key), set()).add(option_label(value))
    labelled = []
    for cell in cells:
        assert cell.backbone is not None
        name, options = cell.backbone.name, cell.backbone.options
        shown = (key for key in sorted(options) if len(values[name, key]) > 1 or _another_mixer(key, options[key]))
        words = [name, *(f"{key}={option_label(options[key])}" for key in shown)]
        words += [f"{key}={option_label(value)}" for key, value in own_keys(cell.train, recipe).items()]
        scan = None if cell.scan is None else scan_label(catalogue.get("scan", cell.scan.name), cell.scan)
        labelled.append(cell.model_copy(update={"backbone_label": " ".join(words), "scan_label": scan}))
    return labelled


def scan_label(spec: Spec, scan: Resolved) -> str:
    """`zigzag paths=8`: integer options always, other options only if they differ from their default."""
    defaults = {option.name: option.default for option in spec.options}
    shown = (key for key, value in sorted(scan.options.items()) if type(value) is int or value != defaults[key])
    return " ".join([scan.name, *(f"{key}={option_label(scan.options[key])}" for key in shown)])


def _another_mixer(key: str, value: Any) -> bool:
    """Whether an option is a mixer other than the default one; the label must show it."""
    return key == "mixer" and isinstance(value, dict) and option_label(value) != "mamba"


def find_baseline(suite: Suite, cells: Sequence[Cell], source: YamlSource) -> Cell:
    """The first cell of the baseline's row, or the first cell if the suite names no baseline."""
    if suite.baseline is None:
        return cells[0]
    for cell in cells:
        assert cell.backbone is not None
        names = (cell.backbone.name, cell.backbone_label)
        scans = (None, cell.scan.name if cell.scan else None, cell.scan_label)
        if suite.baseline.backbone in names and suite.baseline.scan in scans:
            return cell
    labels = sorted({f"{{backbone: {c.backbone_label}, scan: {c.scan_label}}}" for c in cells})
    raise UsageError(
        "the baseline is not a row of this suite", where=source.where("baseline"), expected=" or ".join(labels)
    )


def anchors_of(baseline: Cell) -> list[Cell]:
    """The anchors, measured like the cells: held-out images (the floor) and the untrained baseline (the ceiling).

    If networks are trained on latents, a second floor is the held-out images reconstructed by the autoencoder.
    """
    none = {"efficiency": None, "train_images": None, "train_seconds": None, "during": None}
    floor = baseline.model_copy(
        update={
            "role": "floor", "backbone": None, "scan": None, "backbone_label": "held-out images", "scan_label": None,
            "order_digests": (), "scanned_ratio": 0.0, "parameters": 0, "forward_flops": {}, "seed": 0,
            "size_match": None, "condition": None, "text": None, **none,
        }
    )  # fmt: skip
    ceiling = baseline.model_copy(
        update={"role": "ceiling", "backbone_label": f"untrained {baseline.backbone_label}", **none}
    )
    if baseline.latents is None:
        return [floor, ceiling]
    return [floor, floor.model_copy(update={"role": "reconstruction"}), ceiling]
