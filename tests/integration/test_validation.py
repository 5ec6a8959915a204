"""Validation on the digits: clean data pass, and every kind of damage is named with its rows."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from assay.data import runner
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, number_copies
from assay.data.expectations import learn_suite, load_suite
from assay.data.fingerprints import fingerprints
from assay.data.modalities.tabular import TABULAR
from assay.data.validation import Check, LevelRows, Summary, raise_if_failed, validate_dataset
from assay.errors import ConfigError, DataError, ValidationFailedError
from assay.parts import canonical_json, write_json

COLUMNS = ("label", "row_id", "dark", "mean")
BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
UNIQUE = "expect_column_values_to_be_unique"
SCHEMA = "expect_table_columns_to_match_ordered_list"


@dataclass(frozen=True)
class Data:
    """All that a validation reads."""

    suite: dict[str, object]
    source: Dataset
    roles: dict[str, RowSet]
    levels: list[LevelRows]

    def validate(self, docs: Path) -> Summary:
        return validate_dataset(self.suite, self.source, self.roles, self.levels, docs=docs)

    def with_cells(self, cells: dict[tuple[int, int], float]) -> Data:
        """Return these data with some cells of the source replaced."""
        features = self.source.data.features.copy()
        for place, value in cells.items():
            features[place] = value
        return replace(self, source=replace(self.source, data=RowSet(features, self.source.data.rows)))

    def with_columns(self, columns: tuple[str, ...], features: np.ndarray) -> Data:
        """Return the source alone under another list of columns."""
        card = replace(self.source.card, columns=columns)
        source = Dataset(card, RowSet(features, self.source.data.rows))
        return replace(self, source=source, roles={"train": source.data}, levels=[])


def dataset(features: np.ndarray, labels: np.ndarray, columns: tuple[str, ...]) -> Dataset:
    ids = [f"r{i}" for i in range(len(features))]
    rows = pd.DataFrame({"row_id": ids, "label": labels.astype(np.int8), "group": "", "time": ""})
    rows = rows.assign(copy=number_copies(fingerprints(features.astype("f4"), columns)))
    return Dataset(Card("digits", TABULAR, columns, "bundled"), RowSet(features.astype("f4"), rows))


def data_of(source: Dataset) -> Data:
    """Cut normals into roles, half of the anomalies into the pool, and inject 0 and 5 %."""
    normal, anomaly = np.flatnonzero(source.data.labels == 0), np.flatnonzero(source.data.labels == 1)
    names = ("train", "adapt", "calibration", "selection", "test")
    roles = {name: source.data.take(normal[start::5]) for start, name in enumerate(names)}
    roles["pool"] = source.data.take(anomaly[::2])
    train, levels = roles["train"], []
    for rho in (0.0, 0.05):
        n = round(rho / (1 - rho) * len(train))
        injected = roles["pool"].take(np.arange(n))
        rows = pd.concat([train.rows.assign(injected=0), injected.rows.assign(injected=1)], ignore_index=True)
        levels.append(LevelRows(rho, RowSet(np.vstack([train.features, injected.features]), rows), n, len(rows)))
    return Data(learn_suite(source), source, roles, levels)


@pytest.fixture(scope="module")
def digits() -> Data:
    """The digits, zeros as anomalies, all 64 pixels."""
    X, y = load_digits(return_X_y=True)
    return data_of(dataset(X, y == 0, tuple(f"pixel_{i}" for i in range(64))))


@pytest.fixture(scope="module")
def small() -> Data:
    """Four numbers of each digit, two of them under the names of row columns."""
    X, y = load_digits(return_X_y=True)
    few = np.column_stack([X[:, 1:33].sum(axis=1), X[:, 33:].sum(axis=1), (X > 8).sum(axis=1), X.mean(axis=1)])
    few += np.arange(len(few))[:, None] / len(few)
    return data_of(dataset(few, y == 0, COLUMNS))


def only_failure(summary: Summary, batch: str) -> Check:
    """Return the one failed check of the whole summary, which must be of `batch`."""
    ((found, check),) = summary.failures()
    assert found == batch
    return check


def suite_text(entry: object) -> str:
    return json.dumps({"name": "d", "expectations": [entry]})


def pages(docs: Path) -> str:
    assert (docs / "index.html").is_file()
    return "".join(page.read_text(encoding="utf-8") for page in docs.rglob("*.html"))


def test_clean_digits_pass_and_give_the_same_summary_again(digits: Data, tmp_path: Path) -> None:
    first, second = digits.validate(tmp_path / "a"), digits.validate(tmp_path / "b")
    assert first.success
    raise_if_failed(first)
    assert list(first.batches) == ["source", "source by column", "level-0", "level-0.05", "roles"]
    assert {check.column for check in first.batches["source"]} >= {"pixel_0", "pixel_63", "row.id"}
    assert canonical_json(first.to_json()) == canonical_json(second.to_json())


def test_some_columns_at_a_time_give_what_all_give(
    small: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So large tables are validated, with an expectation that needs two columns and the rows that fail."""
    pair = {
        "type": "expect_column_pair_values_a_to_be_greater_than_b",
        "kwargs": {"column_A": "dark", "column_B": "mean"},
    }
    more = [*small.suite["expectations"], pair]
    spoiled = replace(small.with_cells({(3, 1): np.nan}), suite=small.suite | {"expectations": more})
    whole = spoiled.validate(tmp_path / "whole")
    for most in (4 * len(spoiled.source.data), 1):
        monkeypatch.setattr(runner, "MOST_AT_ONCE", most)
        parts = spoiled.validate(tmp_path / str(most))
        assert canonical_json(parts.to_json()) == canonical_json(whole.to_json())
        assert "r3" in pages(tmp_path / str(most))
    failed = {(check.column, check.row_ids) for batch, check in whole.failures() if batch == "source"}
    assert ("row_id", ("r3",)) in failed


def test_suites_learned_twice_have_equal_bytes_and_readable_counts(digits: Data) -> None:
    again = learn_suite(digits.source)
    assert canonical_json(again) == canonical_json(digits.suite)
    assert set(again) == {"name", "expectations", "meta"}
    reference = again["meta"]["reference"]
    assert {
        "rows": 1797,
        "units": 1797.0,
        "copies": [[1, 1797]],
        "labelled": 1797,
        "anomalies": 178,
    }.items() <= reference.items()
    pixel = reference["columns"]["pixel_2"]
    assert pixel["quantiles"] == [0.0, 0.0, 0.0, 1.0, 4.0, 9.0, 13.0, 14.0, 16.0]
    values = digits.source.data.features[:, 2]
    assert pixel["below"] == [int((values < level).sum()) for level in pixel["quantiles"]]
    assert pixel["at_most"] == [int((values <= level).sum()) for level in pixel["quantiles"]]


def test_a_reference_is_of_finite_values_and_stays_finite() -> None:
    huge = np.finfo(np.float32).max
    features = np.array([[0.1, np.nan, huge], [np.inf, np.nan, -huge]], dtype=np.float32)
    suite = learn_suite(dataset(features, np.zeros(2), ("a", "b", "c")))
    columns = json.loads(canonical_json(suite))["meta"]["reference"]["columns"]
    assert [columns[name]["missing"] for name in "abc"] == [1, 2, 0]
    assert set(columns["a"]["quantiles"]) == {float(np.float32(0.1))}
    assert columns["b"]["quantiles"] == []


def test_cells_out_of_order_are_named_with_column_row_and_docs(digits: Data, tmp_path: Path) -> None:
    bad = digits.with_cells({(3, 2): np.nan, (5, 4): np.inf, (8, 6): np.inf, (9, 6): np.inf, (10, 6): 17.0})
    summary = bad.validate(tmp_path)
    found = {(check.expectation, check.column): check for batch, check in summary.failures() if batch == "source"}
    assert set(found) == {(NOT_NULL, "pixel_2"), (BETWEEN, "pixel_4"), (BETWEEN, "pixel_6")}
    assert found[NOT_NULL, "pixel_2"].row_ids == ("r3",)
    assert found[BETWEEN, "pixel_4"].row_ids == ("r5",)
    assert found[BETWEEN, "pixel_4"].observed == "inf"
    assert found[BETWEEN, "pixel_6"].row_ids == ("r8", "r9")
    assert found[BETWEEN, "pixel_6"].n_unexpected == 2
    assert all(batch == "source" for batch, _ in summary.failures())
    canonical_json(summary.to_json())
    with pytest.raises(ValidationFailedError, match=r"'pixel_2'.*r3.*'pixel_4'.*r5.*expectations/digits\.json"):
        raise_if_failed(summary)
    page = pages(tmp_path)
    assert "pixel_6" in page
    assert "r8, r9" in page


def test_only_the_first_failures_and_rows_are_told(small: Data, tmp_path: Path) -> None:
    bad = small.with_cells({(row, column): np.inf for row in range(30) for column in range(4)})
    summary = bad.validate(tmp_path)
    assert all(check.row_ids == ("r0", "r1", "r2", "r3", "r4") for _, check in summary.failures())
    assert all(check.n_unexpected == 30 for _, check in summary.failures())
    with pytest.raises(ValidationFailedError, match="and 1 more in the summary"):
        raise_if_failed(summary)


@pytest.mark.parametrize(
    ("columns", "order"),
    [
        (("label", "row_id", "dark"), [0, 1, 2]),
        ((*COLUMNS, "new"), [0, 1, 2, 3, 3]),
        (("row_id", "label", "dark", "mean"), [1, 0, 2, 3]),
    ],
    ids=["missing", "extra", "reordered"],
)
def test_other_columns_fail_the_schema(small: Data, columns: tuple[str, ...], order: list[int], tmp_path: Path) -> None:
    summary = small.with_columns(columns, small.source.data.features[:, order]).validate(tmp_path)
    failed = {(check.expectation, check.column): check for _, check in summary.failures()}
    assert (SCHEMA, None) in failed
    assert "mean" in columns or (NOT_NULL, "mean") in failed
    named = {3: "None in place of mean", 5: "new in place of None"}.get(len(columns), "row_id in place of label")
    assert named in str(failed[SCHEMA, None].observed)


def test_duplicate_and_missing_row_ids_are_named(small: Data, tmp_path: Path) -> None:
    rows = small.source.data.rows.copy()
    rows.loc[7, "row_id"], rows.loc[9, "row_id"] = "r2", ""
    source = replace(small.source, data=RowSet(small.source.data.features, rows))
    summary = replace(small, source=source).validate(tmp_path)
    failed = {check.expectation: check for _, check in summary.failures()}
    assert set(failed) == {UNIQUE, NOT_NULL}
    assert failed[UNIQUE].row_ids == ("r2", "r2")
    assert failed[NOT_NULL].n_unexpected == 1


def test_unknown_label_is_named(small: Data, tmp_path: Path) -> None:
    rows = small.source.data.rows.copy()
    rows.loc[4, "label"] = np.int8(2)
    source = replace(small.source, data=RowSet(small.source.data.features, rows))
    check = only_failure(replace(small, source=source).validate(tmp_path), "source")
    assert (check.column, check.row_ids) == ("row.label", ("r4",))


def test_many_repeated_rows_fail_the_source_but_not_a_level(small: Data, tmp_path: Path) -> None:
    features = small.source.data.features.copy()
    features[: len(features) // 4] = features[0]
    source = replace(small.source, data=RowSet(features, small.source.data.rows))
    level = small.levels[0]
    repeated = RowSet(np.repeat(level.train.features[:1], len(level.train), axis=0), level.train.rows)
    bad = replace(small, source=source, levels=[replace(level, train=repeated)])
    summary = bad.validate(tmp_path)
    assert {batch for batch, _ in summary.failures()} == {"source by column"}
    (repeats,) = (check for _, check in summary.failures() if check.column == "share")
    assert "all rows: 0 % repeat the content of another row, now 24.9 %" in repeats.row_ids


def test_wrong_number_of_injected_rows_fails_its_level(small: Data, tmp_path: Path) -> None:
    level = small.levels[1]
    lost = np.arange(len(level.train)) != len(level.train) - 1
    short = replace(level, train=level.train.take(lost))
    summary = replace(small, levels=[small.levels[0], short]).validate(tmp_path)
    assert {batch for batch, _ in summary.failures()} == {"level-0.05"}
    failed = {check.expectation: check for _, check in summary.failures()}
    assert failed["expect_table_row_count_to_equal"].observed == str(level.n_total - 1)
    assert failed["expect_column_sum_to_be_between"].observed == str(level.n_injected - 1)
    assert failed["expect_column_sum_to_be_between"].column == "row.injected"


def test_injected_rows_must_be_finite_too(small: Data, tmp_path: Path) -> None:
    level = small.levels[1]
    features = level.train.features.copy()
    features[-1, 3] = np.inf
    bad = replace(small, levels=[replace(level, train=RowSet(features, level.train.rows))])
    check = only_failure(bad.validate(tmp_path), "level-0.05")
    assert (check.column, check.row_ids) == ("mean", (level.train.rows["row_id"].iloc[-1],))


@pytest.mark.parametrize("length", [32, 31])
def test_an_expectation_of_fingerprints_is_judged(small: Data, tmp_path: Path, length: int) -> None:
    """No other needs them, so that they are computed for these alone."""
    suite = copy.deepcopy(small.suite)
    entry = {"type": "expect_column_value_lengths_to_equal", "kwargs": {"column": "row.fingerprint", "value": length}}
    suite["expectations"].append(entry)  # type: ignore[attr-defined]
    summary = replace(small, suite=suite).validate(tmp_path)
    assert summary.success is (length == 32)
    failed = {check.n_unexpected for batch, check in summary.failures() if batch == "source"}
    assert failed == (set() if length == 32 else {len(small.source.data)})


def test_a_row_in_two_roles_is_named_with_both(small: Data, tmp_path: Path) -> None:
    test, train = small.roles["test"], small.roles["train"]
    copied = RowSet(np.vstack([test.features, train.features[6:7]]), pd.concat([test.rows, test.rows[:1]]))
    summary = replace(small, roles=small.roles | {"test": copied}).validate(tmp_path)
    check = only_failure(summary, "roles")
    assert (check.expectation, check.column) == (UNIQUE, "row.copy")
    both = {f"train/{train.rows['row_id'][6]}", f"test/{test.rows['row_id'][0]}"}
    assert set(check.row_ids) == both


def test_copies_may_have_different_roles_and_are_counted(small: Data, tmp_path: Path) -> None:
    test, train = small.roles["test"], small.roles["train"]
    rows = pd.concat([test.rows, test.rows[:3].assign(row_id=["a", "b", "c"], copy=[1, 2, 1], label=[1, 1, 0])])
    more = RowSet(np.vstack([test.features, train.features[[6, 6, 8]]]), rows)
    before, after = (
        replace(small, roles=roles).validate(tmp_path) for roles in (small.roles, small.roles | {"test": more})
    )
    assert before.success
    assert after.success
    assert (before.contents.shared, before.contents.contradicting) == (0, 0)
    assert before.contents.rows == before.contents.distinct == after.contents.distinct == after.contents.rows - 3
    assert (after.contents.shared, after.contents.contradicting) == (2, 1)
    assert (after.contents.contradicting_anomalies, after.contents.contradicting_normals) == (2, 1)
    assert after.contents.contradicting_rows == ("a", "b", train.rows["row_id"][6])
    assert after.to_json()["contents"]["contradicting"] == 1


def test_an_injected_row_that_is_also_tested_fails_the_roles(small: Data, tmp_path: Path) -> None:
    test, injected = small.roles["test"], small.levels[1].train.features[-1:]
    leaked = RowSet(np.vstack([test.features, injected]), pd.concat([test.rows, test.rows[:1]]))
    check = only_failure(replace(small, roles=small.roles | {"test": leaked}).validate(tmp_path), "roles")
    assert {one.partition("/")[0] for one in check.row_ids} == {"train", "test"}


def test_a_normal_training_row_in_the_pool_fails_even_when_it_is_injected(small: Data, tmp_path: Path) -> None:
    pool, train = small.roles["pool"], small.roles["train"]
    level = small.levels[1]
    features = level.train.features.copy()
    features[-1] = train.features[0]
    mixed = RowSet(np.vstack([pool.features, train.features[:1]]), pd.concat([pool.rows, pool.rows[:1]]))
    bad = replace(
        small,
        roles=small.roles | {"pool": mixed},
        levels=[replace(level, train=RowSet(features, level.train.rows))],
    )
    check = only_failure(bad.validate(tmp_path), "roles")
    assert {one.partition("/")[0] for one in check.row_ids} == {"train", "pool"}


def test_an_edited_suite_is_obeyed(small: Data, tmp_path: Path) -> None:
    suite = copy.deepcopy(small.suite)
    (entry,) = [e for e in suite["expectations"] if e["type"] == BETWEEN and e["kwargs"]["column"] == "mean"]
    highest = int(small.source.data.features[:, 3].argmax())
    entry["kwargs"]["max_value"] = float(np.sort(small.source.data.features[:, 3])[-2])
    write_json(tmp_path / "digits.json", suite)
    edited = replace(small, suite=load_suite(tmp_path / "digits.json"), levels=[])
    check = only_failure(edited.validate(tmp_path / "docs"), "source")
    assert (check.column, check.row_ids) == ("mean", (f"r{highest}",))
    entry["kwargs"]["mostly"] = 0.9
    assert replace(edited, suite=suite).validate(tmp_path / "docs").success


def test_docs_keep_files_of_others_and_forget_the_last_run(small: Data, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    one = replace(small, levels=[])
    one.with_cells({(3, 3): np.inf}).validate(tmp_path)
    assert "1 unexpected values found" in pages(tmp_path)
    one.validate(tmp_path)
    assert "1 unexpected values found" not in pages(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON: it is nested too deeply"),
        ('{"name": "d", "expectations": [{"type": "a", "kwargs": {"min_value": NaN}}]}', "NaN is not a JSON"),
        ("[]", r'"expectations" \(a list\)'),
        ('{"name": "../d", "expectations": []}', r"'\.\./d'"),
        (suite_text("x"), "expectation 1 must have"),
        (suite_text({"type": "expect_magic", "kwargs": {}}), "'expect_magic', is not an expectation"),
        (suite_text({"type": BETWEEN, "kwargs": {}}), f"'{BETWEEN}', is refused.*column"),
        (suite_text({"type": BETWEEN, "kwargs": {"column": "a", "minimum": 1}}), "refused.*minimum"),
        (suite_text({"type": BETWEEN, "args": {}}), "refused.*args"),
        (suite_text({"type": BETWEEN, "kwargs": 3}), "refused"),
    ],
)
def test_a_broken_suite_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as raised:
        load_suite(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_suite_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing; ingest the dataset"):
        load_suite(tmp_path / "digits.json")


def test_a_learned_suite_survives_its_file(small: Data, tmp_path: Path) -> None:
    write_json(tmp_path / "digits.json", small.suite)
    assert load_suite(tmp_path / "digits.json") == json.loads(canonical_json(small.suite)) == small.suite


@pytest.mark.parametrize(("columns", "told"), [(("a", "row.id"), "'row.id'"), (("a", "a"), "two features")])
def test_names_that_cannot_be_told_apart_are_refused(columns: tuple[str, ...], told: str) -> None:
    with pytest.raises(DataError, match=told):
        learn_suite(dataset(np.eye(2), np.zeros(2), columns))


def test_features_that_are_not_the_cards_are_refused(small: Data, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 features but 2 column names"):
        small.with_columns(("a", "b"), small.source.data.features).validate(tmp_path)


def test_a_dataset_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="has no rows"):
        learn_suite(dataset(np.empty((0, 1)), np.empty(0), ("a",)))
