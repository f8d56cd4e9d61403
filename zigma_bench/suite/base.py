"""The types that the sections of a suite share."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from annotated_types import Interval

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}$"

# The bounds are far above any real run, and far below the limits of the arithmetic.
Images = Annotated[int, Interval(ge=1, le=10**12)]  # training images
Drawn = Annotated[int, Interval(ge=1, le=10**9)]  # samples
Batch = Annotated[int, Interval(ge=1, le=1_000_000)]
Side = Annotated[int, Interval(ge=1, le=65_536)]  # pixels along a side, or channels
Positive = Annotated[float, Interval(gt=0, le=1e30)]
Name = Annotated[str, pydantic.StringConstraints(max_length=4096)]  # of a file, a revision or a registered object
Share = Annotated[float, Interval(ge=0, le=1)]


class Strict(pydantic.BaseModel):
    """A frozen model that rejects unknown keys, values of another type, NaN and infinity."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Choice(pydantic.BaseModel):
    """A registered name with its options: `raster`, or `{name: zigzag, paths: 8}`."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, pydantic.StringConstraints(pattern=NAME)]
    """The registered name. The other keys are its options."""

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
