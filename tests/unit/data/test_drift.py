"""New rows beside a reference: healthy ones pass, spoilt ones are stopped, at one level over all statistics."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from assay.arrays import Doubles
from assay.data.batches import as_batch, with_batch
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet
from assay.data.drift import compare, fewer
from assay.data.expectations import frame_expectations, learn_suite, parse_reference
from assay.data.modalities.tabular import TABULAR
from assay.data.reference import COUNTER, NUMBER, expected_repeats, learn_reference
from assay.data.validation import validate_batch, validate_dataset, warning_lines
from assay.errors import ConfigError

N, D = 300, 8
MARKUP = "<script>alert(1)</script>"
Change = Callable[[Doubles], Doubles]


def dataset(values: Doubles, columns: tuple[str, ...] | None = None, **rows: Any) -> Dataset:
    names = columns or tuple(f"c{place}" for place in range(values.shape[1]))
    ids = [f"r{place}" for place in range(len(values))]
    table = pd.DataFrame({"row_id": ids, "label": np.int8(-1), "group": "", "time": "", "copy": 0}).assign(**rows)
    return Dataset(Card("made", TABULAR, names, "made", imputed=names), RowSet(values, table))


def outcome(old: Dataset, new: Dataset, **more: Any) -> tuple[bool, bool]:
    """Return whether new rows are stopped, and whether there is at least a warning, by the numbers in a suite."""
    frame = compare(learn_reference(old), new.card, new.data, **more)
    fails = []
    for entry in frame_expectations():
        low, high = (entry["kwargs"].get(f"{end}_value", sign * np.inf) for end, sign in (("min", -1), ("max", 1)))
        fails.append((not frame[entry["kwargs"]["column"]].between(low, high).all(), "severity" in entry))
    return any(failed and not warns for failed, warns in fails), any(failed for failed, _ in fails)


def lognormal(rng: np.random.Generator, n: int = N) -> Doubles:
    return rng.lognormal(sigma=2, size=(n, D)) + np.arange(D)


def gaussian(rng: np.random.Generator, n: int = N) -> Doubles:
    return rng.normal(size=(n, D)) + 2 * np.arange(D)


def counts(rng: np.random.Generator, n: int = N) -> Doubles:
    return rng.poisson(3.0 + np.arange(D), size=(n, D)).astype(np.float64)


def with_first(change: Change) -> Change:
    return lambda values: np.column_stack([change(values[:, 0]), values[:, 1:]])


FAULTS: dict[str, Change] = {
    "another unit": with_first(lambda column: 1000 * column + 1),
    "stuck": with_first(lambda column: np.full(len(column), column[0])),
    "missing": with_first(lambda column: np.where(np.arange(len(column)) % 10 == 3, np.nan, column)),
    "one sd": with_first(lambda column: column + column.std()),
    "swapped": lambda values: values[:, [5, 1, 2, 3, 4, 0, 6, 7]],
    "all by 3 sd": lambda values: values + 3 * values.std(axis=0),
    "twice": lambda values: np.vstack([values, values[::-1]]),
    "half gone": lambda values: values[::2],
    "99 % gone": lambda values: values[:3],
}


def test_the_bound_is_that_of_fishers_test_in_the_tail() -> None:
    for k, size, drawn, total in ((3, 50, 40, 100), (10, 300, 80, 600), (0, 50, 10, 100), (400, 5000, 1000, 10000)):
        exact = stats.hypergeom.cdf(k, total, size, drawn)
        assert exact <= float(fewer(k, size, drawn, total)) * (1 + 1e-9)
        assert float(fewer(k, size, drawn, total)) <= 1.1 * exact
    assert float(fewer(25, 50, 50, 100)) == 1.0


@pytest.mark.parametrize("population", [lognormal, gaussian, counts])
def test_healthy_rows_pass_and_faults_are_caught(population: Callable[..., Doubles]) -> None:
    healthy, caught, of_fault = [], [], 2
    for redraw in range(25):
        rng = np.random.default_rng(redraw)
        old, new = dataset(population(rng)), population(rng)
        rows = learn_reference(old)["rows"]
        healthy.append(outcome(old, dataset(new), rows=rows)[0])
        if redraw < of_fault:
            caught += [outcome(old, dataset(change(new)), rows=rows)[0] for change in FAULTS.values()]
    assert sum(healthy) <= 1
    assert np.mean(caught) >= 0.95


def test_the_same_rows_and_a_reordered_part_of_them_are_no_drift() -> None:
    values = gaussian(np.random.default_rng(0))
    assert outcome(dataset(values), dataset(values), rows=N) == (False, False)
    assert outcome(dataset(values), dataset(values[::-1][:200])) == (False, False)
    assert outcome(dataset(values), dataset(values[:200]), rows=N) == (False, True)


def test_counters_move_on_and_are_known_as_such() -> None:
    rng = np.random.default_rng(0)
    meter = np.cumsum(rng.exponential(size=2 * N))
    values = np.column_stack([np.arange(2 * N) + 1e5, -meter, rng.permutation(2 * N) * 2.0, rng.normal(size=2 * N)])
    old, new = dataset(values[:N]), dataset(values[N:])
    kinds = [column["kind"] for column in learn_reference(old)["columns"].values()]
    assert kinds == [COUNTER, COUNTER, COUNTER, NUMBER]
    assert outcome(old, new) == (False, False)
    lacking = values[N:].copy()
    lacking[::5, 0] = np.nan
    assert outcome(old, dataset(lacking))[0]


def test_fewer_than_100_rows_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    old, moved = dataset(gaussian(rng)), gaussian(rng, 99) + 5
    assert outcome(old, dataset(moved)) == (False, True)
    assert outcome(old, dataset(np.vstack([moved, moved[:1]]))) == (True, True)


def test_what_is_significant_but_small_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    old, new = gaussian(rng, 4000), gaussian(rng, 4000)
    new[:, 0] += 0.3
    assert outcome(dataset(old), dataset(new)) == (False, True)


def test_units_are_groups_and_runs_of_alike_rows() -> None:
    stopped = {"groups": 0, "rows": 0, "in order": 0, "shuffled": 0}
    for redraw in range(10):
        rng = np.random.default_rng(redraw)
        old, new = (np.repeat(3 * rng.normal(size=(15, D)), 20, axis=0) + rng.normal(size=(N, D)) for _ in range(2))
        groups = [f"g{place // 20}" for place in range(N)]
        mixed = rng.permutation(N)
        grouped = (dataset(values[mixed], group=np.array(groups)[mixed]) for values in (old, new))
        stopped["groups"] += outcome(*grouped)[0]
        stopped["rows"] += outcome(*(dataset(values[mixed]) for values in (old, new)))[0]
        stopped["in order"] += outcome(dataset(old), dataset(new))[0]
        times = np.array([f"{place:03}" for place in range(N)])
        stopped["shuffled"] += outcome(*(dataset(values[mixed], time=times[mixed]) for values in (old, new)))[0]
    assert stopped == {"groups": 0, "rows": 10, "in order": 0, "shuffled": 0}


def test_categories_and_kinds_of_columns() -> None:
    rng = np.random.default_rng(0)

    def cities(codes: Doubles, texts: tuple[str, ...]) -> Dataset:
        plain = dataset(codes[:, None])
        return replace(plain, card=replace(plain.card, vocabulary={"c0": texts}))

    old = cities(rng.integers(0, 3, N).astype(np.float64), ("Bern", "Oslo", "Rom"))
    assert outcome(old, cities(rng.integers(0, 3, N).astype(np.float64), ("Bern", "Oslo", "Rom")))[0] is False
    assert outcome(old, cities(rng.integers(0, 3, N).astype(np.float64), ("Rom", "Bern", "Oslo")))[0] is False
    assert outcome(old, cities(rng.integers(0, 2, N).astype(np.float64), ("Bern", "Oslo", "Rom")))[0]
    unseen = cities(np.where(np.arange(N) % 10 == 0, 3.0, rng.integers(0, 3, N)), ("Bern", "Oslo", "Rom", MARKUP))
    frame = compare(learn_reference(old), unseen.card, unseen.data)
    assert "c0: 0 % of the values are categories that did not occur, now 10 %" in set(frame["row.id"])
    assert outcome(old, unseen)[0]
    kinds = compare(learn_reference(old), dataset(np.ones((N, 1))).card, dataset(np.ones((N, 1))).data)
    assert "another kind: number in place of category" in kinds["row.id"].iloc[0]


def test_turned_labels_stop_and_a_batch_of_normals_does_not() -> None:
    values = gaussian(np.random.default_rng(0))
    labels = (np.arange(N) % 10 == 0).astype(np.int8)
    old = dataset(values, label=labels)
    assert outcome(old, dataset(values, label=1 - labels)) == (True, True)
    assert outcome(old, dataset(values, label=np.zeros(N, np.int8))) == (False, True)
    assert outcome(old, dataset(values, label=np.full(N, -1, np.int8))) == (False, False)


def failing(accepted: Dataset, arriving: Dataset, docs: Path) -> list[str]:
    summary = validate_batch(learn_suite(accepted), accepted, with_batch(accepted, arriving), docs=docs)
    return [row for _, check in summary.failures() for row in check.row_ids]


def test_rows_that_were_added_before_and_too_few_rows_are_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = as_batch(dataset(gaussian(rng, 600)))
    again = dataset(np.vstack([first.data.features[rng.permutation(600)[:200]], gaussian(rng, 20)]))
    (seen,) = failing(first, again, tmp_path)
    assert re.fullmatch(r"all rows: 0 % of the contents occurred in earlier rows, now 90\.9 %", seen)
    grown = first
    for _ in range(2):
        grown = with_batch(grown, dataset(gaussian(rng)))
    assert failing(grown, dataset(gaussian(rng, 280)), tmp_path) == []
    assert failing(grown, dataset(gaussian(rng, 120)), tmp_path) == ["all rows: 300 were expected, 120 are there"]


def test_a_source_is_compared_with_the_reference_unless_it_holds_its_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, moved = as_batch(dataset(gaussian(rng))), as_batch(dataset(gaussian(rng) + 5))
    suite = learn_suite(first)
    for source, stopped in ((first, False), (with_batch(first, moved), False), (moved, True)):
        roles = {"train": source.data, "pool": source.data.take(np.arange(0))}
        assert validate_dataset(suite, source, roles, [], docs=tmp_path).success is not stopped


def test_a_suite_loads_in_a_plain_context_and_checks_a_file_of_the_team() -> None:
    import great_expectations as gx

    rng = np.random.default_rng(0)
    old = dataset(gaussian(rng), columns=tuple("abcdefgh"))
    old = replace(old, card=replace(old.card, imputed=()))
    suite = learn_suite(old)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("plain")

    def judge(table: pd.DataFrame, name: str, entries: list[dict[str, Any]]) -> bool:
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        loaded = gx.ExpectationSuite(name=name, expectations=copy.deepcopy(entries))
        return bool(batch.get_batch({"dataframe": table}).validate(loaded).success)

    framed = [entry for entry in suite["expectations"] if entry["meta"]]
    own = [e for e in suite["expectations"] if not e["meta"] and e["kwargs"].get("column", "row.") in "abcdefgh"]
    assert len(own) == 16
    frame = pd.DataFrame(gaussian(rng), columns=list("abcdefgh"))
    holes = frame.assign(b=frame["b"].mask(frame.index == 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert judge(frame, "own", own)
        assert not judge(holes, "holes", own)
        for shift, passes in ((0, True), (3, False)):
            moved = dataset(gaussian(rng) + shift, columns=old.card.columns)
            assert judge(compare(learn_reference(old), moved.card, moved.data), f"by {shift}", framed) is passes


def test_names_are_no_markup_in_data_docs_and_links_lead_somewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = (MARKUP, '"><img src=x onerror=alert(2)>')
    first = as_batch(dataset(gaussian(rng)[:, :2], columns=columns))
    suite = learn_suite(replace(first, card=replace(first.card, imputed=())))
    spoilt = gaussian(rng)[:, :2] + 9
    spoilt[3] = np.nan
    summary = validate_batch(suite, first, with_batch(first, dataset(spoilt, columns=columns)), docs=tmp_path)
    assert {check.column for _, check in summary.failures()} == {*columns, "shift"}
    assert warning_lines(summary)[0].startswith("warning: new rows by column: ")
    pages = {page: page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    assert sum("alert(1)" in text for text in pages.values()) >= 3
    for page, text in pages.items():
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        for link in re.findall(r"""<a[^>]* href=["']([^"'#]+)["']""", text) + re.findall(
            r"_link_path': '([^']+)'", text
        ):
            assert link.startswith("https://") or (page.parent / unquote(link)).is_file(), (page, link)


def test_a_page_that_the_system_refuses_is_an_error_of_the_system(
    tmp_path: Path,
) -> None:
    """Great Expectations itself logs a traceback, and leaves the page out."""
    from assay.data.runner import Runner

    runner = Runner("pumps", tmp_path / "docs", [])
    runner.run("rows", pd.DataFrame({"a": [1.0, 2.0]}), [])
    runner.write_docs()
    pages = [path for path in (tmp_path / "docs").rglob("*.html") if path.name != "index.html"]
    assert pages
    pages[0].unlink()
    pages[0].mkdir()
    with pytest.raises(IsADirectoryError):
        runner.write_docs()


def test_a_reference_that_was_edited_is_refused() -> None:
    suite = learn_suite(dataset(gaussian(np.random.default_rng(0))))
    assert parse_reference({"name": "old", "expectations": [], "meta": {"notes": ""}}) is None
    for spoil in (
        lambda reference: reference.pop("units"),
        lambda reference: reference["columns"].update(c0=3),
        lambda reference: reference["columns"]["c1"].update(quantiles=None),
        lambda reference: reference["columns"]["c1"].update(quantiles=["low"] * 9),
        lambda reference: reference["columns"]["c1"]["below"].pop(),
        lambda reference: reference["columns"]["c1"].update(scale=float("nan")),
        lambda reference: reference["columns"]["c1"].update(kind="text"),
        lambda reference: reference.update(copies=[[1]]),
        lambda reference: reference.update(rows=0),
    ):
        spoilt = copy.deepcopy(suite)
        spoil(spoilt["meta"]["reference"])
        with pytest.raises(ConfigError, match="assay suite relearn --name made"):
            parse_reference(spoilt)
    with pytest.raises(ConfigError, match="must be an object of JSON, got 'notes'"):
        parse_reference({**suite, "meta": "notes"})


@pytest.mark.parametrize(("n_old", "n_new"), [(5000, 500), (2000, 200), (500, 500), (500, 5000)])
def test_repeats_by_chance_of_discrete_rows_stop_no_batch_of_any_size(n_old: int, n_new: int) -> None:
    """The share of repeated rows grows with their number; rows of few different contents repeat a lot."""
    rng = np.random.default_rng(n_old + n_new)
    names = ("a", "b", "c")
    stopped = 0
    for _ in range(20):
        old, new = (dataset(rng.integers(0, 10, size=(n, 3)).astype(np.float64), names) for n in (n_old, n_new))
        stopped += outcome(old, new)[0]
        repeats = expected_repeats(learn_reference(old), min(n_old, n_new)) / min(n_old, n_new)
        assert abs(repeats - pd.DataFrame(new.data.features[:n_old]).duplicated().mean()) < 0.1
    assert stopped == 0


def test_a_small_batch_that_holds_its_rows_twice_is_stopped() -> None:
    rng = np.random.default_rng(0)
    assert outcome(dataset(gaussian(rng, 2000)), dataset(np.vstack([gaussian(rng, 100)] * 2)))[0]
