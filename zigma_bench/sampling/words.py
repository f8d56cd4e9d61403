"""The options of `sample MODEL` as keys of a suite's `sample`, and the label of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zigma_bench.errors import UsageError
from zigma_bench.suite import parse_value

LABELS = 6  # random stream of the labels; diffusion/noise.py uses 3 and 5, training 1, 2 and 4


def sample_keys(options: Mapping[str, Any], settings: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values by key, and how each key is spelled in the command, for errors. Settings override options.

    `options`: values by option name, None if absent. A setting is KEY=VALUE or guidance.KEY=VALUE.
    """
    found = {key: value for key, value in options.items() if value is not None and key != "guidance"}
    if options.get("guidance") is not None:
        found["guidance"] = {"scale": options["guidance"]}
    places = {key: f"--{key}" for key in found}
    for setting in settings:
        where = f"--set {setting}"
        key, equals, value = setting.partition("=")
        outer, dot, inner = key.partition(".")
        if not equals or not outer or (dot and (outer != "guidance" or not inner)):
            raise UsageError("not a setting of sample", where=where, expected="KEY=VALUE, such as diffusion=sigma")
        target = found.setdefault("guidance", {}) if dot else found
        target[inner if dot else outer] = parse_value(value, where)
        places[key] = where
    return found, places


def labels_of(labels: str | None, label: int | None) -> tuple[int, ...] | None:
    """The labels of --labels 1,2,3 or --class 1. UsageError if both are present or a label is not a number."""
    if labels is not None and label is not None:
        raise UsageError("--labels and --class exclude each other", do="omit one of them")
    if labels is None:
        return None if label is None else (label,)
    words = [word.strip() for word in labels.split(",")]
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise UsageError("not a label", where="--labels", expected="numbers such as 207,360", got=wrong[0])
    return tuple(map(int, words))


def label_of(seed: int, index: int, *, classes: int, chosen: Sequence[int] | None = None) -> int:
    """The label of a sample: the `chosen` labels in turn, or all classes, shuffled again for every `classes`
    samples."""
    if chosen:
        return chosen[index % len(chosen)]
    turn, place = divmod(index, classes)
    return int(np.random.default_rng([seed, turn, LABELS]).permutation(classes)[place])
