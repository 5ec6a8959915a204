"""Training rows that a detector itself suspects, with precision and recall where labels are known."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Flags, Texts
from assay.audit.chain import Chain, read_chain
from assay.calibration.adapters.registry import load_adapter
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.decisions import Reference, Rule
from assay.calibration.hardness import load_strata
from assay.data.dataset import ANOMALY, UNKNOWN, RowSet
from assay.data.modalities.registry import load_null_model, load_scaler
from assay.data.spreadsheets import guarded
from assay.detectors.registry import load_detector
from assay.errors import ConfigError, ScorerError
from assay.parts import read_json, read_part, write_bytes
from assay.pipeline.candidates import candidate_name
from assay.pipeline.evaluating import read_reference
from assay.pipeline.rows import level_rows, levels_of, training_rows
from assay.project.freshness import check_outputs
from assay.project.layout import Project
from assay.scorer.score_function import ScoreFunction

SUSPECT_COLUMNS = ["level", "row_id", "fingerprint", "label", "injected", "suspicion", "suspect", "group"]
OWN, SCORES = "its own suspicion", "p-values up to eps"


@dataclass(frozen=True, slots=True)
class SuspectReport:
    """The training rows of every level, with the suspicion scores of one detector.

    Attributes
    ----------
    subject : str
        Tag or label.
    detector : str
    measure : str
        Kind of the suspicion: the detector's own, or its anomaly scores.
    eps : float
    rows : DataFrame
        The columns `SUSPECT_COLUMNS`: ``level`` (injected rho), ``injected`` and ``suspect`` (0 or 1), ``label``
        (1 anomaly, 0 normal, -1 unknown), ``suspicion`` (higher = more suspect), ``group`` (suspects
        that belong together, from 1; 0 for the other rows).
    """

    subject: str
    detector: str
    measure: str
    eps: float
    rows: pd.DataFrame

    @property
    def levels(self) -> list[dict[str, Any]]:
        """Counts (of groups too), precision and recall of every level; None where nothing is known or suspected."""
        return [{"level": level, **_counts(rows)} for level, rows in self.rows.groupby("level", sort=True)]

    def lines(self) -> Iterator[str]:
        """Yield one line for each level."""
        yield f"{self.subject}: training rows that {self.detector} suspects, by {self.measure}" + (
            f" {self.eps:g}; they were in its training" if self.measure == SCORES else ""
        )
        for level in self.levels:
            yield (
                f"    level {level['level']:<8g}{level['suspects']} of {level['rows']} rows suspected; "
                f"injected: {_rate(level, 'injected')}; labelled anomalies: {_rate(level, 'labelled')}"
            )
            if len(level["groups"]) > 1:
                sizes = ", ".join(map(str, level["groups"]))
                yield f"        in {len(level['groups'])} groups of {sizes} rows: inspect a few of each (column group)"

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values; the rows go to the CSV file."""
        summary = {"what": self.subject, "detector": self.detector, "suspicion": self.measure, "eps": self.eps}
        return {**summary, "levels": self.levels}


def _counts(rows: pd.DataFrame) -> dict[str, Any]:
    suspect, injected = rows["suspect"] == 1, rows["injected"] == 1
    natural = rows[~injected]
    labelled = (natural["label"] == ANOMALY) if (natural["label"] != UNKNOWN).any() else None
    sizes = rows.loc[suspect, "group"].value_counts().sort_index().tolist()
    counts: dict[str, Any] = {"rows": len(rows), "suspects": int(suspect.sum()), "groups": sizes}
    for name, truth, among in (("injected", injected, suspect), ("labelled", labelled, suspect[~injected])):
        has_positives = truth is not None and bool(truth.any())
        hits = int((truth & among).sum()) if truth is not None and has_positives else None
        counts[name] = {
            "rows": int(truth.sum()) if truth is not None else None,
            "suspected": hits,
            "precision": hits / int(among.sum()) if hits is not None and among.any() else None,
            "recall": hits / int(truth.sum()) if hits is not None and truth is not None else None,
        }
    return counts


def _rate(level: dict[str, Any], name: str) -> str:
    counts = level[name]
    if not counts["rows"]:
        return "none" if counts["rows"] == 0 else "no labels"
    precision = "-" if counts["precision"] is None else f"{counts['precision']:.3f}"
    return f"{counts['suspected']} of {counts['rows']} (precision {precision}, recall {counts['recall']:.3f})"


def find_suspects(project: Project, name: str) -> SuspectReport:
    """Return the training rows of every level with the suspicion of a scorer, or of a detector of the last run.

    If a detector reports suspects during training (``<label>.suspects.csv`` of the train stage), these are used. For
    any other detector the training rows are scored, and those flagged at the scorer's eps, or the one in params.yaml,
    are suspect; rows of a category without calibration rows never are. The detector was trained on these rows, so no
    false-positive rate is guaranteed for them.

    Parameters
    ----------
    project : Project
    name : str
        A scorer (see `assay.project.scorers.find_scorer`), or the label of a detector in params.yaml.

    Raises
    ------
    ScorerError
        There is no such scorer or label, or its training rows are no longer available.
    TamperedError
        The outputs of the last run are not the recorded ones.
    """
    labels = [choice.label for choice in project.config.detectors]
    if name in labels:
        folders = {}
        for verb in ("split", "contaminate", "train", "calibrate"):
            (stage,) = (stage for stage in project.stages_of(verb) if stage.detector in (None, name))
            if check_outputs(project, stage.name) is None:
                raise ScorerError(f"stage {stage.name} has not been run; `assay run` does")
            folders[verb] = project.root / stage.folder
        adapter = project.config.adapters[0].label
        return collect(name, name, adapter, project.config.eps, folders)
    try:
        chain = read_chain(project, name)
    except ScorerError as error:
        raise ScorerError(f"{error}; detectors of params.yaml are {', '.join(labels)}") from error
    with tempfile.TemporaryDirectory(prefix="assay-suspects-") as folder:
        return _of_scorer(chain, Path(folder))


def _of_scorer(chain: Chain, folder: Path) -> SuspectReport:
    """Collect the outputs that a scorer was made from, from work/ or DVC's cache, and find its suspects."""
    detector, adapter, _ = chain.candidate
    parts_by_stage = {"split": ("train/",), "contaminate": (), "train": (), "calibrate": ()}
    if missing := [stage for stage in parts_by_stage if stage not in chain.records]:
        raise ScorerError(f"the record of stage {missing[0]} in {chain.folder} is broken; see `assay audit verify`")
    folders = {stage: chain.collect(stage, folder / stage, *parts) for stage, parts in parts_by_stage.items()}
    return collect(chain.tag, detector, adapter, chain.head["eps"], folders)


def collect(name: str, detector: str, adapter: str, eps: float, folders: dict[str, Path]) -> SuspectReport:
    """Find the suspects of a detector at every level; `folders` are those of the stages up to calibrate."""
    frames, measure = [], SCORES
    for level in levels_of(folders["train"]):
        level_sources = (folders["split"] / "train", folders["contaminate"], level)
        own_file = folders["train"] / level / f"{detector}.suspects.csv"
        if own_file.is_file():
            measure, frame = (
                OWN,
                _own(own_file, training_rows(level_rows(*level_sources), level_sources[1], labelled=True)[0]),
            )
        elif (folders["train"] / level / f"{detector}.json").is_file():
            frame = _scored(folders, level, detector, adapter, eps, level_rows(*level_sources))
        else:
            continue
        frames.append(frame.assign(level=float(level.removeprefix("level-"))))
    if not frames:
        raise ScorerError(f"{detector} was not trained at any level; see failures.json of the train stage")
    return SuspectReport(name, detector, measure, eps, pd.concat(frames, ignore_index=True)[SUSPECT_COLUMNS])


def _own(path: Path, rows: RowSet) -> pd.DataFrame:
    """Read the suspects that the detector reported in the train stage, and add the label of every row."""
    frame = pd.read_csv(path, dtype={"row_id": str, "fingerprint": str}, keep_default_na=False)
    labels = dict(zip(rows.rows["row_id"], rows.labels, strict=True))
    if unknown := [row_id for row_id in frame["row_id"] if row_id not in labels]:
        raise ScorerError(f"{path} names {unknown[0]!r}, which is no training row of its level; run the stage again")
    groups = frame["group"] if "group" in frame else frame["suspect"]  # older scorers have no groups
    return frame.assign(label=frame["row_id"].map(labels).astype(np.int8), group=groups)


def _scored(
    folders: dict[str, Path], level: str, detector: str, adapter: str, eps: float, rows: RowSet
) -> pd.DataFrame:
    """Score the training rows of a level; those flagged at `eps` are suspect."""
    trained, calibrated, name = folders["train"] / level, folders["calibrate"], candidate_name(detector, adapter)
    function = ScoreFunction(
        load_scaler(read_part(trained, "scaler")),
        load_detector(read_part(trained, detector)),
        load_null_model(read_part(trained, "null_model")),
        load_adapter(read_part(calibrated / "adapters" / level, name)),
    )
    reference = _reference(calibrated, level, name)
    categories, is_calibrated = _categories(reference.calibrator, rows)
    scored = function.scored(rows.features, categories)
    suspect = Rule(eps).flags(reference.p_values(scored)) & is_calibrated
    return rows.rows[["row_id", "fingerprint", "label", "injected"]].assign(
        suspicion=scored.scores.astype(np.float64), suspect=suspect.astype(np.int8), group=suspect.astype(np.int64)
    )


def _reference(calibrated: Path, level: str, name: str) -> Reference:
    """Read the calibration reference of a candidate."""
    strata = load_strata(read_part(calibrated / "adapters" / level, "strata"))
    ties = read_json(calibrated / "calibration.json")["ties"]
    return read_reference(calibrated, level, name, strata, ties)


def _categories(calibrator: Calibrator, rows: RowSet) -> tuple[Texts | None, Flags]:
    """Return the rows' categories, None without calibration within categories, and which rows have a calibrated one.

    Rows of other categories, which cannot be suspects, get an arbitrary calibrated category.
    """
    if not isinstance(calibrator, MondrianCalibrator) or calibrator.side_information != "category":
        return None, np.ones(len(rows), dtype=np.bool_)
    category = rows.rows["category"]
    is_calibrated = category.isin(calibrator.keys_)
    return category.where(is_calibrated, calibrator.keys_[0]).to_numpy(dtype=object), is_calibrated.to_numpy(
        dtype=np.bool_
    )


def write_suspects(path: Path, report: SuspectReport) -> None:
    """Write the suspected rows, the most suspect of every level first (UTF-8, LF).

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    picked = report.rows[report.rows["suspect"] == 1]
    ordered = picked.sort_values(["level", "suspicion"], ascending=[True, False], kind="stable")
    buffer = io.StringIO()
    ordered.assign(row_id=guarded(ordered["row_id"])).to_csv(buffer, index=False, lineterminator="\n")
    try:
        write_bytes(path, buffer.getvalue().encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give another file to --out") from error
