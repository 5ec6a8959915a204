"""A file is scored block by block as all of its rows are at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.decisions import BY_ID, Reference, Rule
from assay.calibration.hardness import NeighbourhoodStrata
from assay.data import delimited
from assay.errors import DataError, InputError
from assay.parts import read_json
from assay.scorer import batch
from assay.scorer.batch import score_file
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer

FROZEN = Path(__file__).parents[2] / "frozen"
N = 150


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK", 1 << 12)
    monkeypatch.setattr(batch, "VALUES_AT_ONCE", 32 * 11)


def plain() -> Scorer:
    (folder,) = (path.parent for path in FROZEN.glob("scorer-1/*/scorer.json"))
    return load_scorer(folder)


def within_strata() -> Scorer:
    """The same with the rows of its strata, and ties broken by ids."""
    scorer = plain()
    features = rows(scorer, seed=1, odd=0).drop(columns="id").to_numpy()
    scored = scorer.function.scored(features)
    strata = NeighbourhoodStrata.fit_rows(scored.scaled, seed=0)
    keys = strata.assign(scored.scaled, scored.outputs.hardness)
    calibrator = MondrianCalibrator("stratum").fit(np.repeat(scored.scores, 3), np.repeat(keys, 3))
    return replace(scorer, reference=Reference(calibrator, strata, ties=BY_ID, salt="s"))


def by_category() -> Scorer:
    (folder,) = (path.parent for path in FROZEN.glob("scorer-3/*/scorer.json"))
    return load_scorer(folder)


def rows(scorer: Scorer, seed: int = 0, odd: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    if scorer.category_column is None:
        known = np.array(read_json(FROZEN / "scorer-1" / "expected.json")["features"])
        values = known[rng.integers(len(known), size=N)] * rng.normal(1, 0.05, size=(N, known.shape[1]))
        values[:odd] *= rng.normal(1, 0.5, size=known.shape[1])
        frame = pd.DataFrame(values, columns=list(scorer.columns))
    else:
        known = pd.DataFrame(read_json(FROZEN / "scorer-3" / "expected.json")["rows"])
        frame = known.iloc[rng.integers(len(known), size=N)].reset_index(drop=True)
    frame.insert(0, "id", [f"r{i}" for i in range(N)])
    return frame


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("options", [{}, {"fdr": 0.3}], ids=["eps", "fdr"])
@pytest.mark.parametrize("make", [plain, within_strata, by_category])
def test_blocks_give_what_all_rows_give(
    make: Any, options: dict[str, float], ending: str, tmp_path: Path, small_blocks: None
) -> None:
    scorer = make()
    frame = rows(scorer)
    path, out = tmp_path / f"rows.{ending}", tmp_path / f"out.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    outcome = score_file(scorer, path, out, id_column="id", **options)
    written = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    others = [name for name in frame if name not in scorer.columns]
    assert list(written) == [*others, "score", "p_value", "flagged"]
    pd.testing.assert_frame_equal(written[others], frame[others])
    ids, features = frame["id"].tolist(), frame.drop(columns="id")
    judged = scorer.judge(features, row_ids=ids)
    np.testing.assert_array_equal(written["score"].to_numpy(np.float32), judged.scores)
    np.testing.assert_array_equal(written["p_value"], judged.p_values)
    flags = scorer.rule(**options).flags(judged.p_values)
    np.testing.assert_array_equal(written["flagged"] == 1, flags)
    assert (outcome.n_rows, outcome.n_flagged) == (N, flags.sum())
    assert 0 < outcome.n_flagged < N


def test_blocks_have_the_bound_and_the_reasons_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = within_strata()
    rows(scorer).to_parquet(tmp_path / "rows.parquet")
    outcomes, results = [], []
    for values in (32 * 11, 10**6):
        monkeypatch.setattr(batch, "VALUES_AT_ONCE", values)
        out = tmp_path / f"{values}.parquet"
        outcomes.append(score_file(scorer, tmp_path / "rows.parquet", out, eps=0.02, explain=2))
        results.append(pd.read_parquet(out))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].false_alarms is not None
    pd.testing.assert_frame_equal(*results)
    assert (results[0]["because"] != "").sum() == outcomes[0].n_flagged > 5


def test_a_late_fault_is_named_by_its_row_and_leaves_nothing(tmp_path: Path, small_blocks: None) -> None:
    scorer = plain()
    frame = rows(scorer)
    frame.loc[N - 3, scorer.columns[4]] = np.inf
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "out.csv").write_text("of before")
    with pytest.raises(InputError, match=rf"rows.parquet, row {N - 3}, column '{scorer.columns[4]}': missing"):
        score_file(scorer, tmp_path / "rows.parquet", tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.parquet"]
    assert (tmp_path / "out.csv").read_text() == "of before"


@pytest.mark.parametrize("later", ["read", "judged"])
def test_of_faults_in_several_blocks_the_first_is_named(later: str, tmp_path: Path, small_blocks: None) -> None:
    """The next blocks are read while one is judged."""
    scorer = by_category()
    frame = rows(scorer)
    width = len(frame.columns)
    frame[scorer.category_column] = frame[scorer.category_column].astype(object)
    frame.loc[2, scorer.category_column] = "nowhere"
    if later == "read":
        frame.loc[32 * 11 // width + 2, scorer.columns[0]] = np.inf
    else:
        frame.loc[32 * 11 // width + 2 :, scorer.category_column] = "somewhere else"
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="nowhere"):
        score_file(scorer, tmp_path / "rows.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize("n_after", [N - 40, N, N + 40])
def test_a_file_that_changes_while_it_is_scored_is_refused(
    n_after: int, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False discoveries are decided over the whole file, which is read twice."""
    scorer, path = plain(), tmp_path / "rows.csv"
    rows(scorer).to_csv(path, index=False)
    after = pd.concat([rows(scorer, seed=2)] * 2)[:n_after]
    flags = Rule.flags

    def change_then_decide(rule: Rule, p_values: Any) -> Any:
        after.to_csv(path, index=False)
        return flags(rule, p_values)

    monkeypatch.setattr(Rule, "flags", change_then_decide)
    with pytest.raises(DataError, match=r"^rows.csv was changed while it was read; try again once it is whole$"):
        score_file(scorer, path, tmp_path / "out.csv", fdr=0.3)
    assert [each.name for each in tmp_path.iterdir()] == ["rows.csv"]


def test_an_id_that_comes_twice_in_different_blocks_is_refused_with_fdr(tmp_path: Path, small_blocks: None) -> None:
    scorer = within_strata()
    frame = rows(scorer)
    frame.loc[N - 1, "id"] = "r0"
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="row id 'r0' occurs twice in one batch"):
        score_file(scorer, tmp_path / "rows.parquet", tmp_path / "out.csv", fdr=0.1, id_column="id")
    assert not (tmp_path / "out.csv").exists()


def test_times_of_day_are_written_alike_in_every_block(tmp_path: Path, small_blocks: None) -> None:
    scorer = plain()
    frame = rows(scorer)
    frame["at"] = pd.Timestamp("2026-05-01") + pd.to_timedelta(np.arange(N) // (N - 1), unit="h")
    frame.to_parquet(tmp_path / "rows.parquet")
    score_file(scorer, tmp_path / "rows.parquet", tmp_path / "out.csv")
    times = pd.read_csv(tmp_path / "out.csv", dtype=str)["at"]
    assert times.iloc[[0, -1]].tolist() == ["2026-05-01 00:00:00", "2026-05-01 01:00:00"]
    assert pd.to_datetime(times).tolist() == frame["at"].tolist()


def judging(scorer: Scorer, monkeypatch: pytest.MonkeyPatch, *, stops_after: int | None = None) -> list[int]:
    """Note how many rows are judged at a time, and be cut off after so many blocks."""
    judged, scored = [], type(scorer).scored

    def noted(self: Scorer, features: Any, *others: Any) -> Any:
        if len(judged) == stops_after:
            raise KeyboardInterrupt
        judged.append(len(features))
        return scored(self, features, *others)

    monkeypatch.setattr(Scorer, "scored", noted)
    return judged


@pytest.mark.parametrize("options", [{}, {"fdr": 0.3}], ids=["eps", "fdr"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("make", [plain, within_strata])
def test_a_command_that_was_cut_off_goes_on_to_the_same_bytes(
    make: Any,
    ending: str,
    options: dict[str, float],
    tmp_path: Path,
    small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer, path, out = make(), tmp_path / f"rows.{ending}", tmp_path / f"out.{ending}"
    rows(scorer).to_csv(path, index=False) if ending == "csv" else rows(scorer).to_parquet(path)
    score_file(scorer, path, tmp_path / f"whole.{ending}", id_column="id", **options)
    monkeypatch.setattr(batch, "RESUMABLE_ROWS", 0)
    again = partial(score_file, scorer, path, out, id_column="id", **options)
    with monkeypatch.context() as patch:
        before = judging(scorer, patch, stops_after=3)
        with pytest.raises(KeyboardInterrupt):
            again()
    kept = tmp_path / f".out.{ending}.judged"
    assert kept.is_file()
    assert not out.exists()
    with monkeypatch.context() as patch:
        after = judging(scorer, patch)
        again()
    assert N - sum(before) <= sum(after) < N
    assert out.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not kept.exists()


@pytest.mark.parametrize("change", ["file", "scorer", "damage", "half a block", "link"])
def test_what_was_judged_of_something_else_does_not_count(
    change: str, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, path, out, kept = plain(), tmp_path / "rows.csv", tmp_path / "out.csv", tmp_path / ".out.csv.judged"
    rows(scorer).to_csv(path, index=False)
    monkeypatch.setattr(batch, "RESUMABLE_ROWS", 0)
    with monkeypatch.context() as patch:
        judging(scorer, patch, stops_after=3)
        with pytest.raises(KeyboardInterrupt):
            score_file(scorer, path, out)
    content = bytearray(kept.read_bytes())
    if change == "file":
        rows(scorer, seed=1).to_csv(path, index=False)
    elif change == "scorer":
        monkeypatch.setattr(batch, "ANSWERS", 10**6)
    elif change == "damage":
        content[64 + 30] ^= 1
        kept.write_bytes(content)
    elif change == "half a block":
        kept.write_bytes(content[: 64 + 100])
    else:
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic"):
            score_file(scorer, path, out)
        kept.unlink()
    score_file(scorer, path, out)
    monkeypatch.setattr(batch, "RESUMABLE_ROWS", 10**6)
    score_file(scorer, path, tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not kept.exists()
