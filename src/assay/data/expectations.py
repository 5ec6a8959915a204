"""Expectation suites: what a dataset's table must look like, learned once and then the user's to edit.

A suite is the plain JSON of a Great Expectations suite (name, expectations, meta). It is about the
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

from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset, fingerprints
from assay.data.ranges import EXTREMES, entry
from assay.errors import ConfigError, DataError
from assay.parts import parse_json

ROW_ID, LABEL, FINGERPRINT, INJECTED = "row.id", "row.label", "row.fingerprint", "row.injected"
BOOKKEEPING = (ROW_ID, LABEL, FINGERPRINT, INJECTED)
UNIQUE_SLACK = 0.1


def great_expectations() -> Any:
    """Import Great Expectations with its analytics off and its import warnings kept in."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    return gx


def table_columns(columns: tuple[str, ...], *, extremes: bool = False) -> list[str]:
    """Return the columns of a table: the bookkeeping ones, a row's extremes if wanted, then the features.

    Raises
    ------
    DataError
        A feature has the name of a bookkeeping column, or two features have the same name.
    """
    taken = (*BOOKKEEPING, *EXTREMES)
    for name in columns:
        if name in taken:
            raise DataError(f"a feature is called {name!r}; {', '.join(taken)} are taken: rename it")
        if columns.count(name) > 1:
            raise DataError(f"two features are called {name!r}; names must be unique: rename one")
    return [*BOOKKEEPING, *(EXTREMES if extremes else ()), *columns]


def learn_suite(dataset: Dataset) -> dict[str, Any]:
    """Learn the expectation suite of a dataset from its reference version, the one first ingested.

    Expected are: the columns and their order; row ids unique and not null; labels -1, 0 or 1; what
    the modality learns of the values (mostly, per feature, no null and ``[min - range, max + range]`` of the finite
    reference values, which also catches infinities); and, of the source alone, a proportion of distinct rows at
    most 0.1 below that of the reference. (Duplicates share a role, so the proportion in a part of the data
    can lie far from that of the whole.)

    Parameters
    ----------
    dataset : Dataset
        The reference version, n >= 1 rows.

    Returns
    -------
    dict
        JSON-able; equal data give equal dicts, whatever the machine or library version.

    Raises
    ------
    DataError
        There are no rows, or a feature's name is not allowed (see `table_columns`).
    """
    columns, features = dataset.card.columns, dataset.data.features
    of_values = dataset.card.modality.expectations(columns, features)
    names = table_columns(columns, extremes=any(one["kwargs"].get("column") in EXTREMES for one in of_values))
    if not len(features):
        raise DataError(f"{dataset.card.name} has no rows; at least one is needed to learn expectations")
    distinct = len(np.unique(fingerprints(features, columns))) / len(features)
    fewest = math.floor(1e4 * max(0.0, distinct - UNIQUE_SLACK)) / 1e4
    learned = [
        entry("expect_table_columns_to_match_ordered_list", column_list=names),
        entry("expect_column_values_to_not_be_null", column=ROW_ID),
        entry("expect_column_values_to_be_unique", column=ROW_ID),
        entry("expect_column_values_to_be_in_set", column=LABEL, value_set=[UNKNOWN, NORMAL, ANOMALY]),
        entry("expect_column_values_to_be_in_set", column=INJECTED, value_set=[0, 1]),
        {
            "type": "expect_column_proportion_of_unique_values_to_be_between",
            "kwargs": {"column": FINGERPRINT, "min_value": fewest},
            "meta": {"only": "source"},
        },
    ]
    notes = (
        f"Learned from the first version ingested, {len(features)} rows; yours to edit. The training rows "
        'of every level must meet it too, except what has {"only": "source"} as its meta.'
    )
    return {"name": dataset.card.name, "expectations": learned + of_values, "meta": {"notes": notes}}


def load_suite(path: Path) -> dict[str, Any]:
    """Read a suite that `learn_suite` made and a user may have edited.

    Raises
    ------
    ConfigError
        The file is missing, is not JSON, is not a suite, or holds an expectation that Great
        Expectations does not know or whose arguments it refuses.
    """
    advice = "correct it, or bring back the version in git"
    try:
        suite = parse_json(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; ingest the dataset, or bring it back from git") from error
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
        It is not a suite, or holds an expectation that is unknown or whose arguments are refused.
    """
    shape = 'a suite is a JSON object with "name" (the dataset\'s) and "expectations" (a list)'
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        raise ConfigError(shape)
    name = suite.get("name")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ConfigError(f"{shape}; its name is {name!r}")
    return name, parse_expectations(suite["expectations"])


def parse_expectations(entries: Sequence[object]) -> list[Any]:
    """Return the Great Expectations objects of some entries of a suite; see `parse_suite`."""
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
