"""Metrics and plots of a finished run, as DVC shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout

from assay.evaluation.curves import Curves
from assay.evaluation.metrics import auroc
from assay.parts import read_json
from assay.pipeline.evaluating import read_evaluation
from assay.pipeline.plotting import FLAT_METRICS, write_curves


@pytest.fixture
def evaluated(finished: Checkout) -> Path:
    return finished.root / "work/breast_cancer/evaluate"


def test_metrics_are_those_of_the_evaluation(finished: Checkout, evaluated: Path) -> None:
    shown = json.loads(finished.call("dvc", "metrics", "show", "--json").stdout)
    (figures,) = (entry["data"] for entry in shown[""]["data"].values())
    tested = read_evaluation(evaluated).at("level-0")
    assert figures == {
        f"{detector}+{adapter}": {name: getattr(row, name) for name in FLAT_METRICS}
        for (detector, adapter), row in tested.items()
    }


def test_plots_are_found_by_dvc_and_name_every_candidate(finished: Checkout, evaluated: Path) -> None:
    done = finished.call("dvc", "plots", "show", "--json", "--split")
    assert done.returncode == 0, done.stderr
    plots = json.loads(done.stdout)
    assert not plots.get("errors")
    folder = "work/breast_cancer/evaluate/plots"
    assert {path.split("::")[-1] for path in plots["data"]} == {
        f"{folder}/{name}" for name in ("roc.csv", "pr.csv", "reliability.csv", "p_values.csv", "curves.png")
    }
    (roc,) = (entries for path, entries in plots["data"].items() if path.endswith("roc.csv"))
    assert roc[0]["content"]["encoding"]["color"]["field"] == "candidate"
    names = set(read_json(evaluated / "metrics.json"))
    for path in (evaluated / "plots").glob("*.csv"):
        assert set(pd.read_csv(path)["candidate"]) == names
    assert (evaluated / "plots/curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_curves_are_those_of_the_p_values(evaluated: Path) -> None:
    from assay.parts import read_arrays

    p_values = read_arrays(evaluated / "p_values/level-0.safetensors")["knn+none.normals"]
    table = pd.read_csv(evaluated / "plots/reliability.csv")
    rates = table[table["candidate"] == "knn+none"].set_index("eps")["fpr"]
    for eps in (0.005, 0.05, 0.5, 1):
        assert rates[eps] == pytest.approx((p_values <= eps).mean(), rel=1e-5)
    shares = pd.read_csv(evaluated / "plots/p_values.csv").groupby("candidate")["share"].sum()
    np.testing.assert_allclose(shares, 1, rtol=1e-4)


@pytest.mark.parametrize("size", [60, 5000])
def test_the_area_under_the_thinned_curve_is_the_area(size: int) -> None:
    generator = np.random.default_rng(0)
    normals, anomalies = generator.normal(size=size), generator.normal(1, size=size // 2)
    normals[0] = np.inf
    p_values = (generator.uniform(size=size), generator.uniform(size=size // 2) ** 4)
    curves = Curves.of((normals, anomalies), p_values)
    fpr, tpr = curves.roc
    labels = np.r_[np.zeros(size, int), np.ones(size // 2, int)]
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(labels, np.r_[normals, anomalies]), abs=2e-3)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert len(fpr) <= 200
    recall, precision = curves.precision_recall
    assert (recall[0], precision[0], recall[-1]) == (0, 1, 1)
    assert np.all(np.diff(recall) >= 0)


def test_the_same_curves_are_the_same_bytes(evaluated: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    curves = {
        f"d{number}+none": Curves.of(
            (generator.normal(size=90), generator.normal(size=9)),
            (generator.uniform(size=90), generator.uniform(size=9)),
        )
        for number in range(12)
    }
    tested = read_evaluation(evaluated).at("level-0")
    for name in ("a", "b"):
        write_curves(tmp_path / name, tested, curves)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 6
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
