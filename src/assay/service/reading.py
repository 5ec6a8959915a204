"""A JSON text read value by value, so that it is refused where it goes wrong, and never held whole as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import orjson

from assay.arrays import Doubles
from assay.parts import unrepeated

BLOCK = 2**17  # characters of rows of numbers that are read at once
_SPACES = " \t\n\r"
_SPACE = re.compile(r"[ \t\n\r]*")
_NO_NUMBERS = '"{tfn'  # the first signs of texts, objects, true, false and null


class LongInteger(float):
    """A long integer with all its digits: float64 may drop some, and a category needs all of them."""

    __slots__ = ("digits",)
    digits: str

    def __new__(cls, digits: str) -> Self:
        """Parse the digits."""
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


def _integer(digits: str) -> float:
    return float(digits) if len(digits) < 16 else LongInteger(digits)  # 15 digits are below 2**53


_DECODER = json.JSONDecoder(object_pairs_hook=unrepeated, parse_int=_integer)


class JsonReader:
    """A JSON text and a place in it; every number becomes a float, a long integer a `LongInteger`.

    All methods raise `ValueError` where the text is no JSON.

    Parameters
    ----------
    text : str
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self._only_numbers = True

    def peek(self) -> str:
        """Return the next sign that is no space, or "" at the end."""
        sign = self.text[self.place : self.place + 1]
        if sign in _SPACES:
            space = _SPACE.match(self.text, self.place)
            assert space is not None
            self.place = space.end()
            sign = self.text[self.place : self.place + 1]
        return sign

    def value(self) -> Any:
        """Read one value, whole."""
        self.peek()
        value, self.place = _DECODER.raw_decode(self.text, self.place)
        return value

    def elements(self) -> Iterator[None]:
        """Step through a list; the caller reads a value at each step."""
        self._expect("[")
        if self._skip("]"):
            return
        while True:
            yield
            if self._skip("]"):
                return
            self._expect(",")

    def members(self) -> Iterator[str]:
        """Step through an object by its keys; the caller reads a value at each step."""
        self._expect("{")
        keys: set[str] = set()
        if self._skip("}"):
            return
        while True:
            if self.peek() != '"':
                raise json.JSONDecodeError("Expecting property name enclosed in double quotes", self.text, self.place)
            key = self.value()
            if key in keys:
                raise ValueError(f"the key {key!r} is given twice")
            keys.add(key)
            self._expect(":")
            yield key
            if self._skip("}"):
                return
            self._expect(",")

    def numbers(self, width: int) -> Doubles | None:
        """Read the next rows of a list if they are lists of `width` numbers, shape (n, width); None where some are not.

        Many at once take a third of the time of each alone. After a None it tries no more.
        """
        if not self._only_numbers or self.peek() != "[":
            return None
        last = self.text.find("]]", self.place, self.place + BLOCK)
        end = (last if last >= 0 else self.text.rfind("]", self.place, self.place + BLOCK)) + 1
        block = self.text[self.place : end]
        self._only_numbers = False
        if not block or any(sign in block for sign in _NO_NUMBERS):
            return None
        try:
            rows = np.array(orjson.loads(f"[{block}]"), dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            return None
        if rows.ndim != 2 or rows.shape[1] != width:
            return None
        self._only_numbers = True
        self.place = end
        return rows

    def finish(self) -> None:
        """Raise `ValueError` unless the text ends here."""
        if self.peek():
            raise json.JSONDecodeError("Extra data", self.text, self.place)

    def _skip(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.place += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise json.JSONDecodeError(f"Expecting {sign!r}", self.text, self.place)
