"""Validation: run a suite on the source and on every level, and report the rows that fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.data.card import Card
from assay.data.columns import decoded
from assay.data.contents import Contents, NamedRows, count_contents, id_texts, roles_table
from assay.data.dataset import Dataset, RowSet, print_texts
from assay.data.drift import compare, seen_before
from assay.data.expectations import (
    COPY_COLUMN,
    FINGERPRINT_COLUMN,
    ID_COLUMN,
    INJECTED_COLUMN,
    LABEL_COLUMN,
    of_frame,
    parse_expectations,
    parse_reference,
    parse_suite,
    table_columns,
)
from assay.data.mapped import new_array, row_blocks
from assay.data.ranges import EXTREMES
from assay.data.reference import learn_reference
from assay.data.runner import Check, Runner
from assay.errors import DataError, ValidationFailedError

FAILURES_IN_MESSAGE, FEWEST_BATCHES = 3, 2
BY_COLUMN = "source by column"


@dataclass(frozen=True, slots=True)
class LevelRows:
    """The training rows of one contamination level, and their planned numbers.

    Attributes
    ----------
    rho : float
    train : RowSet
        Training rows with the injected ones appended; ``rows`` has a column ``injected`` (0 or 1).
    n_injected, n_total : int
        Rows planned to be injected, and rows planned in all.
    """

    rho: float
    train: RowSet
    n_injected: int
    n_total: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a validation: the suite's name and, per batch, every check; and counts of contents."""

    suite: str
    batches: dict[str, tuple[Check, ...]]
    contents: Contents

    @property
    def success(self) -> bool:
        """Whether nothing failed that is more than a warning."""
        return not any(self.failures())

    def failures(self, *, warnings: bool = False) -> Iterator[tuple[str, Check]]:
        """Yield (batch, check) of every failed check that stops a run, or of those that are warnings."""
        for batch, checks in self.batches.items():
            yield from ((batch, check) for check in checks if not check.success and check.warns == warnings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict without times and run ids: it depends on data and suite only."""
        batches = {name: [check.to_json() for check in checks] for name, checks in self.batches.items()}
        return {
            "suite": self.suite,
            "success": self.success,
            "batches": batches,
            "contents": asdict(self.contents),
        }


def validate_dataset(
    suite: dict[str, Any], source: Dataset, roles: Mapping[str, RowSet], levels: Iterable[LevelRows], *, docs: Path
) -> Summary:
    """Run a suite on the source and on every level, check that no row has two roles, and count contents.

    Fingerprints are computed from the features, not read from files. The numbers of rows and of injected rows
    of a level must be the planned ones. For the check of the roles a row is its content and the number of its copy; the
    rows injected at the largest level count as train, and the pool rows they were copied from are left out. Rows of
    equal content may have different roles. What the suite says of statistics is judged for the source alone, and
    only if no batch of its reference is in it: batches that were added to these were judged then.

    Parameters
    ----------
    suite : dict
        From `assay.data.expectations.learn_suite` or ``load_suite``.
    source : Dataset
        The whole dataset; its card names the columns of `roles` and `levels` too.
    roles : mapping of str to RowSet
        Rows by role, among them ``train`` (without injected rows) and ``pool``, with the column ``copy``. Each is
        looked up once, and only what names its rows stays in memory.
    levels : iterable of LevelRows
        Likewise one at a time.
    docs : Path
        Folder of the Data Docs (HTML, ``index.html``); pages of an earlier run are replaced.

    Returns
    -------
    Summary
        Batches "source", "source by column" where the suite has a reference of other rows, "level-<rho>" and "roles".

    Raises
    ------
    ConfigError
        The suite is not valid.
    DataError
        The number of features differs from the card's columns, or a name is not allowed.
    """
    card = source.card
    name, expectations = parse_suite(suite)
    of_rows, judges = _by_table(expectations)
    for_levels = [each for each in of_rows if not _is_of_source(each)]
    extremes, prints = _uses_extremes(of_rows), _uses_prints(of_rows)
    runner = Runner(name, docs, expectations)
    runner.run("source", _table(source.data, card, extremes, prints), of_rows)
    reference = parse_reference(suite)
    kept = {arrival.batch for arrival in card.batches if not arrival.dropped}
    if reference is not None and judges and kept.isdisjoint(reference["batches"]):
        runner.run(BY_COLUMN, compare(reference, card, source.data, rows=reference["rows"]), judges)
    injected, most = None, -1.0
    for level in levels:
        runner.run(f"level-{level.rho:g}", _table(level.train, card, extremes, prints), for_levels + _planned(level))
        if level.rho > most:
            most = level.rho
            injected = NamedRows.of(level.train.take((level.train.rows["injected"] == 1).to_numpy(dtype=bool)), card)
        del level  # before the next one comes
    unique = [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": COPY_COLUMN}}]
    named = {role: NamedRows.of(data, card) for role, data in roles.items()}
    runner.run("roles", roles_table(named, injected), parse_expectations(unique))
    runner.write_docs()
    return Summary(name, runner.checks, count_contents(named))


def validate_batch(suite: dict[str, Any], accepted: Dataset, grown: Dataset, *, docs: Path) -> Summary:
    """Run a suite on the rows that a dataset has got on top of its last accepted version, their reference.

    Their number is judged where at least two batches were added before: that of the smallest is expected. What
    the suite expects of the source only is asked of the grown dataset.

    Parameters
    ----------
    suite : dict
    accepted, grown : Dataset
        The new rows come last.
    docs : Path
        Folder of the Data Docs.

    Returns
    -------
    Summary
        Batches "new rows", "new rows by column" where the suite judges statistics, and "all rows".

    Raises
    ------
    ConfigError, DataError
        See `validate_dataset`.
    """
    card = grown.card
    name, expectations = parse_suite(suite)
    of_rows, judges = _by_table(expectations)
    extremes, prints = _uses_extremes(of_rows), _uses_prints(of_rows)
    runner = Runner(name, docs, expectations)
    new = grown.data.take(np.arange(len(accepted.data), len(grown.data)))
    runner.run("new rows", _table(new, card, extremes, prints), [each for each in of_rows if not _is_of_source(each)])
    if judges:
        added = [arrival.rows for arrival in accepted.card.batches[1:] if not arrival.dropped]
        rows = min(added) if len(added) >= FEWEST_BATCHES else None
        frame = compare(learn_reference(accepted), card, new, seen=seen_before(accepted, grown), rows=rows)
        runner.run("new rows by column", frame, judges)
    runner.run("all rows", _table(grown.data, card, extremes, prints), list(filter(_is_of_source, of_rows)))
    runner.write_docs()
    return Summary(name, runner.checks, count_contents({"all rows": NamedRows.of(grown.data, card)}))


def _by_table(expectations: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the expectations of a table of rows, and those of a frame of statistics."""
    of_rows = [expectation for expectation in expectations if not of_frame(expectation)]
    return of_rows, list(filter(of_frame, expectations))


def _uses_extremes(expectations: list[Any]) -> bool:
    return any(getattr(expectation, "column", None) in EXTREMES for expectation in expectations)


def _uses_prints(expectations: list[Any]) -> bool:
    """Return whether an expectation names the column of fingerprints, without counting the list of all columns."""
    return any(
        FINGERPRINT_COLUMN in str(each.configuration.kwargs)
        for each in expectations
        if each.configuration.type != "expect_table_columns_to_match_ordered_list"
    )


def _is_of_source(expectation: Any) -> bool:
    """Return whether an expectation is of the source alone."""
    return bool((expectation.meta or {}).get("only") == "source")


def warning_lines(summary: Summary) -> list[str]:
    """Return a line for each warning of a validation that nothing else stopped."""
    return [f"warning: {check.sentence(batch)}" for batch, check in summary.failures(warnings=True)]


def raise_if_failed(summary: Summary) -> None:
    """Raise `ValidationFailedError`, naming the first failures, unless `summary` is a success."""
    failures = list(summary.failures())
    if not failures:
        return
    sentences = [check.sentence(batch) for batch, check in failures[:FAILURES_IN_MESSAGE]]
    if len(failures) > FAILURES_IN_MESSAGE:
        sentences.append(f"and {len(failures) - FAILURES_IN_MESSAGE} more in the summary")
    count = f"{len(failures)} expectation{'s' * (len(failures) > 1)}"
    name = summary.suite
    moved = any(batch == BY_COLUMN for batch, _ in failures)
    relearn = f", or, if the rows are right, learn it again: `assay suite relearn --name {name}`" if moved else ""
    raise ValidationFailedError(
        f"{count} of {name!r} failed: {'; '.join(sentences)}. Fix the rows or edit expectations/{name}.json{relearn} "
        "(where roles or counts of injected rows fail, run split and contaminate again)",
        summary.to_json()["batches"],
    )


def _table(data: RowSet, card: Card, extremes: bool, prints: bool) -> pd.DataFrame:
    """Return the table that expectations describe; the column of fingerprints is empty where none is about it."""
    columns = card.columns
    if data.features.shape[1] != len(columns):
        raise DataError(
            f"there are {data.features.shape[1]} features but {len(columns)} column names on the card; "
            "ingest the dataset again"
        )
    names = table_columns(columns, extremes=extremes)
    of_columns, ends = new_array(data.features.shape[::-1]), np.empty((2, len(data)))
    for block in row_blocks(data.features, of_columns):
        of_columns[:, block] = data.features[block].T
        if extremes:
            may_lack = np.isnan(data.features[block]) & card.accepts(data.features[block])
            values = np.where(may_lack, 0.0, data.features[block])
            ends[:, block] = values.min(axis=1), values.max(axis=1)
    table = dict(_bookkeeping(data, card, prints)) | dict(zip(EXTREMES, ends, strict=True))
    for name, values in zip(columns, of_columns, strict=True):
        texts = {name: card.vocabulary[name]} if name in card.vocabulary else {}
        table[name] = decoded(values[:, None], (name,), texts)[name] if texts else values
    return pd.DataFrame({name: table[name] for name in names}, copy=False)


def _bookkeeping(data: RowSet, card: Card, prints: bool) -> pd.DataFrame:
    values = {
        ID_COLUMN: id_texts(data.rows["row_id"]),
        LABEL_COLUMN: data.labels,
        FINGERPRINT_COLUMN: print_texts(card.digests(data.features)) if prints else "",
        INJECTED_COLUMN: data.rows["injected"].to_numpy(dtype=np.int64) if "injected" in data.rows else 0,
    }
    return pd.DataFrame(values, index=range(len(data)))


def _planned(level: LevelRows) -> list[Any]:
    n_injected = {"column": INJECTED_COLUMN, "min_value": level.n_injected, "max_value": level.n_injected}
    return parse_expectations(
        [
            {"type": "expect_table_row_count_to_equal", "kwargs": {"value": level.n_total}},
            {"type": "expect_column_sum_to_be_between", "kwargs": n_injected},
        ]
    )
