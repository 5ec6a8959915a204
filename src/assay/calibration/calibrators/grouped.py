"""Conformal calibration for rows that come in groups (patients, machines, sites): a new row is of a new group."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import (
    Scores,
    check_scores,
    counted,
    reference_scores,
    refuse_beside,
    require_reference,
    row_count,
    rows_needed,
)
from assay.calibration.calibrators.mondrian import as_keys
from assay.errors import ConfigError
from assay.families import check_part
from assay.parts import Part


class GroupedCalibrator:
    """Compares a score with those of groups of calibration rows, each group of the same weight.

    ``p = (1 + sum_g mean_{i in g} 1{s_gi >= s}) / (G + 1)`` for G groups: hierarchical conformal prediction (Lee,
    Barber, Willett 2023, section 3; Dunn, Wasserman, Ramdas 2022), written as a p-value. ``P(p <= eps) <= eps`` for
    a normal row of a new group, if the G + 1 groups are exchangeable and so are the rows of a group among
    themselves; rows of one group may depend on each other in any way. Rows that belong to no group are groups of
    one.

    Why: with the rows of all other groups in, the p-value of a new row would be its place in a list where each
    group weighs 1 / (G + 1); the rows of its own group, which are not there, count as if all were at least as
    anomalous. That makes p valid, and too large by up to 1 / (G + 1). Comparing row by row instead
    (`ConformalCalibrator`) treats the rows of a group as independent, and flags too many. Group effects as large as the
    noise, rate at eps .05: .006 with 20 groups of 50 rows (row by row .057), .042 with 100 of 10 (.051).

    p is the correctly rounded quotient of two integers (over the least common multiple of the group sizes), so that
    ``p <= eps`` is exact as in `ConformalCalibrator.predict`, whatever the sizes.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order.
    groups_ : ndarray of int32, shape (m,)
        The group of each, 0 to G - 1.
    """

    kind: ClassVar[str] = "grouped"
    beside: ClassVar[str] = "nothing"
    scores_: NDArray[np.float32]
    groups_: NDArray[np.int32]
    _p_values: NDArray[np.float64]

    def fit(self, scores: Scores, groups: NDArray[Any]) -> Self:
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
        """What is guaranteed, and under which assumption."""
        return (
            f"P(p <= eps) <= eps for a row of a new group, if that group is exchangeable with the {self.n_groups} "
            "groups of the calibration rows, and the rows of a group with each other."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate that can ever flag a row: 1 / (G + 1)."""
        return 1 / (self.n_groups + 1)

    def limits(self, eps: float) -> str:
        """Return "", or where no row can be flagged at `eps` a sentence that says so and what it would take."""
        needed = rows_needed(eps)
        if self.n_groups >= needed:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged: it takes calibration rows of {row_count(needed)} groups, "
            f"there are {self.n_groups}."
        )

    def p_values(
        self, scores: Scores, beside: None = None, *, tie_breaks: NDArray[np.floating[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Return the p-value of each row as that of a row of a new group, shape (n,), in float64.

        Ties count against the row. They cannot be broken at random to make ``P(p <= eps)`` exact: it is not exact
        without ties either, since the rest of the row's own group is never seen and is counted as anomalous.

        Raises
        ------
        InputError
            A score is NaN, or there is something beside the scores.
        ConfigError
            `tie_breaks` are given.
        """
        refuse_beside(self.kind, beside)
        check_scores(scores)
        if tie_breaks is not None:
            raise ConfigError("tie_breaks are given; p-values of new groups are not exact with them, leave them out")
        return self._p_values[counted(self.scores_, scores)]

    def to_part(self) -> Part:
        """Return the sorted calibration scores and their groups as a part; names of groups are not kept."""
        return Part(self.kind, {}, {"scores": self.scores_, "groups": self.groups_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {}, {"scores": "float32 m", "groups": "int32 m"})
        scores, groups = part.arrays["scores"], part.arrays["groups"]
        require_reference(scores)
        if groups.min() != 0 or not np.bincount(groups).all():
            raise ValueError("its groups are not numbered from 0 on")
        return cls()._set(scores, groups)

    def _set(self, scores: NDArray[np.float32], groups: NDArray[np.int32]) -> Self:
        self.scores_, self.groups_ = scores, groups
        self._p_values = _tail_p_values(groups[::-1])
        return self


def _tail_p_values(groups: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the p-value of a row that 0, 1, ..., m calibration rows stand above, shape (m + 1,).

    `groups` are those of the calibration rows from the highest score down. Sums are of integers: of 64 bits where
    the denominator is below 2^53, else Python's. Either way the quotient is correctly rounded.
    """
    sizes = np.bincount(groups).tolist()
    multiple = math.lcm(*sizes)
    denominator = multiple * (len(sizes) + 1)
    exact = np.int64 if denominator < 2**53 else object
    shares = np.array([multiple // size for size in sizes], dtype=exact)
    above = np.cumsum(shares[groups])
    return np.concatenate([[multiple], multiple + above]).astype(exact) / denominator
