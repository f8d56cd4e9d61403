"""The route of one layer: its scan paths, their segments, and the merge of their outputs.

A scan only defines the order in which tokens are visited. The framework adds the inverse, the checks and the digest.

K paths, S steps of a path, L tokens of the grid. S = L unless a path has pads or the paths split the tokens.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zigma_bench.errors import NotReady, UnknownName
from zigma_bench.plugins.discovery import BUILTIN, find_spec
from zigma_bench.plugins.registry import MergeFacts
from zigma_bench.scans.grid import Grid

Ints = npt.NDArray[np.int64]
Share = Literal["separate", "shared"]
PAD = -1  # in a path: an inserted token that isn't a cell of the grid
FEW_FEATURES = 16  # step features may have this many distinct ids, or as many as steps if the path is longer


class BrokenScan(NotReady):
    """A scan failed, or its result isn't an order of the tokens."""


@dataclass(frozen=True)
class LearnedOrder:
    """An order that a module computes from the features of each sample.

    `load()` returns the class, built as `Module(options, width=, grid=, layer=, depth=)` and called as
    `module(x [B, L, D])`. The module returns paths int64 [B, K, L] and a weight [B, L] or None. Tokens are multiplied
    by the weight before the mixer, so that gradients reach the module (a straight-through weight is 1 in the forward
    pass). `cost(options, width=, grid=)` is its `registry.Cost`; `options` are its options, ready for JSON.
    """

    target: str
    options: Mapping[str, Any]
    layer: int
    depth: int
    cost: Callable[..., Any] = field(compare=False)
    load: Callable[[], Callable[..., Any]] = field(compare=False)
    make_options: Callable[[Mapping[str, Any]], Any] = field(compare=False)

    @property
    def key(self) -> dict[str, Any]:
        """The part of the route's digest that describes this order."""
        return {"target": self.target, "options": dict(self.options), "layer": self.layer, "depth": self.depth}


@dataclass(frozen=True, eq=False)
class Route:
    """The scan paths of one layer and the operations along them. Arrays are read-only copies; one path may be [S].

    `paths` [K, S]: the token that path k visits at step i, or -1 for a pad.
    `merge`: the name of a registered merge. The built-in ones: `sum` or `mean` of the paths' outputs; `concat`: path k
    processes the k-th of K channel groups (equal compute); `gate`: weights per sample, by a softmax over the paths;
    `channel-attention`: weights per path and channel; `scatter`: the paths split the tokens; `cascade`: each stage
    reads the output of the previous one.
    `share`: one set of parameters for all paths (`shared`), or one per path (`separate`). Without effect if K = 1.
    `segments`: lengths of independent segments, for all paths or per path; each has a new state and convolution.
    `pads` [K, P]: the row of a learned table for each pad of a path, in path order; by default pads are zeros.
    `step_feature` [K, S]: an id per step (such as a direction) whose learned vector is added to B.
    `stages`: the number of paths that each stage of a cascade sums; by default one.
    `learned`: the order is computed from the features, and only the number of `paths` counts.
    Raises BrokenScan for invalid values.
    """

    paths: Ints
    merge: str = "sum"
    share: Share = "separate"
    segments: tuple[Ints, ...] | None = None
    pads: Ints | None = None
    step_feature: Ints | None = None
    stages: tuple[int, ...] | None = None
    learned: LearnedOrder | None = None

    def __post_init__(self) -> None:
        if self.share not in (allowed := typing.get_args(Share)):
            raise BrokenScan("a route has an unknown share", expected=" or ".join(allowed), got=self.share)
        facts = _known_merge(self.merge)
        self._set("paths", _whole_numbers("path", self.paths))
        if self.segments is not None:
            self._set("segments", _segment_lengths(self.segments, self.K, self.steps))
        if self.pads is not None:
            self._set("pads", self._checked_pads())
        if self.step_feature is not None:
            self._set("step_feature", self._checked_features())
        if self.stages is not None and not facts.has_stages:
            raise BrokenScan("only a merge of stages has stages", expected="stages=None", got=self.stages)
        if facts.has_stages:
            self._set("stages", (1,) * self.K if self.stages is None else self._checked_stages())
        if self.learned is not None and facts.splits_tokens:
            raise BrokenScan("a learned order visits all tokens", expected="another merge", got=self.merge)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _checked_pads(self) -> Ints:
        pads = _whole_numbers("pads", self.pads)
        counts = (self.paths == PAD).sum(1)
        if len(pads) != self.K or (counts != pads.shape[1]).any():
            raise BrokenScan(
                "the pads have a wrong shape",
                expected=f"a row of the table for each -1: {counts.tolist()} in the paths",
                got=pads.shape,
            )
        used = np.unique(pads)
        if not np.array_equal(used, np.arange(len(used))):
            raise BrokenScan("the pads skip rows of their table", expected="0, 1, 2, ...", got=used.tolist()[:20])
        return pads

    def _checked_features(self) -> Ints:
        ids = _whole_numbers("step features", self.step_feature)
        if ids.shape != self.paths.shape or ids.min() < 0 or ids.max() >= max(self.steps, FEW_FEATURES):
            raise BrokenScan(
                "the step features don't fit the paths",
                expected=f"integers {self.paths.shape} from 0 to {max(self.steps, FEW_FEATURES) - 1}",
                got=f"{ids.shape}, {ids.min()} to {ids.max()}",
            )
        return ids

    def _checked_stages(self) -> tuple[int, ...]:
        stages = self.stages
        counts = isinstance(stages, tuple | list) and all(type(count) is int and count > 0 for count in stages)
        if not counts or sum(stages or ()) != self.K:
            raise BrokenScan("the stages don't fit the paths", expected=f"counts that add up to {self.K}", got=stages)
        return tuple(stages or ())

    @property
    def merge_facts(self) -> MergeFacts:
        """What the merge's plugin registered about it."""
        return _known_merge(self.merge)

    @property
    def K(self) -> int:
        """K, the number of paths."""
        return len(self.paths)

    @property
    def steps(self) -> int:
        """S, the number of steps of a path, including pads."""
        return int(self.paths.shape[1])

    @property
    def tokens(self) -> int:
        """L, the number of tokens of the grid. Only valid for a checked route, which visits all tokens."""
        return int(self.paths.max()) + 1

    @property
    def pad_count(self) -> int:
        """The number of pads in all paths."""
        return int((self.paths == PAD).sum())

    @property
    def pad_rows(self) -> int:
        """The number of rows in the learned table of pads."""
        return 0 if self.pads is None or not self.pads.size else int(self.pads.max()) + 1

    @property
    def features(self) -> int:
        """The number of rows in the learned table of step features."""
        return 0 if self.step_feature is None else int(self.step_feature.max()) + 1

    @property
    def bijective(self) -> bool:
        """Whether every path visits every token once, without pads, in one segment."""
        return self.segments is None and not self.merge_facts.splits_tokens and self.steps == self.tokens

    @property
    def scanned_ratio(self) -> float:
        """The number of scanned tokens divided by L. With `concat`, a token counts by its share of the channels."""
        ratio = self.paths.size / self.tokens
        return ratio / self.K if self.merge_facts.splits_channels else ratio

    @cached_property
    def inverse(self) -> Ints:
        """int64 [K, L], read-only: the step at which path k visits a token, or -1. Only valid for a checked route."""
        inverse = np.full((self.K, self.tokens), -1, dtype=np.int64)
        for row, path in zip(inverse, self.paths, strict=True):
            steps = np.flatnonzero(path >= 0)
            row[path[steps]] = steps
        return _freeze_array(inverse)

    @cached_property
    def segment_starts(self) -> Ints | None:
        """int64 [K, S]: the first step of each step's segment; None if there is only one segment."""
        if self.segments is None:
            return None
        return _freeze_array(np.stack([np.repeat(np.cumsum(n) - n, n) for n in self.segments]))

    @cached_property
    def digest(self) -> str:
        """sha256 of all fields and of the owner of a plugin merge, 64 hex digits. Equal only for equal routes."""
        header: dict[str, Any] = {"merge": self.merge, "share": self.share, "shape": self.paths.shape}
        if (owner := find_spec("merge", self.merge).owner) != BUILTIN:
            header["merge_owner"] = owner
        arrays = [self.paths]
        for name in ("pads", "step_feature"):
            if (array := getattr(self, name)) is not None:
                header[name] = array.shape
                arrays.append(array)
        if self.segments is not None:
            header["segments"] = [len(lengths) for lengths in self.segments]
            arrays += self.segments
        if self.stages is not None:
            header["stages"] = self.stages
        if self.learned is not None:
            header["learned"] = self.learned.key
        found = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + b"\0")
        for array in arrays:
            found.update(array.astype("<i8", copy=False).tobytes())
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Route) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def check(self, grid: Grid, who: str) -> None:
        """Raise BrokenScan, with `who` as its place, unless every path visits every token of the grid exactly once.

        Where the merge splits the tokens, the paths must do so together.
        """
        together = self.merge_facts.splits_tokens
        checked = [self.paths.reshape(-1)] if together else list(self.paths)
        for number, path in enumerate(checked):
            if _visits_all(path, grid.tokens):
                continue
            what, do = _path_fault(path, grid.tokens, self.steps if together else None)
            raise BrokenScan(
                ("the paths together: " if together else f"path {number}: ") + what,
                where=who,
                expected=f"each of the {grid.tokens} tokens of the grid {grid} exactly once",
                do=do,
            )


def _known_merge(name: Any) -> MergeFacts:
    """What is registered about a merge; BrokenScan for a name that no merge has."""
    if not isinstance(name, str):
        raise BrokenScan("the merge of a route is a name", expected="a text", got=name)
    try:
        facts: MergeFacts = find_spec("merge", name).facts
    except UnknownName as error:
        raise BrokenScan(
            "a route has an unknown merge", expected=error.expected, got=name, nearest=error.nearest, do=error.do
        ) from None
    return facts


def _freeze_array(array: Ints) -> Ints:
    array.flags.writeable = False
    return array


def _whole_numbers(what: str, value: Any) -> Ints:
    """Copy a scan's array to read-only, C-contiguous int64 [K, S]. `what`: its name for errors, such as `path`."""
    try:
        array = np.asarray(value)
    except ValueError:  # NumPy raises it for rows of different lengths
        words = "the paths have different lengths" if what == "path" else f"the {what} have rows of different lengths"
        raise BrokenScan(words, expected="integers [L] or [K, L]") from None
    if array.ndim not in (1, 2) or array.size == 0:
        raise BrokenScan(
            "the scan returned an array of a wrong shape" + ("" if what == "path" else f" as its {what}"),
            expected="[L] (one path) or [K, L] (several), not empty",
            got=array.shape,
            do="return one flat index per step" if array.size else "return at least one path",
        )
    if array.dtype.kind not in "iu":
        odd = (place for place, item in enumerate(array.flat) if not isinstance(item, int | np.integer))
        path, step = divmod(next(odd, 0), array.shape[-1])
        raise BrokenScan(
            f"{what} {path}: step {step} is {np.atleast_2d(array).tolist()[path][step]!r}, not an integer",
            expected="an array of integers",
            got=str(array.dtype),
            do="build the path from integers, such as those of np.arange",
        )
    return _freeze_array(np.array(np.atleast_2d(array), dtype=np.int64, order="C"))


def _segment_lengths(value: Any, count: int, steps: int) -> tuple[Ints, ...]:
    """The segment lengths of each path, from one list for each path or one list for all."""
    expected = f"lengths of at least 1 that add up to {steps}, in one list or in one for each of {count} path(s)"
    rows = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else []
    nested = [isinstance(row, Sequence | np.ndarray) for row in rows]
    if not rows or any(nested) != all(nested):
        raise BrokenScan("the segments are not lists of lengths", expected=expected, got=value)
    rows = rows if all(nested) else [rows] * count
    if len(rows) != count:
        raise BrokenScan(
            "the number of segment lists differs from the number of paths", expected=expected, got=len(rows)
        )
    found = []
    for row in rows:
        lengths = np.array(row)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.min(initial=1) < 1 or lengths.sum() != steps:
            raise BrokenScan("the segments don't fit the path", expected=expected, got=lengths.tolist()[:20])
        found.append(_freeze_array(lengths.astype(np.int64)))
    return tuple(found)


def _visits_all(path: Ints, tokens: int) -> bool:
    """Whether a path visits every token exactly once. Pads are ignored."""
    real = path if path.min() >= 0 else path[path != PAD]
    if len(real) != tokens or real.min() < 0 or real.max() >= tokens:
        return False
    seen = np.zeros(tokens, dtype=bool)
    seen[real] = True
    return bool(seen.all())


def _path_fault(path: Ints, tokens: int, steps: int | None) -> tuple[str, str]:
    """The first fault of a path and its remedy. `steps`: the steps per path, if `path` is several paths end to end."""

    def place(step: int) -> str:
        return f"step {step}" if steps is None else f"path {step // steps}, step {step % steps}"

    outside = np.flatnonzero((path < PAD) | (path >= tokens))
    if len(outside):
        step = int(outside[0])
        what = f"{place(step)} visits token {path[step]}, outside 0 to {tokens - 1}"
        return what, "a flat index is (t*H + r)*W + c, and -1 a pad"
    where = np.flatnonzero(path != PAD)
    real = path[where]
    first = np.full(tokens, len(path))
    np.minimum.at(first, real, where)
    again = np.flatnonzero(first[real] < where)
    never = np.flatnonzero(first == len(path))
    length = "" if len(real) == tokens else f"it has {len(real)} steps for {tokens} tokens; "
    missing = f"token {never[0]} is never visited" if len(never) else ""
    if len(again):
        step = int(where[again[0]])
        token = int(path[step])
        twice = f"{place(step)} visits token {token} again, first visited at {place(int(first[token]))}"
        return length + twice + (f"; {missing}" if missing else ""), "visit no token twice"
    return f"{length}{missing} (the path ends at {place(len(path) - 1)})", "visit the missing tokens too"
