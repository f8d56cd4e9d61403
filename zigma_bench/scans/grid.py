"""The grid of tokens of an image or a clip, and the symbols used throughout the package.

B batch, L tokens, D model width, E = expand * D inner width, N state size, K paths in a layer, p patch size.
"""

from __future__ import annotations

from dataclasses import dataclass

from zigma_bench.errors import NotReady, UsageError

MOST_TOKENS = 2**22  # a longer order would take gigabytes


@dataclass(frozen=True)
class Grid:
    """H x W tokens of an image, or T x H x W of a clip. Token (t, r, c) has flat index (t*H + r)*W + c."""

    height: int
    width: int
    frames: int = 1

    def __post_init__(self) -> None:
        for name in ("height", "width", "frames"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UsageError(f"a grid's {name} must be a whole number of at least 1", got=getattr(self, name))
        if self.tokens > MOST_TOKENS:
            raise UsageError("the grid is too large", expected=f"at most {MOST_TOKENS:,} tokens", got=self.tokens)

    @property
    def tokens(self) -> int:
        """L = T * H * W."""
        return self.frames * self.height * self.width

    @property
    def video(self) -> bool:
        return self.frames > 1

    @property
    def square(self) -> bool:
        return self.height == self.width

    def __str__(self) -> str:
        sides = (self.frames, self.height, self.width) if self.video else (self.height, self.width)
        return "x".join(map(str, sides))

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Parse a grid from 'HxW' or 'TxHxW'."""
        sides = text.lower().split("x")
        numbers = all(side.isascii() and side.isdigit() and len(side) < 10 and int(side) > 0 for side in sides)
        if len(sides) not in (2, 3) or not numbers:
            raise UsageError("not a grid", expected="HxW or TxHxW, such as 8x12", got=text)
        *frames, height, width = map(int, sides)
        return cls(height, width, frames[0] if frames else 1)

    @classmethod
    def of_image(cls, height: int, width: int, patch: int, frames: int = 1) -> Grid:
        """The grid of an image or clip of height x width pixels with patches of p x p. NotReady if they don't fit."""
        if height % patch or width % patch:
            raise NotReady(
                f"patches of {patch} x {patch} do not divide an image of {height} x {width}",
                do="choose another patch or another resolution",
            )
        return cls(height // patch, width // patch, frames)
