"""The verb that writes the winner as a scorer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.data.dataset import Card, read_card, read_rows
from assay.data.modalities.registry import modality_fields
from assay.errors import NoValidCandidateError
from assay.parts import Part, read_json, read_part
from assay.pipeline.candidates import candidate_name
from assay.pipeline.made import Made
from assay.pipeline.rows import LABELLED, levels_of, packed_fingerprints
from assay.pipeline.selecting import read_selection

if TYPE_CHECKING:
    from assay.evaluation.selection import CandidateResult, Selection


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
    """Write the winner, trained at level 0, as one scorer folder with its lineage.

    Parameters
    ----------
    split : Path
        ``split.json``.
    rows : mapping of str to Path
        Folders of the rows that the winner learned from (train, adapt, calibration). Their fingerprints are packaged,
        and also those of the labelled anomalies in ``labelled`` if there are any and the winner learned from them.
    records : mapping of str to Path
        ``record.json`` of each stage up to select, without those of the cells.
    trained, calibrated : mapping of str to Path
        Folders of the results of `assay.pipeline.train` and `calibrate`, by label of the detector, with their records.
    selected : Path
        Folder of the results of `assay.pipeline.select`.
    eps : float
        The scorer's own target false-positive rate.

    Returns
    -------
    Made of Path
        The scorer folder; the details hold its tag.

    Raises
    ------
    NoValidCandidateError
        No candidate is valid.
    """
    from assay.hashing import RECORD, dvc_directory_md5, hash_file, lineage_root
    from assay.scorer.scorer import write_scorer

    winner = _winner(read_selection(selected))
    card: Card = read_card(data)
    cell, calibration = trained[winner.detector], calibrated[winner.detector]
    records = {**records, "train": cell / RECORD, "calibrate": calibration / RECORD}
    level = levels_of(cell)[0]
    parts = _parts(cell / level, calibration, level, winner.detector, winner.adapter)
    hashes = {stage: hash_file(path) for stage, path in records.items()}
    upstream = {stage: digest for stage, digest in hashes.items() if stage != "select"}
    head = {
        "name": card.name,
        "columns": list(card.columns),
        **modality_fields(card.modality),
        **({} if card.category_column is None else {"category_column": card.category_column}),
        "eps": eps,
        "calibration": read_json(calibration / "calibration.json"),
        "unit": read_json(split)["unit"],
        "candidate": {"detector": winner.detector, "adapter": winner.adapter, "level": level},
        "lineage": {"root": lineage_root(upstream), "data_version": dvc_directory_md5(data), "records": hashes},
    }
    learned_from = {
        use: folder for use, folder in rows.items() if use != LABELLED or _uses_labels(parts["detector"], folder)
    }
    fingerprints = {use: packed_fingerprints(read_rows(folder), card.columns) for use, folder in learned_from.items()}
    extra: dict[str, Any] = {f"lineage/{stage}.json": path.read_bytes() for stage, path in records.items()}
    version = write_scorer(out, head, parts, {**extra, "rows.safetensors": fingerprints})
    return Made(out / version, {"scorer": f"{card.name}:{version}"})


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
    name = candidate_name(detector, adapter)
    ratio = calibrated / "reference" / level / "ratio.json"
    return {
        **({"ratio": read_part(ratio.parent, "ratio")} if ratio.is_file() else {}),
        "scaler": read_part(trained, "scaler"),
        "detector": read_part(trained, detector),
        "null_model": read_part(trained, "null_model"),
        "strata": read_part(calibrated / "adapters" / level, "strata"),
        "adapter": read_part(calibrated / "adapters" / level, name),
        "calibrator": read_part(calibrated / "reference" / level, name),
    }


def _uses_labels(detector: Part, labelled: Path) -> bool:
    from assay.detectors.registry import learns_from_labels

    return labelled.is_dir() and learns_from_labels(detector)
