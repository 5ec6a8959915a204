"""A run reads its settings once; a stage that is started by itself refuses inputs of other settings."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Checkout

from assay.cli.common import load_flow
from assay.hashing import hash_file
from assay.parts import read_json
from assay.project.layout import Project
from assay.project.scorers import scorer_folders
from assay.runs import run as runs

NAME = "breast_cancer"


def edit(root: Path, before: str, after: str) -> None:
    path = root / "params.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_an_edit_between_two_stages_waits_for_the_next_run(finished: Checkout) -> None:
    """eps changes between `select` and `package`: what ships is what was selected at."""
    root = finished.root
    edit(root, "select: {seed: 0", "select: {seed: 7")
    project, lock = Project(root), hash_file(root / "dvc.lock")
    run, flow = runs.open_run(project, "tests"), load_flow(project, "retrain")
    assert flow.verb.fn(str(root), f"select@{NAME}", project.raw_params)
    edit(root, "eps: 0.05", "eps: 0.01")
    done = finished.assay("stage", f"package@{NAME}", code=1)
    assert f"params.yaml has eps: 0.01, and select@{NAME} was made with 0.05; nothing was run" in done.stderr
    assert flow.verb.fn(str(root), f"package@{NAME}", project.raw_params)
    (folder,) = scorer_folders(project)
    assert read_json(folder / "scorer.json")["eps"] == 0.05
    runs.close_run(project, run, [f"package@{NAME}"], None)
    assert hash_file(root / "dvc.lock") == lock
    stale = {name.partition("@")[0] for name in runs.stale_stages(Project(root))}
    assert stale == {"select", "evaluate", "package"}
