"""From the options of `sample MODEL` to the keys of a suite's `sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.suite import parse_value


def sample_keys(options: Mapping[str, Any], settings: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys that were given, settings over options, and how the command spells each, for errors.

    `options` by the option's name, None where it is absent; a setting is KEY=VALUE or guidance.KEY=VALUE.
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
            raise UsageError("this is no setting of sample", where=where, expected="KEY=VALUE, such as diffusion=sigma")
        target = found.setdefault("guidance", {}) if dot else found
        target[inner if dot else outer] = parse_value(value, where)
        places[key] = where
    return found, places


def labels_of(labels: str | None, label: int | None) -> tuple[int, ...] | None:
    """The labels of --labels 1,2,3 or --class 1; UsageError for both and for what is no number."""
    if labels is not None and label is not None:
        raise UsageError("--labels and --class both say the labels", do="leave one of them out")
    if labels is None:
        return None if label is None else (label,)
    words = [word.strip() for word in labels.split(",")]
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise UsageError("this is no label", where="--labels", expected="numbers such as 207,360", got=wrong[0])
    return tuple(map(int, words))
