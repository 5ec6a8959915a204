"""The form of a reference (`assay.data.reference`) in a file that people may edit."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from assay.data.reference import CATEGORIES_KEPT, QUANTILES
from assay.parameters import Count, NotNegative, Whole

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_Levels = Annotated[list[float], Len(0, len(QUANTILES))]
_Ranks = Annotated[list[Whole], Len(0, len(QUANTILES))]


class _Counter(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    kind: Literal["counter"]
    missing: Whole
    missing_spread: NotNegative
    spread: NotNegative


class _Category(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    kind: Literal["category"]
    missing: Whole
    missing_spread: NotNegative
    spread: NotNegative
    counts: Annotated[dict[str, Whole], Len(0, CATEGORIES_KEPT)]
    others: list[str]


class _Number(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    kind: Literal["number"]
    missing: Whole
    missing_spread: NotNegative
    spread: NotNegative
    quantiles: _Levels
    below: _Ranks
    at_most: _Ranks
    scale: NotNegative


class _Reference(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    rows: Count
    units: NotNegative
    batches: list[str]
    copies: list[Annotated[list[Whole], Len(2, 2)]]
    labelled: Whole
    anomalies: Whole
    columns: dict[str, Annotated[_Counter | _Category | _Number, Field(discriminator="kind")]]


_FORM = TypeAdapter(_Reference)


def is_reference(value: object) -> bool:
    """Return whether a value from a file has the form of a reference, whose levels belong together."""
    try:
        reference = _FORM.validate_python(value)
    except ValidationError:
        return False
    numbers = [column for column in reference["columns"].values() if column["kind"] == "number"]
    levels = [tuple(len(column[key]) for key in ("quantiles", "below", "at_most")) for column in numbers]
    return set(levels) <= {(0, 0, 0), (len(QUANTILES),) * 3}
