"""Ten clicks: a table with a kind of bad rows in it, from `assay ingest` to a scorer that has forgotten them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from tests.conftest import QUICK, Checkout

from assay.project.scorers import find_packaged
from assay.scorer.loading import load_scorer

PARAMS = (
    QUICK.replace("levels: [0, 0.1]", "levels: [0]")
    .replace("[none, cadet]", "[none]")
    .replace("without_labels: probes", "without_labels: knn")
)


def readings(n: int, odd: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    is_odd = np.arange(n) < odd
    frame = pd.DataFrame({"reading": [f"r{i}" for i in range(n)]})
    frame["heat [C]"] = np.where(is_odd, rng.normal(95, 0.3, n), rng.normal(70, 3, n)).round(2)
    frame["speed"] = np.where(is_odd, rng.normal(1900, 5, n), rng.normal(1500, 60, n)).round(1)
    frame["load"] = rng.gamma(3, 2, n).round(3)
    return frame


def median_ranks(checkout: Checkout, kind: pd.DataFrame, usual: pd.DataFrame) -> float:
    """Return the share of usual rows that the champion scores below the median row of the kind."""
    packaged = find_packaged("plant", checkout.root)
    scorer = load_scorer(packaged.folder, packaged.statement.id)
    of_kind, of_usual = (scorer.decision_function(each.drop(columns="reading")) for each in (kind, usual))
    return float((of_usual < np.median(of_kind)).mean())


def test_a_kind_that_was_answered_bad_is_anomalous_from_the_next_run_on(checkout: Checkout) -> None:
    checkout.params(PARAMS)
    readings(700, 60, 0).to_csv(checkout.root / "plant.csv", index=False)
    checkout.assay("ingest", "plant.csv", "--name", "plant", "--id", "reading")
    assert "have no roles yet" in checkout.assay("review", "--dataset", "plant", code=1).stderr
    first = json.loads(checkout.assay("run", "--dataset", "plant", "--json").stdout)
    new = readings(200, 100, 1)
    assert median_ranks(checkout, new[:100], new[100:]) < 0.5
    shown = checkout.assay("review", "--budget", "4").stdout
    assert "heat [C]: 95" in shown.replace("94.9", "95")
    assert (checkout.root / ".assay/reviews/plant.html").is_file()
    lines = pd.read_csv(checkout.root / ".assay/reviews/plant.csv", dtype=str, keep_default_na=False)
    assert set(lines.loc[lines["question"] == lines["question"][0], "row_id"]) <= {f"r{i}" for i in range(60)}
    lines.loc[0, "answer"] = "bad"
    for path in ("answers.csv", ".assay/reviews/plant.csv"):
        lines.to_csv(checkout.root / path, index=False)
    assert "holds answers that were not taken" in checkout.assay("review", code=2).stderr
    told = checkout.assay("review", "answers.csv").stdout
    assert "answers/plant.csv: " in told
    assert "git add answers/plant.csv" in told
    assert "rows answered bad (train " in checkout.assay("scorers").stdout
    second = json.loads(checkout.assay("run", "--json").stdout)
    assert second["scorer"] != first["scorer"]
    assert "rows answered bad, this scorer from none" in second["verdict"]
    assert median_ranks(checkout, new[:100], new[100:]) > 0.99
    stale = json.loads(checkout.call("dvc", "status", "--json").stdout)
    assert not any("plant" in stage for stage in stale)
    assert json.loads(checkout.assay("audit", "verify", "plant", "--json").stdout)["intact"]
