"""Rows that repeat, from the split to the p-values by the pipeline's own functions, over redraws.

`benchmarks/copies.py` does the same 300 times, and on mammography (docs/benchmarks/copies.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.copies import EPS, by_content, gaussian, measure

from assay import pipeline
from assay.data.dataset import RowSet, read_rows, write_dataset, write_rows
from assay.errors import PoolTooSmallError
from assay.pipeline.evaluating import read_evaluation

REDRAWS = 24


def test_the_promise_holds_where_a_fifth_of_the_rows_are_one_state(tmp_path: Path) -> None:
    """The mean rate over redraws is within 3.5 standard errors (.006 each) of the exact one; by content it was .127."""
    found = pd.DataFrame([measure(gaussian(draw), tmp_path / str(draw), seed=draw) for draw in range(REDRAWS)])
    error = found["fpr"].std() / np.sqrt(REDRAWS)
    assert error < 0.01
    assert abs(found["fpr"].mean() - found["expected"].mean()) < 3.5 * error
    assert found["fpr"].max() < 0.2
    assert found["power"].mean() > 0.5


def test_by_content_it_would_break(tmp_path: Path) -> None:
    """That the redraws above could fail: with one role for the whole state, it is flagged wherever it is tested."""
    rates = []
    for draw in range(60):
        dataset = by_content(gaussian(draw, n=300, n_anomalies=30))
        folder = tmp_path / str(draw)
        write_dataset(folder / "data", dataset)
        pipeline.split(folder / "split", data=folder / "data", quarantine=folder / "none", seed=draw, source="auto")
        tested, rest = (read_rows(folder / "split" / role) for role in ("test", "train"))
        if (tested.features == 2.5).all(axis=1).any():
            assert not (rest.features == 2.5).all(axis=1).any()
            rates.append(measure(dataset, folder / "again", seed=draw)["fpr"])
        if len(rates) == 2:
            break
    assert min(rates) > 0.2


def test_contradicting_labels_are_judged_and_neither_injected_nor_learned_from(tmp_path: Path) -> None:
    """Thirty of sixty anomalies are listed again as normal."""
    clean = gaussian(0)
    again = clean.data.take(np.flatnonzero(clean.data.labels == 1)[:30])
    again = RowSet(again.features, again.rows.assign(row_id="again-" + again.rows["row_id"], label=np.int8(0)))
    features = np.concatenate([clean.data.features, again.features])
    both = replace(clean, data=RowSet(features, pd.concat([clean.data.rows, again.rows], ignore_index=True)))
    measure(both, tmp_path, seed=0)
    roles = {role: read_rows(tmp_path / "split" / role) for role in ("train", "pool", "calibration", "test")}
    contested = {*roles["pool"].rows["row_id"][roles["pool"].rows["contradicted"] == 1]}
    assert contested
    assert any(row_id.startswith("again-") for row_id in roles["calibration"].rows["row_id"])
    options = {"levels": [0.0, 0.02], "source": "pool", "labelled": 0.01, "seed": 0}
    folders = {"card": tmp_path / "states", "train": tmp_path / "split/train", "pool": tmp_path / "split/pool"}
    pipeline.contaminate(tmp_path / "again", **folders, **options)
    used = pd.concat([read_rows(tmp_path / "again" / part).rows for part in ("level-0.02", "labelled")])
    assert len(used) > 8
    assert not contested & {*used["row_id"]}
    usable = len(roles["pool"]) - len(contested)
    with pytest.raises(PoolTooSmallError, match=f"the pool has {usable}"):
        pipeline.contaminate(tmp_path / "more", **folders, **{**options, "labelled": 0, "levels": [0.0, 0.2]})
    evaluation = read_evaluation(tmp_path / "evaluate")
    anomalies = roles["test"].take(roles["test"].labels == 1)
    assert evaluation.n_contradicted == int(anomalies.rows["contradicted"].sum()) > 0
    assert evaluation.n_normals == int((roles["test"].labels == 0).sum())
    (row,) = evaluation.candidates
    assert row.uncontradicted_power is not None


def test_metrics_over_unseen_contents_are_those_of_these_rows_alone(tmp_path: Path) -> None:
    """Evaluating the unseen rows alone, by the same models and references, gives the same numbers."""
    dataset = gaussian(3)
    measure(dataset, tmp_path, seed=3)
    (all_rows,) = read_evaluation(tmp_path / "evaluate").candidates
    test = read_rows(tmp_path / "split/test")
    state = (test.features == 2.5).all(axis=1)
    np.testing.assert_array_equal(test.rows["seen"] == 1, state)
    write_rows(tmp_path / "unseen", test.take(~state))
    from assay.names import Choice
    from assay.pipeline.candidates import Candidates

    pipeline.evaluate(
        tmp_path / "evaluated",
        test=tmp_path / "unseen",
        trained=tmp_path / "train",
        calibrated=tmp_path / "calibrate",
        candidates=Candidates((Choice("knn", "knn"),), (Choice("none", "none"),)),
        eps=EPS,
    )
    evaluation = read_evaluation(tmp_path / "evaluated")
    (alone,) = evaluation.candidates
    assert all_rows.unseen is not None
    assert (all_rows.unseen.n_normals, all_rows.unseen.n_anomalies) == (evaluation.n_normals, evaluation.n_anomalies)
    for name in ("auroc", "auprc", "fpr", "stratum_fpr", "worst_stratum_fpr", "power"):
        assert getattr(all_rows.unseen, name) == getattr(alone, name), name
    assert all_rows.fpr != all_rows.unseen.fpr


def test_where_training_has_seen_every_content_there_is_nothing_to_say_about_others(tmp_path: Path) -> None:
    """Sixteen different normals, fifty times each or more."""
    dataset, normal = gaussian(0), gaussian(0).data.labels == 0
    features = np.where(normal[:, None], dataset.data.features > 0, dataset.data.features).astype(np.float32)
    dataset = replace(dataset, data=RowSet(features, dataset.data.rows))
    found = measure(dataset, tmp_path, seed=0, detector="isolation_forest")
    assert np.isnan(found["unseen_fpr"])
    (row,) = read_evaluation(tmp_path / "evaluate").candidates
    assert row.unseen is not None
    assert (row.unseen.n_normals, row.unseen.fpr, row.unseen.auroc, row.unseen.stratum_fpr) == (0, None, None, {})
    assert row.unseen.power is not None
