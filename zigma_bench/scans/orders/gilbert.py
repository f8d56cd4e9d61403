"""The generalised Hilbert curve on any rectangle, built recursively with a cache for equal pieces.

A piece is a rectangle with two vectors: the main direction of the curve (`along`) and the other side (`across`). A
piece that is not a line is split into two or three smaller ones. Equal pieces have the same curve, so each is built
once.
Source: the rule of J. Cerveny's generalised Hilbert curve, as used by CompVis/zigma with x = row and y = column.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Vector = tuple[int, int]


def gilbert(height: int, width: int) -> Ints:
    """Flat row-major indices [H W] along the curve. It starts at (0, 0) and goes down first unless W > H.

    Every step goes to a neighbour, except for one diagonal step on some grids with an odd side.
    """
    down, right = (height, 0), (0, width)
    places = _curve(down, right, {}) if height >= width else _curve(right, down, {})
    return places[:, 0] * width + places[:, 1]


def _curve(along: Vector, across: Vector, known: dict[tuple[Vector, Vector], Ints]) -> Ints:
    """The (row, column) of each cell of a piece that starts at (0, 0), in the order of the curve: [n, 2]."""
    key = (along, across)
    if key not in known:
        parts = _parts(along, across)
        if len(parts) == 1:
            vector = along if _length(across) == 1 else across
            known[key] = np.arange(_length(vector))[:, None] * np.array(_unit(vector))
        else:
            known[key] = np.concatenate([_curve(a, b, known) + np.array(start) for start, a, b in parts])
    return known[key]


def _parts(a: Vector, b: Vector) -> list[tuple[Vector, Vector, Vector]]:
    """Split a piece into smaller ones: (start, along, across) each. A line is not split."""
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
    """Half a vector, rounded down; if that is odd, one longer, so that the curve ends on the correct side."""
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
