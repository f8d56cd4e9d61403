"""Seeded mutations of texts and documents: the results of a typo, a broken disk or an attacker."""

from __future__ import annotations

import copy
import json
import random

SCRAPS = (
    "\x00", "\x1b[2J", "\x85", "\u202e", "\ufeff", "\ud800", "\t", "\r", "\n", "---\n", "%YAML 1.1\n", "&a ",
    "*a", "!!python/name:os ",
    "[", "]", "{", "}", "[" * 1000, ": ", "? ", "|", ">", "'", '"', "#", "7" * 5000, "1e999", "-1", "010", "0o17",
    "1_000",
    "2026-11-30", "NaN", "Infinity", ".inf", "null", "true", "x" * 3000, "=cmd()", "<script>", "[red]", "![](x)",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 10**18, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-308,
    float("nan"), float("inf"), "",
    "x",
    "\x1b[2J",
    "../../etc", "a\nb", "=1+1", "\ud800", "x" * 5000, [], {}, [[]], [1, "a"], {"name": "x"}, {"": 0},
)  # fmt: skip


def mutated_text(text: str, draw: random.Random) -> str:
    """A text with one to three signs or lines cut, repeated, swapped or put in."""
    for _ in range(draw.randint(1, 3)):
        at, to = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
        to = min(to, at + draw.choice((1, 3, 20, 200)))
        lines = text.splitlines(keepends=True)
        kind = draw.randrange(7)
        if kind == 0:
            text = text[:at] + draw.choice(SCRAPS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[to:]
        elif kind == 2:
            text = text[:at] + draw.choice(SCRAPS) + text[to:]
        elif kind == 3:
            draw.shuffle(lines)
            text = "".join(lines)
        elif kind == 4 and lines:
            text += draw.choice(lines)
        elif kind == 5:
            text = text[:at] + text[at:to].swapcase() + text[to:]
        else:
            text = text[:to] + text[at:to] + text[to:]
    return text


def mutated_document(document: object, draw: random.Random) -> object:
    """A document with one to three values replaced, left out, renamed or wrapped."""
    document = copy.deepcopy(document)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        kind = draw.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = [holder[key]]
        elif kind == 2 and isinstance(holder, dict):
            holder[draw.choice(("x", key.upper(), key + "s", "\x1b"))] = holder.pop(key)
        elif kind == 3:
            inner = holder[key]
            for _ in range(draw.choice((3, 60, 3000))):
                inner = [inner]
            holder[key] = inner
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return document


def _places(document):
    todo = [document]
    while todo:
        one = todo.pop()
        if isinstance(one, dict | list):
            for key in list(one) if isinstance(one, dict) else range(len(one)):
                yield one, key
                todo.append(one[key])


def as_json(document: object) -> str | None:
    """The document's text; None if it is nested too deeply for Python's writer."""
    try:
        return json.dumps(document)
    except (RecursionError, ValueError):
        return None
