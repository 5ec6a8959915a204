"""`assay score`, `assay label` and `assay reweight` on a real project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout

import assay
from assay.calibration.streams.watching import ALL_ROWS, FLAGS, NORMAL_ROWS
from assay.data.dataset import read_dataset, read_rows
from assay.data.labelling import labels_path
from assay.data.target import target_path
from assay.parts import read_arrays, read_json
from assay.scorer.batch import score_file
from assay.service.spool import append_scores, spool_path

NAME = "breast_cancer"
WORK = f"work/{NAME}"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def table(project: Checkout) -> pd.DataFrame:
    dataset = read_dataset(project.root / "data" / NAME)
    frame = pd.DataFrame(dataset.data.features, columns=list(dataset.card.columns))[list(dataset.card.columns)[::-1]]
    return frame.assign(patient=dataset.data.rows["row_id"].to_numpy())


def test_a_file_is_scored(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(finished)
    rows.to_csv(finished.root / "rows.csv", index=False)
    monkeypatch.chdir(finished.root)
    scorer = assay.load(NAME)
    told = json.loads(finished.assay("score", "rows.csv", "--out", "scored.csv", "--eps", "0.1", "--json").stdout)
    scored = pd.read_csv(finished.root / "scored.csv")
    assert list(scored.columns) == ["patient", "score", "p_value", "flagged"]
    assert scored["patient"].tolist() == rows["patient"].tolist()
    features = rows.drop(columns="patient")
    np.testing.assert_array_equal(scored["p_value"], scorer.p_values(features))
    np.testing.assert_array_equal(scored["flagged"] == 1, scorer.predict(features, eps=0.1))
    assert told["flagged"] == scored["flagged"].sum()
    assert 0 < told["false_alarms_at_most"] <= told["flagged"]


def test_flagged_rows_are_explained_on_request(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(finished)
    rows.to_csv(finished.root / "rows.csv", index=False)
    monkeypatch.chdir(finished.root)
    scorer = assay.load(NAME)
    finished.assay("score", "rows.csv", "--out", "scored.csv", "--explain", "2")
    scored = pd.read_csv(finished.root / "scored.csv", keep_default_na=False)
    flagged = scored["flagged"] == 1
    assert (scored.loc[~flagged, ["because", "p_without_first"]] == "").all(axis=None)
    explanation = scorer.explain(rows.drop(columns="patient")[flagged.to_numpy()])
    named = [because.partition(", ")[0].rpartition(" ")[0] for because in scored.loc[flagged, "because"]]
    assert named == [scorer.columns[column] for column in explanation.first]
    np.testing.assert_array_equal(scored.loc[flagged, "p_without_first"].astype(float), explanation.p_without)
    assert (explanation.p_without > scored.loc[flagged, "p_value"]).mean() > 0.3


def test_columns_that_are_no_features_come_back_as_they_were(
    finished: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids with leading zeros, long ones with gaps, and texts that could be missing values."""
    rows = table(finished).head(4).assign(patient=["001", "01", "1e5", ""], run=[2**60 + 1, None, None, 7])
    rows["run"] = rows["run"].astype("Int64")
    rows = rows.assign(note=["NA", "", "None", "1.50"])
    monkeypatch.chdir(finished.root)
    rows.to_csv("rows.csv", index=False, lineterminator="\r\n")
    score_file(assay.load(NAME), Path("rows.csv"), Path("scored.csv"))
    given, scored = (pd.read_csv(name, dtype=str, keep_default_na=False) for name in ("rows.csv", "scored.csv"))
    pd.testing.assert_frame_equal(scored[["patient", "run", "note"]], given[["patient", "run", "note"]])


def test_a_file_is_not_overwritten_by_its_result(finished: Checkout) -> None:
    rows = table(finished)
    rows.to_csv(finished.root / "rows.csv", index=False)
    before = (finished.root / "rows.csv").read_bytes()
    assert "is rows.csv itself" in finished.assay("score", "rows.csv", "--out", "./rows.csv", code=2).stderr
    assert "or in it" in finished.assay("score", "work", "--out", "work/scored", code=2).stderr
    assert (finished.root / "rows.csv").read_bytes() == before


def test_a_batch_is_decided_by_false_discoveries(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(finished)
    rows.to_parquet(finished.root / "rows.parquet")
    monkeypatch.chdir(finished.root)
    told = finished.assay("score", "rows.parquet", "--out", "scored.parquet", "--fdr", "0.3").stdout
    scored = pd.read_parquet(finished.root / "scored.parquet")
    np.testing.assert_array_equal(scored["flagged"] == 1, assay.load(NAME).discover(rows.drop(columns="patient"), 0.3))
    assert "a false discovery rate of 0.3" in told
    assert "false alarms, with 90% confidence over draws of calibration rows and batch" in told
    labels = read_dataset(finished.root / "data" / NAME).data.labels
    rows[labels == 0].to_parquet(finished.root / "good.parquet")
    told = finished.assay("score", "good.parquet", "--out", "scored.parquet", "--eps", "0.1").stdout
    assert "false alarms cannot be bounded: 48 calibration rows are too few" in told


def test_the_scores_that_a_service_gave_are_monitored(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.root)
    scorer = assay.load(NAME)
    assert "a service that has answered /score writes this file" in finished.assay("monitor", code=2).stderr
    path = spool_path(finished.root / ".assay" / "monitor", scorer.tag)
    path.parent.mkdir()
    scores = np.random.default_rng(0).permutation(scorer.calibrator.scores_)
    append_scores(path, scores)
    told = json.loads(finished.assay("monitor", "--share", "0.05", "--json").stdout)
    assert [each["name"] for each in told["monitors"]] == [ALL_ROWS, NORMAL_ROWS, FLAGS]
    assert [(each["rows"], each["alarm"]) for each in told["monitors"]] == [(scores.size, False)] * 3
    append_scores(path, np.repeat(scores, 20) + np.ptp(scores))
    told = finished.assay("monitor", code=1).stdout
    assert "drift of all rows     ALARM at row" in told
    other = path.with_name("other.scores")
    append_scores(other, scores)
    told = finished.assay("monitor", NAME, "--scores", str(path), "--scores", str(other), code=1).stdout
    assert "on 2 machines" in told
    assert "alarm at 200" in told
    assert "is given twice" in finished.assay("monitor", "--scores", str(other), "--scores", str(other), code=2).stderr


def test_a_rate_that_is_none_is_refused_and_the_smallest_flags_nothing(finished: Checkout) -> None:
    table(finished).to_csv(finished.root / "rows.csv", index=False)
    for option, value in (("eps", "nan"), ("fdr", "-1e-310")):
        done = finished.assay("score", "rows.csv", "--out", "scored.csv", f"--{option}", value, code=2)
        assert f"assay: {option} is {float(value)!r}; it must be a number between 0 and 1" in done.stderr
    assert not (finished.root / "scored.csv").exists()
    told = finished.assay("score", "rows.csv", "--out", "scored.csv", "--eps", "1e-310").stdout
    assert "0 of 569 rows flagged at p <= 1e-310" in told
    assert "it takes 1.00e+310 calibration rows" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drop": "mean area"}, "no column 'mean area'"),
        ({"add": "score"}, "a column 'score' already"),
        ({"spoil": "mean area"}, "row 3, column 'mean area': missing or infinite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(finished: Checkout, change: dict[str, str], words: str) -> None:
    rows = table(finished)
    rows = rows.drop(columns=change["drop"]) if "drop" in change else rows
    rows = rows.assign(**{change["add"]: 1.0}) if "add" in change else rows
    if "spoil" in change:
        rows.loc[3, change["spoil"]] = np.nan
    rows.to_csv(finished.root / "rows.csv", index=False)
    assert words in finished.assay("score", "rows.csv", "--out", "scored.csv", code=2).stderr
    assert not (finished.root / "scored.csv").exists()


def test_labelled_anomalies_leave_the_calibration(finished: Checkout) -> None:
    told = finished.assay("label", "--budget", "10", "--sample", "15").stdout
    assert "25 rows to label, 0 labelled already" in told
    path = labels_path(finished.root, NAME)
    asked = pd.read_csv(path, dtype=str, keep_default_na=False)
    calibration = read_rows(finished.root / WORK / "split/calibration")
    assert set(asked["fingerprint"]) <= set(calibration.rows["fingerprint"])
    assert asked["purpose"].value_counts().to_dict() == {"estimate": 15, "trim": 10}
    scores = asked["score"].astype(float)
    assert scores[asked["purpose"] == "trim"].min() >= scores[asked["purpose"] == "estimate"].max()
    before = {p.name: p.read_bytes() for p in (finished.root / WORK / "calibrate/knn/reference/level-0").iterdir()}
    asked["label"] = np.where(asked["purpose"] == "trim", np.where(asked.index < 2, "1", "0"), "0")
    asked.to_csv(path, index=False, lineterminator="\n")
    finished.assay("stage", "calibrate")
    found = read_json(finished.root / WORK / "calibrate/knn/calibration.json")
    assert (found["trim"]["removed"], found["trim"]["m_after"]) == (2, len(calibration) - 2)
    assert found["contamination"]["left"] < 0.3
    after = read_arrays(finished.root / WORK / "calibrate/knn/reference/level-0/knn+none.safetensors")["scores"]
    assert len(after) == len(calibration) - 2
    assert before["knn+none.safetensors"] != b""
    finished.assay("stage", "select")
    finished.assay("stage", "package")
    again = finished.assay("label", "--budget", "12", "--sample", "15").stdout
    assert "labelled already" in again
    assert "at most" in again


def test_rows_of_another_split_are_not_asked_about(finished: Checkout) -> None:
    params = finished.root / "params.yaml"
    params.write_text(params.read_text().replace("split: {seed: 0}", "split: {seed: 5}"))
    finished.assay("stage", "split")
    words = finished.assay("label", code=1).stderr
    assert "another split" in words
    assert "assay run" in words


def test_an_answer_that_is_none_is_named(finished: Checkout) -> None:
    finished.assay("label", "--budget", "3")
    path = labels_path(finished.root, NAME)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1] + "maybe", *lines[2:]]) + "\n")
    words = finished.assay("stage", "calibrate", code=2).stderr
    assert "line 2" in words
    assert "maybe" in words


def test_weights_are_refused_where_rows_are_too_few_and_cleared(finished: Checkout) -> None:
    rows = table(finished).iloc[::2]
    rows.to_csv(finished.root / "now.csv", index=False)
    told = finished.assay("reweight", "now.csv").stdout
    assert f"targets/{NAME}.csv: {len(rows)} of {len(rows)} rows" in told
    words = finished.assay("stage", "calibrate", code=2).stderr
    assert "weights of 30 columns need at least 300 source" in words
    assert "assay reweight --clear" in words
    shutil.rmtree(finished.root / "targets")
    finished.assay("reweight", "--clear")
    assert target_path(finished.root, NAME).read_bytes() == b""
    assert "fresh" in finished.assay("stage", "calibrate").stderr
    rows.drop(columns="mean area").to_csv(finished.root / "now.csv", index=False)
    assert "no column 'mean area'" in finished.assay("reweight", "now.csv", code=2).stderr
