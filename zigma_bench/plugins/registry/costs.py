"""Values that facts return: missing files and packages, the cost of a network, and its conditioning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from zigma_bench.errors import UsageError

FlopsBy = Literal["formula", "counter"]


@dataclass(frozen=True)
class Missing:
    """Something that must be present before a plan can run, and how to get it."""

    what: str
    do: str


@dataclass(frozen=True)
class Cost:
    """The cost of a network: its parameters, and the FLOPs of a forward pass of one image, by operator.

    One multiply-add is 2 FLOPs. The operator `scan` is only the selective scan. `parts`: the parameters by operator,
    under the same names; None if the formula doesn't break them down. Costs are added operator by operator. `flops_by`:
    a `formula`, or PyTorch's `counter`, which counts only matrix products, convolutions and attention.
    """

    parameters: int
    forward_flops: Mapping[str, int]
    parts: Mapping[str, int] | None = None
    flops_by: FlopsBy = "formula"

    def __post_init__(self) -> None:
        if self.parts is not None and sum(self.parts.values()) != self.parameters:
            raise UsageError(
                "the parts of a cost don't add up to its parameters", expected=f"{self.parameters:,}",
                got=sum(self.parts.values()),
            )  # fmt: skip

    @classmethod
    def of(cls, parts: Mapping[str, int], forward_flops: Mapping[str, int]) -> Cost:
        """A cost with parameters equal to the sum of its parts."""
        return cls(sum(parts.values()), forward_flops, parts)

    @property
    def total_flops(self) -> int:
        return sum(self.forward_flops.values())

    def within(self, name: str) -> Cost:
        """The same cost; if the formula doesn't break down the parameters, all of them are under this one name."""
        return self if self.parts is not None else replace(self, parts={name: self.parameters})


def add_costs(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, operator by operator; its parts are None if those of any summand are."""
    costs = list(costs)
    known = [cost.parts for cost in costs if cost.parts is not None]
    parts = sum_by_name(known) if len(known) == len(costs) else None
    flops_by: FlopsBy = "counter" if any(cost.flops_by == "counter" for cost in costs) else "formula"
    parameters, flops = sum(cost.parameters for cost in costs), sum_by_name(cost.forward_flops for cost in costs)
    return Cost(parameters, flops, parts, flops_by)


def sum_by_name(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of the counts of each name, in the order in which the names first occur."""
    found: dict[str, int] = {}
    for mapping in counts:
        for name, count in mapping.items():
            found[name] = found.get(name, 0) + count
    return found


@dataclass(frozen=True)
class Condition:
    """What an image is conditioned on: a `class`, one of `size` labels, or a `text`, features of `size` channels.

    `droppable`: whether the network has a null condition. For classes that is one more label, `size`; for a text it is
    the features of an empty text. `tokens`: the number of tokens of a text, 0 for any number. `masked`: the data has a
    mask of the visible tokens, or, for a network, it accepts one.
    """

    kind: Literal["class", "text"]
    size: int
    droppable: bool = field(default=False, compare=False)
    tokens: int = 0
    masked: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.kind == "class":
            return f"{self.size} classes"
        tokens = f"{self.tokens} tokens with " if self.tokens else ""
        return f"text features of {tokens}{self.size or 'unknown'} channels"

    def serves(self, wanted: Condition) -> bool:
        """Whether data with this condition fits a network that needs `wanted`; 0 means an unknown size or number."""
        if self.kind != wanted.kind:
            return False
        if self.kind == "class":
            return self.size == wanted.size
        sizes, tokens = {self.size, wanted.size} - {0}, {self.tokens, wanted.tokens} - {0}
        return len(sizes) <= 1 and len(tokens) <= 1 and (wanted.masked or not self.masked)
