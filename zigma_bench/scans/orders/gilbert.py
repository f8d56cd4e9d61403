"""The generalised Hilbert curve of any rectangle, built from the few shapes of piece that it falls into.

A piece is a rectangle with a vector along which it is walked and one across. A piece that is no line falls into two or
three smaller ones, and equal pieces are walked alike, so each shape is laid out once.
Source: the rule of J. Cerveny's generalised Hilbert curve, as CompVis/zigma uses it with x = row and y = column.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Vector = tuple[int, int]


def gilbert(height: int, width: int) -> Ints:
    """Flat row-major indices [H W] along the curve: starts at (0, 0) and goes down first unless W > H.

    Every step goes to a neighbour, but for one diagonal step on some grids with an odd side.
    """
    down, right = (height, 0), (0, width)
    places = _walk(down, right, {}) if height >= width else _walk(right, down, {})
    return places[:, 0] * width + places[:, 1]


def _walk(along: Vector, across: Vector, known: dict[tuple[Vector, Vector], Ints]) -> Ints:
    """Row and column of every cell of a piece that starts at (0, 0), in the order of the walk: [n, 2]."""
    key = (along, across)
    if key not in known:
        parts = _parts(along, across)
        if len(parts) == 1:
            vector = along if _length(across) == 1 else across
            known[key] = np.arange(_length(vector))[:, None] * np.array(_unit(vector))
        else:
            known[key] = np.concatenate([_walk(a, b, known) + np.array(start) for start, a, b in parts])
    return known[key]


def _parts(a: Vector, b: Vector) -> list[tuple[Vector, Vector, Vector]]:
    """The pieces of a piece, each with its start, its vector along and its vector across; a line is one."""
    if 1 in (_length(a), _length(b)):
        return [((0, 0), a, b)]
    if 2 * _length(a) > 3 * _length(b):
        half = _even_half(a)
        return [((0, 0), half, b), (half, _minus(a, half), b)]
    half_a, half_b = (a[0] // 2, a[1] // 2), _even_half(b)
    back = _plus(_minus(a, _unit(a)), _minus(half_b, _unit(b)))
    return [
        ((0, 0), half_b, half_a),
        (half_b, a, _minus(b, half_b)),
        (back, _minus((0, 0), half_b), _minus(half_a, a)),
    ]


def _even_half(vector: Vector) -> Vector:
    """Half a vector rounded down, then made longer by one if it is odd, so that the walk ends on the right side."""
    half = (vector[0] // 2, vector[1] // 2)
    return _plus(half, _unit(vector)) if _length(half) % 2 and _length(vector) > 2 else half


def _length(vector: Vector) -> int:
    return abs(vector[0] + vector[1])


def _unit(vector: Vector) -> Vector:
    return ((vector[0] > 0) - (vector[0] < 0), (vector[1] > 0) - (vector[1] < 0))


def _plus(one: Vector, other: Vector) -> Vector:
    return (one[0] + other[0], one[1] + other[1])


def _minus(one: Vector, other: Vector) -> Vector:
    return (one[0] - other[0], one[1] - other[1])
