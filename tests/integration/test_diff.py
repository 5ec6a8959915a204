"""`assay audit diff`: what changed between two scorers, told from what they carry and what DVC's cache kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Checkout
from tests.integration.test_calibration import make_project, packed, plant, run
from tests.sealing import learned_rows, restate

from assay.audit.diff import GONE, compare_scorers
from assay.data.dataset import read_rows
from assay.errors import TamperedError
from assay.parts import read_json
from assay.project.layout import Project
from assay.scorer.statement import read_statement

NAME = "breast_cancer"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def test_other_settings(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, new = moved_on
    tags = f"{NAME}:{old}", f"{NAME}:{new}"
    found = json.loads(project.assay("audit", "diff", *tags, "--json").stdout)
    assert [found[name].partition("-")[0] for name in ("before", "after")] == [*tags]
    assert not found["same_scorer"]
    assert found["parameters"] == {"eps": [0.05, 0.1], "train.seed": [0, 7]}
    assert (found["data"], found["injected_rows"]) == ({}, {})
    assert found["code"] == {"changed": [], "added": [], "removed": []}
    assert all(use["added"] == use["removed"] == 0 < use["before"] for use in found["rows"].values())
    then, now = found["metrics"]["fpr"]
    evaluation = read_json(project.root / f"work/{NAME}/evaluate/evaluation.json")["candidates"]
    assert now in [row["fpr"] for row in evaluation]
    assert isinstance(then, float)
    told = project.assay("audit", "diff", *tags).stdout
    assert "train.seed              0 -> 7" in told
    assert "eps                     0.05 -> 0.1" in told


def test_metrics_that_nobody_kept_are_said_to_be_gone(moved_on: tuple[Checkout, str, str]) -> None:
    project, old, new = moved_on
    cache = project.root / ".dvc/cache"
    cache.rename(cache.with_name("elsewhere"))
    try:
        found = compare_scorers(Project(project.root), f"{NAME}:{old}", f"{NAME}:{new}").to_json()
    finally:
        cache.with_name("elsewhere").rename(cache)
    assert found["metrics"]["auroc"][0] == GONE
    assert isinstance(found["metrics"]["auroc"][1], float)
    assert found["parameters"] == {"eps": [0.05, 0.1], "train.seed": [0, 7]}


def test_rows_and_code(finished: Checkout) -> None:
    """A scorer packaged from two rows less in train, one more in calibration, and other code."""
    (folder,) = (path.parent for path in (finished.root / "work/package" / NAME).glob("*/scorer.json"))
    arrays = learned_rows(folder)
    first = arrays["train"][0].tobytes().hex()

    def edit(records: dict[str, Any]) -> None:
        records["train"]["code"] |= {"assay.parts": "0" * 64, "assay.new": "0" * 64}

    changed = {**arrays}
    for part in ("", ".copy"):
        changed |= {f"train{part}": arrays[f"train{part}"][2:], f"calibration{part}": arrays[f"train{part}"][:1]}
    before, after = read_statement(folder).tag, restate(folder, records=edit, rows=changed)
    found = compare_scorers(Project(finished.root), before, f"{NAME}:{folder.name}-{after}")
    assert found.same_scorer
    assert next(found.lines()).endswith("the same scorer, reached twice")
    train, calibration = found.rows["train"], found.rows["calibration"]
    assert (train["added"], train["removed"], train["before"] - train["after"]) == (0, 2, 2)
    assert (calibration["added"], calibration["removed"]) == (1, calibration["before"])
    table = (finished.root / f"work/{NAME}/split/train/rows.csv").read_text()
    sample = {row["fingerprint"]: row["row_id"] for row in train["sample_removed"]}
    assert table.split(f",{first}")[0].rsplit("\n", 1)[1].startswith(f"{sample[first]},")
    assert found.code == {"changed": ["assay.parts"], "added": ["assay.new"], "removed": []}


def test_labelled_rows_are_named_too(tmp_path: Path) -> None:
    """They lie with the contamination, not with the roles."""
    labelled = {"levels": [0], "source": "auto", "labelled": 0.02, "seed": 1}
    project = make_project(tmp_path / "project", plant(800, 0), contaminate=labelled)
    run(project)
    folder = project.folder("package") / packed(project).version
    rows = read_rows(project.folder("contaminate") / "labelled").rows
    assert len(rows) > 2
    arrays = learned_rows(folder)
    prints = np.frombuffer(bytes.fromhex("".join(rows["fingerprint"])), dtype=np.uint8).reshape(-1, 16)
    before = read_statement(folder).tag
    after = restate(folder, rows={**arrays, "labelled": prints, "labelled.copy": rows["copy"].to_numpy()})
    found = compare_scorers(project, before, f"{before.partition('-')[0]}-{after}").rows["labelled"]
    assert found["added"] == len(rows)
    ids = dict(zip(rows["fingerprint"], rows["row_id"], strict=True))
    assert found["sample_added"] == [{"fingerprint": mark, "row_id": ids[mark]} for mark in sorted(ids)[:5]]


def test_a_scorer_against_itself_and_odd_tags(finished: Checkout) -> None:
    told = finished.assay("audit", "diff", NAME, NAME).stdout
    assert "parameters: the same" in told
    done = finished.assay("audit", "diff", NAME, f"{NAME}:000000000000", code=1)
    assert "there is no scorer" in done.stderr
    (path,) = (finished.root / "scorers" / NAME).glob("*/statements/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TamperedError, match=f"{path.name}, the rows that the scorer learned from, was changed"):
        compare_scorers(Project(finished.root), NAME, NAME)
