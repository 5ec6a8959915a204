"""Bodies of requests: read exactly, or refused with a sentence that says why."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from assay.data.categories import feature_texts
from assay.errors import AssayError, ConfigError, InputError, RequestError
from assay.service.formats import read_arrow_question
from assay.service.limits import MIB, SERVICE_LIMITS, Limits
from assay.service.requests import Question, read_parameters, read_question
from assay.service.rows import ColumnLayout

BEYOND = 2**53 + 1  # the first whole number that float64 lacks


A = ColumnLayout(("a",))
AT_SITES = ColumnLayout(("a",), "site")
MIXED = ColumnLayout(("kind", "rate", "size"), of_text=frozenset(["kind"]), imputed=frozenset(["kind", "rate"]))


def body(category: str) -> bytes:
    return f'{{"columns": ["site", "a"], "rows": [[{category}, 1]]}}'.encode()


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="the key 'eps' is given twice"):
        read_question(b'{"columns": ["a"], "rows": [[1]], "eps": 0.1, "eps": 0.2}', A)


def random_body(rng: random.Random) -> bytes:
    """Return a body of few columns that is often right, and else wrong in ways that a parser could pass over."""
    usual = ["1", "2.5", "-0", "1e-320", "9007199254740993", "18446744073709551616", "0.12345678901234567891"]
    odd = ["true", "null", '"x"', "[]", "{}", "1e400", "NaN", "123456789012345678901234567890"]

    def value() -> str:
        return rng.choice(odd if rng.random() < 0.05 else usual)

    names = rng.sample(["a", "b", "rows"], 3) + (["a"] if rng.random() < 0.1 else [])
    rows = [[value() for _ in range(3 if rng.random() < 0.95 else 2)] for _ in range(rng.randint(0, 3))]
    texts = ",".join(f"[{','.join(row)}]" for row in rows)
    parts = [f'"columns": {json.dumps(names)}', f'"rows": [{texts}]']
    if rng.random() < 0.3:
        texts = ",".join(f"{json.dumps(name)}: {value()}" for name in names)
        parts = [f'"record": {{{texts}}}']
    ids = ['["x"]', '["x", "y"]', "[1, 2]", "null", '"xy"', '{"x": 1, "y": 2}', '["x", "\\u00e9"]']
    shares = rng.choice(["0.1", "1", "2.5", "null", "true"])
    more = [
        '"columns": [1, 2, 3]',
        '"columns": {"a": [1], "b": [2], "rows": [3]}',
        '"rows": [[1, 2, 3]]',
        '"record": {}',
    ]
    extra = [f'"ids": {rng.choice(ids)}', f'"eps": {shares}', '"fdr": 0.1', *more]
    parts += [part for part in extra if rng.random() < 0.1]
    rng.shuffle(parts)
    return f"{{{', '.join(parts)}}}".encode()


def test_a_body_that_is_parsed_as_a_whole_is_read_as_value_by_value() -> None:
    rng, layout, whole = random.Random(0), ColumnLayout(("a", "b", "rows")), 0
    for _ in range(5000):
        body = random_body(rng)
        answers = []
        for limits in (SERVICE_LIMITS, replace(SERVICE_LIMITS, whole_body=0)):
            try:
                question = read_question(body, layout, limits)
                answers.append((repr(question.rows.tolist()), question.ids, question.eps, question.fdr))
                whole += limits is SERVICE_LIMITS
            except AssayError as error:
                answers.append((str(error),))
        assert answers[0] == answers[1], body
    assert 1000 < whole < 4000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"columns":' * 100_000, '{"columns": ' + "[" * 100_000])
def test_a_body_that_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="the body is nested too deeply") as refused:
        read_question(text.encode(), A)
    assert refused.value.status == 413


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
    question = read_question(body(given), AT_SITES)
    assert question.categories == [text]
    assert question.rows.tolist() == [[1.0]]


def test_long_whole_numbers_are_features_and_shares_as_any_number() -> None:
    numbers = [BEYOND, -BEYOND, 10**15, 10**16, 2**63, 0, 10**400]
    content = {"columns": ["a"], "rows": [[number] for number in numbers]}
    question = read_question(json.dumps(content).encode(), A)
    assert question.categories is None
    assert question.rows.dtype == np.float64
    assert question.rows[:, 0].tolist() == [*map(float, numbers[:-1]), float("inf")]
    with pytest.raises(ConfigError, match=r"eps is 1e\+19; it must be a number between 0 and 1"):
        read_question(b'{"columns": ["a"], "rows": [], "eps": 10000000000000000001}', A)


@pytest.mark.parametrize("place", ["rows", "columns", "eps"])
def test_a_long_whole_number_in_the_wrong_place_is_a_number(place: str) -> None:
    content = json.loads(body("1")) | {place: BEYOND}
    with pytest.raises((InputError, ConfigError), match=f"{place} (is a number|must be a list|is 9007199254740992)"):
        read_question(json.dumps(content).encode(), AT_SITES)
    with pytest.raises(InputError, match="the body is a number"):
        read_question(str(BEYOND).encode(), A)


def test_ids_are_texts_or_numbers_one_for_each_row() -> None:
    def ids(text: str, n: int) -> list[str] | None:
        return read_question(f'{{"columns": ["a"], "rows": {[[1.0]] * n}, "ids": {text}}}'.encode(), A).ids

    assert ids("null", 3) is None
    assert ids('["a", 7, 7.0, 9007199254740993]', 4) == ["a", "7", "7", "9007199254740993"]
    for wrong, message in (
        ('["a"]', "ids is a list of 1; give a list of 2 names"),
        ('"ab"', "ids is a string; give a list of 2"),
        ('["a", null]', "id of row 1 is null; give text or a number"),
        ('["a", "\\ud800"]', "the id of row 1 holds half of a surrogate pair"),
        ('["a", "b\\u0000"]', "the id of row 1 holds a control character"),
    ):
        with pytest.raises(InputError, match=message):
            ids(wrong, 2)


def test_what_no_file_of_the_dataset_could_hold_is_refused() -> None:
    for sign in ("\0", "\n", "\x7f"):
        with pytest.raises(RequestError, match="row 0, column 'kind' holds a control character"):
            mixed(json.dumps(f"re{sign}d"))
        stream = io.BytesIO()
        table = pa.table({"kind": [f"re{sign}d"], "rate": [1.0], "size": [1.0]})
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(RequestError, match="column 'kind' holds a control character"):
            read_arrow_question(stream.getvalue(), MIXED, SERVICE_LIMITS)
    documents = ColumnLayout(("body",), of_text=frozenset(["body"]), of_documents=True)
    assert read_question(b'{"record": {"body": "two\\nlines"}}', documents).rows[0, 0] == "two\nlines"
    with pytest.raises(RequestError, match="column 'body' holds a control character"):
        read_question(b'{"record": {"body": "zero\\u0000"}}', documents)


def mixed(value: str, column: str = "kind") -> tuple[object, ...]:
    names = [name for name in MIXED.columns if name != column]
    fills = ['"red"' if name == "kind" else "1" for name in names]
    content = f'{{"columns": {json.dumps([column, *names])}, "rows": [[{value}, {", ".join(fills)}]]}}'
    return tuple(read_question(content.encode(), MIXED).rows[0])


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


TABLE = {"a": [1.0, 2.5], "b": [-3.0, 0.0]}
ROWS = [list(row) for row in zip(*TABLE.values(), strict=True)]
RECORDS = [dict(zip(TABLE, row, strict=True)) for row in ROWS]


@pytest.mark.parametrize(
    "content",
    [
        {"columns": ["b", "a"], "rows": [row[::-1] for row in ROWS]},
        {"rows": ROWS, "eps": 0.1, "columns": ["a", "b"]},
        {"columns": {"b": TABLE["b"], "a": TABLE["a"]}},
        {"records": RECORDS},
    ],
    ids=["rows", "rows before columns", "columns", "records"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_every_form_gives_the_same_rows(content: dict[str, object], indent: int | None) -> None:
    question = read_question(json.dumps(content, indent=indent).encode(), ColumnLayout(("a", "b")))
    assert question.rows.tolist() == ROWS
    one = read_question(json.dumps({"record": RECORDS[1]}).encode(), ColumnLayout(("a", "b")))
    assert one.rows.tolist() == ROWS[1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"columns": ["a"], "records": [{"a": 1}]}', "rows are given in two ways, by columns and records"),
        ('{"columns": {"a": [1]}, "rows": [[1]]}', "rows are given in two ways, by columns and rows"),
        ('{"records": [{"a": 1}, {"b": 1}]}', "record 1: unknown column 'b'"),
        ('{"records": [{"a": 1}, {}]}', "record 1: column 'a' is missing"),
        ('{"records": {"a": 1}}', "records is an object; give a list of objects"),
        ('{"record": [1]}', "record is a list; give an object"),
        ('{"columns": {"a": 1}}', "column 'a' is a number; give a list of values"),
        ('{"record": {"a": "x"}}', "row 0, column 'a' is a string; every value must be a finite number"),
        ('{"columns": ["a"], "rows": [[1], [2], [1e400, 3]]}', "row 2 has length 2"),
        ('{"columns": ["a"], "rows": [[1],]}', "the body is not JSON"),
        ('{"columns": ["a"], "rows": [[1]] "eps": 0.1}', "the body is not JSON"),
        ('{"columns": ["a"], "rows": [[1]]} true', "the body is not JSON"),
        ("{}", "key 'columns' is missing"),
    ],
)
def test_what_fits_no_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_question(text.encode(), A)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(InputError, match="column 'b' has 1 values, column 'a' 2"):
        read_question(b'{"columns": {"a": [1, 2], "b": [1]}}', ColumnLayout(("a", "b")))


def test_many_rows_are_read_as_each_alone() -> None:
    """Blocks of numbers, among them rows that are read one by one."""
    rng = np.random.default_rng(0)
    rows = np.exp(rng.normal(0, 30, (9000, 3)))
    text = json.dumps({"columns": ["a", "b", "c"], "rows": rows.tolist()})
    layout = ColumnLayout(("a", "b", "c"), imputed=frozenset("c"))
    np.testing.assert_array_equal(read_question(text.encode(), layout).rows, rows)
    rows[5000, 2] = np.nan
    text = json.dumps({"columns": ["a", "b", "c"], "rows": rows.tolist()}).replace("NaN", "null")
    np.testing.assert_array_equal(read_question(text.encode(), layout).rows, rows)


SMALL = Limits(rows=3, values=10, text=5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"columns": ["a"], "rows": [[1], [1], [1], [1]]}', "more than 3 rows"),
        ('{"columns": {"a": [1, 1, 1, 1]}}', "more than 3 rows"),
        ('{"records": [{"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}]}', "more than 3 rows"),
        ('{"columns": ["a"], "rows": [' + "[]," * 1000 + "[]]}", "opening brackets"),
        ('{"columns": [' + '"a",' * 20 + '"a"], "rows": []}', "21 commas"),
        ('{"record": {"a": 1}, "ids": ["abcdef"]}', "the id of row 0 has 6 characters; a text has at most 5"),
    ],
)
def test_what_is_too_large_is_refused_and_the_limit_named(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        read_question(text.encode(), A, SMALL)
    assert refused.value.status == 413


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "dictionary"])
def test_texts_of_arrow_are_counted_in_characters(packed: bool) -> None:
    for text, fits in (("\u00e4" * 5, True), ("a" * 6, False)):
        column = pa.array([text])
        batch = pa.record_batch({"a": column.dictionary_encode() if packed else column})
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, batch.schema) as writer:
            writer.write_batch(batch)
        body = bytes(stream.getvalue())
        if fits:
            assert read_arrow_question(body, A, SMALL).rows.num_rows == 1
            continue
        with pytest.raises(RequestError, match="column 'a' has a text of 6 characters; a text has at most 5"):
            read_arrow_question(body, A, SMALL)


def test_the_address_decides_too() -> None:
    question = Question(np.zeros((1, 1)), eps=0.5)
    assert read_parameters({"fdr": "0.25"}, question).fdr == 0.25
    for parameters, message in (
        ({"eps": "0.1"}, "eps is given by the body and by the address"),
        ({"fdr": "x"}, "fdr is 'x'; give a number between 0 and 1"),
        ({"fdr": "nan"}, "fdr is 'nan'"),
        ({"epsilon": "0.1"}, "unknown parameter 'epsilon'"),
    ):
        with pytest.raises(InputError, match=message):
            read_parameters(parameters, question)


def test_one_long_text_costs_no_memory_in_other_rows() -> None:
    """An array of texts of fixed length would take 400 MB for these."""
    texts = ["x" * 10_000, *["NA", "nan", "TRUE", "b"] * 2500]
    tracemalloc.start()
    try:
        read = feature_texts(texts)
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()
    assert read[1:5].tolist() == ["", "", "true", "b"]
