"""Conformal calibration for grouped rows (patients, machines, sites): a new row comes from a new group."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Singles
from assay.calibration.calibrators.conformal import (
    check_scores,
    count_at_least,
    reference_scores,
    refuse_side_information,
    require_reference,
)
from assay.calibration.calibrators.mondrian import as_keys
from assay.calibration.calibrators.promise import Bands
from assay.calibration.calibrators.ranks import row_count, rows_needed
from assay.errors import ConfigError
from assay.families import check_part
from assay.parts import Part


class GroupedCalibrator:
    """Compares a score with the calibration scores of G groups, all of equal weight.

    ``p = (1 + sum_g mean_{i in g} 1{s_gi >= s}) / (G + 1)`` for G groups: hierarchical conformal prediction (Lee,
    Barber, Willett 2023, section 3; Dunn, Wasserman, Ramdas 2022), written as a p-value. ``P(p <= eps) <= eps`` for
    a normal row of a new group, if the G + 1 groups are exchangeable and the rows within each group are exchangeable.
    Rows of one group may depend on each other in any way. A row without a group is a group of one.

    Reason: if all rows of all G + 1 groups were known, the p-value would be the row's rank in a list where each group
    weighs 1 / (G + 1). The other rows of the new group are not known; they count as if all were at least as anomalous.
    That makes p valid, and too large by up to 1 / (G + 1). Comparing with single rows (`ConformalCalibrator`) treats
    the rows of a group as independent and flags too many. Rates at eps .05, with group effects as large as the noise:
    .006 with 20 groups of 50 rows (.057 compared with single rows), .042 with 100 groups of 10 (.051).

    p is the correctly rounded quotient of two integers (over the least common multiple of the group sizes), so
    ``p <= eps`` is exact as in `ConformalCalibrator.predict`, for any sizes.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order.
    groups_ : ndarray of int32, shape (m,)
        The group of each score, 0 to G - 1.
    """

    kind: ClassVar[str] = "grouped"
    side_information: ClassVar[str] = "nothing"
    scores_: Singles
    groups_: NDArray[np.int32]
    _p_values: Doubles

    def fit(self, scores: Floats, groups: NDArray[Any]) -> Self:
        """Store the scores of the calibration rows with their groups.

        Parameters
        ----------
        scores : ndarray of float, shape (m,)
            Higher = more anomalous.
        groups : ndarray of int or str, shape (m,)

        Raises
        ------
        DataError
            There are no scores, one is NaN, or the groups are not all integers or all strings, one for each score.
        """
        rounded = reference_scores(scores)
        numbers = np.unique(as_keys(groups, rounded.size), return_inverse=True)[1]
        order = np.argsort(rounded, kind="stable")
        return self._set(rounded[order], numbers[order].astype(np.int32))

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows."""
        return self.scores_.size

    @property
    def n_groups(self) -> int:
        """Number G of groups."""
        return int(self.groups_.max()) + 1

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        return (
            f"P(p <= eps) <= eps for a row of a new group, if that group is exchangeable with the {self.n_groups} "
            "groups of the calibration rows, and the rows of a group with each other."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which a row can be flagged: 1 / (G + 1)."""
        return 1 / (self.n_groups + 1)

    def limits(self, eps: float) -> str:
        """Return a sentence on what it takes to flag rows at `eps` if none can be flagged, else ""."""
        needed = rows_needed(eps)
        if self.n_groups >= needed:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged: it takes calibration rows of {row_count(needed)} groups, "
            f"there are {self.n_groups}."
        )

    def fpr_bands(self, eps: float) -> Bands:
        """Return nothing: no band is known for the false-positive rate of one scorer."""
        return {}

    def p_values(self, scores: Floats, side_information: None = None, *, tie_breaks: Floats | None = None) -> Doubles:
        """Return the p-value of each row, taken as a row of a new group: float64 of shape (n,).

        Ties raise p. Random tie breaking cannot make ``P(p <= eps)`` exact: it is not exact without ties either, since
        the rest of the row's group is unknown and counted as at least as anomalous.

        Raises
        ------
        InputError
            A score is NaN, or `side_information` is given.
        ConfigError
            `tie_breaks` are given.
        """
        refuse_side_information(self.kind, side_information)
        check_scores(scores)
        if tie_breaks is not None:
            raise ConfigError("tie_breaks are given; they do not make p-values of new groups exact, leave them out")
        return self._p_values[count_at_least(self.scores_, scores)]

    def to_part(self) -> Part:
        """Return the sorted calibration scores and their group numbers as a part; group names are not kept."""
        return Part(self.kind, {}, {"scores": self.scores_, "groups": self.groups_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {}, {"scores": "float32? m", "groups": "int32 m in [0,m)"})
        scores, groups = part.arrays["scores"], part.arrays["groups"]
        require_reference(scores)
        if groups.min() != 0 or not np.bincount(groups).all():
            raise ValueError("its groups are not numbered from 0 on")
        return cls()._set(scores, groups)

    def _set(self, scores: Singles, groups: NDArray[np.int32]) -> Self:
        self.scores_, self.groups_ = scores, groups
        self._p_values = _tail_p_values(groups[::-1])
        return self


def _tail_p_values(groups: NDArray[np.int32]) -> Doubles:
    """Return the p-values of a row with 0, 1, ..., m calibration scores above it, shape (m + 1,).

    `groups` are ordered from the highest calibration score down.
    """
    sizes = np.bincount(groups).tolist()
    multiple = math.lcm(*sizes)
    denominator = multiple * (len(sizes) + 1)
    # Below 2^53 float64 holds numerator and denominator, so that their quotient is correctly rounded; beyond, Python's
    # integers divide with correct rounding.
    exact = np.int64 if denominator < 2**53 else object
    shares = np.array([multiple // size for size in sizes], dtype=exact)
    above = np.cumsum(shares[groups])
    return np.concatenate([[multiple], multiple + above]).astype(exact) / denominator
