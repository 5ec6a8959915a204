"""What a contamination of the calibration rows does, and what to label next, in words."""

from __future__ import annotations

import math

from assay.calibration.calibrators.conformal import largest_rank
from assay.calibration.contaminated.estimates import Contamination
from assay.calibration.contaminated.label_trim import fpr_range

SUPPOSED = (0.01, 0.02, 0.05)
TOLERATED = 0.01


def consequences(eps: float, known: Contamination) -> list[str]:
    """Return in words what a contamination of the calibration rows does at eps, and what to label next.

    The number of top rows named is that of the ranks which may be flagged plus the anomalies expected: once so many
    are labelled, every row above the threshold is known to be normal, and more labels there change nothing.
    """
    share = known.high if known.how == "answers" else known.low
    lowest, highest = fpr_range(eps, share)
    return [
        _what_is_known(known),
        f"with all of them in, the false-positive rate at eps {eps:g} lies between {_percent(lowest)} and "
        f"{_percent(highest)}; it is at most eps if anomalies score higher than normal rows, which scores cannot prove",
        f"power: the threshold may be as high as that of eps {lowest:.3g} on clean rows; anomalies below it are missed"
        if lowest
        else "power: the anomalies may take every rank that is flagged; then nothing, or hardly anything, is flagged",
        _what_is_left(eps, known),
        _what_to_label(eps, known),
    ]


def _what_is_known(known: Contamination) -> str:
    about = "" if known.estimate is None else f", about {_percent(known.estimate)}"
    confidence = f"{_percent(known.confidence)} confidence"
    if known.how == "answers":
        limits = f"between {_percent(known.low)} and {_percent(known.high)}"
        return f"{limits} of {known.m} calibration rows are anomalies ({confidence}){about}"
    return (
        f"at least {_percent(known.low)} of {known.m} calibration rows are anomalies ({confidence}){about}; "
        "anomalies that score as normal rows do are not seen"
    )


def _what_is_left(eps: float, known: Contamination) -> str:
    if known.left is None:
        rates = ", ".join(_percent(fpr_range(eps, left)[1]) for left in SUPPOSED)
        return (
            "without labels of rows picked at random nobody knows how many anomalies are left once those labelled are "
            f"removed; with {', '.join(map(_percent, SUPPOSED))} left the false-positive rate is at most {rates}"
        )
    return (
        f"once the labelled anomalies are removed, at most {_percent(known.left)} of the rest are anomalies "
        f"({_percent(known.confidence)} confidence): the false-positive rate is at most "
        f"{_percent(fpr_range(eps, known.left)[1])}"
    )


def _what_to_label(eps: float, known: Contamination) -> str:
    expected = known.low if known.estimate is None else known.estimate
    top = min(known.m, largest_rank(known.m, eps) + math.ceil(expected * known.m))
    drawn = min(known.m - top, math.ceil(math.log(1 - known.confidence) / math.log(1 - TOLERATED)))
    return (
        f"label the {top} highest scores in all, and {drawn} of the others picked at random: with no anomaly among "
        f"those, at most {_percent(TOLERATED)} of the others are anomalies ({_percent(known.confidence)} confidence)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
