"""The variations of a suite: one for each combination of the values of `vary`, each a suite of its own."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from zigma_bench.errors import UsageError
from zigma_bench.plan.resolve import option_label
from zigma_bench.suite import Suite, YamlSource, validate_sections

SIZE = "size"  # the key that sets the size of every backbone


@dataclass(frozen=True)
class Variation:
    """A suite with one value of each varied key, and the words that label these values, by key."""

    suite: Suite
    words: Mapping[str, str]


def variations_of(suite: Suite, source: YamlSource) -> list[Variation]:
    """The variations in the order of the values, the first key slowest. UsageError, with the place of the key, for a
    value that doesn't fit."""
    if not suite.vary:
        return [Variation(suite, {})]
    plain = suite.model_dump(mode="python", exclude_unset=True, exclude={"vary", "select"})
    found, names = [], _short_names(suite.vary)
    for values in itertools.product(*suite.vary.values()):
        content = _copied(plain)
        for key, value in zip(suite.vary, values, strict=True):
            _set_value(content, key, value, source.where("vary", key))
        varied = validate_sections(Suite, content, source)
        words = {key: f"{names[key]}={_words(value)}" for key, value in zip(suite.vary, values, strict=True)}
        found.append(Variation(varied, words))
    return found


def _copied(value: Any) -> Any:
    """A copy whose mappings and lists can be changed."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _set_value(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set the value of a key such as `train.learning_rate`. `size` sets the size of every backbone, and a key of
    `budget` replaces the budget, which has only one."""
    if key == SIZE:
        for entry in content["compare"]:
            backbone = entry["backbone"]
            entry["backbone"] = (
                {"name": backbone, SIZE: value} if isinstance(backbone, str) else {**backbone, SIZE: value}
            )
        return
    section, *rest = key.split(".")
    if not rest:
        content[section] = value
        return
    if section == "budget":
        content["budget"] = {}
    target = content.setdefault(section, {})
    for part in rest[:-1]:
        target = target.setdefault(part, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise UsageError("this key can't vary", where=where, expected="a key of a section", got=key)
    target[rest[-1]] = value


def _short_names(keys: Collection[str]) -> dict[str, str]:
    """The last word of each key, or the whole key if another ends in the same word."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: word if last[word := key.rpartition(".")[2]] == 1 else key for key in keys}


def _words(value: Any) -> str:
    """A value in a label."""
    if isinstance(value, Mapping | tuple | list):
        return option_label(json.dumps(value, sort_keys=True))
    return option_label(value)
