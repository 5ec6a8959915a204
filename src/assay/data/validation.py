"""Validation: run a suite on the source and on every level, and report the rows that fail."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.data.columns import decoded
from assay.data.dataset import ANOMALY, NORMAL, Card, Dataset, RowSet, row_keys
from assay.data.expectations import (
    COPY_COLUMN,
    FINGERPRINT_COLUMN,
    ID_COLUMN,
    INJECTED_COLUMN,
    LABEL_COLUMN,
    great_expectations,
    parse_expectations,
    parse_suite,
    table_columns,
    value_expectations,
)
from assay.data.ranges import EXTREMES, MAXIMUM, MINIMUM
from assay.data.splitting import contradicting
from assay.errors import DataError, ValidationFailedError

SITE, VALUE_RANGE = "assay", "expect_column_values_to_be_between"
ROWS_IN_SUMMARY, ROWS_IN_DOCS, FAILURES_IN_MESSAGE = 5, 20, 3


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
class Check:
    """The outcome of one expectation on one batch.

    Attributes
    ----------
    expectation : str
        Its type in Great Expectations.
    column : str or None
    success : bool
    expected : str
        Its other arguments, abbreviated.
    observed : str or None
        The observed value, or the first unexpected values; None if there is neither.
    n_unexpected : int or None
        Number of rows that fail; None for expectations of a whole table or column.
    row_ids : tuple of str
        Ids of the first failing rows, if it failed.
    """

    expectation: str
    column: str | None
    success: bool
    expected: str
    observed: str | None
    n_unexpected: int | None
    row_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """How often the contents of the rows that have a role occur.

    Attributes
    ----------
    rows, distinct : int
        Numbers of rows and of different contents.
    shared : int
        Number of contents that occur in several roles.
    contradicting : int
        Number of contents that are labelled 0 in one row and 1 in another.
    contradicting_normals, contradicting_anomalies : int
        Numbers of the rows of these contents that are labelled 0, and 1.
    contradicting_rows : tuple of str
        Ids of the first of these rows, anomalies before normals.
    """

    rows: int
    distinct: int
    shared: int
    contradicting: int
    contradicting_normals: int
    contradicting_anomalies: int
    contradicting_rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a validation: the suite's name and, per batch, every check; and counts of contents."""

    suite: str
    batches: dict[str, tuple[Check, ...]]
    contents: Contents

    @property
    def success(self) -> bool:
        """Whether every check of every batch succeeded."""
        return not any(self.failures())

    def failures(self) -> Iterator[tuple[str, Check]]:
        """Yield (batch, check) of every failed check."""
        for batch, checks in self.batches.items():
            yield from ((batch, check) for check in checks if not check.success)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict without times and run ids: it depends on data and suite only."""
        batches = {name: [asdict(check) for check in checks] for name, checks in self.batches.items()}
        return {
            "suite": self.suite,
            "success": self.success,
            "batches": batches,
            "contents": asdict(self.contents),
        }


def validate_dataset(
    suite: dict[str, Any], source: Dataset, roles: dict[str, RowSet], levels: list[LevelRows], *, docs: Path
) -> Summary:
    """Run a suite on the source and on every level, check that no row has two roles, and count contents.

    Fingerprints are computed from the features, not read from files. The numbers of rows and of injected rows
    of a level must be the planned ones. For the check of the roles a row is its content and the number of its copy; the
    rows injected at the largest level count as train, and the pool rows they were copied from are left out. Rows of
    equal content may have different roles.

    Parameters
    ----------
    suite : dict
        From `assay.data.expectations.learn_suite` or ``load_suite``.
    source : Dataset
        The whole dataset; its card names the columns of `roles` and `levels` too.
    roles : dict of str to RowSet
        Rows by role, among them ``train`` (without injected rows) and ``pool``, with the column ``copy``.
    levels : list of LevelRows
    docs : Path
        Folder of the Data Docs (HTML, ``index.html``); pages of an earlier run are replaced.

    Returns
    -------
    Summary
        Batches "source", "level-<rho>" and "roles".

    Raises
    ------
    ConfigError
        The suite is not valid.
    DataError
        The number of features differs from the card's columns, or a name is not allowed.
    """
    card = source.card
    name, expectations = parse_suite(suite)
    for_levels = [expectation for expectation in expectations if not _is_of_source(expectation)]
    extremes = any(getattr(expectation, "column", None) in EXTREMES for expectation in expectations)
    runner = _Runner(name, docs)
    runner.run("source", _table(source.data, card, extremes), expectations)
    for level in levels:
        runner.run(f"level-{level.rho:g}", _table(level.train, card, extremes), for_levels + _planned(level))
    unique = [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": COPY_COLUMN}}]
    tables = {role: _keyed(data, card) for role, data in roles.items()}
    runner.run("roles", _roles_table(tables, levels, card), parse_expectations(unique))
    runner.write_docs()
    return Summary(name, runner.checks, _contents(tables))


def validate_batch(suite: dict[str, Any], accepted: Dataset, grown: Dataset, *, docs: Path) -> Summary:
    """Run a suite on the rows that a dataset has got on top of its last accepted version.

    A feature for which the suite has no range must lie in the range of the last accepted version, widened by itself to
    both sides, as a suite is learned. What the suite expects of the source only is asked of the grown dataset.

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
        Batches "new rows" and "all rows".

    Raises
    ------
    ConfigError, DataError
        See `validate_dataset`.
    """
    card = grown.card
    name, expectations = parse_suite(suite)
    has_range = {entry.column for entry in expectations if entry.expectation_type == VALUE_RANGE}
    learned = value_expectations(accepted.card, accepted.data.features)
    without = set(card.columns) - has_range
    ranges = [entry for entry in learned if entry["type"] == VALUE_RANGE and entry["kwargs"]["column"] in without]
    extremes = any(getattr(expectation, "column", None) in EXTREMES for expectation in expectations)
    for_all = list(filter(_is_of_source, expectations))
    for_new = [entry for entry in expectations if not _is_of_source(entry)] + parse_expectations(ranges)
    runner = _Runner(name, docs)
    new = grown.data.take(np.arange(len(accepted.data), len(grown.data)))
    runner.run("new rows", _table(new, card, extremes), for_new)
    runner.run("all rows", _table(grown.data, card, extremes), for_all)
    runner.write_docs()
    return Summary(name, runner.checks, _contents({"all rows": _bookkeeping(grown.data, card)}))


def _is_of_source(expectation: Any) -> bool:
    """Return whether an expectation is of the source alone."""
    return bool((expectation.meta or {}).get("only") == "source")


def raise_if_failed(summary: Summary) -> None:
    """Raise `ValidationFailedError`, naming the first failures, unless `summary` is a success."""
    failures = list(summary.failures())
    if not failures:
        return
    sentences = [_sentence(batch, check) for batch, check in failures[:FAILURES_IN_MESSAGE]]
    if len(failures) > FAILURES_IN_MESSAGE:
        sentences.append(f"and {len(failures) - FAILURES_IN_MESSAGE} more in the summary")
    count = f"{len(failures)} expectation{'s' * (len(failures) > 1)}"
    raise ValidationFailedError(
        f"{count} of {summary.suite!r} failed: {'; '.join(sentences)}. Fix the rows or edit "
        f"expectations/{summary.suite}.json (where roles or counts of injected rows fail, run split and "
        "contaminate again)"
    )


class _Runner:
    """Runs expectations on tables in one in-memory context, and keeps the results for the Data Docs."""

    def __init__(self, name: str, docs: Path) -> None:
        gx = great_expectations()
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": backend,
            "site_section_builders": {"expectations": "none", "profiling": "none"},
        }
        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            data_docs_sites={SITE: site},
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        )
        self.name = name
        self.checks: dict[str, tuple[Check, ...]] = {}
        self._gx = gx
        self._context = gx.get_context(project_config=config, mode="ephemeral")
        self._source = self._context.data_sources.add_pandas(SITE)
        self._time = datetime.datetime.now(datetime.UTC)

    def run(self, name: str, table: pd.DataFrame, expectations: list[Any]) -> None:
        """Run all expectations without row ids, which is fast, then the failed ones again with row ids."""
        asset = self._source.add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": table})
        result = batch.validate(self._suite(expectations), result_format="BASIC")
        by_row = [outcome for outcome in result.results if _fails_by_row(outcome)]
        if by_row:
            detail = {
                "result_format": "SUMMARY",
                "unexpected_index_column_names": [ID_COLUMN],
                "partial_unexpected_count": ROWS_IN_DOCS,
            }
            suite = self._suite([outcome.expectation_config.to_domain_obj() for outcome in by_row])
            detailed = batch.validate(suite, result_format=detail).results
            passed = [outcome for outcome in result.results if not _fails_by_row(outcome)]
            result.results = passed + [_with_rows_for_docs(outcome) for outcome in detailed]
        self.checks[name] = tuple(sorted((_check(outcome) for outcome in result.results), key=_order))
        self._keep(name, result)

    def write_docs(self) -> None:
        """Write the Data Docs; they replace the pages of earlier runs, other files in the folder stay."""
        self._context.build_data_docs(site_names=[SITE])

    def _suite(self, expectations: list[Any]) -> Any:
        return self._gx.ExpectationSuite(name=self.name, expectations=expectations)

    def _keep(self, name: str, result: Any) -> None:
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        run = RunIdentifier(run_name=name, run_time=self._time)
        suite = ExpectationSuiteIdentifier(name=self.name)
        result.meta |= {"run_id": run, "validation_time": self._time}
        key = ValidationResultIdentifier(
            batch_identifier=result.batch_id, expectation_suite_identifier=suite, run_id=run
        )
        self._context.validation_results_store.store_validation_results(result, key, suite)


def _table(data: RowSet, card: Card, extremes: bool) -> pd.DataFrame:
    """Return the table that expectations describe."""
    columns = card.columns
    if data.features.shape[1] != len(columns):
        raise DataError(
            f"there are {data.features.shape[1]} features but {len(columns)} column names on the card; "
            "ingest the dataset again"
        )
    names = table_columns(columns, extremes=extremes)
    values = data.features
    features = decoded(values, columns, card.vocabulary)
    ends = pd.DataFrame({MINIMUM: values.min(axis=1), MAXIMUM: values.max(axis=1)})
    return pd.concat([_bookkeeping(data, card), ends, features], axis=1)[names]


def _bookkeeping(data: RowSet, card: Card) -> pd.DataFrame:
    values = {
        ID_COLUMN: _id_texts(data.rows["row_id"]),
        LABEL_COLUMN: data.labels,
        FINGERPRINT_COLUMN: card.fingerprints(data.features),
        INJECTED_COLUMN: data.rows["injected"].to_numpy(dtype=np.int64) if "injected" in data.rows else 0,
    }
    return pd.DataFrame(values)


def _id_texts(ids: pd.Series[Any]) -> list[str | None]:
    """Return row ids as text, None for missing ones, which are "" in rows.csv."""
    return [str(row_id) if row_id is not None and str(row_id) else None for row_id in ids]


def _planned(level: LevelRows) -> list[Any]:
    n_injected = {"column": INJECTED_COLUMN, "min_value": level.n_injected, "max_value": level.n_injected}
    return parse_expectations(
        [
            {"type": "expect_table_row_count_to_equal", "kwargs": {"value": level.n_total}},
            {"type": "expect_column_sum_to_be_between", "kwargs": n_injected},
        ]
    )


def _keyed(data: RowSet, card: Card) -> pd.DataFrame:
    """Return the bookkeeping with "fingerprint:copy", which names a row, in `COPY_COLUMN`."""
    table = _bookkeeping(data, card)
    keys = row_keys(data.rows.assign(fingerprint=table[FINGERPRINT_COLUMN].to_numpy(dtype=object)))
    return table.assign(**{COPY_COLUMN: keys})


def _roles_table(tables: dict[str, pd.DataFrame], levels: list[LevelRows], card: Card) -> pd.DataFrame:
    """Return "role/id" and "fingerprint:copy" of every row of every role."""
    if levels:
        largest = _keyed(max(levels, key=lambda level: level.rho).train, card)
        injected = largest[largest[INJECTED_COLUMN] == 1]
        moved = set(injected[COPY_COLUMN]) - set(tables["train"][COPY_COLUMN])
        rest = tables["pool"][~tables["pool"][COPY_COLUMN].isin(moved)]
        tables = tables | {"train": pd.concat([tables["train"], injected]), "pool": rest}
    named = [
        table.assign(**{ID_COLUMN: [f"{role}/{row_id}" for row_id in table[ID_COLUMN]]})
        for role, table in tables.items()
    ]
    return pd.concat(named, ignore_index=True)[[ID_COLUMN, COPY_COLUMN]]


def _contents(tables: dict[str, pd.DataFrame]) -> Contents:
    """Count the contents of the rows of all roles."""
    rows = pd.concat([table.assign(role=role) for role, table in tables.items()], ignore_index=True)
    rows = rows.rename(columns={FINGERPRINT_COLUMN: "fingerprint", LABEL_COLUMN: "label"})
    both = rows[contradicting(rows)]
    anomalies, normals = (both.loc[both["label"] == label, ID_COLUMN].tolist() for label in (ANOMALY, NORMAL))
    return Contents(
        rows=len(rows),
        distinct=rows["fingerprint"].nunique(),
        shared=int((rows.drop_duplicates(["fingerprint", "role"])["fingerprint"].value_counts() > 1).sum()),
        contradicting=both["fingerprint"].nunique(),
        contradicting_normals=len(normals),
        contradicting_anomalies=len(anomalies),
        contradicting_rows=tuple(map(str, [*anomalies[:ROWS_IN_SUMMARY], *normals[:ROWS_IN_SUMMARY]])),
    )


def _fails_by_row(outcome: Any) -> bool:
    return not outcome.success and bool(outcome.result.get("unexpected_count"))


def _with_rows_for_docs(outcome: Any) -> Any:
    """Put the first failing rows under the keys of complete lists, the only ones that the Data Docs display."""
    if "partial_unexpected_index_list" in outcome.result:
        outcome.result["unexpected_index_list"] = outcome.result["partial_unexpected_index_list"]
        outcome.result["unexpected_list"] = outcome.result["partial_unexpected_list"]
    return outcome


def _check(outcome: Any) -> Check:
    config, result = outcome.expectation_config, outcome.result
    kwargs = {key: value for key, value in config.kwargs.items() if key not in ("column", "batch_id")}
    failing = result.get("partial_unexpected_index_list") or []
    return Check(
        expectation=config.type,
        column=config.kwargs.get("column"),
        success=bool(outcome.success),
        expected=", ".join(f"{key} {_short(value)}" for key, value in kwargs.items()),
        observed=_observed(outcome),
        n_unexpected=result.get("unexpected_count"),
        row_ids=() if outcome.success else tuple(str(row[ID_COLUMN]) for row in failing[:ROWS_IN_SUMMARY]),
    )


def _observed(outcome: Any) -> str | None:
    result = outcome.result
    if not outcome.success and not result:
        return _exception(outcome.exception_info)
    if "mismatched" in (result.get("details") or {}):
        mismatches = result["details"]["mismatched"]
        return _short(
            [f"{m['Found']} in place of {m['Expected']} at {m['Expected Column Position']}" for m in mismatches]
        )
    if result.get("observed_value") is not None:
        return _short(result["observed_value"])
    unexpected = result.get("partial_unexpected_list")
    return ", ".join(dict.fromkeys(map(_short, unexpected[:ROWS_IN_SUMMARY]))) if unexpected else None


def _exception(info: dict[str, Any]) -> str:
    """Return the message of an expectation that could not be evaluated, for instance of a missing column."""
    details = info if "exception_message" in info else next(iter(info.values()), {})
    return " ".join(str(details.get("exception_message")).split())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, (list, tuple, set)):
        items = [_short(item) for item in value]
        return ", ".join(items if len(items) <= 8 else [*items[:4], "...", items[-1]])
    return str(value)


def _order(check: Check) -> tuple[str, str, str]:
    return check.column or "", check.expectation, check.expected


def _sentence(batch: str, check: Check) -> str:
    sentence = f"{batch}: {check.expectation}"
    if check.column:
        sentence += f" of column {check.column!r}"
    if check.expected:
        sentence += f" ({check.expected})"
    if check.observed:
        sentence += f" found {check.observed}"
    if check.n_unexpected:
        sentence += f" in {check.n_unexpected} row{'s' * (check.n_unexpected > 1)}"
    if check.row_ids:
        sentence += f", first row ids {', '.join(check.row_ids)}"
    return sentence
