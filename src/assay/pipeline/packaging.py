"""The verb that writes the winner as a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.card import Card, read_card
from assay.data.dataset import read_rows
from assay.data.modalities.registry import modality_fields
from assay.errors import NoValidCandidateError
from assay.parts import Array, Part, read_json, read_part
from assay.pipeline.candidates import candidate_name
from assay.pipeline.learned import packed_rows
from assay.pipeline.made import Made
from assay.pipeline.rows import LABELLED, RATIO_PART, levels_of
from assay.pipeline.selecting import read_selection

if TYPE_CHECKING:
    from assay.calibration.calibrators.registry import Calibrator
    from assay.evaluation.selected import CandidateResult, Selection


def package(
    out: Path,
    *,
    data: Path,
    split: Path,
    rows: Mapping[str, Path],
    records: Mapping[str, Path],
    trained: Mapping[str, Path],
    calibrated: Mapping[str, Path],
    selected: Path,
    eps: float,
) -> Made[Path]:
    """Write the winner, trained at level 0, as one scorer folder, with the statement of where it comes from.

    The version of the scorer is the hash of what decides its answers alone. The records, and the list of the rows that
    it learned from, are in the statement (`assay.scorer.statement`).

    Parameters
    ----------
    split : Path
        ``split.json``.
    rows : mapping of str to Path
        Folders of the rows that the winner learned from (train, adapt, calibration). Their contents and copies are
        packaged, and also those of the labelled anomalies in ``labelled`` if there are any and the winner learned from
        them.
    records : mapping of str to Path
        ``record.json`` of all that the scorer was made by, under any names, and of the choice as "select"; without
        those of the cells.
    trained, calibrated : mapping of str to Path
        Folders of the results of `assay.pipeline.train` and `calibrate`, by label of the detector, with their records.
    selected : Path
        Folder of the results of `assay.pipeline.select`.
    eps : float
        The scorer's own target false-positive rate.

    Returns
    -------
    Made of Path
        The scorer folder; the details hold its tag and the id of the statement.

    Raises
    ------
    NoValidCandidateError
        No candidate is valid.
    """
    from assay.hashing import RECORD, dvc_directory_md5
    from assay.scorer.folder import write_scorer
    from assay.scorer.statement import write_statement

    winner = _winner(read_selection(selected))
    card: Card = read_card(data)
    cells = {"train": trained[winner.detector], "calibrate": calibrated[winner.detector]}
    records = {**records, **{verb: cell / RECORD for verb, cell in cells.items()}}
    level = levels_of(cells["train"])[0]
    parts = _parts(cells["train"] / level, cells["calibrate"], level, winner.detector, winner.adapter)
    calibration = read_json(cells["calibrate"] / "calibration.json")
    version = write_scorer(out, _head(card, parts, calibration, read_json(split)["unit"], eps), parts)
    learned_from = {
        use: folder for use, folder in rows.items() if use != LABELLED or _uses_labels(parts["detector"], folder)
    }
    learned: dict[str, Array] = {}
    for use, folder in learned_from.items():
        learned |= packed_rows(use, read_rows(folder), card)
    statement = write_statement(
        out / version,
        {
            "name": card.name,
            "candidate": {"detector": winner.detector, "adapter": winner.adapter, "level": level},
            "selection": asdict(winner),
            "calibration": calibration,
        },
        data_version=dvc_directory_md5(data),
        records={name: path.read_bytes() for name, path in records.items()},
        rows=learned,
    )
    return Made(out / version, {"scorer": f"{card.name}:{version}", "statement": statement})


def _head(card: Card, parts: dict[str, Part], calibration: dict[str, Any], unit: str, eps: float) -> dict[str, Any]:
    """Return what decides the answers of a scorer in addition to its parts."""
    from assay.calibration.calibrators.registry import load_calibrator

    calibrator = load_calibrator(parts["calibrator"])
    return {
        "columns": list(card.input_columns),
        **modality_fields(card.modality),
        **({} if card.windows is None else {"windows": card.windows.to_json()}),
        **({"category_column": card.category_column} if calibration["within"] == "category" else {}),
        "eps": eps,
        "unit": unit,
        "within": calibration["within"],
        "ties": calibration["ties"],
        "promise": calibration["promise"],
        "guarantee": _guarantee(calibrator, unit),
        "limits": calibrator.limits(eps),
    }


def _guarantee(calibrator: Calibrator, unit: str) -> str:
    """Return what p-values promise where roles were assigned by a unit."""
    if unit == "group and time":
        return (
            "No false-positive rate is promised; eps is a target. Roles were assigned by time, so that rows of one "
            "group are in several roles, and rows of a new group are not exchangeable with the calibration rows."
        )
    from assay.calibration.calibrators.grouped import GroupedCalibrator

    if isinstance(calibrator, GroupedCalibrator) and unit == "block":
        return (
            f"P(p <= eps) <= eps for a window of a new block that is exchangeable with the {calibrator.n_groups} "
            "blocks of the calibration rows: one drawn at random from the time and the series that these come from. "
            "Of later times, and of other series, no rate is promised where something drifts or differs."
        )
    if unit == "time":
        return (
            f"{calibrator.guarantee} Roles were assigned by time: rows of later times are exchangeable with the "
            "calibration rows only as long as nothing drifts, and no rate is promised where something does."
        )
    return calibrator.guarantee


def _winner(selection: Selection) -> CandidateResult:
    if selection.chosen is None:
        reasons: dict[str, list[str]] = {}
        for row in selection.candidates:
            reasons.setdefault(row.reason, []).append(candidate_name(row.detector, row.adapter))
        message = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        raise NoValidCandidateError(f"no valid candidate, nothing ships ({message})")
    return selection.chosen


def _parts(trained: Path, calibrated: Path, level: str, detector: str, adapter: str) -> dict[str, Part]:
    """Read the parts of a candidate."""
    from assay.scorer.folder import RATIO

    name = candidate_name(detector, adapter)
    adapters = calibrated / "adapters" / level
    return {
        **({RATIO: read_part(adapters, RATIO_PART)} if (adapters / f"{RATIO_PART}.json").is_file() else {}),
        "scaler": read_part(trained, "scaler"),
        "detector": read_part(trained, detector),
        "null_model": read_part(trained, "null_model"),
        "strata": read_part(adapters, "strata"),
        "adapter": read_part(adapters, name),
        "calibrator": read_part(calibrated / "reference" / level, name),
    }


def _uses_labels(detector: Part, labelled: Path) -> bool:
    from assay.detectors.registry import learns_from_labels

    return labelled.is_dir() and learns_from_labels(detector)
