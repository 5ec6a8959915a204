"""Which training rows a detector itself suspects, and how often it is right where the truth is known."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.audit.chain import Chain, read_chain
from assay.calibration.adapters.registry import load_adapter
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.decisions import Reference, Rule
from assay.calibration.hardness import load_strata
from assay.data.dataset import ANOMALY, UNKNOWN, RowSet
from assay.data.modalities.registry import load_null_model, load_scaler
from assay.detectors.registry import load_detector
from assay.errors import ConfigError, ScorerError
from assay.parts import read_json, read_part, write_bytes
from assay.pipeline.candidates import candidate_name
from assay.pipeline.evaluating import read_reference
from assay.pipeline.rows import level_rows, levels_of, training_rows
from assay.project.freshness import check_outputs
from assay.project.layout import Project
from assay.scorer.scorer import ScoreFunction

COLUMNS = ["level", "row_id", "fingerprint", "label", "injected", "suspicion", "suspect", "group"]
OWN, SCORES = "its own suspicion", "p-values up to eps"


@dataclass(frozen=True, slots=True)
class Suspects:
    """The training rows of every level, with the suspicion of one detector.

    Attributes
    ----------
    what : str
        Tag or label.
    detector : str
    means : str
        What the suspicion is: the detector's own, or its scores.
    eps : float
    rows : DataFrame
        The columns `COLUMNS`: ``level`` (injected rho), ``injected`` and ``suspect`` (0 or 1), ``label``
        (1 anomaly, 0 normal, -1 unknown), ``suspicion`` (higher = more suspect), ``group`` (suspects
        that belong together, from 1; 0 for the other rows).
    """

    what: str
    detector: str
    means: str
    eps: float
    rows: pd.DataFrame

    @property
    def levels(self) -> list[dict[str, Any]]:
        """Counts (of groups too), precision and recall of every level; None where nothing is known or suspected."""
        return [{"level": level, **_counts(rows)} for level, rows in self.rows.groupby("level", sort=True)]

    def lines(self) -> Iterator[str]:
        """Yield one line for each level."""
        yield f"{self.what}: training rows that {self.detector} suspects, by {self.means}" + (
            f" {self.eps:g}; they were in its training" if self.means == SCORES else ""
        )
        for level in self.levels:
            yield (
                f"    level {level['level']:<8g}{level['suspects']} of {level['rows']} rows suspected; "
                f"injected: {_rate(level, 'injected')}; labelled anomalies: {_rate(level, 'labelled')}"
            )
            if len(level["groups"]) > 1:
                sizes = ", ".join(map(str, level["groups"]))
                yield f"        in {len(level['groups'])} groups of {sizes} rows: look at a few of each (column group)"

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values; the rows go to the CSV file."""
        about = {"what": self.what, "detector": self.detector, "suspicion": self.means, "eps": self.eps}
        return {**about, "levels": self.levels}


def _counts(rows: pd.DataFrame) -> dict[str, Any]:
    suspect, injected = rows["suspect"] == 1, rows["injected"] == 1
    natural = rows[~injected]
    labelled = (natural["label"] == ANOMALY) if (natural["label"] != UNKNOWN).any() else None
    sizes = rows.loc[suspect, "group"].value_counts().sort_index().tolist()
    found: dict[str, Any] = {"rows": len(rows), "suspects": int(suspect.sum()), "groups": sizes}
    for name, truth, among in (("injected", injected, suspect), ("labelled", labelled, suspect[~injected])):
        known = truth is not None and bool(truth.any())
        hits = int((truth & among).sum()) if truth is not None and known else None
        found[name] = {
            "rows": int(truth.sum()) if truth is not None else None,
            "suspected": hits,
            "precision": hits / int(among.sum()) if hits is not None and among.any() else None,
            "recall": hits / int(truth.sum()) if hits is not None and truth is not None else None,
        }
    return found


def _rate(level: dict[str, Any], name: str) -> str:
    found = level[name]
    if not found["rows"]:
        return "none" if found["rows"] == 0 else "no labels"
    precision = "-" if found["precision"] is None else f"{found['precision']:.3f}"
    return f"{found['suspected']} of {found['rows']} (precision {precision}, recall {found['recall']:.3f})"


def find_suspects(project: Project, what: str) -> Suspects:
    """Return the training rows of every level with what a scorer, or a detector of the last run, thinks of them.

    A detector that tells its suspicion while it is trained (``<label>.suspects.csv`` of the train stage) is taken at
    its word. Of any other the scores of its training rows count, and suspect are those that would be flagged at the
    scorer's eps, or the one in params.yaml; where rows are compared within categories, none of a category without
    calibration rows. These rows were in its training, so that no false-positive rate holds.

    Parameters
    ----------
    project : Project
    what : str
        A scorer (see `assay.project.scorers.find_scorer`), or the label of a detector in params.yaml.

    Raises
    ------
    ScorerError
        There is no such scorer or label, or what it was trained on is no longer at hand.
    TamperedError
        The outputs of the last run are not the recorded ones.
    """
    labels = [choice.label for choice in project.config.detectors]
    if what in labels:
        folders = {}
        for stage in ("split", "contaminate", "train", "calibrate"):
            if check_outputs(project, stage) is None:
                raise ScorerError(f"stage {stage} has not been run for {project.dataset}; `assay run` does")
            folders[stage] = project.folder(stage)
        adapter = project.config.adapters[0].label
        return collect(what, what, adapter, project.config.eps, folders)
    try:
        chain = read_chain(project, what)
    except ScorerError as error:
        raise ScorerError(f"{error}; detectors of params.yaml are {', '.join(labels)}") from error
    with tempfile.TemporaryDirectory(prefix="assay-suspects-") as folder:
        return _of_scorer(chain, Path(folder))


def _of_scorer(chain: Chain, folder: Path) -> Suspects:
    """Bring together what a scorer was made with, from work/ or DVC's cache, and ask it."""
    detector, adapter, _ = chain.candidate
    wanted = {"split": ("train/",), "contaminate": (), "train": (), "calibrate": ()}
    if lost := [stage for stage in wanted if stage not in chain.records]:
        raise ScorerError(f"the record of stage {lost[0]} in {chain.folder} is broken; see `assay audit verify`")
    folders = {stage: chain.collect(stage, folder / stage, *parts) for stage, parts in wanted.items()}
    return collect(chain.tag, detector, adapter, chain.head["eps"], folders)


def collect(what: str, detector: str, adapter: str, eps: float, folders: dict[str, Path]) -> Suspects:
    """Ask a detector of every level about its training rows; `folders` are those of the stages up to calibrate."""
    frames, means = [], SCORES
    for level in levels_of(folders["train"]):
        where = (folders["split"] / "train", folders["contaminate"], level)
        told = folders["train"] / level / f"{detector}.suspects.csv"
        if told.is_file():
            means, frame = OWN, _own(told, training_rows(*where, labelled=True)[0])
        elif (folders["train"] / level / f"{detector}.json").is_file():
            frame = _scored(folders, level, detector, adapter, eps, level_rows(*where))
        else:
            continue
        frames.append(frame.assign(level=float(level.removeprefix("level-"))))
    if not frames:
        raise ScorerError(f"{detector} was not trained at any level; see failures.json of the train stage")
    return Suspects(what, detector, means, eps, pd.concat(frames, ignore_index=True)[COLUMNS])


def _own(path: Path, rows: RowSet) -> pd.DataFrame:
    """Read what the train stage wrote of a detector's own suspicion, and give every row its label."""
    frame = pd.read_csv(path, dtype={"row_id": str, "fingerprint": str}, keep_default_na=False)
    labels = dict(zip(rows.rows["row_id"], rows.labels, strict=True))
    if unknown := [row_id for row_id in frame["row_id"] if row_id not in labels]:
        raise ScorerError(f"{path} names {unknown[0]!r}, which is no training row of its level; run the stage again")
    groups = frame["group"] if "group" in frame else frame["suspect"]  # scorers of before there were groups
    return frame.assign(label=frame["row_id"].map(labels).astype(np.int8), group=groups)


def _scored(
    folders: dict[str, Path], level: str, detector: str, adapter: str, eps: float, rows: RowSet
) -> pd.DataFrame:
    """Score the training rows of a level, and suspect those that would be flagged at `eps`."""
    trained, calibrated, name = folders["train"] / level, folders["calibrate"], candidate_name(detector, adapter)
    function = ScoreFunction(
        load_scaler(read_part(trained, "scaler")),
        load_detector(read_part(trained, detector)),
        load_null_model(read_part(trained, "null_model")),
        load_adapter(read_part(calibrated / "adapters" / level, name)),
    )
    reference = _reference(calibrated, level, name)
    categories, known = _categories(reference.calibrator, rows)
    scored = function.scored(rows.features, categories)
    suspect = Rule(eps).flags(reference.p_values(scored)) & known
    return rows.rows[["row_id", "fingerprint", "label", "injected"]].assign(
        suspicion=scored.scores.astype(np.float64), suspect=suspect.astype(np.int8), group=suspect.astype(np.int64)
    )


def _reference(calibrated: Path, level: str, name: str) -> Reference:
    """Read what rows of a candidate are compared with."""
    strata = load_strata(read_part(calibrated / "adapters" / level, "strata"))
    ties = read_json(calibrated / "calibration.json")["ties"]
    return read_reference(calibrated / "reference" / level, name, strata, ties)


def _categories(calibrator: Calibrator, rows: RowSet) -> tuple[NDArray[np.object_] | None, NDArray[np.bool_]]:
    """Return the rows' categories, where they are compared by them, and which rows have one that was calibrated.

    The others, which cannot be suspected, are given any category that was.
    """
    if not isinstance(calibrator, MondrianCalibrator) or calibrator.side_information != "category":
        return None, np.ones(len(rows), dtype=np.bool_)
    category = rows.rows["category"]
    known = category.isin(calibrator.keys_)
    return category.where(known, calibrator.keys_[0]).to_numpy(dtype=object), known.to_numpy(dtype=np.bool_)


def write_suspects(path: Path, found: Suspects) -> None:
    """Write the suspected rows, the most suspect of every level first (UTF-8, LF).

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    picked = found.rows[found.rows["suspect"] == 1]
    ordered = picked.sort_values(["level", "suspicion"], ascending=[True, False], kind="stable")
    buffer = io.StringIO()
    ordered.to_csv(buffer, index=False, lineterminator="\n")
    try:
        write_bytes(path, buffer.getvalue().encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give another file to --out") from error
