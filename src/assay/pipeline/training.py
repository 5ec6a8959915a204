"""The verb that trains every detector at every level."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.data.dataset import ANOMALY, Card, RowSet, read_card
from assay.errors import TrainingError
from assay.names import Choice
from assay.parts import Part, write_json, write_part
from assay.pipeline.candidates import Failures
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import HELD_OUT_PART, level_rows, levels_of, training_rows

if TYPE_CHECKING:
    from assay.arrays import Labels, Singles
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
    detectors: Sequence[Choice],
    seed: int,
    device: str,
    progress: StageProgress = silent,
) -> Made[Failures]:
    """Fit scaler, null model and every detector at every level, on that level's training rows alone.

    Detectors that learn from labels get the labelled anomalies that were set aside; no other detector gets them. A
    detector that cannot be trained at a level is recorded in ``failures.json`` and left out at that level alone. If
    none can be trained at the lowest level, whose model ships, the stage fails. The training rows that a detector
    suspects are written to ``<label>.suspects.csv``. For a cross-fitted detector the hardness of its rows is written to
    ``<label>.held_out``, in the order of its held-out scores.

    Parameters
    ----------
    checkpoints : Path
        Folder for the state of trainings while the stage runs; an interrupted training resumes from it.

    Returns
    -------
    Made of mapping
        Content of ``failures.json``; the details hold the seconds of every fit.

    Raises
    ------
    TrainingError
        No detector could be trained at the lowest level.
    """
    from assay.detectors.base import CrossFitted
    from assay.detectors.registry import make_detector

    dataset_card = read_card(card)
    failures: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, float]] = {}
    jobs = [(level, choice) for level in levels_of(contaminated) for choice in detectors]
    for number, (level, choice) in enumerate(jobs):
        # Jobs go level by level: the first detector of a level fits its scaler and null model for all of them.
        if choice is detectors[0]:
            scaler, null_model = _scale_level(dataset_card, level_rows(train, contaminated, level), out / level)
        detector = make_detector(
            choice.name,
            choice.params,
            seed=seed,
            modality=dataset_card.modality,
            device=device,
        )
        rows, labels = training_rows(train, contaminated, level, labelled=detector.uses_labels)
        scaled = scaler.transform(rows.features)
        try:
            fit_seconds = _fit(
                detector,
                scaled,
                labels,
                checkpoint=checkpoints / f"{level}.{choice.label}",
                progress=_epochs(progress, f"{choice.label} at {level}", number, len(jobs)),
            )
        except TrainingError as error:
            failures.setdefault(choice.label, {})[level] = str(error)
            continue
        seconds.setdefault(choice.label, {})[level] = fit_seconds
        write_part(out / level, choice.label, detector.to_part())
        _write_suspects(detector, rows, out / level / f"{choice.label}.suspects.csv")
        if isinstance(detector, CrossFitted):
            hardness = null_model.hardness(scaled[labels != ANOMALY])
            write_part(out / level, f"{choice.label}.{HELD_OUT_PART}", Part(HELD_OUT_PART, {}, {"hardness": hardness}))
    _require_one_trained(failures, levels_of(contaminated)[0], detectors)
    write_json(out / "failures.json", failures)
    return Made(failures, {"fit_seconds": seconds})


def _fit(detector: Detector, scaled: Singles, labels: Labels, *, checkpoint: Path, progress: EpochProgress) -> float:
    """Fit a detector, with a checkpoint if it takes one; return the seconds."""
    resuming: dict[str, Any] = {"checkpoint": checkpoint} if getattr(detector, "resumes", False) else {}
    started = time.perf_counter()
    detector.fit(scaled, labels, progress=progress, **resuming)
    return round(time.perf_counter() - started, 3)


def _require_one_trained(failures: Failures, ships: str, detectors: Sequence[Choice]) -> None:
    """Raise `TrainingError` if no detector could be trained at the level that ships."""
    if all(ships in failures.get(choice.label, {}) for choice in detectors):
        reasons = "; ".join(by_level[ships] for by_level in failures.values())
        raise TrainingError(f"no detector could be trained: {reasons}")


def _scale_level(card: Card, rows: RowSet, out: Path) -> tuple[Scaler, NullModel]:
    """Fit and write the scaler and the null model of a level; return both."""
    scaler = card.modality.scaler().fit(rows.features)
    scaled = scaler.transform(rows.features)
    write_part(out, "scaler", scaler.to_part())
    null_model = card.modality.null_model().fit(scaled)
    write_part(out, "null_model", null_model.to_part())
    return scaler, null_model


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
