"""Running expectations on tables by Great Expectations, and what came out: checks, and the Data Docs."""

from __future__ import annotations

import datetime
import html
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from assay.data.expectations import ID_COLUMN, great_expectations, of_frame

SITE = "assay"
ROWS_IN_SUMMARY, ROWS_IN_DOCS = 5, 20
MOST_AT_ONCE = 1 << 22  # values
WARNING = "warning"


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
        Ids of the first failing rows, if it failed; of a frame of statistics its sentences.
    of_frame : bool
        Whether it judges a frame of statistics (`assay.data.drift`).
    warns : bool
        Whether a failure is worth a warning alone.
    """

    expectation: str
    column: str | None
    success: bool
    expected: str
    observed: str | None
    n_unexpected: int | None
    row_ids: tuple[str, ...]
    of_frame: bool = False
    warns: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; those of the last two fields only where they are true."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("of_frame", "warns")}

    def sentence(self, batch: str) -> str:
        """Return what failed in a batch, for people."""
        if self.of_frame and self.row_ids:
            more = (self.n_unexpected or 0) - len(self.row_ids)
            return f"{batch}: {'; '.join(self.row_ids)}" + (f"; and {more} more" if more > 0 else "")
        sentence = f"{batch}: {self.expectation}"
        if self.column:
            sentence += f" of column {self.column!r}"
        if self.expected:
            sentence += f" ({self.expected})"
        if self.observed:
            sentence += f" found {self.observed}"
        if self.n_unexpected:
            sentence += f" in {self.n_unexpected} row{'s' * (self.n_unexpected > 1)}"
        if self.row_ids:
            sentence += f", first row ids {', '.join(self.row_ids)}"
        return sentence


class Runner:
    """Runs expectations on tables in one in-memory context, and keeps the results for the Data Docs."""

    def __init__(self, name: str, docs: Path, expectations: list[Any]) -> None:
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
            "site_section_builders": {"profiling": "none"},
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
        self._context.suites.add(self._suite([_without_markup(each) for each in expectations]))
        self._time = datetime.datetime.now(datetime.UTC)

    def run(self, name: str, table: pd.DataFrame, expectations: list[Any]) -> None:
        """Run all expectations without row ids, which is fast, then the failed ones again with row ids."""
        definition = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        result = self._validated(definition, table, expectations, "BASIC")
        by_row = [outcome for outcome in result.results if _fails_by_row(outcome)]
        if by_row:
            detail = {
                "result_format": "SUMMARY",
                "unexpected_index_column_names": [ID_COLUMN],
                "partial_unexpected_count": ROWS_IN_DOCS,
            }
            again = [outcome.expectation_config.to_domain_obj() for outcome in by_row]
            detailed = self._validated(definition, table, again, detail).results
            passed = [outcome for outcome in result.results if not _fails_by_row(outcome)]
            result.results = passed + [_with_rows_for_docs(outcome) for outcome in detailed]
        self.checks[name] = tuple(sorted((_check(outcome) for outcome in result.results), key=_order))
        self._keep(name, result)

    def _validated(self, definition: Any, table: pd.DataFrame, expectations: list[Any], form: object) -> Any:
        """Return the result of expectations on a table.

        Those of columns of a large table see some columns at a time: for each of them Great Expectations copies all
        rows with a value, with all columns that it sees.
        """
        whole, by_column = list[Any](), dict[str, list[Any]]()
        for each in expectations:
            column = _only_column(each) if table.size > MOST_AT_ONCE else ""
            (by_column.setdefault(column, []) if column in table else whole).append(each)
        parts = [(table, whole)] if whole or not by_column else []
        width = max(1, MOST_AT_ONCE // max(1, len(table)))
        for start in range(0, len(by_column), width):
            group = list(by_column)[start : start + width]
            # The ids only for rows that fail: Great Expectations hashes all that it is given.
            narrow = table[group if form == "BASIC" else list(dict.fromkeys((ID_COLUMN, *group)))]
            parts.append((narrow, [each for column in group for each in by_column[column]]))
        results = [
            definition.get_batch({"dataframe": part}).validate(self._suite(theirs), result_format=form)
            for part, theirs in parts
        ]
        manager = self._source.get_execution_engine().batch_manager  # which holds on to all tables
        manager.reset_batch_cache()
        manager.batch_data_cache.clear()
        result = results[0]
        result.results = [outcome for each in results for outcome in each.results]
        result.success = all(each.success for each in results)
        of_all = result.statistics
        for key in ("evaluated_expectations", "successful_expectations", "unsuccessful_expectations"):
            of_all[key] = sum(each.statistics[key] for each in results)
        of_all["success_percent"] = 100 * of_all["successful_expectations"] / max(1, of_all["evaluated_expectations"])
        return result

    def write_docs(self) -> None:
        """Write the Data Docs; they replace the pages of earlier runs, other files in the folder stay.

        Raises
        ------
        OSError
            The system refused a page; Great Expectations itself only logs that, with a traceback.
        """
        logger, refused = logging.getLogger("great_expectations.render"), _Refused()
        logger.addHandler(refused)
        try:
            self._context.build_data_docs(site_names=[SITE])
        finally:
            logger.removeHandler(refused)
        if refused.errors:
            raise refused.errors[0]

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
        for outcome in result.results:
            outcome.expectation_config.kwargs = _escaped(outcome.expectation_config.kwargs)
            outcome.result, outcome.exception_info = _escaped(outcome.result), _escaped(outcome.exception_info)
        result.meta |= {"run_id": run, "validation_time": self._time}
        key = ValidationResultIdentifier(
            batch_identifier=result.batch_id, expectation_suite_identifier=suite, run_id=run
        )
        self._context.validation_results_store.store_validation_results(result, key, suite)


class _Refused(logging.Handler):
    """Keeps what the system refused while pages were written; anything else is logged as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = list[OSError]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error that is being handled."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.errors.append(error)
        elif logging.lastResort is not None:
            logging.lastResort.handle(record)


def _only_column(expectation: Any) -> str:
    """Return the column that an expectation is about, if it needs no other one, else ""."""
    return "" if getattr(expectation, "row_condition", None) else str(getattr(expectation, "column", ""))


def _without_markup(expectation: Any) -> Any:
    configuration = expectation.configuration
    configuration.kwargs = _escaped(configuration.kwargs)
    return configuration.to_domain_obj()


def _escaped(value: Any) -> Any:
    """Return a JSON value whose texts, users' names and values among them, are no markup; Data Docs escape nothing."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list | tuple | set) else value


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
        of_frame=of_frame(config),
        warns=config.severity == WARNING,
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
