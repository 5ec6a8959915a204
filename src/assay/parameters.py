"""Parameters are declared where a class or a function takes them; one check tests values against the declaration.

A declaration is an annotation: ``epochs: Count = 150``, ``tau: Literal["auto"] | Annotated[float, Ge(0), Le(0.5)]``.
The check and its messages are derived from the annotation. Values are never converted: true is not a number, 2.0 is not
an integer, and numbers must be finite. A list is accepted for a tuple, and a NumPy number for a plain one.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
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
    """The description of a declaration where none can be derived from it: ``Annotated[..., Says("...")]``."""

    text: str


Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]  # the range that scikit-learn accepts
# What costs memory before anything else could refuse it.
Width = Annotated[int, Ge(1), Le(65_536)]
Members = Annotated[int, Ge(1), Le(1_000)]
Trees = Annotated[int, Ge(1), Le(100_000)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Lt(1), Says("a number between 0 and 1, both excluded (for instance 0.05)")]
Widths = Annotated[Sequence[Width], Len(0, 100), Says("a list of integers from 1 to 65536, at most 100 of them")]
NotNegativeRates = Annotated[
    NotNegative | Annotated[Sequence[NotNegative], Len(1)],
    Says("a finite number >= 0, or a list of them, one for each member"),
]
PositiveRates = Annotated[
    Positive | Annotated[Sequence[Positive], Len(1)],
    Says("a finite number > 0, or a list of them, one for each member"),
]
Device = Literal["auto", "cpu", "cuda"]
ImageShape = Annotated[
    tuple[Count, Count] | tuple[Count, Count, Literal[3]], Says("[height, width], or [height, width, 3] in colour")
]
SeriesShape = Annotated[tuple[Count, Count], Says("[length, channels]")]


class Declaration:
    """The values that a parameter may have, and their description.

    Parameters
    ----------
    annotation
        A type, perhaps ``Annotated`` with bounds (`annotated_types`) and `Says`.
    required : bool
        Whether the parameter has no default.
    """

    def __init__(self, annotation: Any, *, required: bool = False) -> None:
        from pydantic import ConfigDict, TypeAdapter

        self.text = _describe(annotation)
        self.required = required
        self._type: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))

    def accepts(self, value: Any) -> bool:
        """Return whether the value is allowed."""
        from pydantic import ValidationError

        try:
            self._type.validate_python(_plain(value))
        except ValidationError:
            return False
        return True


declaration = cache(Declaration)


def parameters_of(target: Callable[..., Any]) -> Mapping[str, Declaration]:
    """Return the declared parameters by name.

    Parameters
    ----------
    target : class or function
        The parameters are a dataclass's fields, another class's constructor arguments, or a function's keyword-only
        arguments.
    """
    return _parameters_of(target)


@cache
def _parameters_of(target: Callable[..., Any]) -> Mapping[str, Declaration]:
    signature = inspect.signature(target).parameters.values()
    if is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        names = {field.name for field in fields(target) if field.init}
    else:
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)  # type: ignore[misc]
        names = {
            parameter.name
            for parameter in signature
            if isinstance(target, type) or parameter.kind is parameter.KEYWORD_ONLY
        }
    return {
        parameter.name: Declaration(hints[parameter.name], required=parameter.default is parameter.empty)
        for parameter in signature
        if parameter.name in names
    }


def check_parameters(
    owner: str, target: Callable[..., Any], values: Mapping[str, Any], *, hidden: Sequence[str] = ()
) -> None:
    """Check parameters against their declarations.

    Parameters
    ----------
    owner : str
        Begins the message, for instance "detector 'knn'".
    target : class or function
        See `parameters_of`.
    values : mapping
        The values by name; a parameter with a default may be missing.
    hidden : sequence of str
        Parameters that may not be set.

    Raises
    ------
    ConfigError
        A parameter is unknown or missing, or its value is not allowed.
    """
    declared = {name: parameter for name, parameter in parameters_of(target).items() if name not in hidden}
    for name, value in values.items():
        if name not in declared:
            raise ConfigError(f"{owner} has no parameter {name!r}; it has {', '.join(sorted(declared)) or 'none'}")
        if not declared[name].accepts(value):
            raise ConfigError(f"{owner}: {name} is {_shown(value)}; it must be {_wanted(declared[name], value)}")
    if missing := sorted(name for name, parameter in declared.items() if parameter.required and name not in values):
        raise ConfigError(f"{owner} lacks the parameter {missing[0]!r}; it must be {declared[missing[0]].text}")


def check_share(value: Any, subject: str) -> float:
    """Return a rate (eps, fdr, ...) as a float; raise `ConfigError` unless it is a number between 0 and 1."""
    check_value(subject, value, Share)
    return float(value)


def check_value(subject: str, value: Any, annotation: Any) -> None:
    """Raise `ConfigError` unless an annotation allows the value; `subject` begins the message."""
    if not declaration(annotation).accepts(value):
        declared = declaration(annotation)
        raise ConfigError(f"{subject} is {_shown(value)}; it must be {_wanted(declared, value)}")


def plain_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON values: tuples become lists, NumPy numbers plain ones."""
    plain: dict[str, Any] = json.loads(json.dumps(params, default=_plain))
    return plain


def _wanted(declared: Declaration, value: Any) -> str:
    """Return what is allowed, and the number in its place where a text is a number that YAML or a caller quotes."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return declared.text
    written = repr(number)
    written = written if "." in written else written.replace("e", ".0e")  # YAML takes 1e-5 for a text
    return f"{declared.text}; it is a text now: write {written}" if declared.accepts(number) else declared.text


def _shown(value: Any) -> str:
    """Return a value for a message; Python itself refuses to write out integers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return f"a number of more than {sys.get_int_max_str_digits()} digits"


def _plain(value: Any) -> Any:
    """Return NumPy numbers and fractions as Python numbers, and lists as tuples.

    Other objects that convert to float, such as `decimal.Decimal`, become an object that no declaration allows.
    """
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


def _describe(annotation: Any) -> str:
    """Return a description of the values that an annotation allows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        texts = [extra.text for extra in inner[1:] if isinstance(extra, Says)]
        return texts[0] if texts else _describe_number(_describe(inner[0]), inner[1:])
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return ", or ".join(map(_describe, inner))
    plain = {int: "an integer", float: "a finite number", bool: "true or false", str: "a text", type(None): "null"}
    return plain.get(annotation, f"a value of type {annotation}")


def _describe_number(noun: str, extras: Sequence[Any]) -> str:
    """Return a description of a kind of number with its bounds."""
    low = [
        (bound.ge, ">=") if isinstance(bound, Ge) else (bound.gt, ">") for bound in extras if isinstance(bound, Ge | Gt)
    ]
    high = [
        (bound.le, "to") if isinstance(bound, Le) else (bound.lt, "to below")
        for bound in extras
        if isinstance(bound, Le | Lt)
    ]
    if not low or not high:
        return noun + "".join(f" {sign} {bound}" for bound, sign in low)
    (least, sign), (most, up) = low[0], high[0]
    noun = noun.replace("finite ", "")
    return (
        f"{noun} between {least} and {most}" if (sign, up) == (">", "to below") else f"{noun} from {least} {up} {most}"
    )
