"""Which calibration rows are worth labelling, and what is known of their contamination so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.calibration.consequences import consequences
from assay.calibration.contaminated import CONFIDENCE, choose_questions
from assay.calibration.estimates import contamination_from_answers, contamination_from_verified
from assay.calibration.labelling import align, labels_path, write_questions
from assay.data.dataset import NORMAL, UNKNOWN, RowSet, read_rows
from assay.errors import StageError
from assay.pipeline.rows import presumed_normals
from assay.project import Project
from assay.serving.scorer import Scorer, load_scorer


@dataclass(frozen=True, slots=True)
class Asked:
    """A file of questions that was written.

    Attributes
    ----------
    path : Path
    open, answered : int
        Rows in it without and with a label.
    lines : list of str
        What is known of the contamination of the calibration rows, and what follows from it.
    """

    path: Path
    open: int
    answered: int
    lines: list[str]


def ask(project: Project, *, budget: int, sample: int) -> Asked:
    """Write ``labels/<dataset>.csv``: the calibration rows that the newest scorer scores highest, and a random sample.

    Raises
    ------
    StageError
        No scorer has been packaged yet.
    DataError
        The file that is there cannot be used.
    """
    folders = [path for path in project.folder("package").glob("*") if path.is_dir()]
    if not folders:
        raise StageError(f"there is no scorer of {project.dataset} yet to say which rows matter; run `assay run` first")
    scorer, rows = load_scorer(folders[0]), presumed_normals(read_rows(project.folder("split") / "calibration"))
    scores = scorer.function(rows.features)
    seed = project.config.sections["calibrate"]["seed"]
    purposes = choose_questions(scores, rows.rows["row_id"].tolist(), budget=budget, sample=sample, seed=seed)
    asked = rows.rows.assign(purpose=purposes, score=scores)[purposes != ""]
    path = labels_path(project.root, project.dataset)
    path.parent.mkdir(exist_ok=True)
    written = write_questions(path, asked)
    labels, purposes = align(written, rows.rows)
    eps = float(scorer.head["eps"])
    lines = consequences(eps, contamination_from_answers(labels, purposes, confidence=CONFIDENCE))
    if not (labels != UNKNOWN).any():
        lines = _from_verified(project, scorer, rows) or lines
    answered = int((written["label"] != "").sum())
    return Asked(path, len(written) - answered, answered, lines)


def _from_verified(project: Project, scorer: Scorer, rows: RowSet) -> list[str]:
    """Say what verified normals tell of unknown calibration rows; nothing where a dataset does not have both."""
    others = read_rows(project.folder("split") / "selection")
    verified, unknown = others.take(others.labels == NORMAL), rows.take(rows.labels == UNKNOWN)
    if not len(verified) or not len(unknown):
        return []
    of_unknown, of_verified = (np.asarray(scorer.function(part.features)) for part in (unknown, verified))
    known = contamination_from_verified(of_unknown, of_verified, confidence=CONFIDENCE)
    return consequences(float(scorer.head["eps"]), known)
