"""Freeze a scorer as it is written today, and what frozen scorers answer.

python -m tests.freeze scorer     # tests/frozen/scorer-3 anew, while schema 3 is not released yet
python -m tests.freeze answers    # after ANSWERS was raised: what each frozen scorer answers by that number
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd

from assay.parts import read_json, write_json
from assay.scorer.folder import ANSWERS, SCHEMA
from assay.scorer.loading import load_scorer
from tests.integration.test_calibration import COLUMNS, make_project, packed, plant, run
from tests.sealing import copy_scorer, package_by_other_code

FROZEN = Path(__file__).parent / "frozen"
ANSWERS_FILE = FROZEN / "answers.json"


def answers_of(folder: Path) -> dict[str, list[float]]:
    """Return what a frozen scorer answers for its frozen rows."""
    expected = read_json(folder / "expected.json")
    (packaged,) = (path.parent for path in folder.glob("*/scorer.json"))
    scorer = load_scorer(packaged)
    rows = pd.DataFrame(expected["rows"]) if "rows" in expected else expected["features"]
    judged = scorer.judge(rows)
    return {"scores": judged.scores.tolist(), "p_values": judged.p_values.tolist()}


def freeze_answers() -> None:
    """Add what each frozen scorer answers to the answers by this number; what is on record stays."""
    answers = read_json(ANSWERS_FILE) if ANSWERS_FILE.is_file() else {}
    now = {folder.name: answers_of(folder) for folder in sorted(FROZEN.glob("scorer-*"))}
    write_json(ANSWERS_FILE, {**answers, str(ANSWERS): {**now, **answers.get(str(ANSWERS), {})}})


def freeze_scorer() -> None:
    """Write a scorer reached twice, by code that differs without effect, and what it says of ten rows."""
    target = FROZEN / f"scorer-{SCHEMA}"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        compared = {"within": "category", "ties": "randomised", "seed": 2}
        small = {"isolation_forest": {"n_estimators": 3}, "knn": {}, "mcd": {}}
        project = make_project(
            Path(folder) / "project", plant(400, 0), calibrate=compared, detectors=small, adapters=["cadet"]
        )
        run(project)
        scorer = packed(project)
        copy_scorer(project.folder("package") / scorer.version, target / scorer.version)
        package_by_other_code(project)
        copy_scorer(project.folder("package") / scorer.version, target / scorer.version)
        data = plant(400, 0)
        rows = pd.DataFrame(data.features[36:46].astype(float), columns=list(COLUMNS))
        rows = rows.assign(machine=data.rows["category"].to_numpy()[36:46])
    judged = scorer.judge(rows)
    expected = {
        "rows": rows.to_dict("records"),
        "scores": judged.scores.tolist(),
        "p_values": judged.p_values.tolist(),
        "flags": scorer.predict(rows).tolist(),
    }
    write_json(target / "expected.json", expected)
    answers = read_json(ANSWERS_FILE) if ANSWERS_FILE.is_file() else {}
    answers.get(str(ANSWERS), {}).pop(target.name, None)
    write_json(ANSWERS_FILE, answers)
    freeze_answers()


if __name__ == "__main__":
    {"scorer": freeze_scorer, "answers": freeze_answers}[sys.argv[1]]()
