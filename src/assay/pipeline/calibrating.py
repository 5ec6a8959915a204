"""The verb that fits the adapters of a detector and stores its conformal references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.arrays import Doubles
from assay.data.card import Card, read_card
from assay.data.dataset import ANOMALY, NORMAL, RowSet, read_labels, read_rows
from assay.errors import ConfigError, DataError
from assay.names import Choice
from assay.parts import read_json, read_part, write_json, write_part
from assay.pipeline.candidates import FLAG_RULE, candidate_name
from assay.pipeline.levels import finish_level
from assay.pipeline.made import Made
from assay.pipeline.progress import StageProgress, silent
from assay.pipeline.rows import (
    FAILURES,
    HELD_OUT_PART,
    MOST_ADAPT,
    RATIO_PART,
    calibration_rows,
    held_to,
    levels_of,
    presumed_normals,
    units,
)

if TYPE_CHECKING:
    from assay.calibration.adapters.outputs import Outputs
    from assay.calibration.adapters.registry import ScoreAdapter
    from assay.calibration.calibrators.promise import Promise
    from assay.calibration.calibrators.registry import Calibrator
    from assay.calibration.calibrators.weighted import DensityRatio
    from assay.calibration.decisions import Scored
    from assay.calibration.hardness import Strata
    from assay.data.null_models import NullModel
    from assay.data.scaling import Scaler

METHODS = {"all": "split", "hardness": "stratum", "category": "category"}
NO_CATEGORIES = (
    "calibrate.within is 'category', and the dataset has no categories; name their column when it is brought in "
    "(`assay ingest FILE --category COLUMN`), or use 'all' or 'hardness'"
)


def calibrate(
    out: Path,
    *,
    card: Path,
    split: Path,
    adapt: Path,
    calibration: Path,
    labels: Path,
    target: Path,
    trained: Path,
    detector: Choice,
    adapters: Sequence[Choice],
    checkpoints: Path,
    within: str,
    ties: str,
    promise: object,
    seed: int,
    progress: StageProgress = silent,
) -> Made[dict[str, Any]]:
    """Fit adapters and stratum edges on the adapt rows, then store the calibration rows' scores.

    The calibration rows are used only for the conformal reference, which is stored separately in ``reference/``. Those
    labelled as anomalies are removed first (Label-Trim). ``calibration.json`` records this and the calibration method.
    A level at which the detector could not be trained has stratum edges alone. Of very many rows a random sample is
    used (`assay.pipeline.rows.calibration_rows`): ``held`` in ``calibration.json`` says how many of how many, by role.

    Parameters
    ----------
    card : Path
        Folder of the dataset's card.
    split : Path
        ``split.json``.
    adapt, calibration : Path
        Folders of the rows of these roles.
    labels : Path
        Answers to the questions of `assay label`.
    target : Path
        File of rows that calibration is weighted towards; usually empty.
    trained : Path
        Folder of the detector's results of `assay.pipeline.train`.
    detector : Choice
    adapters : sequence of Choice
    checkpoints : Path
        Folder for finished levels while the stage runs; an interrupted one resumes from it.
    within : {"all", "hardness", "category"}
        Calibration rows that a row is compared with.
    ties : {"counted", "randomised"}
        How calibration scores equal to a row's score are treated.
    promise : "average" or mapping
        What p <= eps promises (`assay.calibration.calibrators.promise.Promise.parse`).
    seed : int
        Seed of all random choices of this stage.

    Returns
    -------
    Made of dict
        Content of ``calibration.json``.
    """
    from assay.calibration.calibrators.promise import Promise
    from assay.calibration.contaminated.label_trim import trim_report
    from assay.data.target import read_target

    dataset_card = read_card(card)
    adapt_rows = held_to(presumed_normals(read_rows(adapt)), MOST_ADAPT, seed=seed)
    held = calibration_rows(calibration, within=within, seed=seed)
    reference, trim_results = trim_report(held, labels, seed=seed)
    target_rows = read_target(target, dataset_card).rows
    promised = Promise.parse(promise)
    roles = read_json(split)
    settings = _settings(within, ties, promised, roles["unit"], reference, len(target_rows))
    is_whole = not roles.get("answered", {}).get("unseen")
    failures = read_json(trained / FAILURES)

    def calibrate_level(level: str, into: Path) -> dict[str, Any]:
        stage = _Level(
            dataset_card, trained / level, adapt_rows, reference, target_rows, settings["method"], promised, seed
        )
        stage.is_whole = is_whole
        write_part(into / "adapters" / level, "strata", stage.strata.to_part())
        if stage.ratio is not None:
            write_part(into / "adapters" / level, RATIO_PART, stage.ratio.to_part())
        if level not in failures:
            stage.use_detector(detector.label)
            for choice in adapters:
                _write_candidate(stage, choice, settings["ties"], into, level)
        return {}

    levels = levels_of(trained)
    for number, level in enumerate(levels):
        progress(f"{detector.label} at {level}", number / len(levels))
        finish_level(level, out, checkpoints, partial(calibrate_level, level))
    written = {**settings, **trim_results}
    used = {"adapt": (len(adapt_rows), adapt), "calibration": (len(held), calibration)}
    counts = {role: [n, int((read_labels(folder) != ANOMALY).sum())] for role, (n, folder) in used.items()}
    if sampled := {role: numbers for role, numbers in counts.items() if numbers[0] < numbers[1]}:
        written["held"] = sampled
    write_json(out / "calibration.json", written)
    return Made(written)


def _settings(within: str, ties: str, promise: Promise, unit: str, reference: RowSet, n_target: int) -> dict[str, Any]:
    """Return how calibration rows are compared, for ``calibration.json``; see `_method` and `_require_law`."""
    from assay.calibration.decisions import BY_ID

    method = _method(within, ties, unit, reference, n_target)
    _require_law(promise, method, ties, unit)
    return {
        "within": within,
        "ties": BY_ID if ties == "randomised" else ties,
        "promise": promise.setting(),
        "method": method,
        "n_target": n_target,
        **({"categories": sorted(set(reference.rows["category"]))} if method == "category" else {}),
    }


def _write_candidate(stage: _Level, choice: Choice, ties: str, out: Path, level: str) -> None:
    """Fit an adapter for the current detector of a level; write it, its reference, and how that compares rows."""
    from assay.evaluation.chances import flag_rule_of

    name = candidate_name(stage.label, choice.label)
    adapter = stage.adapter(choice)
    write_part(out / "adapters" / level, name, adapter.to_part())
    calibrator = stage.calibrator(adapter)
    write_part(out / "reference" / level, name, calibrator.to_part())
    write_json(out / "adapters" / level / f"{name}.{FLAG_RULE}", flag_rule_of(calibrator, ties).to_json())


def _method(within: str, ties: str, unit: str, reference: RowSet, n_target: int) -> str:
    """Return the calibration method: "split", "stratum", "category", "grouped" or "weighted".

    Raises
    ------
    ConfigError
        The settings contradict each other or do not suit the dataset.
    """
    if within == "category" and "category" not in reference.rows:
        raise ConfigError(NO_CATEGORIES)
    grouped = unit.startswith(("group", "block"))
    if within != "all" and (grouped or n_target):
        reason = "rows form groups" if grouped else "there are target rows (`assay reweight --clear`)"
        raise ConfigError(f"calibrate.within is {within!r}, which is not possible when {reason}; use 'all'")
    if grouped and n_target:
        raise ConfigError(
            "there are target rows, and rows form groups: weights are for rows that are independent of each "
            "other; drop them with `assay reweight --clear`"
        )
    if grouped and ties == "randomised":
        raise ConfigError("calibrate.ties is 'randomised', which has no meaning for groups of rows; use 'counted'")
    return "weighted" if n_target else "grouped" if grouped else METHODS[within]


def _require_law(promise: Promise, method: str, ties: str, unit: str) -> None:
    """Raise `ConfigError` where a confidence is asked for, and the law of this scorer's rate is not known."""
    if promise.is_average:
        return
    reasons = {
        "rows form groups": method == "grouped",
        "there are target rows (`assay reweight --clear`)": method == "weighted",
        "roles were assigned by time": "time" in unit,
        "calibrate.ties is 'randomised' (use 'counted')": ties == "randomised",
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise ConfigError(
            f"calibrate.promise has a confidence, which is not possible where {reason}: the law of the false-positive "
            "rate of one scorer is not known there; use `promise: average`"
        )


class _Level:
    """Calibration at one contamination level: the state shared by all candidates of a detector."""

    def __init__(
        self,
        card: Card,
        trained: Path,
        adapt: RowSet,
        reference: RowSet,
        target: Doubles,
        method: str,
        promise: Promise,
        seed: int,
    ) -> None:
        from assay.calibration.hardness import fit_strata
        from assay.data.modalities.registry import load_null_model, load_scaler

        self.card, self.trained, self.method, self.seed = card, trained, method, seed
        self.promise = promise
        self.adapt_rows, self.reference = adapt, reference
        self.scaler: Scaler = load_scaler(read_part(trained, "scaler"))
        self.null_model: NullModel = load_null_model(read_part(trained, "null_model"))
        self.scaled_adapt = self.scaler.transform(adapt.features)
        self.scaled_reference = self.scaler.transform(reference.features)
        self.strata: Strata = fit_strata(
            self.scaled_adapt,
            self.null_model.hardness(self.scaled_adapt),
            by_neighbourhood=card.modality.by_neighbourhood,
            seed=seed,
        )
        self.ratio: DensityRatio | None = None
        if method == "weighted":
            from assay.calibration.calibrators.weighted import DensityRatio

            try:
                self.ratio = DensityRatio.fit(self.scaled_adapt, self.scaler.transform(target), seed=seed)
            except DataError as error:
                raise DataError(f"{error} (`assay reweight --clear` ends the weighting)") from error

    is_whole = True  # whether no training row was left out that nobody had looked at

    def use_detector(self, label: str) -> None:
        """Make a detector the current one, and compute its outputs."""
        from assay.calibration.adapters.outputs import observe
        from assay.detectors.registry import load_detector

        self.label, self.detector = label, load_detector(read_part(self.trained, label))
        self.of_adapt: Outputs = replace(
            observe(self.detector, self.null_model, self.scaled_adapt),
            unlabelled=float((self.adapt_rows.labels != NORMAL).mean()),
        )
        self.of_reference: Outputs = observe(self.detector, self.null_model, self.scaled_reference)

    def adapter(self, choice: Choice) -> ScoreAdapter:
        """Return a fitted adapter."""
        from assay.calibration.adapters.registry import make_adapter

        adapter = make_adapter(choice.name, choice.params)
        return adapter.fit(self._unused_in_training() if choice.name == "cadet" else self.of_adapt)

    def _unused_in_training(self) -> Outputs:
        """Return outputs for rows not used to train the detector, for CADET.

        These are the adapt rows. If they are too few for conditional quantiles and the detector has folds, its training
        rows are added, each scored by the model that was fitted without it.
        """
        from assay.calibration.adapters.cadet import MIN_QUANTILE_ROWS
        from assay.calibration.adapters.outputs import Outputs
        from assay.detectors.base import CrossFitted

        if len(self.of_adapt) >= MIN_QUANTILE_ROWS or not isinstance(self.detector, CrossFitted):
            return self.of_adapt
        hardness = read_part(self.trained, f"{self.label}.{HELD_OUT_PART}").arrays["hardness"]
        return Outputs(
            np.concatenate([self.of_adapt.scores, self.detector.held_out_scores_]),
            np.concatenate([self.of_adapt.hardness, hardness]),
            squared=self.of_adapt.squared,
        )

    def calibrator(self, adapter: ScoreAdapter) -> Calibrator:
        """Fit the calibrator of the detector with a fitted adapter on the calibration rows."""
        from assay.calibration.adapters.registry import Identity
        from assay.calibration.calibrators.conformal import ConformalCalibrator
        from assay.calibration.calibrators.grouped import GroupedCalibrator
        from assay.calibration.calibrators.mondrian import MondrianCalibrator
        from assay.calibration.calibrators.weighted import WeightedCalibrator
        from assay.calibration.decisions import adapt_rows
        from assay.detectors.base import CrossFitted

        scored = adapt_rows(self.detector, adapter, self.of_reference, self.reference.features, self.scaled_reference)
        # Training rows left out for their group would be missing from the reference, normal ones among them.
        is_crossed = isinstance(self.detector, CrossFitted) and isinstance(adapter, Identity) and self.is_whole
        if self.method == "split" and is_crossed and self.promise.is_average:
            return self._cross(self.detector, scored)
        if self.method == "stratum":
            strata = self.strata.assign(self.scaled_reference, self.of_reference.hardness)
            if len(np.unique(strata)) < self.strata.n_strata:
                raise ConfigError(
                    f"calibrate.within is 'hardness', and of {self.strata.n_strata} strata one has none of the "
                    f"{len(strata)} calibration rows; use 'all', or bring in more rows"
                )
            return MondrianCalibrator("stratum", self.promise).fit(scored.scores, strata)
        if self.method == "category":
            categories = self.reference.rows["category"].to_numpy(dtype=object)
            return MondrianCalibrator("category", self.promise).fit(scored.scores, categories)
        if self.method == "grouped":
            return GroupedCalibrator().fit(scored.scores, units(self.reference))
        if self.ratio is not None:
            return WeightedCalibrator().fit(scored.scores, self.ratio.weights(self.scaled_reference))
        return ConformalCalibrator(self.promise).fit(scored.scores)

    def _cross(self, detector: Any, scored: Scored) -> Calibrator:
        """Fit a cross-calibrator on the held-out training rows and, in their folds, the calibration rows.

        At contamination levels the held-out rows include injected ones, as they would include undetected anomalies.
        """
        from assay.calibration.calibrators.cross import CrossCalibrator

        assert scored.fold_scores is not None
        of_calibration, fold = scored.fold_scores(), detector.fold_of_new(self.scaled_reference)
        return CrossCalibrator().fit(
            [
                np.concatenate([detector.held_out_scores_[detector.fold_of_ == k], of_calibration[k, fold == k]])
                for k in range(detector.n_folds)
            ]
        )
