"""Detectors that learn from labels, suspect rows or come from elsewhere, through a whole run."""

from __future__ import annotations

import json
import os
import signal

import pandas as pd
import pytest
from tests.conftest import QUICK, Checkout
from tests.sealing import learned_rows
from tests.waiting import wait_until

from assay.parts import read_json

DETECTORS = """\
detectors:
  deep_sad: {epochs: 10, pretrain_epochs: 5, members: 1}
  trimmed-knn: {detector: {trimmed: {detector: knn}}}
  lof-minmax: {detector: {rescaled: {detector: {lof: {n_neighbors: 10}}}}}
  OneClassSVM: {detector: sklearn.svm.OneClassSVM, nu: 0.1}
  knn: {}
  isolation_forest: {}
  mcd: {}
"""
CHOSEN = QUICK[: QUICK.index("detectors:")].replace("labelled: 0", "labelled: 0.05") + DETECTORS + "adapters: [none]\n"
PARAMS = (
    CHOSEN.replace("levels: [0, 0.1]", "levels: [0, 0.05]")
    + "select: {seed: 0, without_labels: probes}\nrun: {cells_at_once: 1, runner: local, address: ''}\n"
)
WORK = "work/breast_cancer"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    from tests.conftest import make_checkout

    project = make_checkout(tmp_path_factory.mktemp("choices") / "project")
    project.params(PARAMS)
    project.assay("restore")
    ended = project.call("dvc", "repro", "-q")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return project


def test_labelled_anomalies_are_set_aside_for_those_that_learn_from_them(done: Checkout) -> None:
    plan = read_json(done.root / WORK / "contaminate/plan.json")
    labelled = pd.read_csv(done.root / WORK / "contaminate/labelled/rows.csv")
    train = pd.read_csv(done.root / WORK / "split/train/rows.csv")
    assert plan["n_labelled"] == len(labelled) == round(0.05 * len(train)) > 0
    assert (labelled["label"] == 1).all()
    injected = pd.read_csv(done.root / WORK / "contaminate/level-0.05/rows.csv")
    assert len(injected)
    assert set(labelled["fingerprint"]).isdisjoint(injected["fingerprint"])
    assert read_json(done.root / WORK / "train/deep_sad/failures.json") == {}


def test_a_detector_from_elsewhere_is_compared_and_never_ships(done: Checkout) -> None:
    rows = {row["detector"]: row for row in read_json(done.root / WORK / "select/selection.json")["candidates"]}
    assert "no array form" in rows["OneClassSVM"]["reason"]
    assert rows["OneClassSVM"]["power"] > 0
    assert rows["deep_sad"]["valid"]
    tested = read_json(done.root / WORK / "evaluate/evaluation.json")["candidates"]
    assert {row["detector"] for row in tested if row["auroc"] > 0.7} >= {"OneClassSVM", "trimmed-knn", "lof-minmax"}


def test_suspects_are_on_record(done: Checkout) -> None:
    for level, n_injected in (("level-0", 0), ("level-0.05", None)):
        table = pd.read_csv(done.root / WORK / f"train/trimmed-knn/{level}/trimmed-knn.suspects.csv")
        injected = pd.read_csv(done.root / WORK / f"contaminate/{level}/rows.csv")
        assert list(table) == ["row_id", "fingerprint", "injected", "suspicion", "suspect", "group"]
        assert table["injected"].sum() == len(injected) == (len(injected) if n_injected is None else n_injected)
        assert table["suspicion"].is_monotonic_decreasing
        train = pd.read_csv(done.root / WORK / "split/train/rows.csv")
        assert set(table["fingerprint"]) == {*train["fingerprint"], *injected["fingerprint"]}


def test_a_scorer_that_learned_from_labels_names_those_rows(done: Checkout) -> None:
    from assay.project.freshness import run_verb
    from assay.project.layout import Project

    project = Project(done.root)
    selection = read_json(done.root / WORK / "select/selection.json")
    winner = selection["candidates"][selection["winner"]]["detector"]
    (scorer,) = (path for path in (done.root / "work/package/breast_cancer").iterdir() if path.is_dir())
    seen = learned_rows(scorer)
    assert ("labelled" in seen) == (winner == "deep_sad")
    assert not run_verb(project, "package").ran


def test_a_killed_training_goes_on_where_it_was(checkout: Checkout) -> None:
    long = "  autoencoder: {epochs: 4000, members: 2, learning_rate: 0.0001}\n"
    checkout.params(QUICK.replace("detectors:\n", "detectors:\n" + long).replace("levels: [0, 0.1]", "levels: [0]"))
    checkout.assay("restore")
    for stage in ("split", "contaminate", "validate"):
        checkout.assay("stage", stage)
    cell = "train@breast_cancer--autoencoder"
    process = checkout.start("assay", "stage", cell)
    folder = checkout.root / ".assay/checkpoints/train/breast_cancer--autoencoder"
    wait_until(lambda: list(folder.rglob("level-0.fit*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    checkout.assay("stage", cell)
    assert not folder.exists()
    again = checkout.root / WORK / "train/autoencoder"
    first = json.loads((again / "record.json").read_text())["outputs"]
    again.rename(checkout.root / "first")
    checkout.assay("stage", cell)
    assert json.loads((again / "record.json").read_text())["outputs"] == first
