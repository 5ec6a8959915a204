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
from assay.pipeline.progress import Progress, silent
from assay.pipeline.rows import HELD_OUT, level_rows, levels_of, training_rows

if TYPE_CHECKING:
    from assay.data.null_models import NullModel
    from assay.data.scaling import Scaler
    from assay.detectors.base import Detector


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
    progress: Progress = silent,
) -> Made[Failures]:
    """Fit scaler, null model and every detector at every level, on that level's training rows alone.

    Detectors that learn from labelled anomalies get those that were set aside; no other sees them. One that cannot
    be trained at a level is put on record in ``failures.json``, and is left out at that level alone; where none can be
    trained at the lowest level, whose model ships, the stage stops.
    One that suspects training rows has them written to ``<label>.suspects.csv``, and the hardness of the rows of one
    that holds rows out goes to ``<label>.held_out``, in the order of its held-out scores.

    Parameters
    ----------
    checkpoints : Path
        Folder for the state of trainings while the stage runs; an interrupted one goes on from there.

    Returns
    -------
    Made of mapping
        Content of ``failures.json``; the details are the seconds of every fit.

    Raises
    ------
    TrainingError
        No detector could be trained at the lowest level.
    """
    from assay.detectors.base import CrossFitted
    from assay.detectors.registry import make_detector

    about = read_card(card)
    failures: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, float]] = {}
    jobs = [(level, choice) for level in levels_of(contaminated) for choice in detectors]
    for number, (level, choice) in enumerate(jobs):
        if choice is detectors[0]:
            scaler, null_model = _scale_level(about, level_rows(train, contaminated, level), out / level)
        detector = make_detector(
            choice.name,
            choice.params,
            seed=seed,
            modality=about.modality,
            device=device,
        )
        rows, labels = training_rows(train, contaminated, level, labelled=detector.uses_labels)
        how: dict[str, Any] = {"progress": _epochs(progress, f"{choice.label} at {level}", number, len(jobs))}
        if getattr(detector, "resumes", False):
            how["checkpoint"] = checkpoints / f"{level}.{choice.label}"
        scaled = scaler.transform(rows.features)
        started = time.perf_counter()
        try:
            detector.fit(scaled, labels, **how)
        except TrainingError as error:
            failures.setdefault(choice.label, {})[level] = str(error)
            continue
        seconds.setdefault(choice.label, {})[level] = round(time.perf_counter() - started, 3)
        write_part(out / level, choice.label, detector.to_part())
        _write_suspects(detector, rows, out / level / f"{choice.label}.suspects.csv")
        if isinstance(detector, CrossFitted):
            hardness = null_model.hardness(scaled[labels != ANOMALY])
            write_part(out / level, f"{choice.label}.{HELD_OUT}", Part(HELD_OUT, {}, {"hardness": hardness}))
    ships = levels_of(contaminated)[0]
    if all(ships in failures.get(choice.label, {}) for choice in detectors):
        raise TrainingError("no detector could be trained: " + "; ".join(told[ships] for told in failures.values()))
    write_json(out / "failures.json", failures)
    return Made(failures, {"fit_seconds": seconds})


def _scale_level(about: Card, rows: RowSet, out: Path) -> tuple[Scaler, NullModel]:
    """Fit and write the scaler and the null model of a level; return both."""
    scaler = about.modality.scaler().fit(rows.features)
    scaled = scaler.transform(rows.features)
    write_part(out, "scaler", scaler.to_part())
    null_model = about.modality.null_model().fit(scaled)
    write_part(out, "null_model", null_model.to_part())
    return scaler, null_model


def _write_suspects(detector: Detector, rows: RowSet, path: Path) -> None:
    """Write which training rows the detector suspects, if it is one that does, the most suspect first.

    Suspects of a detector that does not group them are all of group 1.
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


def _epochs(progress: Progress, what: str, number: int, jobs: int) -> Callable[[int, int, float], None]:
    """Return the callback by which a detector's epochs move the bar of the whole stage."""
    progress(what, number / jobs)
    return lambda epoch, epochs, _: progress(f"{what}, epoch {epoch} of {epochs}", (number + epoch / epochs) / jobs)
