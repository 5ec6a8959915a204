"""Parameters are declared where a class or a function takes them; one check says which values they may have.

A declaration is an annotation: ``epochs: Count = 150``, ``tau: Literal["auto"] | Annotated[float, Ge(0), Le(0.5)]``.
What is allowed, and the words for it, come from there. Values are taken as they are, never converted: true is no
number, 2.0 is no integer, numbers are finite. A list may stand for a tuple, and a number of NumPy's for a plain one.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Le, Len, Lt

from assay.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Says:
    """The words for what a declaration allows, where they cannot be told from it: ``Annotated[..., Says("...")]``."""

    text: str


Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Whole
Seed32 = Annotated[int, Ge(0), Le(2**32 - 1)]  # those that scikit-learn takes
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Lt(1), Says("a number between 0 and 1, both excluded (for instance 0.05)")]
Widths = Annotated[Sequence[Count], Says("a list of integers >= 1")]
Rates = Annotated[
    NotNegative | Annotated[Sequence[NotNegative], Len(1)],
    Says("a finite number >= 0, or a list of them, one for each member"),
]
PositiveRates = Annotated[
    Positive | Annotated[Sequence[Positive], Len(1)],
    Says("a finite number > 0, or a list of them, one for each member"),
]
Device = Literal["auto", "cpu", "cuda"]
ImageShape = Annotated[tuple[Count, Count], Says("[height, width]")]
SeriesShape = Annotated[tuple[Count, Count], Says("[length, channels]")]


class Rule:
    """What a value may be, and how to say so.

    Parameters
    ----------
    annotation
        A type, perhaps ``Annotated`` with bounds (`annotated_types`) and `Says`.
    required : bool
        Whether the parameter has no default.
    """

    def __init__(self, annotation: Any, *, required: bool = False) -> None:
        from pydantic import ConfigDict, TypeAdapter

        self.text = _words(annotation)
        self.required = required
        self._type: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))

    def accepts(self, value: Any) -> bool:
        """Tell whether the value is one of those allowed."""
        from pydantic import ValidationError

        try:
            self._type.validate_python(_plain(value))
        except ValidationError:
            return False
        return True


rule = cache(Rule)


def parameters_of(made: Callable[..., Any]) -> Mapping[str, Rule]:
    """Return the declared parameters by name.

    Parameters
    ----------
    made : class or function
        Those of a dataclass are its fields, those of another class its constructor's arguments, and those of a
        function its keyword-only arguments.
    """
    return _parameters_of(made)


@cache
def _parameters_of(made: Callable[..., Any]) -> Mapping[str, Rule]:
    signature = inspect.signature(made).parameters.values()
    if is_dataclass(made):
        hints = get_type_hints(made, include_extras=True)
        names = {field.name for field in fields(made) if field.init}
    else:
        hints = get_type_hints(made.__init__ if isinstance(made, type) else made, include_extras=True)  # type: ignore[misc]
        names = {one.name for one in signature if isinstance(made, type) or one.kind is one.KEYWORD_ONLY}
    return {
        one.name: Rule(hints[one.name], required=one.default is one.empty) for one in signature if one.name in names
    }


def check_parameters(
    who: str, made: Callable[..., Any], given: Mapping[str, Any], *, hidden: Sequence[str] = ()
) -> None:
    """Check parameters against their declarations.

    Parameters
    ----------
    who : str
        Begins the message, for instance "detector 'knn'".
    made : class or function
        See `parameters_of`.
    given : mapping
        The values by name; whatever has a default may be missing.
    hidden : sequence of str
        Parameters that may not be given.

    Raises
    ------
    ConfigError
        A parameter is unknown or missing, or its value is not allowed.
    """
    declared = {name: one for name, one in parameters_of(made).items() if name not in hidden}
    for name, value in given.items():
        if name not in declared:
            raise ConfigError(f"{who} has no parameter {name!r}; it has {', '.join(sorted(declared)) or 'none'}")
        if not declared[name].accepts(value):
            raise ConfigError(f"{who}: {name} is {value!r}; it must be {declared[name].text}")
    if missing := sorted(name for name, one in declared.items() if one.required and name not in given):
        raise ConfigError(f"{who} lacks the parameter {missing[0]!r}; it must be {declared[missing[0]].text}")


def check_share(value: Any, what: str) -> float:
    """Return a rate (eps, fdr, ...) as a float; raise `ConfigError` unless it is a number between 0 and 1."""
    check_value(what, value, Share)
    return float(value)


def check_value(what: str, value: Any, annotation: Any) -> None:
    """Raise `ConfigError` unless an annotation allows the value; `what` begins the message."""
    if not rule(annotation).accepts(value):
        raise ConfigError(f"{what} is {value!r}; it must be {rule(annotation).text}")


def plain_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON values: tuples become lists, NumPy numbers plain ones."""
    plain: dict[str, Any] = json.loads(json.dumps(params, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and fractions as Python's, and lists as tuples; what only looks like a number is none."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, int | float) or not hasattr(value, "__float__"):
        return value
    try:
        return float(value) if isinstance(value, Real) else object()
    except OverflowError:
        return object()


def _words(annotation: Any) -> str:
    """Return what an annotation allows, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        said = [extra.text for extra in inner[1:] if isinstance(extra, Says)]
        return said[0] if said else _number(_words(inner[0]), inner[1:])
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return ", or ".join(map(_words, inner))
    plain = {int: "an integer", float: "a finite number", bool: "true or false", str: "a text", type(None): "null"}
    return plain.get(annotation, f"a value of type {annotation}")


def _number(noun: str, extras: Sequence[Any]) -> str:
    """Return a kind of number with its bounds, in words."""
    low = [(one.ge, ">=") if isinstance(one, Ge) else (one.gt, ">") for one in extras if isinstance(one, Ge | Gt)]
    high = [
        (one.le, "to") if isinstance(one, Le) else (one.lt, "to below") for one in extras if isinstance(one, Le | Lt)
    ]
    if not low or not high:
        return noun + "".join(f" {sign} {bound}" for bound, sign in low)
    (least, sign), (most, up) = low[0], high[0]
    noun = noun.replace("finite ", "")
    return (
        f"{noun} between {least} and {most}" if (sign, up) == (">", "to below") else f"{noun} from {least} {up} {most}"
    )
