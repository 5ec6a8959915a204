"""A user's own series, from a file of steps of several machines to a file of scored steps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import QUICK, Checkout, make_checkout

from assay.data.dataset import read_dataset
from assay.detectors.registry import load_detector
from assay.errors import ScorerError
from assay.parts import read_part
from assay.project.scorers import find_packaged
from assay.scorer.explaining_series import window_moments
from assay.scorer.folder import HEAD, read_head
from assay.scorer.loading import load_scorer

LENGTH, STEPS, FAULTS = 8, 1500, 30
PARAMS = (
    QUICK.replace("[none, cadet]", "[none]")
    .replace("levels: [0, 0.1]", "levels: [0]")
    .replace("  mcd: {}\n", "  mcd: {}\n  lstm_predictor: {epochs: 10, members: 1}\n")
)


def machine(number: int) -> pd.DataFrame:
    """Return the steps of a machine, a second each: two waves, in one of which 30 faults of eight steps lie."""
    rng = np.random.default_rng(number)
    phase = np.cumsum(rng.normal(0.5, 0.02, STEPS))
    flow, heat = np.sin(phase) + rng.normal(scale=0.1, size=(2, STEPS))
    bad = np.zeros(STEPS, dtype=int)
    for first in rng.choice(STEPS // 30, size=FAULTS, replace=False) * 30 + 10:
        bad[first : first + 8] = 1
    times = pd.Timestamp("2024-05-01", tz="UTC") + pd.to_timedelta(number * 86400 + np.arange(STEPS), unit="s")
    steps = {"when": times, "machine": f"m{number}", "flow": flow + 4 * bad, "heat": heat, "bad": bad}
    return pd.DataFrame(steps).drop(index=range(400, 440))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run on five machines."""
    made = make_checkout(tmp_path_factory.mktemp("series") / "project")
    made.params(PARAMS)
    frame = pd.concat([machine(number) for number in range(5)]).sample(frac=1, random_state=0)
    frame.to_csv(made.root / "plant.csv", index=False)
    options = ("--series", "when", "--entity", "machine", "--window", str(LENGTH), "--label", "bad")
    done = made.assay("ingest", "plant.csv", "--name", "plant", *options)
    assert "channels: flow, heat" in done.stdout
    assert "plant.csv: 5 gaps of more than 5 steps, the longest of 41" in done.stderr
    assert "blocks of 24 steps, with 8 between two that are not used" in done.stderr
    result = json.loads(made.assay("run", "--dataset", "plant", "--json").stdout)
    assert (result["unit"], result["evidence"]) == ("block", "labels")
    assert "for a window of a new block that is exchangeable with the" in result["guarantee"]
    assert "Of later times, and of other series, no rate is promised" in result["guarantee"]
    return made


def test_every_step_has_the_p_value_of_the_least_anomalous_window_over_it(project: Checkout) -> None:
    new = machine(7)
    new.loc[700, "heat"] = np.nan
    new = new.sample(frac=1, random_state=1)
    new.to_csv(project.root / "new.csv", index=False)
    done = project.assay("score", "new.csv", "--out", "scored.csv")
    assert "1 of 1460 steps are in no window and have no score" in done.stderr
    scored = pd.read_csv(project.root / "scored.csv")
    assert scored["when"].tolist() == pd.read_csv(project.root / "new.csv")["when"].tolist()
    assert "flow" not in scored

    scorer = load_scorer(find_packaged("plant", project.root).folder)
    ordered = scored.assign(flow=new["flow"].to_numpy(), heat=new["heat"].to_numpy()).sort_values("when")
    largest = np.full(len(ordered), -1.0)
    pieces = ((0, 400), (400, 660), (661, 1460))  # the gap and the missing value lie between them
    for begin, end in pieces:
        starts = sorted({*range(begin, end - LENGTH + 1, 4), end - LENGTH})
        values = ordered[["flow", "heat"]].to_numpy()
        p_values = scorer.p_values(np.stack([values[start : start + LENGTH].ravel() for start in starts]))
        for start, p_value in zip(starts, p_values, strict=True):
            covered = slice(start, start + LENGTH)
            largest[covered] = np.maximum(largest[covered], p_value)
    is_judged = largest >= 0
    assert np.array_equal(ordered["p_value"].isna(), ~is_judged)
    np.testing.assert_allclose(ordered["p_value"][is_judged], largest[is_judged])
    flags = ordered["flagged"][is_judged].astype(int)
    assert np.array_equal(flags == 1, largest[is_judged] <= scorer.head["eps"])
    assert (ordered["window_start"] <= ordered["when"])[is_judged].all()
    assert (ordered["window_end"] >= ordered["when"])[is_judged].all()
    assert flags[ordered["bad"] == 1].mean() > 0.9
    assert flags[ordered["bad"] == 0].mean() < 0.2


def test_an_explanation_names_the_channel_and_the_moment(project: Checkout) -> None:
    machine(8).to_parquet(project.root / "new.parquet", index=False)
    project.assay("score", "new.parquet", "--out", "scored.parquet", "--explain", "2")
    scored = pd.read_parquet(project.root / "scored.parquet")
    faults = scored[(scored["flagged"] == 1) & (scored["bad"] == 1)]
    assert faults["because"].str.match(r"flow (at|from) 2024-05-09").mean() > 0.9
    assert (scored.loc[scored["flagged"] == 0, "because"] == "").all()


@pytest.mark.parametrize("detector", ["lstm_predictor", "knn"])
def test_a_spike_is_found_where_it_is(project: Checkout, detector: str) -> None:
    scorer = load_scorer(find_packaged("plant", project.root).folder)
    part = read_part(project.root / f"work/plant/train/{detector}/level-0", detector)
    scorer = replace(scorer, function=replace(scorer.function, detector=load_detector(part)))
    assert scorer.windows is not None
    window = machine(0)[["flow", "heat"]].to_numpy()[50 : 50 + LENGTH].copy()
    window[6, 1] += 6
    first, *others = window_moments(scorer, window.reshape(1, -1), scorer.windows, 3)
    assert (first.channel, first.first, first.last) == ("heat", 6, 6)
    assert first.share > 0.5
    assert sum(moment.share for moment in (first, *others)) <= 1 + 1e-9


def test_windows_are_what_the_scorer_and_the_service_take(project: Checkout) -> None:
    scorer = load_scorer(find_packaged("plant", project.root).folder)
    dataset = read_dataset(project.root / "data/plant")
    table = dataset.card.table(dataset.data.features[:3])
    assert table.columns[:2].tolist() == ["flow@0", "heat@0"]
    np.testing.assert_array_equal(scorer.judge(table).scores, scorer.decision_function(dataset.data.features[:3]))
    assert scorer.windows == dataset.card.windows


def test_an_archive_of_windows_and_one_of_images_are_told_apart(project: Checkout) -> None:
    windows = np.random.default_rng(0).normal(size=(300, 6, 2))
    np.savez(project.root / "beats.npz", windows=windows)
    done = project.assay("ingest", "beats.npz", "--name", "beats")
    assert "data/beats: 300 rows x 12 columns, 0 labelled anomalies, 300 unlabelled" in done.stdout
    refused = project.assay("ingest", "beats.npz", "--name", "b", "--label", "x", code=2).stderr
    assert "--label is not for an archive of windows" in refused
    np.savez(project.root / "more.npz", windows=windows[:40] + 1)
    refused = project.assay("ingest", "more.npz", "--append", "--name", "beats", "--label", "x", code=2).stderr
    assert "--label is not for windows of series" in refused
    assert (
        "batch more: 40 rows"
        in project.assay("ingest", "more.npz", "--append", "--name", "beats", "--batch", "more").stdout
    )
    refused = project.assay("ingest", "more.npz", "--append", "--name", "plant", code=2).stderr
    assert "append a file of steps, not more.npz" in refused
    assert "calibration is not weighted towards windows" in project.assay("reweight", "plant.csv", code=2).stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, "windows: stride is 0"),
        ({"length": 9}, "its windows are not of its columns"),
        ({"channels": ["flow", "flow"]}, "its windows are not of its columns"),
        ({"secret": 1}, "windows has no parameter 'secret'"),
        ({"step": -1.0}, "windows: step is -1.0"),
    ],
)
def test_a_head_whose_windows_are_damaged_is_refused(
    project: Checkout, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    head = json.loads((find_packaged("plant", project.root).folder / HEAD).read_text())
    assert head["windows"]["length"] == LENGTH
    head["windows"] |= change
    (tmp_path / HEAD).write_text(json.dumps(head))
    with pytest.raises(ScorerError, match=re.escape(message)):
        read_head(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ingest", "plant.csv", "--name", "b", "--series", "when"), "and --window STEPS"),
        (("ingest", "plant.csv", "--name", "b", "--window", "4"), "series need --series COLUMN"),
        (("ingest", "plant.csv", "--name", "b", "--series", "when", "--window", "4", "--id", "bad"), "--id bad"),
        (("ingest", "plant.csv", "--check", "--series", "when"), "and --window STEPS"),
        (("audit", "who-saw", "part.csv", "--content"), "row ids alone do not tell the content"),
        (("audit", "who-saw", "later.csv"), "no window of plant holds any of the 20 steps of later.csv"),
        (("audit", "who-saw", "slow.csv", "--dataset", "digits"), "lacks 64 of the 64 feature columns"),
        (("ingest", "digits", "--series", "when", "--window", "4"), "--series is for your own files"),
        (("ingest", "plant.csv", "--append", "--name", "plant"), "has windows of the series"),
        (("ingest", "part.csv", "--append", "--name", "plant"), "'heat' is only in one of them"),
        (("ingest", "plant.csv", "--append", "--name", "plant", "--window", "9"), "windows are cut as in the dataset"),
        (("score", "slow.csv", "--out", "x.csv"), "the usual step of slow.csv is 10"),
        (("score", "new.csv", "--out", "x.csv", "--id", "machine"), "--id machine is for rows"),
        (("score", "new.csv", "--out", "x.csv", "--fdr", "0.1"), "false discover"),
        (("score", "part.csv", "--out", "x.csv"), "part.csv has no column 'heat'"),
    ],
)
def test_what_series_cannot_be_is_said(project: Checkout, arguments: tuple[str, ...], message: str) -> None:
    root: Path = project.root
    machine(0).iloc[::10].to_csv(root / "slow.csv", index=False)
    machine(0).drop(columns="heat").to_csv(root / "part.csv", index=False)
    machine(0).to_csv(root / "new.csv", index=False)
    machine(9)[:20].to_csv(root / "later.csv", index=False)
    assert message in project.assay(*arguments, code=2).stderr
    assert not (root / "x.csv").exists()
    assert not (root / "data/b").exists()


def test_a_look_before_ingest_says_what_columns_and_series_are(project: Checkout) -> None:
    machine(0).to_csv(project.root / "new.csv", index=False)
    options = ("--series", "when", "--entity", "machine", "--window", "8", "--label", "bad")
    done = project.assay("ingest", "new.csv", "--check", *options)
    assert re.search(r"when +text +times of steps", done.stdout)
    assert re.search(r"machine +text +names of series", done.stdout)
    assert "1 gaps of more than 5 steps" in done.stderr
    assert "`assay ingest` can take it; nothing was changed" in done.stdout


def held(rows: pd.DataFrame, machine_name: str, first: str, last: str) -> set[str]:
    """Return the ids of the windows of a machine that hold a time of an interval."""
    inside = (rows["entity"] == machine_name) & (rows["start"] <= last) & (rows["end"] >= first)
    return {*rows.loc[inside, "row_id"]}


def test_who_saw_steps_and_quarantine_of_a_stretch_of_time(project: Checkout) -> None:
    rows = read_dataset(project.root / "data/plant").data.rows
    steps = machine(3)[100:160]
    steps.sample(frac=1, random_state=0).to_csv(project.root / "faulty.csv", index=False)
    times = steps["when"].astype(str).tolist()
    expected = held(rows, "m3", times[0], times[-1])
    answer = json.loads(project.assay("audit", "who-saw", "faulty.csv", "--json").stdout)
    assert (answer["matched_by"], answer["rows"], answer["known"]) == ("row_id", len(expected), len(expected))
    assert answer["scorers"][0]["champion"]
    assert set(answer["scorers"][0]["uses"]) & {"train", "adapt", "calibration", "test"}
    assert "of the 60 rows of faulty.csv" in answer["notes"][0]

    stretch = pd.DataFrame({"machine": ["m3"], "start": [times[0]], "end": [times[-1]]})
    stretch.to_csv(project.root / "stop.csv", index=False)
    done = project.assay("audit", "quarantine", "stop.csv", "--why", "sensor replaced")
    assert f"{len(expected)} put in" in done.stdout
    assert {*pd.read_csv(project.root / "quarantine/plant.csv")["row_id"]} == expected
    project.assay("audit", "quarantine", "stop.csv", "--why", "it was not", "--lift")


def test_windows_of_a_former_cut_are_not_missed(project: Checkout) -> None:
    """The data are cut again, into windows that begin elsewhere: runs have seen the former ones."""
    before = read_dataset(project.root / "data/plant").data.rows
    machine(3)[900:903].to_csv(project.root / "three.csv", index=False)
    times = machine(3)["when"].astype(str)[900:903].tolist()
    seen = json.loads(project.assay("audit", "who-saw", "three.csv", "--json").stdout)
    options = ("--series", "when", "--entity", "machine", "--window", str(LENGTH), "--stride", "7", "--label", "bad")
    project.assay("ingest", "plant.csv", "--name", "plant", *options)
    again = json.loads(project.assay("audit", "who-saw", "three.csv", "--json").stdout)
    assert seen["known"] == len(held(before, "m3", times[0], times[-1])) > 0
    assert again["known"] == seen["known"]
    assert again["scorers"][0]["uses"] == seen["scorers"][0]["uses"]


def test_later_steps_and_new_machines_are_added(project: Checkout) -> None:
    later = machine(2)
    later["when"] += pd.to_timedelta(STEPS, unit="s")
    pd.concat([later, machine(6)]).to_csv(project.root / "june.csv", index=False)
    before = read_dataset(project.root / "data/plant").data.rows
    done = project.assay("ingest", "june.csv", "--append", "--name", "plant", "--batch", "june")
    added = read_dataset(project.root / "data/plant").data.rows.query("batch == 'june'")
    assert f"batch june: {len(added)} rows from june.csv" in done.stdout
    assert {*added["entity"]} == {"m2", "m6"}
    assert not {*added["group"]} & {*before["group"]}
    assert not {*added["row_id"]} & {*before["row_id"]}
    saw = json.loads(project.assay("audit", "who-saw", "--batch", "june", "--json").stdout)
    assert saw["known"] == 0
