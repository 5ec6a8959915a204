"""The verb that trains a detector at every level."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.data.card import Card, read_card
from assay.data.dataset import ANOMALY, MASK, RowSet
from assay.data.masks import masks_of
from assay.data.npy import read_npy
from assay.data.word_vectors import WordVectors
from assay.errors import TrainingError
from assay.names import Choice
from assay.parts import Part, write_json, write_part
from assay.pipeline.levels import finish_level
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import (
    FAILURES,
    HELD,
    HELD_OUT_PART,
    levels_of,
    sampled_level_rows,
    training_rows,
)

if TYPE_CHECKING:
    from assay.arrays import Flags, Labels, Singles
    from assay.data.null_models import NullModel
    from assay.data.scaling import Scaler
    from assay.detectors.base import Detector, EpochProgress


def train(
    out: Path,
    *,
    card: Path,
    train: Path,
    contaminated: Path,
    checkpoints: Path,
    detector: Choice,
    seed: int,
    device: str,
    level: str | None = None,
    progress: StageProgress = silent,
) -> Made[dict[str, str]]:
    """Fit scaler, null model and a detector at every level, on that level's training rows alone.

    A detector that learns from labels gets the labelled anomalies that were set aside; no other detector gets them.
    Where it cannot be trained at a level, that is recorded in ``failures.json``. The training rows that it suspects are
    written to ``<label>.suspects.csv``. For a cross-fitted detector the hardness of its rows is written to
    ``<label>.held_out``, in the order of its held-out scores. Of more than `assay.pipeline.rows.MOST_TRAINED` rows a
    random sample of that many is used for all of this, but all say which categories there are. The detector may use
    fewer: ``held.json`` then says how many of how many, by level.

    Parameters
    ----------
    checkpoints : Path
        Folder for finished levels and the state of a training while the stage runs; an interrupted one resumes from it.
    detector : Choice
    level : str, optional
        The one level to train, which stays in `checkpoints` for a call without it. Levels do not know of each other.

    Returns
    -------
    Made of mapping
        Content of ``failures.json``: the reason by level. The details hold the seconds of every fit, by label and
        level.
    """
    failures: dict[str, str] = {}
    seconds: dict[str, float] = {}
    held: dict[str, list[int]] = {}
    levels = levels_of(contaminated) if level is None else [level]
    cell = _Cell(read_card(card), train, contaminated, checkpoints, detector, seed, device, WordVectors.read(card))
    for number, level in enumerate(levels):
        epochs = _epochs(progress, f"{detector.label} at {level}", number, len(levels))
        done = finish_level(level, out, checkpoints, partial(cell.train, level, epochs))
        if "failure" in done:
            failures[level] = done["failure"]
        else:
            seconds[level] = done["seconds"]
        held |= {level: done["held"]} if "held" in done else {}
    write_json(out / FAILURES, failures)
    if held:
        write_json(out / HELD, held)
    return Made(failures, {"fit_seconds": {detector.label: seconds}})


@dataclass(frozen=True, slots=True)
class _Cell:
    """The training of one detector; see `train`."""

    card: Card
    rows: Path
    contaminated: Path
    checkpoints: Path
    choice: Choice
    seed: int
    device: str
    vectors: WordVectors | None

    def train(self, level: str, epochs: EpochProgress, out: Path) -> dict[str, Any]:
        """Write a level to ``out / level``; return the seconds of the fit, or why it failed."""
        from assay.data.documents import DocumentScaler
        from assay.detectors.base import CrossFitted, Localises, ReadsWords
        from assay.detectors.registry import make_detector

        detector = make_detector(
            self.choice.name, self.choice.params, seed=self.seed, modality=self.card.modality, device=self.device
        )
        scaler = self.card.scaler(self.vectors, sequences=isinstance(detector, ReadsWords))
        of_level, n_of_level = sampled_level_rows(self.rows, self.contaminated, level, seed=self.seed)
        self._fit_scaler(scaler, of_level, n_of_level, level)
        null_model = _scale_level(self.card, scaler, of_level, out / level)
        lexicon = scaler.lexicon if isinstance(scaler, DocumentScaler) and scaler.sequences else None
        rows, labels = training_rows(of_level, self.contaminated, labelled=detector.uses_labels)
        n_held = len(rows)
        n_rows = n_of_level + n_held - len(of_level)
        if isinstance(scaler, DocumentScaler) and not scaler.sequences:
            having = scaler.has_words(rows.features)
            rows, labels = rows.take(having), labels[having]
        scaled = scaler.transform(rows.features)
        more: dict[str, Any] = {} if lexicon is None else {"lexicon": lexicon}
        if isinstance(detector, Localises) and (masks := _masks_of_anomalies(rows, labels, self.card)) is not None:
            more["masks"] = masks
        try:
            seconds = _fit(detector, scaled, labels, self.checkpoints / f"{level}.fit", epochs, more)
        except TrainingError as error:
            return {"failure": str(error)}
        label = self.choice.label
        n_used = n_held - getattr(detector, "n_left_out_", 0)
        held = {"held": [n_used, n_rows]} if n_used < n_rows else {}
        write_part(out / level, label, detector.to_part())
        _write_suspects(detector, rows, out / level / f"{label}.suspects.csv")
        if isinstance(detector, CrossFitted):
            hardness = null_model.hardness(scaled[labels != ANOMALY])
            write_part(out / level, f"{label}.{HELD_OUT_PART}", Part(HELD_OUT_PART, {}, {"hardness": hardness}))
        return {"seconds": seconds, **held}

    def _fit_scaler(self, scaler: Scaler, rows: RowSet, n_rows: int, level: str) -> None:
        """Fit a scaler on rows of a level; where these are a sample of n_rows, all of them say which categories are."""
        from assay.data.encoding import Encoder

        if isinstance(scaler, Encoder) and len(rows) < n_rows:
            parts = (read_npy(folder / "features.npy") for folder in (self.rows, self.contaminated / level))
            scaler.fit(rows.features, scaler.category_counts(*parts))
        else:
            scaler.fit(rows.features)


def _fit(
    detector: Detector,
    scaled: Singles,
    labels: Labels,
    checkpoint: Path,
    progress: EpochProgress,
    more: dict[str, Any],
) -> float:
    """Fit a detector, with a checkpoint if it takes one, and what else it learns from; return the seconds."""
    resuming: dict[str, Any] = {"checkpoint": checkpoint, **more} if getattr(detector, "resumes", False) else more
    started = time.perf_counter()
    detector.fit(scaled, labels, progress=progress, **resuming)
    return round(time.perf_counter() - started, 3)


def _masks_of_anomalies(rows: RowSet, labels: Labels, card: Card) -> Flags | None:
    """Return the masks of rows, (n, h, w), False all over but for anomalies with one; None where none has one."""
    if MASK not in rows.rows or card.modality.shape is None:
        return None
    texts = rows.rows[MASK].fillna("").where(labels == ANOMALY, "")
    return masks_of(texts, card.modality.shape) if (texts != "").any() else None


def _scale_level(card: Card, scaler: Scaler, rows: RowSet, out: Path) -> NullModel:
    """Write the scaler of a level, fit and write its null model, and return the latter.

    Documents without a known word have one place, which is made up: nothing else is fitted on them.
    """
    from assay.data.documents import DocumentScaler

    write_part(out, "scaler", scaler.to_part())
    features = rows.features[scaler.has_words(rows.features)] if isinstance(scaler, DocumentScaler) else rows.features
    scaled = scaler.transform(features)
    null_model = card.null_model(scaler).fit(scaled)
    write_part(out, "null_model", null_model.to_part())
    return null_model


def _write_suspects(detector: Detector, rows: RowSet, path: Path) -> None:
    """Write the suspicions of a detector about training rows, if it has any, the most suspect row first.

    A detector that does not group suspects puts them all in group 1.
    """
    from assay.detectors.base import GroupsSuspects, Suspects

    if not isinstance(detector, Suspects):
        return
    table = rows.rows[["row_id", "fingerprint", "injected"]].assign(
        suspicion=detector.suspicion_,
        suspect=detector.suspects_.astype(np.int8),
        group=detector.groups_ if isinstance(detector, GroupsSuspects) else detector.suspects_.astype(np.int64),
    )
    table = table.sort_values(["suspicion", "row_id"], ascending=[False, True], kind="stable")
    table.to_csv(path, index=False, lineterminator="\n")


def _epochs(progress: StageProgress, task: str, number: int, jobs: int) -> Callable[[int, int, float], None]:
    """Return the callback that converts a detector's epochs to the progress of the whole stage."""
    progress(task, number / jobs)
    return lambda epoch, epochs, _: progress(f"{task}, epoch {epoch} of {epochs}", (number + epoch / epochs) / jobs)
