"""The model card of an imported model: its network, its inputs and prediction, and the source of its weights."""

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
Weights = Literal["ema", "model", "only"]  # ema and model: sets of a training checkpoint; only: a plain state dict
TIMES = {
    "zigma": "t in [0, 1], 0 noise and 1 data",
    "sit": "t in [0, 1], 0 noise and 1 data",
    "dit": "steps 0 (nearly data) to 999 (nearly noise) of DDPM's linear betas",
}


class CardTokens(Strict):
    """The grid of tokens, and the patch size in pixels or latent values."""

    frames: int
    height: int
    width: int
    patch: int


class CardCondition(Strict):
    """The conditioning of the network: labels 0 to `classes` - 1, plus one if `null_class`, or text features."""

    kind: Literal["none", "class", "text"]
    classes: int | None = None
    null_class: bool = False
    text_width: int | None = None

    def __str__(self) -> str:
        if self.kind == "class":
            return f"{self.classes:,} classes" + (
                f", and label {self.classes} for the null condition" if self.null_class else ""
            )
        return f"text features of {self.text_width} channels" if self.kind == "text" else "none"


class Origin(Strict):
    """The released file, and the set of weights that was imported."""

    file: str
    bytes: int
    sha256: str
    weights: Weights


class Card(Strict):
    """The model card. `config`: arguments of the official constructor. `shape`: [C, H, W], or [T, C, H, W]."""

    format: Literal[1]
    official: Official
    config: dict[str, Any]
    backbone: Resolved
    parameters: int
    grid: CardTokens
    channels: int
    shape: tuple[int, ...]
    space: Space
    condition: CardCondition
    path: PathName
    prediction: Prediction
    time: str
    learned_sigma: bool
    source: Origin
    model_sha256: str
    zigma_bench: str

    @property
    def image(self) -> bool:
        """Whether the samples are pictures with 1 or 3 channels in [-1, 1], or clips of these, rather than latents."""
        return self.space == "pixels" and self.channels in (1, 3)

    def readme(self) -> str:
        """The model card as a Markdown page."""
        weights = "" if self.source.weights == "only" else f", its {self.source.weights}"
        facts = {
            "network": f"{self.official}, as the backbone {self.backbone.name}; {self.parameters:,} parameters",
            "tokens": f"{self.grid.frames} x {self.grid.height} x {self.grid.width}, patches of {self.grid.patch}",
            "samples": f"{self.space} {list(self.shape)}",
            "condition": str(self.condition),
            "prediction": f"{self.prediction} on the path {self.path}" + (" and a sigma" if self.learned_sigma else ""),
            "time input": self.time,
            "source": f"{self.source.file}, {self.source.bytes:,} bytes" + weights,
            "sha256": self.source.sha256,
        }
        rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        title = self.source.file.replace("`", "")
        return (
            f"# {title}\n\n| | |\n|---|---|\n{rows}\n\n`{WEIGHTS}` contains the weights by zigma-bench's names, and "
            f"`{CARD}` describes them. The licence of the source applies to them too.\n\n"
            "```python\nfrom zigma_bench.backbones import official\n\nnetwork = official.open_model(folder)\n```\n"
        )


def read_card(folder: Path) -> Card:
    """Read the model card in a folder. UsageError if card.json is missing or invalid."""
    path = folder / CARD
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"there is no model: {error.strerror}", where=str(path), do="create one with zigma-bench import"
        ) from None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"not a valid model card: {key + ': ' if key else ''}{first['msg']}",
            where=str(path),
            do="import the model again",
        ) from None
