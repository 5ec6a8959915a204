"""Families of registered things (detectors, adapters, calibrators, ...): by name made, and from parts loaded.

All families are of one form: a name, declared parameters (`assay.parameters`), `to_part` and `from_part`. Whatever is
wrong with a part becomes one `ScorerError` here.
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
from assay.parameters import Rule, Says, check_parameters, parameters_of, rule
from assay.parts import Array, Part

T = TypeVar("T")
Head = Annotated[
    Mapping[str, Any], Predicate(lambda head: set(head) == {"kind", "config"}), Says("a part's kind and config")
]
Heads = Annotated[tuple[Head, ...], Says("a list of parts, each with kind and config")]


@dataclass(frozen=True)
class Family(Generic[T]):
    """What is registered under one noun.

    Attributes
    ----------
    noun : str
        What one of them is called in messages, for instance "detector".
    members : mapping
        Classes by their names, which are also the kinds of their parts; or "module:Class", imported when it is needed.
    by_run : tuple of str
        Parameters that the run sets, not params.yaml, where a class has them.
    besides : str
        What else may be named; ends the list of names in a message.
    """

    noun: str
    members: Mapping[str, type[T] | str]
    by_run: tuple[str, ...] = ()
    besides: str = ""

    def member(self, name: str) -> type[T]:
        """Return a class by its name.

        Raises
        ------
        ConfigError
            There is none of that name.
        """
        if name not in self.members:
            known = ", ".join(sorted(self.members)) + self.besides
            raise ConfigError(f"there is no {self.noun} {name!r}; there are {known}")
        found = self.members[name]
        if not isinstance(found, str):
            return found
        module, _, attribute = found.partition(":")
        imported: type[T] = getattr(import_module(module), attribute)
        return imported

    def make(self, name: str, params: Mapping[str, Any], by_run: Mapping[str, Any] | None = None) -> T:
        """Return a new one.

        Parameters
        ----------
        name : str
        params : mapping
            Constructor arguments, without those that the run sets; the ones left out take their defaults.
        by_run : mapping, optional
            Those that the run sets; what the class does not take is left out.

        Raises
        ------
        ConfigError
            The name or a parameter is unknown, or a value is not allowed.
        """
        cls: Any = self.member(name)
        who = f"{self.noun} {name!r}"
        check_parameters(who, cls, params, hidden=self.by_run)
        given = {key: value for key, value in (by_run or {}).items() if key in parameters_of(cls)}
        check_parameters(who, cls, {**params, **given})
        made: T = cls(**params, **given)
        return made

    def load(self, part: Part) -> T:
        """Rebuild what `to_part` was called on.

        Raises
        ------
        ScorerError
            The part is of no registered kind, or is not what `to_part` of that kind returns.
        """
        if not isinstance(part.kind, str) or part.kind not in self.members:
            raise ScorerError(
                f"{self.noun} {short(part.kind)} is unknown, and the scorer folder damaged or made by a newer Assay; "
                f"this one loads {', '.join(sorted(self.members))}"
            )
        try:
            return self.member(part.kind).from_part(part)  # type: ignore[attr-defined, no-any-return]
        except ScorerError as error:  # of a part inside this one
            raise ScorerError(f"{self.noun} {part.kind!r}: {error}") from error
        except Exception as error:
            what = " ".join(str(error).split()) or type(error).__name__
            raise ScorerError(
                f"{self.noun} {part.kind!r}: {what}; the scorer folder is damaged, restore it or make it again"
            ) from error


def check_part(part: Part, config: Mapping[str, Any], arrays: Mapping[str, str]) -> None:
    """Check that a part has the configuration and the arrays that its kind has, all of them and no others.

    Parameters
    ----------
    part : Part
    config : mapping
        What each setting may be: an annotation (see `assay.parameters`), a `Rule`, or a mapping of such for settings
        within it. A name that ends in "?" may be missing.
    arrays : mapping
        Dtype and dimensions of each array, for instance ``"float64 k 3"``. Dimensions of one name are equal, within the
        part and to a setting of that name; "any" stands for all dtypes, "..." for all shapes. A name with * stands for
        any number of arrays.

    Raises
    ------
    ValueError
        Something is missing, is there without being described, or is not what is described.
    """
    _check_settings(part.config, config, "")
    check_arrays(part, arrays)


def check_arrays(part: Part, arrays: Mapping[str, str]) -> None:
    """Check the arrays of a part as `check_part` does, where they can be described only once its settings are known."""
    _check_names([name for name in arrays if "*" not in name], list(arrays), part.arrays, "array")
    sizes = {name: value for name, value in part.config.items() if type(value) is int}
    for name, array in part.arrays.items():
        pattern = name if name in arrays else next(one for one in arrays if fnmatchcase(name, one))
        _check_array(name, array, arrays[pattern], sizes)


def inner_part(part: Part, lead: str, head: Mapping[str, Any]) -> Part:
    """Return a part that is stored inside another one: its head, and those arrays whose names begin with `lead`."""
    arrays = {name.removeprefix(lead): array for name, array in part.arrays.items() if name.startswith(lead)}
    return Part(head["kind"], head["config"], arrays)


def stored_parameters(cls: type, without: tuple[str, ...] = ()) -> dict[str, Rule]:
    """Return what `check_part` needs of the constructor arguments that a part holds."""
    return {name: one for name, one in parameters_of(cls).items() if name not in without}


def _check_settings(given: Any, described: Mapping[str, Any], within: str) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"its {within.rstrip('.') or 'configuration'} is {short(given)}; it must be a mapping")
    needed = [name for name in described if not name.endswith("?")]
    _check_names(needed, [name.removesuffix("?") for name in described], given, "setting", within)
    for name, value in given.items():
        wanted = described.get(name, described.get(f"{name}?"))
        if isinstance(wanted, Mapping):
            _check_settings(value, wanted, f"{within}{name}.")
            continue
        allowed = wanted if isinstance(wanted, Rule) else rule(wanted)
        if not allowed.accepts(value):
            raise ValueError(f"its setting {within}{name} is {short(value)}; it must be {allowed.text}")


def _check_names(needed: list[str], known: list[str], given: Mapping[str, Any], what: str, within: str = "") -> None:
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"its {what} {within + missing[0]!r} is missing")
    if unknown := [name for name in given if not any(fnmatchcase(name, one) for one in known)]:
        raise ValueError(f"it has no {what} {within + unknown[0]!r}, but the part holds one")


def _check_array(name: str, array: Array, described: str, sizes: dict[str, int]) -> None:
    """Check dtype and shape of an array; `sizes` of named dimensions are compared, and taken in if they are new."""
    dtype, *dimensions = described.split()
    if dtype != "any" and array.dtype != np.dtype(dtype):
        raise ValueError(f"its array {name!r} is of {array.dtype}, not of {dtype}")
    if dimensions == ["..."]:
        return
    fits = len(dimensions) == array.ndim
    for dimension, length in zip(dimensions, array.shape, strict=False):
        fits &= length == (int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, length))
    if not fits:
        known = ", ".join(str(sizes.get(dimension, dimension)) for dimension in dimensions)
        raise ValueError(f"its array {name!r} has shape {array.shape}, not ({known})")
