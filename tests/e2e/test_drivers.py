"""`dvc repro` and the Prefect flow, with several cells at once, leave the same bytes; DVC finds nothing to do after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import DATA_DVC, QUICK, Checkout, make_checkout

from assay.hashing import files_of, hash_file
from assay.scorer.statement import read_statement

WITH_NETWORK = QUICK.replace("  knn: {}\n", "  autoencoder: {epochs: 3, members: 2}\n  knn: {}\n")


def outputs(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hash_file(path) for path in files_of(root / "work")}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Checkout, dict[str, object]]:
    by_dvc = make_checkout(tmp_path_factory.mktemp("dvc") / "project")
    by_flow = make_checkout(tmp_path_factory.mktemp("flow") / "project")
    by_dvc.params(WITH_NETWORK)
    by_flow.params(WITH_NETWORK.replace("cells_at_once: 1", "cells_at_once: 3"))
    by_dvc.assay("restore")
    done = by_dvc.call("dvc", "repro", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(by_flow.assay("run", "--json").stdout)
    return by_dvc, by_flow, result


def test_both_drivers_leave_the_same_bytes(both: tuple[Checkout, Checkout, dict[str, object]]) -> None:
    by_dvc, by_flow, _ = both
    assert outputs(by_dvc.root) == outputs(by_flow.root)
    assert (by_dvc.root / "dvc.lock").read_bytes() == (by_flow.root / "dvc.lock").read_bytes()


def test_dvc_finds_nothing_to_do_after_either(both: tuple[Checkout, Checkout, dict[str, object]]) -> None:
    for project in both[:2]:
        assert json.loads(project.call("dvc", "status", "--json").stdout) == {}


def test_a_second_run_changes_nothing_needs_no_prefect_and_says_where_everything_is(
    both: tuple[Checkout, Checkout, dict[str, object]],
) -> None:
    _, by_flow, first = both
    before, report = outputs(by_flow.root), by_flow.root / str(first["report"])
    drawn = report.stat().st_mtime_ns
    again = json.loads(by_flow.assay("run", "--json", PREFECT_API_URL="http://127.0.0.1:9/api").stdout)
    assert outputs(by_flow.root) == before
    assert again["candidates"] == first["candidates"]
    assert again["scorer"] == first["scorer"] == again["champion"]
    assert report.stat().st_mtime_ns == drawn
    page = report.read_bytes()
    report.write_bytes(b"\xff" + page[:100])
    output = by_flow.assay("run").stdout
    assert report.read_bytes() == page
    for name in ("report", "record", "folder"):
        assert (by_flow.root / str(first[name])).exists()
    for word in (
        "autoencoder",
        "cadet",
        "isolation_forest",
        "mcd",
        "knn",
        "AUPRC",
        "worst stratum FPR",
        str(first["scorer"]),
        "assay serve",
    ):
        assert word in output


def test_data_version_is_the_one_that_dvc_names(both: tuple[Checkout, Checkout, dict[str, object]]) -> None:
    import yaml

    by_dvc, _, result = both
    lock = yaml.safe_load((by_dvc.root / "dvc.lock").read_text())
    named = next(d["md5"] for d in lock["stages"]["split@breast_cancer"]["deps"] if d["path"] == "data/breast_cancer")
    assert read_statement(by_dvc.root / str(result["folder"])).data_version == named


def test_data_dvc_is_the_same_on_every_machine(both: tuple[Checkout, Checkout, dict[str, object]]) -> None:
    by_dvc, _, _ = both
    assert (by_dvc.root / "data.dvc").read_bytes() == DATA_DVC.encode()
    assert json.loads(by_dvc.call("dvc", "status", "--json", "data.dvc").stdout) == {}


def test_another_dataset_leaves_the_first_as_it_is(both: tuple[Checkout, Checkout, dict[str, object]]) -> None:
    """The last test here: from now on there are two datasets."""
    import yaml

    _, by_flow, _ = both
    params = by_flow.root / "params.yaml"
    params.write_text(params.read_text().replace("cells_at_once: 3", "cells_at_once: 1"))
    lock = by_flow.root / "dvc.lock"
    before, first = outputs(by_flow.root), yaml.safe_load(lock.read_text())["stages"]
    generator, labels = np.random.default_rng(0), np.arange(400) < 60
    table = pd.DataFrame(generator.normal(size=(400, 3)) + 4 * labels[:, None], columns=list("abc"))
    table.assign(bad=labels.astype(int)).to_csv(by_flow.root / "other.csv", index=False)
    by_flow.assay("ingest", "other.csv", "--name", "other", "--label", "bad")
    by_flow.assay("run", "--dataset", "other")
    assert "dataset: other\ndatasets: [breast_cancer, other]\n" in (by_flow.root / "params.yaml").read_text()
    after, second = outputs(by_flow.root), yaml.safe_load(lock.read_text())["stages"]
    assert {name: after[name] for name in before} == before
    del first["code"]
    assert {name: second[name] for name in first} == first
    assert {name.partition("@")[2].partition("--")[0] for name in second} == {"", "breast_cancer", "other"}
    assert json.loads(by_flow.call("dvc", "status", "--json").stdout) == {}
    assert "Running stage" not in by_flow.call("dvc", "repro").stdout
    told = by_flow.assay("run", "--dataset", "breast_cancer", PREFECT_API_URL="http://127.0.0.1:9/api").stderr
    assert "nothing changed" in told
