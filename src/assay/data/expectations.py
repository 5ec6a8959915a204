"""Expectation suites: what a dataset's table must look like, learned once, then edited by the user.

A suite is the plain JSON of a Great Expectations suite (name, expectations, meta). It describes the
table that `assay.data.validation` makes of a row set: the bookkeeping columns, then the features.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.data.card import Card
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset
from assay.data.drift import LABELS, LEVEL, P_VALUE, ROWS, SHARE, SHIFT
from assay.data.ranges import EXTREMES, IS_BETWEEN, NOT_NULL, Expectation, expectation
from assay.data.reference import ReferenceCounts, learn_reference
from assay.errors import ConfigError, DataError
from assay.parts import parse_json

ID_COLUMN, LABEL_COLUMN, FINGERPRINT_COLUMN, INJECTED_COLUMN = "row.id", "row.label", "row.fingerprint", "row.injected"
COPY_COLUMN = "row.copy"
BOOKKEEPING = (ID_COLUMN, LABEL_COLUMN, FINGERPRINT_COLUMN, INJECTED_COLUMN)
TABLE, FRAME, REFERENCE = "table", "statistics", "reference"
IN_SET = "expect_column_values_to_be_in_set"


def great_expectations() -> Any:
    """Import Great Expectations without its warnings; its analytics are off unless the user has switched them on."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.execution_engine import pandas_execution_engine
    pandas_execution_engine.HASH_THRESHOLD = 0  # it would hash all values of small tables, for nothing that is kept
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


def value_expectations(card: Card) -> list[Expectation]:
    """Return the expectations of the values of single rows of a dataset: those of the modality.

    Columns that may be missing have none about that.
    """
    numbers = tuple(name for name in card.columns if name not in card.vocabulary)
    entries = card.modality.expectations(numbers) if numbers else []
    entries += [expectation(NOT_NULL, column=name) for name in card.vocabulary]
    return [e for e in entries if e["type"] != NOT_NULL or e["kwargs"]["column"] not in card.imputed]


def frame_expectations() -> list[Expectation]:
    """Return the expectations of the frame of statistics (`assay.data.drift.compare`): what stops a run.

    A quantile moved by half a standard deviation; a share, by 5 points; that of labelled anomalies, by 20 and
    past one half; two fifths of the rows are gone. Whatever else is significant is a warning.
    """
    bounds = {SHIFT: (-0.5, 0.5), SHARE: (-5.0, 5.0), LABELS: (-20.0, 20.0), ROWS: (-40.0, None)}
    entries = []
    for column, (low, high) in bounds.items():
        limits = {"min_value": low} | ({} if high is None else {"max_value": high})
        entries.append(expectation(IS_BETWEEN, column=column, **limits))
    entries.append(expectation(IS_BETWEEN, column=P_VALUE, min_value=LEVEL) | {"severity": "warning"})
    return [entry | {"meta": {TABLE: FRAME}} for entry in entries]


def learn_suite(dataset: Dataset) -> dict[str, Any]:
    """Learn the expectation suite of a dataset from a version of it, the reference.

    Expected are: the columns and their order; row ids unique and not null; labels -1, 0 or 1; the value
    expectations of the modality (mostly, per feature, neither missing nor infinite). The meta of the suite holds
    the reference, and further expectations are of the frame of statistics of new rows beside it.

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
    if not len(dataset.data):
        raise DataError(f"{dataset.card.name} has no rows; ingest at least one to learn expectations")
    of_values = value_expectations(dataset.card)
    uses_extremes = any(entry["kwargs"].get("column") in EXTREMES for entry in of_values)
    names = table_columns(dataset.card.columns, extremes=uses_extremes)
    general = [
        expectation("expect_table_columns_to_match_ordered_list", column_list=names),
        expectation(NOT_NULL, column=ID_COLUMN),
        expectation("expect_column_values_to_be_unique", column=ID_COLUMN),
        expectation(IN_SET, column=LABEL_COLUMN, value_set=[UNKNOWN, NORMAL, ANOMALY]),
        expectation(IN_SET, column=INJECTED_COLUMN, value_set=[0, 1]),
    ]
    notes = (
        f"Learned from {len(dataset.data)} rows; yours to edit. The training rows of every level must meet it "
        f'too, except what has {{"{TABLE}": "{FRAME}"}} as its meta: that judges new rows beside the reference.'
    )
    meta = {"notes": notes, REFERENCE: learn_reference(dataset)}
    learned = general + of_values + frame_expectations()
    return {"name": dataset.card.name, "expectations": learned, "meta": meta}


def of_frame(expectation: Any) -> bool:
    """Return whether an expectation is of the frame of statistics."""
    return bool((expectation.meta or {}).get(TABLE) == FRAME)


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
        parse_reference(suite)
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


def parse_reference(suite: dict[str, Any]) -> ReferenceCounts | None:
    """Return the reference that a suite holds; None for one without, as they once were.

    Raises
    ------
    ConfigError
        It is not what `assay.data.reference.learn_reference` makes.
    """
    meta = suite.get("meta") or {}
    if not isinstance(meta, dict):
        raise ConfigError(f'its "meta" must be an object of JSON, got {meta!r:.80}; restore it from git')
    from assay.data.reference_form import is_reference

    reference = meta.get(REFERENCE)
    if reference is not None and not is_reference(reference):
        raise ConfigError(
            f'the "{REFERENCE}" in its meta is not as it was learned; restore it from git, or learn it again: '
            f"assay suite relearn --name {suite.get('name')}"
        )
    return reference


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
