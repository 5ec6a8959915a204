"""Bodies of requests: read exactly, or refused with a sentence that says why."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.errors import ConfigError, InputError
from assay.service.requests import read_body, read_ids, read_request_rows, read_share

BEYOND = 2**53 + 1  # the first whole number that float64 lacks


def body(category: str) -> bytes:
    return f'{{"columns": ["site", "a"], "rows": [[{category}, 1]]}}'.encode()


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="the key 'eps' is given twice"):
        read_body(b'{"columns": ["x"], "rows": [[1]], "eps": 0.1, "eps": 0.2}')


@pytest.mark.parametrize("text", ["[" * 100_000, '{"columns":' * 100_000, '{"columns": ' + "[" * 100_000])
def test_a_body_that_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"the body is not JSON.*nested too deeply"):
        read_body(text.encode())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (str(BEYOND), str(BEYOND)),
        (str(-BEYOND), str(-BEYOND)),
        (str(2**63 + 1), str(2**63 + 1)),
        ("9" * 400, "9" * 400),
        ("9" * 5000, "9" * 5000),
        ("7", "7"),
        ("-7", "-7"),
        ("7.0", "7"),
        ("7e0", "7"),
        ("7.5", "7.5"),
        ('"7.0"', "7"),
        (f'"{BEYOND}"', str(BEYOND)),
        ('"north"', "north"),
    ],
)
def test_a_category_keeps_its_digits(given: str, text: str) -> None:
    rows, categories = read_request_rows(read_body(body(given)), ("a",), "site")
    assert categories == [text]
    assert rows.tolist() == [[1.0]]


def test_long_whole_numbers_are_features_and_shares_as_any_number() -> None:
    numbers = [BEYOND, -BEYOND, 10**15, 10**16, 2**63, 0, 10**400]
    content = {"columns": ["a"], "rows": [[number] for number in numbers]}
    rows, categories = read_request_rows(read_body(json.dumps(content).encode()), ("a",))
    assert categories is None
    assert rows.dtype == np.float64
    assert rows[:, 0].tolist() == [*map(float, numbers[:-1]), float("inf")]
    long = read_body(b'{"columns": [], "rows": [], "eps": 10000000000000000001}')
    with pytest.raises(ConfigError, match=r"eps is 1e\+19; it must be a number between 0 and 1"):
        read_share(long, "eps")


@pytest.mark.parametrize("place", ["rows", "columns", "eps"])
def test_a_long_whole_number_in_the_wrong_place_is_a_number(place: str) -> None:
    content = json.loads(body("1")) | {place: BEYOND}
    read = read_body(json.dumps(content).encode())
    with pytest.raises((InputError, ConfigError), match=f"{place} (is a number|must be a list|is 9007199254740992)"):
        read_share(read, "eps") or read_request_rows(read, ("a",), "site")
    with pytest.raises(InputError, match="the body is a number"):
        read_body(str(BEYOND).encode())


def test_ids_are_texts_or_numbers_one_for_each_row() -> None:
    assert read_ids({}, 3) is None
    assert read_ids({"ids": None}, 3) is None
    read = read_body(b'{"columns": [], "rows": [], "ids": ["a", 7, 7.0, 9007199254740993]}')
    assert read_ids(read, 4) == ["a", "7", "7", "9007199254740993"]
    for wrong, message in (
        ('["a"]', "ids is a list of 1; give a list of 2 names"),
        ('"ab"', "ids is a string; give a list of 2"),
        ('["a", null]', "id of row 1 is null; give text or a number"),
    ):
        content = read_body(f'{{"columns": [], "rows": [], "ids": {wrong}}}'.encode())
        with pytest.raises(InputError, match=message):
            read_ids(content, 2)


def mixed(value: str, column: str = "kind") -> tuple[object, ...]:
    names = [name for name in ("kind", "rate", "size") if name != column]
    fills = ['"red"' if name == "kind" else "1" for name in names]
    content = f'{{"columns": {json.dumps([column, *names])}, "rows": [[{value}, {", ".join(fills)}]]}}'
    rows, _ = read_request_rows(
        read_body(content.encode()), ("kind", "rate", "size"), of_text=["kind"], imputed=["kind", "rate"]
    )
    return tuple(rows[0])


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("kind", '"red"', ("red", 1.0, 1.0)),
        ("kind", "null", (None, 1.0, 1.0)),
        ("kind", "7", (7.0, 1.0, 1.0)),
        ("kind", str(BEYOND), (str(BEYOND), 1.0, 1.0)),
        ("kind", "true", (True, 1.0, 1.0)),
        ("rate", "null", ("red", None, 1.0)),
        ("rate", "2.5", ("red", 2.5, 1.0)),
        ("rate", str(BEYOND), ("red", float(BEYOND), 1.0)),
    ],
)
def test_columns_take_what_they_hold(column: str, value: str, expected: tuple[object, ...]) -> None:
    assert mixed(value, column) == expected


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("size", "null", "row 0, column 'size' is null; every value must be a finite number$"),
        (
            "rate",
            '"red"',
            "column 'rate' is a string; every value must be a finite number, or null where it is missing",
        ),
        ("kind", "[1]", "column 'kind' is a list; every value must be text or a number, or null"),
    ],
)
def test_other_values_are_named(column: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixed(value, column)
