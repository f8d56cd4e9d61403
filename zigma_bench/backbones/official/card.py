"""The card of an imported model: what it is, how it is asked, and where its weights came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from zigma_bench.errors import UsageError
from zigma_bench.plan import Resolved
from zigma_bench.suite import PathName, Prediction, Strict

CARD, WEIGHTS, README = "card.json", "model.safetensors", "README.md"

Official = Literal["zigma", "dit", "sit"]
Space = Literal["pixels", "latents"]
Weights = Literal["ema", "model", "only"]  # of a training checkpoint, or all that a state dict is
TIMES = {
    "zigma": "t in [0, 1], 0 noise and 1 data",
    "sit": "t in [0, 1], 0 noise and 1 data",
    "dit": "steps 0 (nearly data) to 999 (nearly noise) of DDPM's linear betas",
}


class Tokens(Strict):
    """The grid of tokens, and the side of a patch in values of the image."""

    frames: int
    height: int
    width: int
    patch: int


class Condition(Strict):
    """What the network is drawn under: labels 0 to `classes` - 1, one more for none, or a text's features."""

    kind: Literal["none", "class", "text"]
    classes: int | None = None
    null_class: bool = False
    text_width: int | None = None

    def __str__(self) -> str:
        if self.kind == "class":
            return f"{self.classes:,} classes" + (f", and label {self.classes} for none" if self.null_class else "")
        return f"text features of {self.text_width} channels" if self.kind == "text" else "none"


class Origin(Strict):
    """The released file, and which of its weights were taken."""

    file: str
    bytes: int
    sha256: str
    weights: Weights


class Card(Strict):
    """`config`: the official constructor's arguments; `shape`: [C, H, W], or [T, C, H, W] of a clip."""

    format: Literal[1]
    official: Official
    config: dict[str, Any]
    backbone: Resolved
    parameters: int
    grid: Tokens
    channels: int
    shape: tuple[int, ...]
    space: Space
    condition: Condition
    path: PathName
    prediction: Prediction
    time: str
    learned_sigma: bool
    source: Origin
    model_sha256: str
    zigma_bench: str

    @property
    def image(self) -> bool:
        """Whether what it draws is a picture, of 1 or 3 channels in [-1, 1], or a clip of such, and not latents."""
        return self.space == "pixels" and self.channels in (1, 3)

    def readme(self) -> str:
        """The card as a page."""
        taken = "" if self.source.weights == "only" else f", its {self.source.weights}"
        facts = {
            "network": f"{self.official}, here the backbone {self.backbone.name}; {self.parameters:,} parameters",
            "tokens": f"{self.grid.frames} x {self.grid.height} x {self.grid.width}, patches of {self.grid.patch}",
            "draws": f"{self.space} {list(self.shape)}",
            "condition": str(self.condition),
            "says": f"{self.prediction} on the path {self.path}" + (" and a sigma" if self.learned_sigma else ""),
            "is told": self.time,
            "source": f"{self.source.file}, {self.source.bytes:,} bytes" + taken,
            "sha256": self.source.sha256,
        }
        rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        title = self.source.file.replace("`", "")
        return (
            f"# {title}\n\n| | |\n|---|---|\n{rows}\n\n`{WEIGHTS}` holds the weights under zigma-bench's names, "
            f"`{CARD}` all that is known of them. The source's licence holds for them too.\n\n"
            "```python\nfrom zigma_bench.backbones import official\n\nnetwork = official.open_model(folder)\n```\n"
        )


def read_card(folder: Path) -> Card:
    """The card of a model's folder; UsageError where there is none or it is none."""
    path = folder / CARD
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"there is no model: {error.strerror}", where=str(path), do="make one with zigma-bench import"
        ) from None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"this is no card of a model: {key + ': ' if key else ''}{first['msg']}",
            where=str(path),
            do="import the model again",
        ) from None
