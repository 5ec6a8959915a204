"""The verb that evaluates all candidates on the test rows, once, for the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.arrays import Doubles, Flags, Integers, Singles
from assay.data.dataset import MASK, RowSet
from assay.data.masks import masks_of
from assay.errors import DataError
from assay.parts import read_json, read_part, write_arrays, write_json
from assay.pipeline.candidates import Candidates, LevelScores, candidate_name, read_failures
from assay.pipeline.made import Made
from assay.pipeline.rows import RATIO_PART, evidence_rows, held_to, marked

if TYPE_CHECKING:
    from assay.calibration.decisions import Reference
    from assay.calibration.hardness import Strata
    from assay.evaluation.tested import Evaluation

_METRICS = ("auroc", "auprc", "fpr", "stratum_fpr", "worst_stratum_fpr", "power")
_MOST_IMAGES = 500  # of each kind, whose pixels are compared with masks


def evaluate(
    out: Path,
    *,
    test: Path,
    trained: Mapping[str, Path],
    calibrated: Mapping[str, Path],
    candidates: Candidates,
    eps: float,
    brief: bool = False,
) -> Made[Evaluation]:
    """Evaluate every candidate at every level on the test rows, with diagnostics and curves at the lowest level.

    Rows of a category without calibration rows, which a scorer refuses, are counted and left out. A detector is left
    out at levels where it could not be trained.

    The promise of eps is for all rows. Every metric is also given over the rows whose content no train and no adapt row
    has: nothing that a detector or an adapter was fitted on, and could know by heart. Contents of calibration rows stay
    among them, since nothing is learned from those but where scores lie. No rate is promised for these rows alone: they
    are chosen by content. Power is also given without the anomalies whose content is labelled normal too; normals of
    such content are in every false-positive rate. Where rows have missing values, or categories that training rows
    do not have, every metric is given for these and for all others apart.

    Parameters
    ----------
    test : Path
        Folder of the test rows.
    trained, calibrated : mapping of str to Path
        Folders of the results of `assay.pipeline.train` and `calibrate`, by label of the detector.
    candidates : Candidates
    eps : float
        Target false-positive rate.
    brief : bool
        Whether to write ``evaluation.json`` alone: no p-values, diagnostics, curves and pictures.

    Raises
    ------
    DataError
        No normal or no anomaly is left.
    """
    from assay.evaluation.curves import Curves
    from assay.evaluation.tested import Evaluation, Tested
    from assay.pipeline.diagnosing import diagnose_rows
    from assay.pipeline.plotting import write_curves

    *all_rows, evidence = evidence_rows(test)
    levels = candidates.levels(trained)
    calibration = read_json(calibrated[candidates.detectors[0].label] / "calibration.json")
    normals, anomalies = (_calibrated(rows, calibration.get("categories")) for rows in all_rows)
    for kind, rows in (("normal", normals), ("anomaly", anomalies)):
        if not len(rows):
            raise DataError(
                f"no test {kind} is of a category with calibration rows; merge small categories and ingest again, or "
                "set calibrate.within to 'all' or 'hardness'"
            )
    failures = read_failures(trained)
    unseen = tuple(~marked(rows, "seen") for rows in (normals, anomalies))
    contradicted = marked(anomalies, "contradicted")
    table = []
    curves = {}
    # Stable: rows without a time keep their order.
    order = np.argsort(normals.rows["time"].to_numpy(dtype=object), kind="stable")
    for level in levels:
        p_values = {}
        for detector in candidates.trained(level, failures):
            cell = calibrated[detector.label]
            scored = LevelScores(trained[detector.label], cell / "adapters", level, normals, anomalies)
            for adapter, of_normals, of_anomalies in scored.of(detector.label, candidates.adapters):
                name = candidate_name(detector.label, adapter.label)
                reference = read_reference(cell, level, name, scored.edges, calibration["ties"])
                both_p_values = (reference.p_values(of_normals), reference.p_values(of_anomalies))
                p_values[f"{name}.normals"], p_values[f"{name}.anomalies"] = both_p_values
                outcome = _Outcome((of_normals.scores, of_anomalies.scores), both_p_values, scored.strata)
                if level == levels[0] and not brief:
                    diagnostics = diagnose_rows(reference, of_normals, both_p_values, scored.strata, order, eps)
                    write_json(out / "diagnostics" / f"{name}.json", diagnostics)
                    curves[name] = Curves.of(outcome.scores, both_p_values)
                more = {
                    "smallest_eps": reference.calibrator.smallest_eps,
                    "n_calibration": reference.calibrator.n_rows,
                    "pixel_auroc": _pixel_auroc(scored),
                    **_figures_of_parts(outcome, unseen, ~contradicted, scored.incomplete, eps),
                }
                shown = {key: value for key, value in _figures(outcome, eps).items() if key in _METRICS}
                table.append(Tested(level, detector.label, adapter.label, **shown, **more))
        if not brief:
            write_arrays(out / "p_values" / f"{level}.safetensors", p_values)
    left_out = sum(map(len, all_rows)) - len(normals) - len(anomalies)
    n_contradicted = int(contradicted.sum())
    evaluation = Evaluation(evidence, eps, len(normals), len(anomalies), left_out, tuple(table), n_contradicted)
    write_json(out / "evaluation.json", evaluation.to_json())
    if not brief:
        write_curves(out, evaluation.at(levels[0]), curves)
    return Made(evaluation)


def _pixel_auroc(scored: LevelScores) -> float | None:
    """Return the AUROC of heat maps over the pixels of evidence rows, by their masks; None where there are none.

    Those of anomalies with a mask, and of normals, none of whose pixels is defective; of more than 500 of either a
    sample (`assay.pipeline.rows.held_to`).
    """
    from assay.detectors.base import Localises
    from assay.evaluation.metrics import auroc

    detector, (normals, anomalies) = scored.detector, scored.raw
    if not isinstance(detector, Localises) or MASK not in anomalies.rows:
        return None
    masked = anomalies.take((anomalies.rows[MASK] != "").to_numpy(dtype=bool))
    if not len(masked):
        return None
    parts = [held_to(part, _MOST_IMAGES, seed=0) for part in (normals, masked)]
    maps = [detector.heat_maps(scored.scaler.transform(part.features)) for part in parts]
    truth = [np.zeros(maps[0].shape, dtype=np.bool_), masks_of(parts[1].rows[MASK], maps[1].shape[1:])]
    return auroc(*(np.concatenate([part.ravel() for part in both]) for both in (truth, maps)))


def _calibrated(rows: RowSet, categories: Sequence[str] | None) -> RowSet:
    """Return the rows that a scorer accepts: all of them unless it compares within categories."""
    return rows if categories is None else rows.take(rows.rows["category"].isin(categories).to_numpy(dtype=bool))


def read_reference(calibrated: Path, level: str, name: str, strata: Strata, ties: str) -> Reference:
    """Read the reference of a candidate at a level from the folder of its cell's results of `calibrate`."""
    from assay.calibration.calibrators.registry import load_calibrator
    from assay.calibration.calibrators.weighted import load_ratio
    from assay.calibration.decisions import Reference

    adapters = calibrated / "adapters" / level
    is_weighted = (adapters / f"{RATIO_PART}.json").is_file()
    ratio = load_ratio(read_part(adapters, RATIO_PART)) if is_weighted else None
    return Reference(load_calibrator(read_part(calibrated / "reference" / level, name)), strata, ratio, ties)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Scores and p-values of normals and of anomalies, and the strata of the normals."""

    scores: tuple[Singles, Singles]
    p_values: tuple[Doubles, Doubles]
    strata: Integers

    def over(self, normals: Flags, anomalies: Flags) -> _Outcome:
        """Return the outcome of these normals and anomalies alone."""
        scores, p_values = self.scores, self.p_values
        return _Outcome(
            (scores[0][normals], scores[1][anomalies]),
            (p_values[0][normals], p_values[1][anomalies]),
            self.strata[normals],
        )


def _figures_of_parts(
    outcome: _Outcome,
    unseen: tuple[Flags, ...],
    uncontradicted: Flags,
    incomplete: tuple[Flags, ...],
    eps: float,
) -> dict[str, Any]:
    """Return the figures over the rows that the fields of `assay.evaluation.tested.Tested` are named after."""
    from assay.evaluation.tested import Figures

    def over(normals: Flags, anomalies: Flags) -> Figures:
        return Figures(**_figures(outcome.over(normals, anomalies), eps))

    everyone = np.ones(len(unseen[0]), dtype=np.bool_)
    parts: dict[str, Any] = {
        "unseen": over(*unseen),
        "uncontradicted_power": over(everyone, uncontradicted).power,
    }
    if any(part.any() for part in incomplete):
        parts |= {"incomplete": over(*incomplete), "complete": over(*(~part for part in incomplete))}
    return parts


def _figures(outcome: _Outcome, eps: float) -> dict[str, Any]:
    """Return the fields of `assay.evaluation.tested.Figures`."""
    from assay.calibration.decisions import Rule
    from assay.evaluation.metrics import auprc, auroc, stratum_flag_rates

    n_normals, n_anomalies = map(len, outcome.scores)
    truth, scores = np.repeat([0, 1], [n_normals, n_anomalies]), np.concatenate(outcome.scores)
    flags, detected = map(Rule(eps).flags, outcome.p_values)
    rates = stratum_flag_rates(flags, outcome.strata) if n_normals else {}
    both = n_normals > 0 and n_anomalies > 0
    return {
        "n_normals": n_normals,
        "n_anomalies": n_anomalies,
        "auroc": auroc(truth, scores) if both else None,
        "auprc": auprc(truth, scores) if both else None,
        "fpr": float(flags.mean()) if n_normals else None,
        "stratum_fpr": rates,
        "worst_stratum_fpr": max(rates.values(), default=None),
        "power": float(detected.mean()) if n_anomalies else None,
    }


def read_evaluation(folder: Path) -> Evaluation:
    """Read ``evaluation.json`` of a finished evaluate stage."""
    from assay.evaluation.tested import Evaluation

    return Evaluation.from_json(read_json(folder / "evaluation.json"))
