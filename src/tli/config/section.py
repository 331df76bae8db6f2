"""What the sections of params.yaml are made of: their base classes, and the types of their values."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Dtype = Literal["float32", "float16", "bfloat16"]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each value once")
    return values


Ranks = Annotated[tuple[Count, ...], Field(min_length=1, strict=False), AfterValidator(_unique)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False), AfterValidator(_unique)]
Names = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_unique)]


class Section(BaseModel):
    """A section of params.yaml: every key is declared, has a type, and is read-only once loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Shares(Section):
    """A section whose values are shares that sum to 1."""

    @model_validator(mode="after")
    def _sums(self) -> Self:
        total = sum(value for _, value in self)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"shares that sum to 1, got the sum {total:g}")
        return self


Name = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
# The revision of a repository. `first`: the commit of `main` at the first fetch, and then the one in the manifest.
Revision = Annotated[str, Field(min_length=1)]


class HubRepo(Section):
    """A repository of the Hugging Face hub at a pinned revision: 40 hex digits, or `first` (data/hub/fetch.py)."""

    repo: Name
    revision: Revision
