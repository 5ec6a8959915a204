"""Why a run ships what it ships, and what would help its dataset most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from assay.data.dataset import UNKNOWN, read_rows
from assay.data.splitting import MIN_LABELLED
from assay.parts import read_json, read_part
from assay.pipeline.candidates import candidate_name
from assay.pipeline.rows import levels_of
from assay.pipeline.selecting import read_selection
from assay.project.layout import Project

if TYPE_CHECKING:
    from assay.evaluation.selected import CandidateResult, Selection
    from assay.parts import Array
    from assay.scorer.scorer import Scorer

MOST_SENTENCES = 3
_TO_JUDGE = math.ceil(MIN_LABELLED / 0.18)  # labelled anomalies of which so many fall to selection and test rows
_WIDE, _NARROW = 1.5, 0.2  # of eps: upper end of the band; of the power: width of the interval
_ASKED, _GROUPS_AT_MOST = 50, 1.5


def choice_sentence(selection: Selection) -> str:
    """Return why the winner ships, by how many rows, and the power of the choice on anomalies that did not make it.

    "" without a winner.
    """
    if selection.chosen is None:
        return ""
    if selection.by_default and selection.level is None:
        at = next(level for level in selection.chosen.levels if level.level == selection.ships_at)
        of_normals = "" if at.fpr is None else f", of normals {at.fpr:.0%}"
        return (
            f"too few anomalies are labelled to choose by: {selection.default} ships, as select.without_labels says; "
            f"of {selection.n_anomalies} synthetic ones it flags {at.power:.0%}{of_normals}"
        )
    noun = "probes" if selection.evidence == "probes" else "anomalies"
    more = f", at the lowest level {selection.n_more} more" if selection.n_more else ""
    rows = f"{_beside_the_default(selection)}chosen by {selection.n_normals} normals and {selection.n_anomalies} {noun}"
    if selection.power is None:
        return f"{rows}{more}; too few {noun} to measure the power of the choice apart"
    band = f"95 % interval {selection.power_low:.2f} to {selection.power_high:.2f}"
    over = "mean over the levels, " if len(selection.chosen.levels) > 1 else ""
    return f"{rows}{more}; power of the choice, {over}on {noun} that did not make it: {selection.power:.2f} ({band})"


def _beside_the_default(selection: Selection) -> str:
    """Return in words why the default ships or does not, before what it was chosen by."""
    if not selection.default or selection.chosen is None:
        return ""
    if selection.level is None:
        return f"the default {selection.default} is not valid; "
    if not selection.by_default:
        return f"better than the default {selection.default} beyond noise: {_further_out(selection.chosen)}; "
    compared = [row for row in selection.candidates if row.p_value is not None]
    if not compared:
        return "the default, since no other valid candidate has a mean power as high; "
    nearest = min(compared, key=lambda row: row.p_value or 0.0)
    return (
        "the default, since no other is better beyond noise: nearest comes "
        f"{candidate_name(nearest.detector, nearest.adapter)}, {_further_out(nearest)}, where it takes p <= "
        f"{selection.level:.2g}; "
    )


def _further_out(row: CandidateResult) -> str:
    return f"it sees anomalies {row.further_out:.2g} standard deviations further out, p = {row.p_value:.2g}"


def beside_default(row: CandidateResult, selection: Selection) -> str:
    """Return how a candidate that does not ship compares with the default; "" where it was not compared."""
    if row.p_value is None or selection.level is None or row is selection.chosen:
        return ""
    found = "but less than what ships" if row.p_value <= selection.level else "which may be noise"
    return f"beside the default {_further_out(row)}, {found}"


def would_help(project: Project, scorer: Scorer | None) -> list[str]:
    """Return up to three sentences on what would help the dataset of a finished run most, the best first.

    They are ordered by how much is missing: of the labelled anomalies that it takes to choose and to measure, of the
    calibration rows that it takes to know the false-positive rate, and by how many training rows stand apart in groups.
    """
    split = read_json(project.folder("split") / "split.json")
    advice = [
        _labels(split, read_selection(project.folder("select"))),
        _unverified(project),
        _groups(project),
        _rows(project.config.eps, scorer),
    ]
    needed = sorted((each for each in advice if each is not None), key=lambda each: -each[0])
    return [sentence for _, sentence in needed[:MOST_SENTENCES]]


def _labels(split: dict[str, Any], selection: Selection) -> tuple[float, str] | None:
    n = sum(role["anomalies"] for role in split["roles"].values())
    if selection.evidence == "probes":
        if n >= _TO_JUDGE:
            judging = min(split["roles"][role]["anomalies"] for role in ("selection", "test"))
            where = "" if split["unit"] == "row" else " in other groups, blocks or times"
            return 1.0, (
                f"label more anomalies{where}: of {n} labelled ones {judging} fell to the "
                f"rows that choose or to those that test, where {MIN_LABELLED} judge in place of synthetic ones"
            )
        lacking = _TO_JUDGE - n
        have = f"{n} {'is' if n == 1 else 'are'} labelled" if n else "none is labelled"
        return 2.0 - n / _TO_JUDGE, (
            f"label about {lacking} more anomalies ({have}): with some {_TO_JUDGE} they judge what ships in place of "
            "synthetic ones, and the power is measured"
        )
    if selection.power_low is None or selection.power_high is None:
        return None
    width = selection.power_high - selection.power_low
    if width <= _NARROW:
        return None
    lacking = math.ceil(n * ((width / _NARROW) ** 2 - 1))
    return width / _NARROW - 1, (
        f"label about {lacking} more anomalies ({n} are labelled): the power of the choice, which is known to "
        f"{width / 2:.2f} either way, would be known to {_NARROW / 2:g}"
    )


def _unverified(project: Project) -> tuple[float, str] | None:
    rows = read_rows(project.folder("split") / "calibration")
    label = project.config.detectors[0].label
    labelled = read_json(project.folder("calibrate", label) / "calibration.json")["trim"]["labelled"]
    unknown = int((rows.labels == UNKNOWN).sum()) - labelled
    if unknown <= 0:
        return None
    return 1.2 * unknown / len(rows), (
        f"label the {min(_ASKED, unknown)} highest calibration rows (`assay label --budget {min(_ASKED, unknown)}`): "
        f"nobody has looked at {unknown} of {len(rows)}, and each anomaly among them costs power"
    )


def _groups(project: Project) -> tuple[float, str] | None:
    from assay.detectors.baselines.reach import ReachDistances

    level = levels_of(project.folder("contaminate"))[0]
    for choice in project.config.detectors:
        folder = project.folder("train", choice.label) / level
        if "reach" not in f"{choice.name} {choice.params}" or not (folder / f"{choice.label}.json").is_file():
            continue
        if not (arrays := reach_arrays(read_part(folder, choice.label).arrays)):
            continue
        form = ReachDistances.from_arrays(arrays)
        if (sizes := form.groups_apart()).size:
            share = float(sizes.sum()) / len(form.rows)
            groups = "group" if sizes.size == 1 else f"{sizes.size} groups"
            return min(_GROUPS_AT_MOST, 20 * share), (
                f"look at the {groups} of training rows that stand apart from the others ({share:.1%} of the rows, "
                f"{sizes[0]} in the largest; `assay review`): anomalies in groups cost more than single ones"
            )
    return None


def reach_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of the first reach in a fitted part, by their own names; {} where there is none.

    Other detectors, in a blend with it, have arrays of these names as well.
    """
    insides = [name.removesuffix("reach") for name in arrays if name.rpartition(".")[2] == "reach"]
    owns = [{n.removeprefix(inside): a for n, a in arrays.items() if n.startswith(inside)} for inside in insides]
    return next((own for own in owns if {*own} == {"rows", "reach", "n_neighbors"}), {})


def _rows(eps: float, scorer: Scorer | None) -> tuple[float, str] | None:
    from assay.calibration.calibrators.conformal import ConformalCalibrator
    from assay.calibration.calibrators.mondrian import MondrianCalibrator
    from assay.calibration.calibrators.promise import fpr_band

    calibrator = scorer.calibrator if scorer else None
    if not isinstance(calibrator, ConformalCalibrator | MondrianCalibrator) or not scorer or not scorer.fpr_bands(eps):
        return None
    m = min(calibrator.sizes) if isinstance(calibrator, MondrianCalibrator) else calibrator.n_rows
    of = "of the smallest part" if isinstance(calibrator, MondrianCalibrator) else "calibration rows"
    high = max(band[1] for band in scorer.fpr_bands(eps).values())
    if high <= _WIDE * eps:
        return None
    enough = next(
        size
        for size in (int(m * 1.1**power) + 1 for power in count())
        if (rank := calibrator.promise.largest_rank(size, eps)) and fpr_band(rank, size)[1] <= _WIDE * eps
    )
    return min(1.0, enough / m - 1), (
        f"ingest about {enough / m:.2g} times as many rows: with {m} {of} the false-positive rate at eps {eps:g} may "
        f"be {high:.2g}, with {enough} at most {_WIDE * eps:.2g}"
    )
