"""Families of registered classes (detectors, adapters, calibrators, ...): made by name, loaded from parts.

Every member has a name, declared parameters (`assay.parameters`), `to_part` and `from_part`. Any fault of a part is
raised here as one `ScorerError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from reprlib import repr as short
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from annotated_types import Predicate

from assay.errors import ConfigError, ScorerError
from assay.parameters import Declaration, Says, check_parameters, declaration, parameters_of
from assay.parts import Array, Part

Member = TypeVar("Member")
Head = Annotated[
    Mapping[str, Any], Predicate(lambda head: set(head) == {"kind", "config"}), Says("a part's kind and config")
]
Heads = Annotated[tuple[Head, ...], Says("a list of parts, each with kind and config")]


@dataclass(frozen=True)
class Family(Generic[Member]):
    """Classes that are registered under one noun.

    Attributes
    ----------
    noun : str
        The name of a member in messages, for instance "detector".
    members : mapping
        Classes by name, which is also the kind of their parts; or "module:Class", imported when needed.
    by_run : tuple of str
        Parameters that the run sets, where a class has them; params.yaml may not set these.
    suffix : str
        Ends the list of names in messages, for names that are not in `members`.
    """

    noun: str
    members: Mapping[str, type[Member] | str]
    by_run: tuple[str, ...] = ()
    suffix: str = ""

    def member(self, name: str) -> type[Member]:
        """Return a class by its name.

        Raises
        ------
        ConfigError
            No member has that name.
        """
        if name not in self.members:
            names = ", ".join(sorted(self.members)) + self.suffix
            raise ConfigError(f"there is no {self.noun} {name!r}; there are {names}")
        registered = self.members[name]
        if not isinstance(registered, str):
            return registered
        module, _, attribute = registered.partition(":")
        imported: type[Member] = getattr(import_module(module), attribute)
        return imported

    def make(self, name: str, params: Mapping[str, Any], by_run: Mapping[str, Any] | None = None) -> Member:
        """Return a new instance.

        Parameters
        ----------
        name : str
        params : mapping
            Constructor arguments, without those that the run sets; missing ones take their defaults.
        by_run : mapping, optional
            Arguments that the run sets; those that the class does not take are ignored.

        Raises
        ------
        ConfigError
            The name or a parameter is unknown, or a value is not allowed.
        """
        cls: Any = self.member(name)
        owner = f"{self.noun} {name!r}"
        check_parameters(owner, cls, params, hidden=self.by_run)
        run_arguments = {key: value for key, value in (by_run or {}).items() if key in parameters_of(cls)}
        check_parameters(owner, cls, {**params, **run_arguments})
        instance: Member = cls(**params, **run_arguments)
        return instance

    def load(self, part: Part) -> Member:
        """Rebuild the object whose `to_part` returned the part.

        Raises
        ------
        ScorerError
            The kind is not registered, or the part is not what `to_part` of that kind returns.
        """
        if not isinstance(part.kind, str) or part.kind not in self.members:
            raise ScorerError(
                f"{self.noun} {short(part.kind)} is unknown: the scorer folder is damaged or made by a newer Assay; "
                f"this one loads {', '.join(sorted(self.members))}"
            )
        try:
            return self.member(part.kind).from_part(part)  # type: ignore[attr-defined, no-any-return]
        except ScorerError as error:  # of a part inside this one
            raise ScorerError(f"{self.noun} {part.kind!r}: {error}") from error
        except Exception as error:
            message = " ".join(str(error).split()) or type(error).__name__
            raise ScorerError(
                f"{self.noun} {part.kind!r}: {message}; the scorer folder is damaged, restore it or make it again"
            ) from error


def check_part(part: Part, config: Mapping[str, Any], arrays: Mapping[str, str]) -> None:
    """Check that a part has exactly the settings and arrays of its kind.

    Parameters
    ----------
    part : Part
    config : mapping
        The allowed values of each setting: an annotation (see `assay.parameters`), a `Declaration`, or a mapping of
        such for settings within it. A name that ends in "?" may be missing.
    arrays : mapping
        Dtype and dimensions of each array, for instance ``"float64 k 3"``, and perhaps the interval of its values:
        ``"int32 k in [0,n)"``, ``"float64 1 in (0,)"``. Dimensions with the same name must be equal, within the part
        and to a setting of that name; "any" allows all dtypes and values, "..." all shapes. All floats must be finite,
        unless a "?" follows their dtype. A name with * allows any number of arrays.

    Raises
    ------
    ValueError
        A setting or array is missing, is not expected, or has values, a dtype or a shape that is not allowed.
    """
    _check_settings(part.config, config, "")
    check_arrays(part, arrays)


def check_arrays(part: Part, arrays: Mapping[str, str]) -> None:
    """Check a part's arrays as `check_part` does, for shapes that depend on the part's settings."""
    _check_names([name for name in arrays if "*" not in name], list(arrays), part.arrays, "array")
    sizes = {name: value for name, value in part.config.items() if type(value) is int}
    values = {}
    for name, array in part.arrays.items():
        pattern = name if name in arrays else next(candidate for candidate in arrays if fnmatchcase(name, candidate))
        described, _, interval = arrays[pattern].partition(" in ")
        values[name] = ("?" in described or described.startswith("any"), interval)
        _check_array(name, array, described.replace("?", ""), sizes)
    for name, (may_be_infinite, interval) in values.items():  # whose ends may be dimensions of any array
        _check_values(name, part.arrays[name], interval, sizes, finite=not may_be_infinite)


def inner_part(part: Part, prefix: str, head: Mapping[str, Any]) -> Part:
    """Return a part stored inside another one: its head, and the arrays whose names begin with `prefix`."""
    arrays = {name.removeprefix(prefix): array for name, array in part.arrays.items() if name.startswith(prefix)}
    return Part(head["kind"], head["config"], arrays)


def stored_parameters(cls: type, without: tuple[str, ...] = ()) -> dict[str, Declaration]:
    """Return the declarations of the constructor arguments that a part holds, for `check_part`."""
    return {name: parameter for name, parameter in parameters_of(cls).items() if name not in without}


def _check_settings(settings: Any, declared: Mapping[str, Any], within: str) -> None:
    if not isinstance(settings, Mapping):
        raise ValueError(f"its {within.rstrip('.') or 'configuration'} is {short(settings)}; it must be a mapping")
    needed = [name for name in declared if not name.endswith("?")]
    _check_names(needed, [name.removesuffix("?") for name in declared], settings, "setting", within)
    for name, value in settings.items():
        expected = declared.get(name, declared.get(f"{name}?"))
        if isinstance(expected, Mapping):
            _check_settings(value, expected, f"{within}{name}.")
            continue
        allowed = expected if isinstance(expected, Declaration) else declaration(expected)
        if not allowed.accepts(value):
            raise ValueError(f"its setting {within}{name} is {short(value)}; it must be {allowed.text}")


def _check_names(needed: list[str], allowed: list[str], actual: Mapping[str, Any], noun: str, within: str = "") -> None:
    if missing := [name for name in needed if name not in actual]:
        raise ValueError(f"its {noun} {within + missing[0]!r} is missing")
    if unknown := [name for name in actual if not any(fnmatchcase(name, pattern) for pattern in allowed)]:
        raise ValueError(f"it has no {noun} {within + unknown[0]!r}, but the part holds one")


def _check_array(name: str, array: Array, described: str, sizes: dict[str, int]) -> None:
    """Check dtype and shape of an array; named dimensions are compared with `sizes`, and new ones added to it."""
    dtype, *dimensions = described.split()
    if dtype != "any" and array.dtype != np.dtype(dtype):
        raise ValueError(f"its array {name!r} is of {array.dtype}, not of {dtype}")
    if dimensions == ["..."]:
        return
    fits = len(dimensions) == array.ndim
    for dimension, length in zip(dimensions, array.shape, strict=False):
        fits &= length == (int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, length))
    if not fits:
        expected = ", ".join(str(sizes.get(dimension, dimension)) for dimension in dimensions)
        raise ValueError(f"its array {name!r} has shape {array.shape}, not ({expected})")


def _check_values(name: str, array: Array, interval: str, sizes: dict[str, int], *, finite: bool) -> None:
    """Check that floats are finite, and that all values lie in an interval such as "[0,n)"; "" is any."""
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"its array {name!r} holds values that are not finite")
    if not interval or not array.size:
        return
    low, high = (None if not end else sizes[end] if end in sizes else int(end) for end in interval[1:-1].split(","))
    smallest, largest = array.min(), array.max()
    is_above = low is None or smallest > low or (smallest == low and interval[0] == "[")
    if not (is_above and (high is None or largest < high or (largest == high and interval[-1] == "]"))):
        raise ValueError(f"its array {name!r} holds values from {smallest} to {largest}, which are not in {interval}")
