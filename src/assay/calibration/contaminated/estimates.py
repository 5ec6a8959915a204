"""How many of the calibration rows are anomalies: intervals from labels, and from rows known to be normal."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.dataset import ANOMALY, UNKNOWN
from assay.data.labelling import ESTIMATE, TRIM
from assay.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Contamination:
    """What is known of the share of anomalies among m calibration rows.

    Attributes
    ----------
    m : int
        Calibration rows, before any is removed.
    estimate : float or None
        The share; None where nothing allows an estimate.
    low, high : float
        Confidence limits of the share among these m rows.
    confidence : float
    how : {"answers", "verified"}
        What it was learned from.
    left : float or None
        Upper confidence limit, one-sided, of the share among the rows that stay when those labelled as anomalies are
        removed; None where no random sample was labelled, without which nothing bounds it but the labels themselves.
    """

    m: int
    estimate: float | None
    low: float
    high: float
    confidence: float
    how: str
    left: float | None = None


def contamination_from_answers(
    labels: NDArray[Any], purposes: NDArray[np.object_], *, confidence: float
) -> Contamination:
    """Estimate the share of anomalies from labelled rows: the highest scores, and a random sample of the others.

    The highest scores are counted. For the others the limits are those of an exact test of how many anomalies there
    are among them, given how many the sample has (hypergeometric: drawn without replacement). A row that was asked
    about and has no label counts as an anomaly in the upper limits and as normal in the lower one, so that it does no
    harm to label the easy ones first. Labels of other rows move a limit only where they contradict it.

    The interval has two tails of (1 - confidence)/2, ``left`` has one of 1 - confidence. The size of the sample must
    not depend on its labels: whoever asks for more until the limits please has less confidence than stated.

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
    found, unknown = int((anomalous & drawn).sum()), int((unlabelled & drawn).sum())
    n_drawn, n_others, m = int(drawn.sum()), int((~top).sum()), labels.size
    known = int((anomalous & ~top).sum())
    possible = known + int((unlabelled & ~top).sum())

    def most(level: float) -> int:
        return int(np.clip(_most(found + unknown, n_drawn, n_others, level), known, possible))

    in_top, open_top = int((anomalous & top).sum()), int((unlabelled & top).sum())
    fewest = n_others - _most(n_drawn - found, n_drawn, n_others, tail / 2)
    removed = in_top + known
    left = (open_top + most(tail) - known) / max(m - removed, 1)
    return Contamination(
        m=m,
        estimate=_estimate(labels, top, drawn),
        low=(in_top + max(fewest, known)) / m,
        high=(in_top + open_top + most(tail / 2)) / m,
        confidence=confidence,
        how="answers",
        left=left if n_drawn > unknown or known == possible else None,
    )


def contamination_from_verified(scores: NDArray[Any], verified: NDArray[Any], *, confidence: float) -> Contamination:
    """Bound the share of anomalies from below by scores of rows that are known to be normal.

    If more calibration scores lie above a verified normal's score than chance explains, the rest are anomalies.
    Nothing bounds the share from above: anomalies that score as normal rows do are invisible.

    For the j-th highest verified score t and k anomalies, the m - k normal calibration rows and the verified ones are
    exchangeable, so that the number of normal ones above t follows a negative hypergeometric law. The lower limit is
    the smallest k which that law does not reject for any of j = 1, 2, 4, 8, ..., each at an equal part of
    1 - confidence.

    Differs from Blanchard, Lee, Scott 2010 (``1 - inf_t F_cal(t) / F_ver(t)`` with uniform bands): the law is exact
    for these sizes, and tight where few normal rows score high, which is where anomalies show; uniform bands are as
    wide there as in the middle. The estimate is their ratio at the j that gives the limit.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
        Of the calibration rows.
    verified : ndarray of float, shape (v,)
        Of rows that are certainly normal, of the same kind as the normal calibration rows, and which no fitting step
        has seen either.
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


def _estimate(labels: NDArray[Any], top: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> float | None:
    """Return the share of anomalies if in either part the rows without labels are like those with one."""
    total = 0.0
    for part, asked in ((top, top), (~top, drawn)):
        given = labels[asked & (labels != UNKNOWN)]
        if part.any() and given.size == 0:
            return None
        total += part.sum() * float((given == ANOMALY).mean()) if given.size else 0.0
    return total / labels.size


def _most(found: int, drawn: int, total: int, tail: float) -> int:
    """Return the largest number of anomalies among `total` rows with which P(at most `found` in `drawn`) > tail."""
    numbers = range(found, total - drawn + found + 1)
    refuted = bisect_left(numbers, True, key=lambda k: _at_most(found, drawn, k, total) <= tail)
    return numbers[refuted - 1]


def _fewest_above(above: int, rank: int, m: int, v: int, level: float) -> int:
    """Return the smallest number k of anomalies with which P(at least above - k normal rows above t) > level.

    At least b of m - k normal rows are above the `rank`-th highest of v verified ones if and only if fewer than `rank`
    verified ones are among the highest ``b + rank - 1`` of all.
    """

    def explains(k: int) -> bool:
        return _at_most(rank - 1, above - k + rank - 1, v, m - k + v) > level

    return bisect_left(range(above), True, key=explains)


def _at_most(most: int, drawn: int, special: int, total: int) -> float:
    """Return P(at most `most` special rows among `drawn` ones of `total`), drawn without replacement."""
    from scipy.special import gammaln

    def log_choose(n: int, k: NDArray[np.int_]) -> NDArray[np.float64]:
        return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))  # -inf where k < 0 or k > n

    counts = np.arange(most + 1)
    ways = log_choose(special, counts) + log_choose(total - special, drawn - counts)
    return float(np.exp(ways - log_choose(total, np.array(drawn))).sum())


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence!r}; it must lie between 0 and 1 (for instance 0.95)")
    return confidence
