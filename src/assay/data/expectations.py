"""Expectation suites: what a dataset's table must look like, learned once, then edited by the user.

A suite is the plain JSON of a Great Expectations suite (name, expectations, meta). It describes the
table that `assay.data.validation` makes of a row set: the bookkeeping columns, then the features.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.arrays import Doubles
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Card, Dataset
from assay.data.ranges import EXTREMES, NOT_NULL, Expectation, expectation
from assay.errors import ConfigError, DataError
from assay.parts import parse_json

ID_COLUMN, LABEL_COLUMN, FINGERPRINT_COLUMN, INJECTED_COLUMN = "row.id", "row.label", "row.fingerprint", "row.injected"
COPY_COLUMN = "row.copy"
BOOKKEEPING = (ID_COLUMN, LABEL_COLUMN, FINGERPRINT_COLUMN, INJECTED_COLUMN)
SLACK = 0.1
IN_SET = "expect_column_values_to_be_in_set"


def great_expectations() -> Any:
    """Import Great Expectations without its warnings; its analytics are off unless the user has switched them on."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    return gx


def table_columns(columns: tuple[str, ...], *, extremes: bool = False) -> list[str]:
    """Return the columns of a table: bookkeeping columns, optionally the row extremes, then features.

    Raises
    ------
    DataError
        A feature has a reserved name, or two features have the same name.
    """
    reserved = (*BOOKKEEPING, *EXTREMES)
    for name in columns:
        if name in reserved:
            raise DataError(f"a feature is called {name!r}; {', '.join(reserved)} are reserved: rename it")
        if columns.count(name) > 1:
            raise DataError(f"two features are called {name!r}; names must be unique: rename one")
    return [*BOOKKEEPING, *(EXTREMES if extremes else ()), *columns]


def value_expectations(card: Card, features: Doubles) -> list[Expectation]:
    """Return the expectations of the values of rows (n, d) of a dataset.

    Of numbers those of the modality, except that columns which may be missing may lack a tenth of the rows more than
    those of `features` do. Of categories: nine tenths of the rows have one that `features` has.
    """
    is_number = np.array([name not in card.vocabulary for name in card.columns])
    numbers = tuple(name for name in card.columns if name not in card.vocabulary)
    entries = card.modality.expectations(numbers, features[:, is_number]) if numbers else []
    for name, texts in card.vocabulary.items():
        codes = features[:, card.columns.index(name)]
        present = [texts[int(code)] for code in np.unique(codes[~np.isnan(codes)])]
        entries.append(expectation(NOT_NULL, column=name))
        entries.append(expectation(IN_SET, column=name, value_set=present, mostly=1 - SLACK))
    shares = dict(zip(card.columns, np.isnan(features).mean(axis=0).tolist(), strict=True))
    for entry in entries:
        if entry["type"] == NOT_NULL and entry["kwargs"]["column"] in card.imputed:
            share = 1 - shares[entry["kwargs"]["column"]] - SLACK
            entry["kwargs"]["mostly"] = math.floor(1e4 * max(0.0, share)) / 1e4
    return entries


def learn_suite(dataset: Dataset) -> dict[str, Any]:
    """Learn the expectation suite of a dataset from its reference version, the first one ingested.

    Expected are: the columns and their order; row ids unique and not null; labels -1, 0 or 1; the value
    expectations of the modality (mostly, per feature, no null and ``[min - range, max + range]`` of the finite
    reference values, which also excludes infinities); and, for the source only, a proportion of distinct rows at
    most 0.1 below that of the reference. (A part of the data has fewer copies of each row, so that the proportion in it
    can differ much from that of the whole.)

    Parameters
    ----------
    dataset : Dataset
        The reference version, n >= 1 rows.

    Returns
    -------
    dict
        JSON-able; equal data give equal dicts on any machine and with any library version.

    Raises
    ------
    DataError
        There are no rows, or a feature's name is not allowed (see `table_columns`).
    """
    columns, features = dataset.card.columns, dataset.data.features
    if not len(features):
        raise DataError(f"{dataset.card.name} has no rows; ingest at least one to learn expectations")
    of_values = value_expectations(dataset.card, features)
    uses_extremes = any(entry["kwargs"].get("column") in EXTREMES for entry in of_values)
    names = table_columns(columns, extremes=uses_extremes)
    # Rounded down, so that the number in the file does not depend on float rounding.
    distinct = len(np.unique(dataset.card.fingerprints(features))) / len(features)
    fewest = math.floor(1e4 * max(0.0, distinct - SLACK)) / 1e4
    general_expectations = [
        expectation("expect_table_columns_to_match_ordered_list", column_list=names),
        expectation(NOT_NULL, column=ID_COLUMN),
        expectation("expect_column_values_to_be_unique", column=ID_COLUMN),
        expectation(IN_SET, column=LABEL_COLUMN, value_set=[UNKNOWN, NORMAL, ANOMALY]),
        expectation(IN_SET, column=INJECTED_COLUMN, value_set=[0, 1]),
        {
            "type": "expect_column_proportion_of_unique_values_to_be_between",
            "kwargs": {"column": FINGERPRINT_COLUMN, "min_value": fewest},
            "meta": {"only": "source"},
        },
    ]
    notes = (
        f"Learned from the first version ingested, {len(features)} rows; yours to edit. The training rows "
        'of every level must meet it too, except what has {"only": "source"} as its meta.'
    )
    learned = general_expectations + of_values
    return {"name": dataset.card.name, "expectations": learned, "meta": {"notes": notes}}


def load_suite(path: Path) -> dict[str, Any]:
    """Read a suite that `learn_suite` made and a user may have edited; return its JSON.

    Raises
    ------
    ConfigError
        The file is missing, is not JSON or not a suite, or Great Expectations does not know an
        expectation or refuses its arguments.
    """
    advice = "correct it, or restore the version in git"
    try:
        suite = parse_json(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; ingest the dataset, or restore the file from git") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}; {advice}") from error
    try:
        parse_suite(suite)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; {advice}") from error
    return dict(suite)


def parse_suite(suite: object) -> tuple[str, list[Any]]:
    """Return the name and the Great Expectations objects of a suite.

    Raises
    ------
    ConfigError
        It is not a suite, or an expectation is unknown or its arguments are refused.
    """
    shape = 'a suite is a JSON object with "name" (the dataset\'s) and "expectations" (a list)'
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        raise ConfigError(shape)
    name = suite.get("name")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ConfigError(f"{shape}; its name is {name!r}")
    return name, parse_expectations(suite["expectations"])


def parse_expectations(entries: Sequence[object]) -> list[Any]:
    """Return the Great Expectations objects of entries of a suite; see `parse_suite`."""
    great_expectations()
    return [_parse(number, entry) for number, entry in enumerate(entries, start=1)]


def _parse(number: int, entry: object) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError, GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise ConfigError(f'expectation {number} must have "type" (text) and "kwargs", got {entry!r:.80}')
    where = f"expectation {number}, {entry['type']!r}"
    try:
        return ExpectationConfiguration(**copy.deepcopy(entry)).to_domain_obj()
    except ExpectationNotFoundError as error:
        raise ConfigError(f"{where}, is not an expectation that Great Expectations knows") from error
    except (GreatExpectationsError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}, is refused: {' '.join(str(error).split())}") from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
