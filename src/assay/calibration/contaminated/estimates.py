"""The share of anomalies among calibration rows: intervals from labels, and from rows known to be normal."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Texts
from assay.data.dataset import ANOMALY, UNKNOWN
from assay.data.labelling import ESTIMATE, TRIM
from assay.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Contamination:
    """An estimate, with confidence limits, of the share of anomalies among m calibration rows.

    Attributes
    ----------
    m : int
        Number of calibration rows before any is removed.
    estimate : float or None
        The estimated share; None if it cannot be estimated.
    low, high : float
        Confidence limits of the share among these m rows.
    confidence : float
    how : {"answers", "verified"}
        The source: labels ("answers"), or rows known to be normal ("verified").
    left : float or None
        One-sided upper confidence limit of the share among the rows that remain when those labelled as anomalies are
        removed; None if no random sample was labelled, since then only the labels themselves bound it.
    """

    m: int
    estimate: float | None
    low: float
    high: float
    confidence: float
    how: str
    left: float | None = None


def contamination_from_answers(labels: NDArray[Any], purposes: Texts, *, confidence: float) -> Contamination:
    """Estimate the share of anomalies from labelled rows: the highest scores, and a random sample of the others.

    Anomalies among the highest scores are counted. For the other rows the limits come from an exact hypergeometric test
    (sampling without replacement) of their number of anomalies, given the number in the sample. A selected row without
    a label counts as an anomaly in the upper limits and as normal in the lower one, so that labelling the easy rows
    first is safe. Labels of other rows change a limit only if they contradict it.

    The interval has two tails of (1 - confidence)/2, ``left`` has one of 1 - confidence. The size of the sample must
    not depend on its labels: enlarging it until the limits look good lowers the confidence below the stated one.

    Parameters
    ----------
    labels : ndarray of int, shape (m,)
        0 normal, 1 anomaly, -1 not labelled.
    purposes : ndarray of str, shape (m,)
        "trim" for the highest scores, "estimate" for the sample, anything else for the rest
        (`assay.calibration.contaminated.label_trim.choose_questions`).
    confidence : float
        Between 0 and 1.

    Raises
    ------
    ConfigError
        `confidence` is out of range.
    DataError
        There are no rows, or shapes differ.
    """
    if labels.size == 0 or labels.shape != purposes.shape:
        raise DataError(f"{labels.shape} labels and {purposes.shape} purposes; give one of each for m >= 1 rows")
    tail = 1 - _check_confidence(confidence)
    top, drawn = purposes == TRIM, purposes == ESTIMATE
    anomalous, unlabelled = labels == ANOMALY, labels == UNKNOWN
    sample_anomalies, unknown = int((anomalous & drawn).sum()), int((unlabelled & drawn).sum())
    n_drawn, n_others, m = int(drawn.sum()), int((~top).sum()), labels.size
    labelled = int((anomalous & ~top).sum())
    possible = labelled + int((unlabelled & ~top).sum())

    def most(level: float) -> int:
        return int(np.clip(_most(sample_anomalies + unknown, n_drawn, n_others, level), labelled, possible))

    in_top, open_top = int((anomalous & top).sum()), int((unlabelled & top).sum())
    fewest = n_others - _most(n_drawn - sample_anomalies, n_drawn, n_others, tail / 2)
    removed = in_top + labelled
    left = (open_top + most(tail) - labelled) / max(m - removed, 1)
    return Contamination(
        m=m,
        estimate=_estimate(labels, top, drawn),
        low=(in_top + max(fewest, labelled)) / m,
        high=(in_top + open_top + most(tail / 2)) / m,
        confidence=confidence,
        how="answers",
        left=left if n_drawn > unknown or labelled == possible else None,
    )


def contamination_from_verified(scores: NDArray[Any], verified: NDArray[Any], *, confidence: float) -> Contamination:
    """Bound the share of anomalies from below by scores of rows known to be normal.

    If more calibration scores lie above a verified normal's score than chance explains, the excess are anomalies.
    There is no upper bound: anomalies with scores like those of normal rows are undetectable.

    For the j-th highest verified score t and k anomalies, the m - k normal calibration rows and the verified ones are
    exchangeable, so that the number of normal ones above t follows a negative hypergeometric distribution. The lower
    limit is the smallest k that this distribution does not reject for any of j = 1, 2, 4, 8, ..., each at an equal part
    of 1 - confidence.

    Differs from Blanchard, Lee, Scott 2010 (``1 - inf_t F_cal(t) / F_ver(t)`` with uniform bands): the distribution is
    exact for these sizes, and tight where few normal rows score high, where anomalies show; uniform bands are as wide
    there as in the middle. The estimate is their ratio at the j that gives the limit.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
        Of the calibration rows.
    verified : ndarray of float, shape (v,)
        Of rows that are certainly normal, distributed like the normal calibration rows, and not used by any fitting
        step either.
    confidence : float
        Between 0 and 1.

    Raises
    ------
    ConfigError
        `confidence` is out of range.
    DataError
        There are no scores on one side, or one is NaN.
    """
    for name, values in (("calibration", scores), ("verified", verified)):
        if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
            raise DataError(f"{name} scores have shape {values.shape} or hold NaN; give (n,), n >= 1")
    m, v = scores.size, verified.size
    ranks = 2 ** np.arange(v.bit_length())
    above = m - np.searchsorted(np.sort(scores), -np.sort(-verified)[ranks - 1], side="right")
    level = (1 - _check_confidence(confidence)) / ranks.size
    limits = [_fewest_above(int(c), int(j), m, v, level) for c, j in zip(above, ranks, strict=True)]
    best = int(np.argmax(limits))
    low = limits[best] / m
    ratio = (1 - above[best] / m) * (v + 1) / (v + 1 - ranks[best])
    return Contamination(m, float(max(low, 1 - ratio)), low, 1.0, confidence, "verified")


def _estimate(labels: NDArray[Any], top: Flags, drawn: Flags) -> float | None:
    """Return the share of anomalies, assuming that in both parts unlabelled rows are like labelled ones."""
    total = 0.0
    for part, selected in ((top, top), (~top, drawn)):
        part_labels = labels[selected & (labels != UNKNOWN)]
        if part.any() and part_labels.size == 0:
            return None
        total += part.sum() * float((part_labels == ANOMALY).mean()) if part_labels.size else 0.0
    return total / labels.size


def _most(observed: int, drawn: int, total: int, tail: float) -> int:
    """Return the largest number of anomalies among `total` rows with P(at most `observed` in `drawn`) > tail."""
    numbers = range(observed, total - drawn + observed + 1)
    refuted = bisect_left(numbers, True, key=lambda k: _at_most(observed, drawn, k, total) <= tail)
    return numbers[refuted - 1]


def _fewest_above(above: int, rank: int, m: int, v: int, level: float) -> int:
    """Return the smallest number k of anomalies with P(at least above - k normal rows above t) > level.

    At least b of m - k normal rows are above the `rank`-th highest of v verified ones if and only if fewer than `rank`
    verified ones are among the highest ``b + rank - 1`` of all.
    """

    def explains(k: int) -> bool:
        return _at_most(rank - 1, above - k + rank - 1, v, m - k + v) > level

    return bisect_left(range(above), True, key=explains)


def _at_most(most: int, drawn: int, special: int, total: int) -> float:
    """Return P(at most `most` special rows among `drawn` of `total`), drawn without replacement."""
    from scipy.special import gammaln

    def log_choose(n: int, k: NDArray[np.int_]) -> Doubles:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))  # -inf where k < 0 or k > n

    counts = np.arange(most + 1)
    ways = log_choose(special, counts) + log_choose(total - special, drawn - counts)
    return float(np.exp(ways - log_choose(total, np.array(drawn))).sum())


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence!r}; it must lie between 0 and 1 (for instance 0.95)")
    return confidence
