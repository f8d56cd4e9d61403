"""The parts of pages that are generated when the site is built: every key of a suite, and every command.

A page says where with a line such as `<!-- generated: suite_keys -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_SECTIONS = {  # definitions of the schema, and where they are in a suite
    "Comparison": "compare[]", "OwnRecipe": "compare[].train", "Baseline": "baseline", "Data": "data",
    "Latents": "data.latents", "TextEncoder": "data.text", "Budget": "budget", "SizeMatch": "size_match",
    "Train": "train", "Sample": "sample", "Guidance": "sample.guidance", "Reference": "reference",
    "Tuning": "tuning", "During": "during", "Select": "select", "Efficiency": "efficiency", "Statistics": "statistics",
    "Contrast": "statistics.family.NAME", "Margin": "statistics.margin.NAME", "Multiplier": "statistics.multiplier",
}  # fmt: skip
_OTHERS = {"Choice"}  # a name with options, which has no keys of its own


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page: put the generated parts in."""
    generators = {"suite_keys": suite_keys, "commands": commands}
    return _PLACE.sub(lambda found: generators[found[1]](), markdown)


def suite_keys() -> str:
    """The keys of each section of a suite as tables, from its JSON schema."""
    from zigma_bench.suite import Suite

    schema = Suite.model_json_schema()
    definitions = schema["$defs"]
    assert set(definitions) == set(_SECTIONS) | _OTHERS, "a section of the schema has no place here"
    parts = [_section("The suite", schema, definitions)]
    parts += [_section(f"`{place}`", _mapping_of(definitions[name]), definitions) for name, place in _SECTIONS.items()]
    return "\n\n".join(parts)


def _mapping_of(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a definition that has keys; a section may also be a single word."""
    return next(part for part in definition.get("anyOf", [definition]) if "properties" in part)


def _section(title: str, part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_type(field)} | {_default(key, field, part)} | {_text(field, definitions)} |"
        for key, field in part["properties"].items()
    ]
    text = part.get("description", "").replace("\n", " ").replace("  ", "\n\n")
    return "\n".join([f"### {title}", "", text, "", "| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _text(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a key does; the text of its section if it has none of its own."""
    text = field.get("description")
    if text is None:
        text = definitions[_references(field)[0]]["description"]
    return " ".join(text.split()).replace("|", "\\|")


def _references(field: Any) -> list[str]:
    """The names of the definitions that a field refers to."""
    if isinstance(field, Mapping):
        own = [field["$ref"].rpartition("/")[2]] if "$ref" in field else []
        return own + [name for value in field.values() for name in _references(value)]
    return [name for value in field for name in _references(value)] if isinstance(field, list) else []


def _type(field: Mapping[str, Any]) -> str:
    """A type in words, with its bounds."""
    if "$ref" in field:
        name = _references(field)[0]
        return (
            f"[`{_SECTIONS[name]}`](#{_anchor(_SECTIONS[name])})"
            if name in _SECTIONS
            else "a name, or name and options"
        )
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_type(option) for option in field[key]))
    if field["type"] == "array":
        items = field.get("items") or {"type": "any"}
        if "prefixItems" in field:
            return "[" + ", ".join(_type(item) for item in field["prefixItems"]) + "]"
        return f"list of {_type(items)}".replace("whole number", "whole numbers")
    if field["type"] == "object" and "additionalProperties" in field:
        return f"mapping of names to {_type(field['additionalProperties'])}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return names.get(field["type"], f"`{field['type']}`") + _bounds(field)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w-]", "", title.lower())


def _bounds(field: Mapping[str, Any]) -> str:
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    if high is None or high >= 1e9:
        return f" above {_number(low)}" if "exclusiveMinimum" in field else f" from {_number(low)}"
    return f" from {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _default(key: str, field: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    if key in part.get("required", ()):
        return "required"
    default = field.get("default")
    if isinstance(default, dict):
        return ""
    return "" if default is None else f"`{default}`".replace("True", "true").replace("False", "false")


def commands() -> str:
    """The help of every command, with its examples, arguments and options."""
    import typer

    from zigma_bench.cli.app import app

    return "\n\n".join(_command_help(typer.main.get_command(app), "zigma-bench"))


def _command_help(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    yield f"{'##' if ' ' not in name else '###'} `{name}`\n\n{_paragraphs(command.help)}"
    if command.epilog:
        _, *examples = command.epilog.replace("\\[", "[").split("\n\n")
        yield "```sh\n" + "\n".join(line.removeprefix("$ ") for line in examples) + "\n```"
    rows = [_parameter(one) for one in command.params if getattr(one, "help", None)]
    if rows:
        yield "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])
    for child in command.list_commands(None) if children else ():
        yield from _command_help(children[child], f"{name} {child}")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _parameter(one: Any) -> str:
    """A row of a table: an option or an argument, its default and its help."""
    is_option = one.param_type_name == "option"
    name = ", ".join(f"`{flag}`" for flag in one.opts) if is_option else f"`{one.metavar or one.name.upper()}`"
    default = "" if one.default in (None, False) or callable(one.default) else f"`{one.default}`"
    text = " ".join(one.help.split()).replace("|", "\\|")
    return f"| {name} | {default} | {text} |"
