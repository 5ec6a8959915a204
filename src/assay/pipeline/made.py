"""The return value of a verb."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Made(Generic[T_co]):
    """The result of a verb.

    Attributes
    ----------
    result : object
        The main result, of a type that each verb documents; the files of its folder hold it, too.
    details : dict
        Values for the event log that no file may hold, for instance seconds.
    """

    result: T_co
    details: dict[str, Any] = field(default_factory=dict)
