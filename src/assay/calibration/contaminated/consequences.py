"""The effects of anomalies among the calibration rows, and which rows to label next, as text."""

from __future__ import annotations

import math

from assay.calibration.calibrators.ranks import largest_rank
from assay.calibration.contaminated.estimates import Contamination
from assay.calibration.contaminated.label_trim import fpr_range

SUPPOSED = (0.01, 0.02, 0.05)
TOLERATED = 0.01


def consequences(eps: float, contamination: Contamination) -> list[str]:
    """Return sentences on the effects of contaminated calibration rows at eps, and on which rows to label next.

    The recommended number of top rows is the number of ranks that may be flagged plus the expected anomalies. Once they
    are labelled, every row above the threshold is known to be normal, and more labels there change nothing.
    """
    share = contamination.high if contamination.how == "answers" else contamination.low
    lowest, highest = fpr_range(eps, share)
    return [
        _known_share(contamination),
        f"with all of them in, the false-positive rate at eps {eps:g} lies between {_percent(lowest)} and "
        f"{_percent(highest)}; it is at most eps if anomalies score higher than normal rows, which scores cannot prove",
        f"power: the threshold may be as high as that of eps {lowest:.3g} on clean rows; anomalies below it are missed"
        if lowest
        else "power: the anomalies may take every rank that is flagged; then nothing, or hardly anything, is flagged",
        _remaining_share(eps, contamination),
        _rows_to_label(eps, contamination),
    ]


def _known_share(contamination: Contamination) -> str:
    estimate = "" if contamination.estimate is None else f", about {_percent(contamination.estimate)}"
    confidence = f"{_percent(contamination.confidence)} confidence"
    if contamination.how == "answers":
        limits = f"between {_percent(contamination.low)} and {_percent(contamination.high)}"
        return f"{limits} of {contamination.m} calibration rows are anomalies ({confidence}){estimate}"
    return (
        f"at least {_percent(contamination.low)} of {contamination.m} calibration rows are anomalies "
        f"({confidence}){estimate}; anomalies that score like normal rows are not detected"
    )


def _remaining_share(eps: float, contamination: Contamination) -> str:
    if contamination.left is None:
        rates = ", ".join(_percent(fpr_range(eps, share)[1]) for share in SUPPOSED)
        return (
            "without labels of rows picked at random nobody knows how many anomalies are left once those labelled are "
            f"removed; with {', '.join(map(_percent, SUPPOSED))} left the false-positive rate is at most {rates}"
        )
    return (
        f"once the labelled anomalies are removed, at most {_percent(contamination.left)} of the rest are anomalies "
        f"({_percent(contamination.confidence)} confidence): the false-positive rate is at most "
        f"{_percent(fpr_range(eps, contamination.left)[1])}"
    )


def _rows_to_label(eps: float, contamination: Contamination) -> str:
    expected = contamination.low if contamination.estimate is None else contamination.estimate
    top = min(contamination.m, largest_rank(contamination.m, eps) + math.ceil(expected * contamination.m))
    drawn = min(contamination.m - top, math.ceil(math.log(1 - contamination.confidence) / math.log(1 - TOLERATED)))
    return (
        f"label the {top} highest scores in all, and {drawn} of the others picked at random: with no anomaly among "
        f"those, at most {_percent(TOLERATED)} of the others are anomalies "
        f"({_percent(contamination.confidence)} confidence)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
