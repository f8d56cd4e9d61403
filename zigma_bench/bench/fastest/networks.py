"""The networks that `fastest` ranks: every backbone with every mixer and every backend. Doesn't import torch.

All networks have the same width and patch, and as many layers as come closest to the parameters of the reference, a
DiT. A backbone without these options keeps its own defaults. Everything that can't be ranked has a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zigma_bench.errors import NotReady, UsageError, ZigmaBenchError
from zigma_bench.ops.backend import Backend
from zigma_bench.ops.backends import BACKENDS
from zigma_bench.plan import Resolved, cell_routes
from zigma_bench.plan.resolve import resolve_option
from zigma_bench.plugins.discovery import Catalogue
from zigma_bench.plugins.registry import Condition, Cost, DataFacts, Spec
from zigma_bench.scans.grid import Grid
from zigma_bench.suite import Choice

ATTENTION = "dit"  # the backbone that linear-time networks are compared with
PATCH, CHANNELS = 2, 4  # as in a latent space
SIZES = {"cpu": {"width": 64, "depth": 3}, "cuda": {"width": 768, "depth": 12}}  # of the reference; on a GPU DiT-B
DEFAULT_SCAN = "raster"
PROBES = (Grid(8, 8), Grid(8, 16), Grid(8, 32))  # to see how the FLOPs grow; small, since a cost may be counted
GROWTH = 1e-3  # of the FLOPs: a larger quadratic part makes a network quadratic
PROBE_DEPTHS = (5, 7)  # odd for U-ViT, and enough for one layer of attention in a hybrid
FARTHEST = 4  # layers from the best depth in which the next valid depth is searched
LONGEST_LOOP = 256  # tokens: a loop over the steps in Python is not timed on more
CLASSES, TEXT_WIDTH, TEXT_TOKENS = 1000, 768, 77  # of backbones that need a condition


@dataclass(frozen=True)
class Network:
    """A network to rank.

    `mixer`: the registered mixer, or None for a backbone that has no option for it. `backend`: None for a backbone that
    uses no operator with backends. `linear`: whether its time grows linearly with the number of tokens; None if that is
    unknown. `mixes`: False for a control in which tokens exchange no information; it is timed, and never wins.
    `matched`: whether its size was chosen; else it has the defaults of its backbone.
    """

    backbone: Resolved
    scan: Resolved | None
    mixer: str | None
    backend: str | None
    linear: bool | None
    mixes: bool
    matched: bool

    @property
    def label(self) -> str:
        """`zigma · mamba · fused`."""
        return " · ".join(filter(None, (*self.kind, self.backend)))

    @property
    def kind(self) -> tuple[str, str | None]:
        """The backbone and the mixer, which networks on different backends share."""
        return self.backbone.name, self.mixer

    @property
    def traceable(self) -> bool:
        """Whether PyTorch can compile the network: it can't trace the calls of some backends."""
        return self.backend is None or BACKENDS[self.backend].traceable


@dataclass(frozen=True)
class Refused:
    """Something that is not ranked, and why."""

    label: str
    reason: str


def find_networks(
    catalogue: Catalogue, device_type: str, grid: Grid, preferred: str | None = None
) -> tuple[list[Network], list[Refused]]:
    """All networks that may be timed on a type of device, and what is refused already.

    The attention baseline comes first. Default mixers come before other mixers, the backend `preferred` before other
    backends, linear-time networks before others, and controls and loops in Python last.
    """
    size = SIZES[device_type]
    target = _reference_parameters(catalogue, size)
    found: list[tuple[float, Network]] = []
    backends, refused = _usable_backends(device_type, grid)
    for spec in catalogue.backbones:
        for place, mixer in enumerate(_mixers_of(spec, catalogue)):
            label = " · ".join(filter(None, (spec.name, mixer)))
            try:
                made = _describe(spec, mixer, catalogue, grid, size["width"], target)
            except ZigmaBenchError as error:
                refused.append(Refused(label, str(error)))
                continue
            for backend in (None,) if spec.facts.order == "free" else backends:
                one = Network(**{**made, "backend": backend})
                found.append((_place(one, place == 0, preferred), one))
    return [one for _, one in sorted(found, key=lambda item: item[0])], refused


def _place(network: Network, is_default: bool, preferred: str | None) -> float:
    """Where a network is in the order in which networks are timed; `is_default`: it has the default mixer."""
    if network.backbone.name == ATTENTION:
        return -1.0
    loops = network.backend is not None and BACKENDS[network.backend].loops_in_python
    others = network.backend not in (None, preferred)
    return 10.0 * loops + (not is_default) + others + (not network.mixes) + 0.5 * (not network.linear)


def _reference_parameters(catalogue: Catalogue, size: dict[str, int]) -> int:
    """The parameters of the reference, on the smallest probe."""
    spec = catalogue.get("backbone", ATTENTION)
    return _cost(spec, _resolve(spec, None, catalogue, size), None, PROBES[0], catalogue).parameters


def _mixers_of(spec: Spec, catalogue: Catalogue) -> list[str | None]:
    """The mixers that a backbone can have, its default first; None for a backbone without a choice."""
    option = next((option for option in spec.options if option.name == "mixer"), None)
    if option is None:
        return [None]
    names: list[str | None] = [mixer.name for mixer in catalogue.mixers]
    return sorted(names, key=lambda name: name != option.default)


def _usable_backends(device_type: str, grid: Grid) -> tuple[list[str], list[Refused]]:
    """The backends to try on a type of device, and those that are refused for every network."""
    reasons = {name: _why_not_timed(backend, device_type, grid) for name, backend in BACKENDS.items()}
    usable = [name for name, reason in reasons.items() if reason is None]
    return usable, [Refused(f"backend {name}", reason) for name, reason in reasons.items() if reason is not None]


def _why_not_timed(backend: Backend, device_type: str, grid: Grid) -> str | None:
    """Why a backend isn't timed on this type of device; None if only the machine can tell."""
    try:
        backend.check_device(device_type)
    except NotReady as error:
        return str(error)
    if backend.loops_in_python and grid.tokens > LONGEST_LOOP:
        return f"a loop over the tokens in Python, the reference for correctness: not timed above {LONGEST_LOOP} tokens"
    return None


def _describe(
    spec: Spec, mixer: str | None, catalogue: Catalogue, grid: Grid, width: int, target: int
) -> dict[str, Any]:
    """The fields of a network, except its backend. NotReady or UsageError if it can't have this mixer or this grid."""
    scan = None
    if spec.facts.order == "scan":
        scan = resolve_option(catalogue, "scan", Choice(name=spec.facts.default_scan or DEFAULT_SCAN), spec.name)
    backbone, matched = _size(spec, mixer, scan, catalogue, width, target)
    options = spec.make_options(backbone.options)
    routes = cell_routes(scan, grid=grid, depth=options.depth, seed=0, catalogue=catalogue)
    if spec.facts.check is not None:
        spec.facts.check(options, grid=grid, routes=routes)
    mixes = mixer is None or catalogue.get("mixer", mixer).facts.mixes_tokens
    linear = _is_linear(spec, backbone, scan, catalogue)
    return {
        "backbone": backbone, "scan": scan, "mixer": mixer, "backend": None, "linear": linear, "mixes": mixes,
        "matched": matched,
    }  # fmt: skip


def _size(
    spec: Spec, mixer: str | None, scan: Resolved | None, catalogue: Catalogue, width: int, target: int
) -> tuple[Resolved, bool]:
    """The backbone with this width and the depth whose parameters are closest to the target, and whether it has both
    options; else with its own defaults."""
    known = {option.name for option in spec.options}
    if not {"width", "depth"} <= known:
        return _resolve(spec, mixer, catalogue, {}), False

    def parameters(depth: int) -> int:
        backbone = _resolve(spec, mixer, catalogue, {"width": width, "depth": depth})
        return _cost(spec, backbone, scan, PROBES[0], catalogue).parameters

    first, second = map(parameters, PROBE_DEPTHS)  # parameters are an affine function of the depth
    each = (second - first) / (PROBE_DEPTHS[1] - PROBE_DEPTHS[0])
    best = max(1, round(PROBE_DEPTHS[0] + (target - first) / each)) if each > 0 else PROBE_DEPTHS[0]
    last: ZigmaBenchError | None = None
    for depth in sorted(range(max(1, best - FARTHEST), best + FARTHEST + 1), key=lambda depth: abs(depth - best)):
        try:
            parameters(depth)
            return _resolve(spec, mixer, catalogue, {"width": width, "depth": depth}), True
        except (NotReady, UsageError) as error:
            last = error
    assert last is not None
    raise last


def _resolve(spec: Spec, mixer: str | None, catalogue: Catalogue, size: dict[str, int]) -> Resolved:
    """A backbone with these options, the common patch, and a condition if it needs one."""
    known = {option.name for option in spec.options}
    values: dict[str, Any] = {**size, **({"patch": PATCH} if "patch" in known else {})}
    values |= {} if mixer is None else {"mixer": mixer}
    chosen = resolve_option(catalogue, "backbone", Choice.model_validate({"name": spec.name, **values}), spec.name)
    conditions = (Condition("class", CLASSES), Condition("text", TEXT_WIDTH, tokens=TEXT_TOKENS))
    filled = spec.facts.fill(chosen.options, DataFacts(CHANNELS, 1, 1, "", conditions=conditions))
    return chosen.model_copy(update={"options": {**chosen.options, **filled}})


def _cost(spec: Spec, backbone: Resolved, scan: Resolved | None, grid: Grid, catalogue: Catalogue) -> Cost:
    """The checked cost of a backbone on a grid."""
    options = spec.make_options(backbone.options)
    routes = cell_routes(scan, grid=grid, depth=options.depth, seed=0, catalogue=catalogue)
    if spec.facts.check is not None:
        spec.facts.check(options, grid=grid, routes=routes)
    cost: Cost = spec.facts.cost(options, grid=grid, channels=CHANNELS, routes=routes)
    return cost


def _is_linear(spec: Spec, backbone: Resolved, scan: Resolved | None, catalogue: Catalogue) -> bool | None:
    """Whether the FLOPs are linear in the number of tokens; None if they can't be compared on the probes.

    For FLOPs a + b L + c L^2 at L, 2 L and 4 L, f(4 L) - 3 f(2 L) + 2 f(L) = 6 c L^2.
    """
    try:
        one, two, four = (_cost(spec, backbone, scan, grid, catalogue).total_flops for grid in PROBES)
    except ZigmaBenchError:
        return None
    return four - 3 * two + 2 * one <= GROWTH * four
