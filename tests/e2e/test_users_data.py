"""A user's own files, from `assay ingest` to the end of a run."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from tests.conftest import QUICK, Checkout, make_checkout

from assay.errors import AssayError
from assay.project.layout import Project
from assay.runs import run as runs

PLAIN = QUICK.replace("levels: [0, 0.1]", "levels: [0]").replace("[none, cadet]", "[none]")


def table(labels: str | None) -> pd.DataFrame:
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.iloc[:, :10].copy()
    frame.insert(0, "sample", [f"s{i}" for i in range(len(frame))])
    if labels:
        frame[labels] = 1 - bunch.target
        return frame
    return frame[bunch.target == 1].reset_index(drop=True)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A project with the bundled data, for tests that run nothing in it."""
    project = make_checkout(tmp_path_factory.mktemp("restored") / "project")
    project.assay("restore")
    return project


def test_labelled_csv(checkout: Checkout) -> None:
    table("malignant").to_csv(checkout.root / "clinic.csv", index=False)
    checkout.params(PLAIN)
    told = checkout.assay("ingest", "clinic.csv", "--name", "clinic", "--label", "malignant", "--id", "sample").stdout
    assert "569 rows x 10 columns, 212 labelled anomalies" in told
    result = json.loads(checkout.assay("run", "--dataset", "clinic", "--json").stdout)
    assert result["evidence"] == "labels"
    assert result["scorer"].startswith("clinic:")
    assert min(row["auroc"] for row in result["candidates"]) > 0.8
    assert (checkout.root / "params.yaml").read_text().startswith("dataset: clinic\n")
    stale = json.loads(checkout.call("dvc", "status", "--json").stdout)
    assert not any("clinic" in stage for stage in stale)
    listed = json.loads(checkout.assay("scorers", "--json").stdout)
    assert [row["tag"] for row in listed] == [result["scorer"]]


def test_unlabelled_parquet_is_judged_by_probes_and_says_so(checkout: Checkout) -> None:
    table(None).to_parquet(checkout.root / "plain.parquet")
    checkout.params(QUICK.replace("without_labels: probes", "without_labels: mcd"))
    checkout.assay("ingest", "plain.parquet", "--name", "plain", "--id", "sample")
    told = checkout.assay("run", "--dataset", "plain").stdout
    words = " ".join(told.split())
    for phrase in ("probes", "presumed", "synthetic", "mcd ships, as select.without_labels says"):
        assert phrase in words
    (listed,) = [
        row for row in json.loads(checkout.assay("scorers", "--json").stdout) if row["tag"].startswith("plain")
    ]
    assert listed["detector"] == "mcd"
    assert "AUROC" not in words.replace("AUROC on", "")
    injected = pd.read_csv(checkout.root / "work/plain/contaminate/level-0.1/rows.csv")
    probes = pd.read_csv(checkout.root / "work/plain/split/selection/probes/rows.csv")
    assert set(injected["recipe"]).isdisjoint(probes["recipe"])
    assert set(injected["seed"]).isdisjoint(probes["seed"])
    gate = pd.read_csv(checkout.root / "work/plain/split/gate/probes/rows.csv")
    assert set(gate["recipe"]) == set(probes["recipe"])
    assert set(gate["seed"]).isdisjoint(probes["seed"])


def intrusions(n: int, seed: int) -> pd.DataFrame:
    """Connections in the shape of intrusion data: 38 numbers, some never observed together, and three texts.

    Two fifths of the attacks are of a kind that the others do not have.
    """
    rng = np.random.default_rng(seed)
    attack = rng.random(n) < 0.2
    other = attack & (rng.random(n) < 0.4)
    service = np.where(rng.random(n) < 0.02, rng.choice([f"port_{i}" for i in range(60)], n), "http")
    service = np.where(rng.random(n) < 0.3, "domain_u", service)
    protocol = np.where(service == "domain_u", "udp", "tcp")
    numbers = rng.lognormal(size=(n, 38)) * (1 + (protocol == "udp"))[:, None]
    numbers[:, 0] *= np.where(attack & ~other, 20, 1)
    numbers[rng.random(n) < 0.1, 5] = np.nan
    frame = pd.DataFrame(numbers, columns=[f"count_{i}" for i in range(38)])
    frame["protocol"] = np.where(other, rng.permutation(protocol), protocol)
    frame["service"] = np.where(other, "telnet", service)
    frame["flag"] = np.where(attack & (rng.random(n) < 0.6), "S0", np.where(rng.random(n) < 0.05, None, "SF"))
    frame["attack"] = attack.astype(int)
    return frame


def test_a_raw_table_with_texts_and_gaps(checkout: Checkout) -> None:
    raw = intrusions(900, 0)
    raw.to_csv(checkout.root / "raw.csv", index=False)
    checkout.params(PLAIN)
    output = checkout.assay("ingest", "raw.csv", "--name", "raw", "--label", "attack").stdout
    assert "900 rows x 41 columns" in output
    assert "categories: flag (2), protocol (2), service" in output
    assert "may be missing: count_5, flag" in output
    result = json.loads(checkout.assay("run", "--dataset", "raw", "--json").stdout)
    assert min(row["auroc"] for row in result["candidates"] if row["adapter"] == "none") > 0.7
    report = (checkout.root / ".assay/reports/raw.html").read_text()
    assert "Over rows with missing values or new categories" in report

    now = intrusions(400, 1).assign(service=lambda t: t["service"].where(t.index != 0, "never seen"))
    now.to_csv(checkout.root / "now.csv", index=False)
    checkout.assay("score", "now.csv", "--out", "scored.csv", "--explain", "2")
    scored = pd.read_csv(checkout.root / "scored.csv")
    normal = scored["attack"] == 0
    assert scored.loc[normal, "flagged"].mean() < 0.15
    assert scored.loc[~normal, "flagged"].mean() > 0.5
    reasons = scored.loc[scored["flagged"] == 1, "because"].dropna()
    named = {reason.rpartition(" ")[0] for reasons_of_row in reasons for reason in reasons_of_row.split(", ")}
    assert named <= set(raw.columns)
    assert {"service", "flag"} <= named

    raw.iloc[10:20].to_csv(checkout.root / "bad.csv", index=False)
    seen = json.loads(checkout.assay("audit", "who-saw", "bad.csv", "--json").stdout)
    assert seen["scorers"], seen
    grown = intrusions(160, 2).assign(service="brand new")
    grown.to_csv(checkout.root / "grown.csv", index=False)
    refused = checkout.assay("ingest", "grown.csv", "--append", "--name", "raw", code=3).stderr
    assert "service" in refused
    grown = intrusions(160, 2)
    grown.loc[:1, "service"] = "brand new"
    grown.to_csv(checkout.root / "grown.csv", index=False)
    assert "160 rows" in checkout.assay("ingest", "grown.csv", "--append", "--name", "raw").stdout


def test_a_failed_suite_stops_the_run_before_training(checkout: Checkout) -> None:
    frame = table("malignant")
    frame.to_csv(checkout.root / "clinic.csv", index=False)
    options = ("--name", "clinic", "--label", "malignant", "--id", "sample")
    checkout.assay("ingest", "clinic.csv", *options)
    frame.loc[[7, 9], "mean area"] = [np.inf, -5e9]
    frame.loc[11, "mean texture"] = np.nan
    frame.to_csv(checkout.root / "clinic.csv", index=False)
    checkout.assay("ingest", "clinic.csv", *options)
    error = checkout.assay("run", "--dataset", "clinic", code=3).stderr
    last = error.strip().splitlines()[-1]
    for word in (
        "mean area",
        "mean texture",
        "s7",
        "s11",
        "expect_column_values_to_be_between",
        "expectations/clinic.json",
    ):
        assert word in last
    assert "Traceback" not in error
    assert not (checkout.root / "work/clinic/train").exists()
    assert not (checkout.root / "work/clinic/validate").exists()


def test_too_few_anomalies_for_a_level_stop_the_run(checkout: Checkout) -> None:
    checkout.params(QUICK.replace("[0, 0.1]", "[0, 0.49]"))
    error = checkout.assay("run", code=2).stderr
    assert "largest" in error
    (largest,) = re.findall(r"largest rho possible is ([0-9.]+):", error)
    checkout.params(QUICK.replace("[0, 0.1]", f"[0, {largest}]"))
    checkout.assay("stage", "contaminate")


def test_no_valid_candidate_ships_nothing(checkout: Checkout) -> None:
    checkout.params(PLAIN.replace("eps: 0.05", "eps: 0.001"))
    done = checkout.assay("run", code=4)
    assert "no valid candidate" in done.stderr
    assert "isolation_forest" in done.stdout
    assert not (checkout.root / "work/package/breast_cancer").exists()
    assert not (checkout.root / ".bentoml/models").exists()
    assert checkout.call("dvc", "status", "-q", "evaluate@breast_cancer").returncode == 0


@pytest.mark.long
def test_only_anomalies_labelled_says_that_normals_are_presumed(checkout: Checkout) -> None:
    frame = table("malignant")
    frame["malignant"] = frame["malignant"].where(frame["malignant"] == 1)
    frame.to_csv(checkout.root / "clinic.csv", index=False)
    checkout.assay("ingest", "clinic.csv", "--name", "clinic", "--label", "malignant", "--id", "sample")
    told = " ".join(checkout.assay("run", "--dataset", "clinic").stdout.split())
    assert "presumed" in told
    assert "FPR" not in told


def test_a_dataset_that_is_not_there_leaves_the_settings_alone(checkout: Checkout) -> None:
    checkout.assay("restore")
    before = (checkout.root / "params.yaml").read_bytes()
    for name, code in (("nowhere", 1), ("", 2), ("../digits", 2)):
        checkout.assay("run", "--dataset", name, code=code)
        assert (checkout.root / "params.yaml").read_bytes() == before


def test_groups_keep_their_normal_rows_together_and_the_promise_is_qualified(checkout: Checkout) -> None:
    frame = table("malignant")
    frame["ward"] = [f"w{i % 60}" for i in range(len(frame))]
    frame.to_csv(checkout.root / "clinic.csv", index=False)
    options = ("--name", "clinic", "--label", "malignant", "--id", "sample", "--group", "ward")
    checkout.assay("ingest", "clinic.csv", *options)
    checkout.params(PLAIN.replace("eps: 0.05", "eps: 0.2"))
    told = " ".join(checkout.assay("run", "--dataset", "clinic").stdout.split())
    assert "for a row of a new group" in told
    seen: dict[str, str] = {}
    for role in ("train", "adapt", "calibration", "selection", "test"):
        rows = pd.read_csv(checkout.root / "work/clinic/split" / role / "rows.csv")
        for ward in rows.loc[rows["label"] == 0, "group"].unique():
            assert seen.setdefault(ward, role) == role
    assert "cannot both decide" in checkout.assay("ingest", "clinic.csv", *options, "--time", "sample", code=2).stderr


def test_time_ordered_data_are_split_by_time(checkout: Checkout) -> None:
    frame = table("malignant")
    frame["when"] = pd.date_range("2026-01-01", periods=len(frame), freq="h").astype(str)
    frame.to_csv(checkout.root / "clinic.csv", index=False)
    options = ("--name", "clinic", "--label", "malignant", "--id", "sample", "--time", "when")
    checkout.assay("ingest", "clinic.csv", *options)
    checkout.params(QUICK.replace("breast_cancer", "clinic"))
    checkout.assay("stage", "split")
    ends = {}
    for role in ("train", "adapt", "calibration", "selection", "test"):
        rows = pd.read_csv(checkout.root / "work/clinic/split" / role / "rows.csv")
        ends[role] = rows.loc[rows["label"] == 0, "time"]
    order = list(ends.values())
    assert all(earlier.max() < later.min() for earlier, later in itertools.pairwise(order))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("dataset: breast_cancer", "dataset: nowhere", "nowhere"),
        ("eps: 0.05", "eps: 2", "eps is 2"),
        ("eps: 0.05\n", "", "lacks the setting 'eps'"),
        ("detectors:", "detector:", "'detector'"),
        ("  knn: {}\n", "", "detectors lacks knn"),
        ("  knn: {}\n", "  knn: {}\n  no_such: {}\n", "no_such"),
        ("  knn: {}\n", "  knn: {neighbours: 3}\n", "neighbours"),
        ("  knn: {}\n", "  knn: {}\n  lof: {detector: knn}\n", "the name of another one"),
        ("detectors:\n  knn: {}\n", "detectors: [knn]\nmore:\n", "run `assay migrate`"),
        ("[none, cadet]", "[cadets]", "cadets"),
        ("split: {seed: 0}", "split: {seed: -1}", "split.seed is -1"),
        ("split: {seed: 0}", "split: {}", "lacks the setting 'seed'"),
        ("device: cpu", "device: tpu", "tpu"),
        ("dataset: breast_cancer", "dataset: [", "not valid YAML"),
    ],
)
def test_bad_settings_are_named_before_anything_runs(restored: Checkout, old: str, new: str, word: str) -> None:
    restored.params(QUICK.replace(old, new, 1))
    with pytest.raises(AssayError) as raised:  # as `assay run` begins
        check(Project(restored.root))
    assert word in str(raised.value)
    assert raised.value.exit_code in (1, 2)
    assert not (restored.root / "work").exists()


def check(project: Project) -> None:
    runs.prepare(project)
    runs.check_choices(project)


def test_the_command_names_bad_settings_on_one_line(restored: Checkout) -> None:
    for old, new in (("  knn: {}\n", "  knn: {neighbours: 3}\n"), ("dataset: breast_cancer", "dataset: [")):
        restored.params(QUICK.replace(old, new, 1))
        (line,) = restored.assay("run", code=2).stderr.splitlines()
        assert ("neighbours" if "neighbours" in new else "not valid YAML") in line
    assert not (restored.root / "work").exists()
