"""Declared parameters: what an annotation allows, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt

from assay.errors import ConfigError
from assay.parameters import (
    Count,
    ImageShape,
    NotNegative,
    Positive,
    PositiveRates,
    Says,
    Seed,
    Share,
    Widths,
    check_parameters,
    check_share,
    declaration,
    parameters_of,
)


@pytest.mark.parametrize(
    ("annotation", "words", "good", "bad"),
    [
        (
            Count,
            "an integer >= 1",
            (1, 10**30, np.int8(3)),
            (0, True, 1.0, "1", None, np.float64(1), np.bool_(True), [1]),
        ),
        (Seed, "an integer from 0 to 4294967295", (0, 2**32 - 1), (-1, 2**32)),
        (
            NotNegative,
            "a finite number >= 0",
            (0, 1, 0.5, np.float32(2)),
            (-1e-9, True, "0", float("nan"), float("inf")),
        ),
        (
            Positive,
            "a finite number > 0",
            (1e-300, 10**20, Fraction(1, 2)),
            (0, 0.0, 10**400, np.array(1.0), Fraction(10**400)),
        ),
        (Share, "a number between 0 and 1, both excluded (for instance 0.05)", (0.5,), (0, 1, 1.0)),
        (Annotated[float, Gt(0), Lt(0.5)], "a number between 0 and 0.5", (0.2,), (0, 0.5)),
        (Annotated[float, Ge(0), Le(0.5)], "a number from 0 to 0.5", (0, 0.5), (0.6,)),
        (Annotated[float, Ge(0), Lt(0.5)], "a number from 0 to below 0.5", (0, 0.4), (0.5,)),
        (
            Widths,
            "a list of integers from 1 to 65536, at most 100 of them",
            ([], (3,), [2, np.int64(4)], [65_536]),
            (3, "3", b"3", {3}, [0], [True], [[1]], [65_537], [1] * 101),
        ),
        (
            PositiveRates,
            "a finite number > 0, or a list of them, one for each member",
            (1, [0.1, 1]),
            (0, [], [0], "1"),
        ),
        (
            ImageShape | None,
            "[height, width], or [height, width, 3] in colour, or null",
            (None, (2, 3), [2, 3], [2, 3, 3]),
            ([2], [2, 3, 4], [0, 1], "23"),
        ),
        (Literal["auto"] | Count, "'auto', or an integer >= 1", ("auto", 2), ("Auto", 0, True, ["auto"])),
        (Literal["a", "b"], "one of 'a', 'b'", ("a",), ("c", 1, None)),
        (bool, "true or false", (True, np.bool_(False)), (0, 1, "true", None)),
        (str, "a text", ("",), (1, None, b"")),
        (Annotated[Mapping[str, Any], Says("a mapping")], "a mapping", ({}, {"a": []}), ([], None, {1: 2})),
    ],
)
def test_an_annotation_says_what_is_allowed(
    annotation: Any, words: str, good: tuple[Any, ...], bad: tuple[Any, ...]
) -> None:
    assert declaration(annotation).text == words
    for value in good:
        assert declaration(annotation).accepts(value), value
    for value in bad:
        assert not declaration(annotation).accepts(value), value


def recipe(rows: Any, *, share: Share, steps: Count = 3) -> None:
    """Take two parameters, one of them by default."""


class Handmade:
    """A class with a constructor of its own."""

    def __init__(self, steps: Count = 3) -> None:
        self.steps = steps


def test_functions_and_classes_of_any_kind_declare_parameters() -> None:
    assert set(parameters_of(recipe)) == {"share", "steps"}
    assert set(parameters_of(Handmade)) == {"steps"}
    check_parameters("recipe 'x'", recipe, {"share": 0.5})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"share": 2},
            "recipe 'x': share is 2; it must be a number between 0 and 1, both excluded (for instance 0.05)",
        ),
        ({"share": 0.5, "steps": 0}, "recipe 'x': steps is 0; it must be an integer >= 1"),
        ({"share": 0.5, "stops": 1}, "recipe 'x' has no parameter 'stops'; it has share, steps"),
        ({"share": 0.5, 1: 1}, "recipe 'x' has no parameter 1; it has share, steps"),
        ({"steps": 1}, "recipe 'x' lacks the parameter 'share'; it must be a number between 0 and 1"),
    ],
)
def test_what_is_wrong_is_named(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_parameters("recipe 'x'", recipe, given)
    assert str(caught.value).startswith(said)


def test_a_share_comes_back_as_a_float() -> None:
    assert type(check_share(np.float32(0.5), "eps")) is float
    for bad in (0, 1, True, "0.5", None, float("nan"), np.array(0.5), 10**5000):
        with pytest.raises(ConfigError, match=r"eps is .* it must be a number between 0 and 1"):
            check_share(bad, "eps")
