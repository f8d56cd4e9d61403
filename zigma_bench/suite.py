"""A suite: YAML read strictly into typed, frozen models; every fault says file, line, key, expected, got and nearest.

Strict means: unknown and duplicate keys, aliases, a quoted number and a value of another type are errors, and numbers
are those of YAML 1.2 (an unquoted `1e-4` is a number, `010` is ten, `no` is text).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml
from annotated_types import Ge, Gt, Interval, Len, Lt
from pydantic_core import PydanticCustomError

from zigma_bench.errors import UsageError, nearest

MAX_BYTES = 1_000_000
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}$"

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]

PathName = Literal["linear", "gvp", "vp"]
Prediction = Literal["velocity", "score", "noise"]
Weighting = Literal["none", "velocity", "likelihood"]
Solver = Literal["euler", "heun", "dopri5", "euler-maruyama", "heun-sde", "ddpm", "ddim"]
DiffusionForm = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]
TimedStage = Literal["latency", "forward", "sample", "forward-backward", "train-step"]
LastStep = Literal["none", "mean", "tweedie", "euler"]
Variance = Literal["small", "large"]
SDES: tuple[Solver, ...] = ("euler-maruyama", "heun-sde")
DISCRETE: tuple[Solver, ...] = ("ddpm", "ddim")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Choice(pydantic.BaseModel):
    """A registered name with its options: `raster`, or `{name: zigzag, paths: 8}`."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, frozen=True)
    name: Annotated[str, pydantic.StringConstraints(pattern=NAME)]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": NAME}, handler(core)]}

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Latents(Strict):
    """The autoencoder (diffusers' AutoencoderKL) whose latents networks see in the place of pixels.

    `autoencoder` is a folder, or owner/name on the Hub at the full commit `revision`; its files may lie in a
    `subfolder` of either. `posterior`: training draws from each image's posterior anew at every step, as DiT, SiT and
    ZigMa do, or takes its mean. `precision` is that of encoding and decoding, `batch` the images of one pass of either.
    The cache keeps means and log-variances in `dtype`, in the folder `cache` or else below the results.
    """

    autoencoder: Annotated[str, Len(min_length=1)]
    revision: str | None = None
    subfolder: str | None = None
    posterior: Literal["sample", "mean"] = "sample"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    dtype: Literal["float32", "float16"] = "float32"
    batch: Count = 16
    cache: str | None = None


class TextEncoder(Strict):
    """What makes features of captions: a built-in `encoder` (minilm, random-words), a folder, or owner/name on the Hub
    at the commit `revision`.

    `tokens` of every text: a longer one is cut, a shorter one padded. With a `mask` networks pass over the padding;
    without one they read it too, as ZigMa's code does. The features are kept in the folder `cache`, or else below
    ZIGMA_BENCH_CACHE or ~/.cache/zigma-bench.
    """

    encoder: Annotated[str, Len(min_length=1)]
    revision: str | None = None
    tokens: Annotated[int, Interval(ge=2, le=4096)] = 77
    mask: bool = False
    cache: str | None = None


class Data(Choice):
    """A data set with its options, the transforms that all of its images go through, in order, the autoencoder that
    encodes what they give, and what reads the images' captions."""

    transforms: tuple[Choice, ...] = ()
    latents: Latents | None = None
    text: TextEncoder | None = None


def _how_many(value: Any) -> str:
    return "[several]" if isinstance(value, list | tuple) else "[one]"


# the tags are no places of a suite: see `_is_place`
One = Annotated[Data, pydantic.Tag("[one]")]
Several = Annotated[tuple[Data, ...], Len(min_length=1), pydantic.Tag("[several]")]
DataSets = Annotated[One | Several, pydantic.Discriminator(_how_many)]


class Comparison(Strict):
    """One backbone with the scans that it is compared under; without scans it takes its own."""

    backbone: Choice
    scans: Annotated[tuple[Choice, ...], Len(min_length=1)] | None = None


class Baseline(Strict):
    """The row that the others are read against; the ceiling is its network, untrained."""

    backbone: str
    scan: str | None = None


class Budget(Strict):
    """What all cells spend alike: exactly one of images, flops (of training) and seconds (of training)."""

    images: Count | None = None
    flops: Positive | None = None
    seconds: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if sum(value is not None for value in (self.images, self.flops, self.seconds)) != 1:
            raise ValueError("exactly one of images, flops and seconds")
        return self


class SizeMatch(Strict):
    """What is equal among backbones, to 2%: the word alone, or with what is solved for it.

    `either`: the depth, to a half or twice at most, and where that can't be the width; `both`: the width at other
    depths too.
    """

    by: Literal["none", "parameters", "flops"]
    solve: Literal["either", "depth", "width", "both"] = "either"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | SizeMatch):
            raise ValueError("should be none, parameters, flops, or a mapping of by and solve")
        return {"by": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["none", "parameters", "flops"]}, handler(core)]}


class Train(Strict):
    """The recipe. `ema` is the decay a step; `warmup_images` ramp the learning rate up linearly from zero; `compile`
    has PyTorch compile the network's blocks, `graph` records the launches of a step once and replays them (a CUDA
    graph; both on an NVIDIA card).

    The network learns to say its `prediction` on the `path` (diffusion/path.py), the error weighted by `weighting`
    (diffusion/objective.py) at times drawn from `interval` (0 noise, 1 data; absent: SiT's, see plan/diffusion.py).
    `fp16` scales the loss (training/health.py); weights, A, D, dt bias and the residual stay float32 in any precision.
    `drop_condition` is how often a conditional network is trained without its condition, for a text under an empty one
    (absent: one time in ten where it has a label for that, as guidance needs it).

    `checkpoint_seconds` says how much work a kill may cost, and `workers` how many processes take the images ahead of
    the training where they do not lie in memory (`auto`: one less than there are processors, from 1 to 16; 0: none, the
    training itself takes them). Neither changes a figure or is part of an identity.
    """

    batch: Count = 128
    learning_rate: Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_images: Annotated[int, Ge(0)] = 0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    gradient_clip: Positive | None = None
    ema: Annotated[float, Ge(0), Lt(1)] = 0.9999
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    flip: bool = False
    compile: bool = False
    graph: bool = False
    drop_condition: Annotated[float, Ge(0), Lt(1)] | None = None
    path: PathName = "linear"
    prediction: Prediction = "velocity"
    weighting: Weighting = "none"
    interval: tuple[Share, Share] | None = None
    checkpoint_seconds: Positive = 60.0
    workers: Literal["auto"] | Annotated[int, Interval(ge=0, le=256)] = "auto"


class Guidance(Strict):
    """Classifier-free guidance, with a `scale` of 1 for none, at all times or those of `interval`, on all channels or,
    as in DiT's code, on the first three."""

    scale: Positive
    interval: tuple[Share, Share] | None = None
    channels: Literal["all", "first-three"] = "all"


class Sample(Strict):
    """How images are drawn: `solver` of the ODE (euler, heun, dopri5), of the SDE (euler-maruyama, heun-sde), or of the
    discrete diffusion (ddpm, ddim). `evaluations` of the network an image: 50 if absent; never for dopri5.

    `interval` is the times that are crossed (absent: SiT's, see plan/diffusion.py). Of SDEs alone: the noise's form and
    scale (`diffusion`, `diffusion_norm`; diffusion/sde.py), and the `last_step` from the interval's end to 1. Of ddpm
    alone: `variance`. Of ddim alone: `eta`, the share of ddpm's noise. What is absent takes its default.
    `graph` records the launches of an evaluation once and replays them (a CUDA graph, on an NVIDIA card).
    """

    count: Count = 1000
    batch: Count = 250
    solver: Solver = "euler"
    evaluations: Count | None = None
    interval: tuple[Share, Share] | None = None
    diffusion: DiffusionForm | None = None
    diffusion_norm: Positive | None = None
    last_step: LastStep | None = None
    variance: Variance | None = None
    eta: Share | None = None
    guidance: Guidance | None = None
    graph: bool = False
    rtol: Positive = 1e-3
    atol: Positive = 1e-6

    @pydantic.model_validator(mode="after")
    def _evaluations_fit(self) -> Sample:
        asked, last = self.evaluations, self.last_evaluations
        if asked is None:
            return self
        if self.solver == "dopri5":
            raise ValueError("dopri5 chooses its evaluations itself; leave evaluations out, or take euler or heun")
        if self.solver == "heun" and asked % 2:
            raise ValueError("heun takes an even number of evaluations")
        if self.solver == "heun-sde" and (asked - last) % 2:
            raise ValueError(f"heun-sde takes two evaluations a step{' and one for the last step' * last}")
        if asked <= last:
            raise ValueError(f"{self.solver} takes one evaluation for the last step, and at least one step before it")
        if self.solver in DISCRETE and not 2 <= asked <= 1000:
            raise ValueError(f"{self.solver} takes from 2 to 1000 of the diffusion's 1000 steps")
        return self

    @property
    def resolved_last_step(self) -> LastStep:
        """How the rest of the way from the interval's end is crossed: by an SDE's mean unless the suite says else."""
        return self.last_step or ("mean" if self.solver in SDES else "none")

    @property
    def last_evaluations(self) -> int:
        """Evaluations that the last step takes."""
        return int(self.resolved_last_step != "none")

    @property
    def resolved_evaluations(self) -> int | None:
        """The number given, else 50 (51 where heun-sde has a last step, for it takes two a step)."""
        if self.solver == "dopri5":
            return None
        return self.evaluations or 50 + (self.last_evaluations if self.solver == "heun-sde" else 0)


class Reference(Strict):
    """What samples are compared with: the training split, or the held-out images that are not the floor's.

    `images`: as they are, or, where networks see latents, as the autoencoder gives them back.
    """

    split: Literal["train", "validation"] = "validation"
    images: Literal["pixels", "reconstructions"] = "pixels"

    @property
    def label(self) -> str:
        """`train`, or `reconstructed train`."""
        return self.split if self.images == "pixels" else f"reconstructed {self.split}"


class Efficiency(Strict):
    """What is timed, how often after warm-up, and in how many `rounds`, each of a fresh process, the cells alternating.

    `latency` is a forward pass of one image, `forward` and `forward-backward` are passes of `train.batch` images,
    `train-step` and `sample` all that a step and a sampling do.

    `tokens` makes it an efficiency suite, which has no data and trains nothing: each of its cells is a backbone, a
    scan, one of `backends` (absent: the suite's), a length of square grids of `tokens`, and one of `batch` (absent:
    that of `train`) for images of `channels`; sampling takes that batch too, and latency is timed beside the first.
    """

    stages: Annotated[tuple[TimedStage, ...], Len(min_length=1)] = ("train-step", "sample")
    repeats: Annotated[int, Interval(ge=3, le=1000)] = 10
    rounds: Annotated[int, Interval(ge=1, le=100)] = 1
    sample_batch: Count = 64
    tokens: Annotated[tuple[Count, ...], Len(min_length=1)] | None = None
    batch: Annotated[tuple[Count, ...], Len(min_length=1)] | None = None
    backends: Annotated[tuple[str, ...], Len(min_length=1)] | None = None
    channels: Count = 4

    @pydantic.field_validator("stages", "tokens", "batch", "backends")
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None, info: pydantic.ValidationInfo) -> tuple[Any, ...] | None:
        if values is not None and len(set(values)) != len(values):
            names = {"stages": "a stage", "tokens": "a number of tokens", "batch": "a batch", "backends": "a backend"}
            raise ValueError(f"{names[str(info.field_name)]} stands twice")
        return values

    @pydantic.field_validator("tokens")
    @classmethod
    def _squares(cls, tokens: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if wrong := [count for count in tokens or () if math.isqrt(count) ** 2 != count]:
            raise ValueError(f"tokens are those of square grids, such as 256 and 1024; {wrong[0]} is no square")
        return tokens

    def check_keys(self) -> None:
        """ValueError for a key that was given in vain; a cell's has all of them."""
        given = sorted({"batch", "backends", "channels"} & self.model_fields_set)
        if self.tokens is None and given:
            raise ValueError(f"efficiency.{given[0]} is that of an efficiency suite, which lists efficiency.tokens")
        if self.tokens is not None and "sample_batch" in self.model_fields_set:
            raise ValueError("an efficiency suite samples the images of efficiency.batch; leave sample_batch out")


class Suite(Strict):
    """A suite file. `data` is one data set, or a list of them: everything is then run, and tabulated, on each.

    An efficiency suite, which lists `efficiency.tokens`, has no data, budget, quality or sizes.
    """

    name: Annotated[str, pydantic.StringConstraints(pattern=NAME)]
    data: DataSets | None = None
    compare: Annotated[tuple[Comparison, ...], Len(min_length=1)]
    baseline: Baseline | None = None
    seeds: Annotated[tuple[Annotated[int, Interval(ge=0, le=2**31 - 1)], ...], Len(min_length=1)] = (0,)
    budget: Budget | None = None
    size_match: SizeMatch = SizeMatch(by="none")
    backend: str = "auto"
    reference: Reference = Reference()
    train: Train = Train()
    sample: Sample = Sample()
    quality: tuple[Choice, ...] = ()
    efficiency: Efficiency | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _no_smoke(cls, name: str) -> str:
        if name.endswith("-smoke"):
            raise ValueError("a name that ends in -smoke is kept for smoke runs")
        return name

    @property
    def timed_alone(self) -> bool:
        """Whether its cells are timed and do nothing else."""
        return self.efficiency is not None and self.efficiency.tokens is not None

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Suite:
        if self.efficiency is not None:
            self.efficiency.check_keys()
        vain = {"data": self.data, "budget": self.budget, "quality": self.quality}
        if not self.timed_alone:
            for key in ("data", "budget"):
                if vain[key] is None:
                    raise PydanticCustomError("lacking", "{key}", {"key": key})
            return self
        given = [key for key, value in vain.items() if value] + ["size_match"] * (self.size_match.by != "none")
        if given:
            raise ValueError(f"an efficiency suite (it lists efficiency.tokens) trains nothing: leave {given[0]} out")
        if len(self.seeds) > 1:
            raise ValueError("an efficiency suite has one seed: its rounds are what it repeats")
        return self

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed stands twice")
        return seeds


@dataclass(frozen=True)
class Source:
    """Where each key of a suite was written, for errors that come later."""

    file: str
    question: str
    places: Mapping[tuple[str | int, ...], str] = field(default_factory=dict)

    def where(self, *location: str | int) -> str:
        """`FILE:LINE, key a.b` of the deepest known place on the way to `location`."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.places:
                key = dotted(location)
                return f"{self.places[location[:length]]}" + (f", key {key}" if key else "")
        return self.file


def load_suite(path: Path, *, settings: Sequence[str] = ()) -> tuple[Suite, Source]:
    """The suite of a file, with `key.path=value` settings laid over it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError("the suite is too large", where=str(path), expected=f"at most {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise UsageError("there is no such suite", where=str(path), nearest=near) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the suite can't be read: {error}", where=str(path)) from None
    data, places = parse_yaml(text, str(path))
    for setting in settings:
        _apply(setting, data, places)
    source = Source(str(path), question_of(text), places)
    return validated(Suite, data, source), source


M = TypeVar("M", bound=Strict)


def validated(model: type[M], data: Mapping[str, Any], source: Source) -> M:
    """A mapping as a suite, or as sections of one under their names; UsageError with the first fault."""
    try:
        return model.model_validate(_tuples(data))
    except pydantic.ValidationError as error:
        raise _explain(error, source) from None


def question_of(text: str) -> str:
    """The first line of a suite, which is the question that it answers."""
    first = text.splitlines()[0] if text else ""
    return first.lstrip("# ").split("     ")[0].strip() if first.startswith("#") else ""


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
    """The mapping of a YAML text and the line of every key in it; `what` it is and its `keys`, for errors."""
    try:
        loader = _Loader(text)
        for token in yaml.scan(text):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                raise UsageError(
                    f"anchors, aliases and tags are not allowed in a {what}",
                    where=f"{file}:{token.start_mark.line + 1}",
                )
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else file
        raise UsageError(f"this is no YAML: {getattr(error, 'problem', None) or error}", where=place) from None
    if node is None:
        raise UsageError(f"the {what} is empty", where=file, expected=f"keys such as {keys}")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise UsageError(f"the {what} is {kind}", where=f"{file}:1", expected=f"keys such as {keys}")
    places: dict[tuple[str | int, ...], str] = {(): file}
    return _construct(loader, node, (), file, places), places


def _construct(
    loader: _Loader,
    node: yaml.Node,
    location: tuple[str | int, ...],
    file: str,
    places: dict[tuple[str | int, ...], str],
) -> Any:
    line = f"{file}:{node.start_mark.line + 1}"
    places[location] = line if location else file
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*location, i), file, places) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        line = f"{file}:{key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise UsageError("a key is not text", where=line, got=key)
        if key in found:
            raise UsageError(f"the key {key!r} stands twice", where=line, do="keep one of them")
        found[key] = _construct(loader, value_node, (*location, key), file, places)
        places[(*location, key)] = line
    return found


def parse_value(text: str, where: str) -> Any:
    """A single YAML value given on the command line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _construct(loader, node, (), where, {})
    except yaml.YAMLError as error:
        raise UsageError(f"this is no YAML value: {error}", where=where) from None


def _apply(setting: str, data: dict[str, Any], places: dict[tuple[str | int, ...], str]) -> None:
    key, equals, value = setting.partition("=")
    where = f"--set {setting}"
    parts = key.split(".")
    if not equals or not all(parts):
        raise UsageError("this is no setting", where=where, expected="KEY.PATH=VALUE, such as budget.images=20000")
    target: Any = data
    location: list[str | int] = []
    for part in parts[:-1]:
        step = _step(target, part, where)
        inner = target.get(step) if isinstance(target, dict) else target[step]
        if not isinstance(inner, dict | list):  # `raster` becomes `{name: raster}`, an absent key an empty mapping
            target[step] = {"name": inner} if isinstance(inner, str) else {}
        target = target[step]
        location.append(step)
    last = _step(target, parts[-1], where)
    target[last] = parse_value(value, where)
    places[(*location, last)] = where


def _step(target: Any, part: str, where: str) -> str | int:
    if isinstance(target, dict):
        return part
    if part.isascii() and part.isdigit() and int(part) < len(target):
        return int(part)
    raise UsageError(f"{part!r} is no place of a list", where=where, expected=f"a number from 0 to {len(target) - 1}")


def _tuples(value: Any) -> Any:
    """Lists as tuples, which the frozen models hold."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _explain(error: pydantic.ValidationError, source: Source) -> UsageError:
    """The first fault that pydantic found, in our words."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]  # a misspelt key first: the key that it misspells is missing too
    location = tuple(part for part in fault["loc"] if _is_place(part))
    rest = f"; {len(faults) - 1} more fault(s) after it" if len(faults) > 1 else ""
    where = source.where(*location)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return UsageError(
            f"unknown key {location[-1]!r}{rest}",
            where=where,
            expected=f"one of {', '.join(known)}",
            nearest=nearest(str(location[-1]), known),
        )
    if fault["type"] == "lacking":
        return UsageError(f"the key {fault['msg']!r} is missing{rest}", where=where)
    if fault["type"] == "missing":
        return UsageError(f"the key {dotted(location)!r} is missing{rest}", where=source.where(*location[:-1]))
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    got = _plain(fault["input"]) if location else None  # not the whole suite
    return UsageError(f"{message}{rest}", where=where, got=got)


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the model at a place of a suite."""
    model: Any = Suite
    for part in location:
        if isinstance(part, str):
            model = {
                "compare": Comparison, "baseline": Baseline, "budget": Budget, "train": Train, "sample": Sample,
                "reference": Reference, "efficiency": Efficiency, "size_match": SizeMatch, "guidance": Guidance,
                "data": Data, "latents": Latents, "text": TextEncoder,
            }[part]  # fmt: skip
    return sorted(model.model_fields)


def _is_place(part: str | int) -> bool:
    """pydantic names the branches of a union in its locations; a suite has no such keys."""
    return isinstance(part, int) or not re.search(r"[\[(]|^Choice$|^Efficiency$|^Baseline$|^Guidance$", part)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def dotted(location: Iterable[str | int]) -> str:
    """`compare.0.scans.1`, as `--set` takes it."""
    return ".".join(map(str, location))
