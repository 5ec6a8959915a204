"""Choosing calibration rows to label, and estimating the contamination from the labels so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.contaminated.consequences import consequences
from assay.calibration.contaminated.estimates import contamination_from_answers, contamination_from_verified
from assay.calibration.contaminated.label_trim import CONFIDENCE, choose_questions
from assay.calibration.decisions import BATCHED
from assay.data.dataset import NORMAL, UNKNOWN, RowSet, read_rows
from assay.data.labelling import align, labels_path, strayed, write_questions
from assay.errors import StageError
from assay.hashing import RECORD, hash_file
from assay.pipeline.candidates import categories_of
from assay.pipeline.rows import calibration_rows
from assay.project.layout import Project
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """A written file of rows to label.

    Attributes
    ----------
    path : Path
    open, answered : int
        Numbers of its rows without and with a label.
    lines : list of str
        Estimates of the contamination of the calibration rows, and their consequences.
    """

    path: Path
    open: int
    answered: int
    lines: list[str]


def ask(project: Project, *, budget: int, sample: int) -> QuestionFile:
    """Write ``labels/<dataset>.csv``: the calibration rows that the newest scorer scores highest, and a random sample.

    Where rows are compared within strata or categories, the rows with the lowest p-values are taken, since scores of
    different strata are not comparable.

    Raises
    ------
    StageError
        No scorer has been packaged yet, or the newest one was made from another split.
    DataError
        The present file of labels cannot be used.
    """
    folders = [path for path in project.folder("package").glob("*") if path.is_dir()]
    if not folders:
        raise StageError(f"there is no scorer of {project.dataset} yet to choose rows by; run `assay run` first")
    scorer, split = load_scorer(folders[0]), project.folder("split")
    record = split / RECORD
    if not record.is_file() or hash_file(record) != scorer.statement.record_hashes.get("split"):
        raise StageError(
            f"the newest scorer, {scorer.tag}, was made from another split of the data; run `assay run` first"
        )
    section = project.config.sections["calibrate"]
    rows = calibration_rows(split / "calibration", within=section["within"], seed=section["seed"])
    scored = scorer.function.scored(rows.features, categories_of(rows))
    mondrian = isinstance(scorer.calibrator, MondrianCalibrator)
    ranks = -scorer.reference.p_values(scored) if mondrian else scored.scores
    row_ids = rows.rows["row_id"].tolist()
    purposes = choose_questions(ranks, row_ids, budget=budget, sample=sample, seed=section["seed"])
    questions = rows.rows.assign(purpose=purposes, score=scored.scores)[purposes != ""]
    path = labels_path(project.root, project.dataset)
    path.parent.mkdir(exist_ok=True)
    written = write_questions(path, questions)
    labels, purposes = align(written, rows.rows)
    eps = float(scorer.head["eps"])
    lines = consequences(eps, contamination_from_answers(labels, purposes, confidence=CONFIDENCE))
    if not (labels != UNKNOWN).any():
        lines = _from_verified(project, scorer, rows) or lines
    if scorer.calibrator.kind not in BATCHED:
        kind = scorer.calibrator.kind
        lines.append(
            f"these bounds are proven for split conformal p-values; for {kind} ones, as here, they are a guide"
        )
    if ids := strayed(written, rows.rows):
        lines.append(
            f"{len(ids)} answers do not count, as no row of their content has their id ({ids[0]!r}): these rows have "
            "left, or a spreadsheet program changed the ids, which then have to be set right"
        )
    answered = int((written["label"] != "").sum())
    return QuestionFile(path, len(written) - answered, answered, lines)


def _from_verified(project: Project, scorer: Scorer, rows: RowSet) -> list[str]:
    """Estimate the contamination of unknown calibration rows from verified normals; empty without either."""
    selection = read_rows(project.folder("split") / "selection")
    verified, unknown = selection.take(selection.labels == NORMAL), rows.take(rows.labels == UNKNOWN)
    if not len(verified) or not len(unknown):
        return []
    unknown_scores, verified_scores = (np.asarray(scorer.function(part.features)) for part in (unknown, verified))
    bounds = contamination_from_verified(unknown_scores, verified_scores, confidence=CONFIDENCE)
    return consequences(float(scorer.head["eps"]), bounds)
