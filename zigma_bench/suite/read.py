"""The strict reader of suite files; an error names file, line, key, the expected and the actual value and the nearest.

Unknown keys, duplicate keys, aliases, quoted numbers and values of another type are errors. Numbers are those of
YAML 1.2: an unquoted `1e-4` is a number, `010` is ten, `no` is text.
"""

from __future__ import annotations

import hashlib
import math
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from zigma_bench.errors import UsageError, names_near, nearest, system_fault
from zigma_bench.escaping import shortened
from zigma_bench.suite.base import Strict
from zigma_bench.suite.data import Data, Latents, TextEncoder
from zigma_bench.suite.recipe import Guidance, Sample, Train
from zigma_bench.suite.sections import (
    Baseline,
    Budget,
    Comparison,
    During,
    Efficiency,
    Reference,
    Select,
    SizeMatch,
    Tuning,
)
from zigma_bench.suite.statistics import Contrast, Margin, Multiplier, Statistics
from zigma_bench.suite.whole import Suite

MAX_BYTES = 256_000
MAX_DEPTH = 50  # levels of nested lists and mappings
MAX_DIGITS = 18
LONGEST = 80  # characters of a key or a setting in a message
DEVICES = (Path("/dev"), Path("/proc"))  # folders of the pipes that a shell opens for a command
OPENING = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken, yaml.FlowSequenceStartToken,
           yaml.FlowMappingStartToken)  # fmt: skip
BRANCHES = ("Choice", "Efficiency", "Baseline", "Guidance", "Statistics", "Multiplier")  # of unions, to pydantic
CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)


@dataclass(frozen=True)
class YamlSource:
    """The place of each key in a suite file, for errors that are raised after reading.

    `question` is the comment in the first line of the suite. `places` maps a key's location to `FILE:LINE`.
    """

    file: str
    question: str
    places: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)
    sha256: str = hashlib.sha256(b"").hexdigest()  # of the text

    def where(self, *location: str | int) -> str:
        """`FILE:LINE, key a.b` of `location`, or of its closest parent with a known line."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.places:
                key = dotted_key(location)
                return f"{self.places[location[:length]]}" + (f", key {shortened(key, LONGEST)}" if key else "")
        return self.file


def load_suite(path: Path, *, settings: Sequence[str] = ()) -> tuple[Suite, YamlSource]:
    """Read a suite file and override its keys with the `settings` (KEY.PATH=VALUE); UsageError for the first fault."""
    text = _read_file(path)
    data, places = parse_yaml(text, str(path))
    for setting in settings:
        _apply_setting(setting, data, places)
    source = YamlSource(str(path), question_of(text), places, hashlib.sha256(text.encode()).hexdigest())
    return validate_sections(Suite, data, source), source


def _read_file(path: Path) -> str:
    """The text of a suite file, without its byte-order mark."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not any(folder in path.parents for folder in DEVICES):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"  # reading a pipe could block forever
            raise UsageError(f"the suite is {kind}", where=str(path), expected="a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise UsageError("there is no such suite", where=str(path), nearest=near) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UsageError(f"the suite can't be read: {system_fault(error) or error}", where=str(path)) from None
    if len(data) > MAX_BYTES:
        raise UsageError("the suite is too large", where=str(path), expected=f"at most {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"the suite can't be read: it is not encoded as UTF-8 (byte {error.start + 1})",
            where=f"{path}:{line}", do="save it as UTF-8",
        ) from None  # fmt: skip


M = TypeVar("M", bound=Strict)


def validate_sections(model: type[M], data: Mapping[str, Any], source: YamlSource) -> M:
    """A mapping as a `model`: a suite, or some of its sections; UsageError for the first fault."""
    try:
        return model.model_validate(_lists_to_tuples(data))
    except pydantic.ValidationError as error:
        raise _explain_fault(error, source) from None


def question_of(text: str) -> str:
    """The question that a suite answers: its first line with text, if that is a comment; else an empty string.

    A byte-order mark, directives, a line of `---` and empty lines are skipped.
    """
    for line in text.removeprefix("\ufeff").splitlines():
        first = line.removeprefix("---").strip() if line.startswith("---") else line.strip()
        if first.strip("# \t") and not line.startswith("%"):
            return first.lstrip("# ").split("     ")[0].strip() if first.startswith("#") else ""
    return ""


def _scalar(loader: Any, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return str(loader.construct_scalar(node))


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(_scalar(loader, node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(_scalar(loader, node)))


def parse_yaml(
    text: str, file: str, *, what: str = "suite", keys: str = "name, data, compare and budget"
) -> tuple[dict[str, Any], dict[tuple[str | int, ...], str]]:
    """The mapping in a YAML text, and the place of every key in it; errors call the text a `what` with such `keys`."""
    loader, node = _compose(text, what, lambda line: f"{file}:{line}")
    if node is None:
        raise UsageError(f"the {what} is empty", where=file, expected=f"keys such as {keys}")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise UsageError(f"the {what} is {kind}", where=f"{file}:1", expected=f"keys such as {keys}")
    places: dict[tuple[str | int, ...], str] = {(): file}
    return _construct_value(loader, node, (), file, places), places


def _compose(text: str, what: str, place: Callable[[int], str]) -> tuple[_Loader, yaml.Node | None]:
    """The checked YAML node tree of a text; `place` formats a line number for errors."""
    try:
        _check_tokens(text, what, place)
        loader = _Loader(text)
        return loader, loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        sign = f"the character {chr(error.character)!r}" if isinstance(error.character, int) else "a character"
        raise UsageError(f"{sign} is not allowed in a {what}", where=place(line)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(filter(None, (error.context, error.problem)))
        raise UsageError(f"this is not valid YAML: {words}", where=place(mark.line + 1 if mark else 1)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"this is not valid YAML: {error}", where=place(1)) from None


def _check_tokens(text: str, what: str, place: Callable[[int], str]) -> None:
    """Raise UsageError for anchors, aliases, tags, and lists and mappings that are nested too deeply."""
    depth = 0
    for token in yaml.scan(text):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
            raise UsageError(f"anchors, aliases and tags are not allowed in a {what}", where=place(line))
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if depth > MAX_DEPTH:
            raise UsageError(
                f"the {what} is nested too deeply", where=place(line), expected=f"at most {MAX_DEPTH} levels"
            )


def _scalar_value(loader: _Loader, node: yaml.Node, where: str) -> Any:
    """The value of a scalar node; UsageError for a number that is too large."""
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
        digits = node.value.lstrip("+-0")
        if node.tag.endswith(":int") and len(digits) > MAX_DIGITS:
            got = f"{len(digits):,} digits"
            raise UsageError(
                "the whole number is too large", where=where, expected=f"at most {MAX_DIGITS} digits", got=got
            )
        if not math.isfinite(float(node.value)):
            raise UsageError(
                "the number is too large", where=where, expected="a finite number", got=shortened(node.value, LONGEST)
            )
    return loader.construct_object(node)


def _construct_value(
    loader: _Loader,
    node: yaml.Node,
    location: tuple[str | int, ...],
    file: str,
    places: dict[tuple[str | int, ...], str],
) -> Any:
    line = f"{file}:{node.start_mark.line + 1}"
    places[location] = line if location else file
    if isinstance(node, yaml.SequenceNode):
        return [_construct_value(loader, item, (*location, i), file, places) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar_value(
            loader, node, f"{line}, key {shortened(dotted_key(location), LONGEST)}" if location else line
        )
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = f"{file}:{key_node.start_mark.line + 1}"
        key = (
            _scalar_value(loader, key_node, line)
            if isinstance(key_node, yaml.ScalarNode)
            else key_node.tag.split(":")[-1]
        )
        if not isinstance(key, str) or not isinstance(key_node, yaml.ScalarNode):
            raise UsageError("a key is not text", where=line, got=key)
        if len(key) > LONGEST:
            raise UsageError("a key is too long", where=line, expected=f"at most {LONGEST} characters", got=key)
        if key in found:
            raise UsageError(f"the key {shortened(key, LONGEST)!r} is listed twice", where=line, do="remove one")
        found[key] = _construct_value(loader, value_node, (*location, key), file, places)
        places[(*location, key)] = line
    return found


def parse_value(text: str, where: str) -> Any:
    """The value of a YAML text from the command line; `where` names its option in errors."""
    loader, node = _compose(text, "value", lambda line: where)
    if isinstance(node, yaml.ScalarNode):
        return _scalar_value(loader, node, where)
    return None if node is None else _construct_value(loader, node, (), where, {})


def _apply_setting(setting: str, data: dict[str, Any], places: dict[tuple[str | int, ...], str]) -> None:
    key, equals, value = setting.partition("=")
    where = f"--set {shortened(setting, LONGEST)}"
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) > MAX_DEPTH:
        raise UsageError("not a KEY=VALUE setting", where=where, expected="KEY.PATH=VALUE, such as budget.images=20000")
    target: Any = data
    location: list[str | int] = []
    for part in parts[:-1]:
        step = _path_step(target, part, where)
        inner = target.get(step) if isinstance(target, dict) else target[step]
        if not isinstance(inner, dict | list):  # `raster` becomes `{name: raster}`, an absent key an empty mapping
            target[step] = {"name": inner} if isinstance(inner, str) else {}
        target = target[step]
        location.append(step)
    last = _path_step(target, parts[-1], where)
    target[last] = parse_value(value, where)
    places[(*location, last)] = where


def _path_step(target: Any, part: str, where: str) -> str | int:
    if isinstance(target, dict):
        return part
    if part.isascii() and part.isdigit() and len(part) <= MAX_DIGITS and int(part) < len(target):
        return int(part)
    raise UsageError(
        f"{shortened(part, LONGEST)!r} is not an index of the list",
        where=where,
        expected=f"an index from 0 to {len(target) - 1}",
    )


def _lists_to_tuples(value: Any) -> Any:
    """The value with all lists converted to tuples, as the frozen models require."""
    if isinstance(value, list):
        return tuple(_lists_to_tuples(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return value


def _explain_fault(error: pydantic.ValidationError, source: YamlSource) -> UsageError:
    """The UsageError for the first fault that pydantic found."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]  # an unknown key comes first: a misspelt key also causes the fault "missing"
    location = _place_of(fault["loc"], source)
    rest = f"; {len(faults) - 1} more fault(s) follow" if len(faults) > 1 else ""
    where = source.where(*location)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return UsageError(
            f"unknown key {shortened(str(location[-1]), LONGEST)!r}{rest}",
            where=where,
            expected=f"one of {names_near(str(location[-1]), known)}",
            nearest=nearest(str(location[-1]), known),
        )
    if fault["type"] == "missing_key":
        return UsageError(f"the key {fault['msg']!r} is missing{rest}", where=where)
    if fault["type"] == "missing":
        return UsageError(f"the key {dotted_key(location)!r} is missing{rest}", where=source.where(*location[:-1]))
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "should be").replace("a valid tuple", "a list")
    got = _plain(fault["input"]) if location else None  # not the whole suite
    return UsageError(f"{message}{rest}", where=where, got=got)


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the model at a place of a suite."""
    model: Any = Suite
    for position, part in enumerate(location):
        if location[:1] == ("statistics",) and location[position - 1 : position] in (("family",), ("margin",)):
            model = {"family": Contrast, "margin": Margin}[str(location[position - 1])]  # keys that the suite names
        elif isinstance(part, str):
            model = {
                "compare": Comparison, "baseline": Baseline, "budget": Budget, "train": Train, "sample": Sample,
                "reference": Reference, "efficiency": Efficiency, "size_match": SizeMatch, "guidance": Guidance,
                "data": Data, "latents": Latents, "text": TextEncoder, "tuning": Tuning, "during": During,
                "select": Select, "statistics": Statistics, "multiplier": Multiplier,
            }.get(part, model)  # fmt: skip
    return sorted(model.model_fields)


def _place_of(parts: Sequence[str | int], source: YamlSource) -> tuple[str | int, ...]:
    """A fault's location without the parts that pydantic adds; keys that the suite contains always stay."""
    location: tuple[str | int, ...] = ()
    for part in parts:
        if _is_place(part) or (*location, part) in source.places:
            location = (*location, part)
    return location


def _is_place(part: str | int) -> bool:
    """Whether a part of a location is a key or an index; pydantic adds the names of union branches."""
    return isinstance(part, int) or (part not in BRANCHES and not re.search(r"[\[(]", part))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def dotted_key(location: Iterable[str | int]) -> str:
    """A location in the syntax of `--set`: `compare.0.scans.1`."""
    return ".".join(map(str, location))
