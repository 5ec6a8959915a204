"""Weighted conformal calibration, for rows whose features have shifted, and the weights of such rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import (
    Scores,
    check_scores,
    check_tie_breaks,
    counted,
    reference_scores,
    require_reference,
    row_count,
    rows_needed,
)
from assay.errors import DataError, InputError
from assay.families import Family, check_part
from assay.parameters import Count, NotNegative
from assay.parts import Part

Rows = NDArray[np.floating[Any]]
TOTAL_BITS = 51
CLIP = 50.0
MIN_ROWS = 20
ROWS_PER_COLUMN = 10
MIN_OVERLAP = 0.5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BLOCK_ROWS = 4096


class WeightedCalibrator:
    """Compares a score with those of calibration rows from another distribution, weighted towards the row's own.

    ``p = (sum_i w_i 1{s_i >= s} + w(x)) / (sum_i w_i + w(x))``, where w is the density of normal rows met now over
    that of the calibration rows, up to a factor (Tibshirani, Barber, Candes, Ramdas 2019; as a p-value, Jin, Candes
    2023). For known weights ``P(p <= eps) <= eps``; for estimated ones (`DensityRatio`) it holds as nearly as the
    estimate is good. A row of weight w(x) can be flagged only if ``w(x) / (sum_i w_i + w(x)) <= eps``: where weights
    are large, rows are hard to flag.

    Weights are stored as integers, in units of at most 2^-50 of their sum, rounded up. Sums of them are exact, and p
    is the correctly rounded quotient of two integers: where all weights are equal it is that of `ConformalCalibrator`.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; those that are equal in random order.
    weights_ : ndarray of int64, shape (m,)
        Their weights, in units of ``2 ** exponent_``.
    exponent_ : int
    """

    kind: ClassVar[str] = "weighted"
    beside: ClassVar[str] = "weight"
    scores_: NDArray[np.float32]
    weights_: NDArray[np.int64]
    exponent_: int
    _above: NDArray[np.float64]

    def fit(self, scores: Scores, weights: Scores, *, seed: int = 0) -> Self:
        """Store the scores of the calibration rows with their weights.

        Parameters
        ----------
        scores : ndarray of float, shape (m,)
            Higher = more anomalous.
        weights : ndarray of float, shape (m,)
            Finite, none negative, not all 0.
        seed : int
            Of the order of equal scores, which matters with tie breaks alone.

        Raises
        ------
        DataError
            There are no scores, one is NaN, or the weights are not as described.
        """
        rounded, weights = reference_scores(scores), np.asarray(weights, dtype=np.float64)
        total = weights.sum()
        if weights.shape != rounded.shape or not (weights >= 0).all() or not 0 < total < math.inf:
            raise DataError(
                f"weights of shape {weights.shape} with sum {total:g} for {rounded.size} scores; give one for each, "
                "finite, none negative, not all 0"
            )
        shuffled = np.random.default_rng(seed).permutation(rounded.size)
        order = shuffled[np.argsort(rounded[shuffled], kind="stable")]
        exponent = math.frexp(total)[1] - TOTAL_BITS
        return self._set(rounded[order], np.ceil(np.ldexp(weights[order], -exponent)).astype(np.int64), exponent)

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows."""
        return self.scores_.size

    @property
    def effective_rows(self) -> float:
        """Effective sample size ``(sum w)^2 / sum w^2``: so many rows of equal weight would say as much."""
        relative = self.weights_ / self.weights_.max()
        return float(relative.sum() ** 2 / (relative**2).sum())

    @property
    def guarantee(self) -> str:
        """What is guaranteed, and under which assumption."""
        return (
            f"P(p <= eps) <= eps for a row independent of the {self.n_rows} calibration rows, if the weights are the "
            "true ratios of its density to theirs; for estimated weights it holds only approximately."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate that can flag a row of the usual weight: 1 / (`effective_rows` + 1).

        The usual weight is the mean one of the rows met now, ``sum w^2 / sum w``; rows of lower weight can be
        flagged at a smaller rate.
        """
        return 1 / (self.effective_rows + 1)

    def limits(self, eps: float) -> str:
        """Return "", or where no row of the usual weight can be flagged at `eps` a sentence that says so."""
        needed = rows_needed(eps)
        if self.smallest_eps <= eps:
            return ""
        rows = math.ceil(needed * self.n_rows / Fraction(self.effective_rows))
        return (
            f"At eps {eps:g} no row of the usual weight can be flagged: it takes calibration rows that count for "
            f"{row_count(needed)}; the {self.n_rows} there are count for {self.effective_rows:.3g} as they are "
            f"weighted, so that it takes about {row_count(rows)} of their kind."
        )

    def p_values(
        self,
        scores: Scores,
        beside: NDArray[Any] | None = None,
        *,
        tie_breaks: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weighted p-value of each row, shape (n,), in float64, in (0, 1].

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        beside : ndarray of float, shape (n,)
            The weight w(x) of each row, finite, not negative. A weight of 0 (no such row is met now) counts as the
            smallest there is.
        tie_breaks : ndarray of float, shape (n,), optional
            Uniform in [0, 1). As in `ConformalCalibrator.p_values`, the row takes a random place among the
            calibration rows it ties with, whose order is random; its own weight counts in full. For known weights
            ``P(p <= t) = t`` then holds wherever t is a value that p can take, given the calibration rows and the row
            as a set and the order of its ties.

        Raises
        ------
        InputError
            A score is NaN, a weight is missing or not as described, or so are `tie_breaks`.
        """
        check_scores(scores)
        own = self._units(scores, beside)
        above = self._above[counted(self.scores_, scores, check_tie_breaks(tie_breaks, scores.shape))]
        return np.asarray((above + own) / (self._above[-1] + own), dtype=np.float64)

    def to_part(self) -> Part:
        """Return the sorted calibration scores and their weights as a part."""
        return Part(self.kind, {"exponent": self.exponent_}, {"scores": self.scores_, "weights": self.weights_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {"exponent": int}, {"scores": "float32 m", "weights": "int64 m"})
        scores, weights = part.arrays["scores"], part.arrays["weights"]
        require_reference(scores)
        if not weights.min() >= 0 < weights.max():
            raise ValueError("its weights are negative, or all 0")
        return cls()._set(scores, weights, part.config["exponent"])

    def _set(self, scores: NDArray[np.float32], weights: NDArray[np.int64], exponent: int) -> Self:
        self.scores_, self.weights_, self.exponent_ = scores, weights, exponent
        self._above = np.concatenate([[0], np.cumsum(weights[::-1])]).astype(np.float64)
        return self

    def _units(self, scores: Scores, weights: NDArray[Any] | None) -> NDArray[np.float64]:
        """Return the weights of rows in the units of the calibration rows' weights, rounded up, at least 1."""
        if weights is None or np.shape(weights) != scores.shape:
            raise InputError(f"{np.shape(scores)} scores need the weight of each row beside them; see DensityRatio")
        values = np.asarray(weights, dtype=np.float64)
        if not ((values >= 0) & (values < np.inf)).all():
            raise InputError("a weight is negative or not finite; give w(x) = p_target(x) / p_source(x) of each row")
        with np.errstate(over="ignore"):
            units = np.minimum(np.ldexp(values, -self.exponent_), 2.0**200)
        return np.maximum(np.ceil(units), 1.0)


@dataclass(frozen=True, slots=True)
class DensityRatio:
    """Weights of rows: the density of target rows over that of source rows, by logistic regression.

    ``w(x) = n_source / n_target * exp(intercept + coef . x)``, the odds that a row is a target row, corrected for how
    many of each there were (Tibshirani et al. 2019, section 2.3), within ``[1 / 50, 50]``. The clip keeps one row from
    deciding alone; where the true ratio lies beyond it, it costs validity. The penalty of the regression is
    chosen by log loss on held-out rows, so that weights are near 1 where no shift can be told from chance.

    How near the weights come depends on the rows there are for each of the d columns. Mean of one column moved by one
    standard deviation, 300 calibration rows, rate at eps .05 (.19 without weights, .03 with known ones): .11 with 2
    rows for each column, .08 with 5, .055 with 10. Fewer than 10 are refused.

    The ratio is log-linear in the features: it follows a shift of means, not of variances. Target rows should be
    normal rows but for a few: anomalies among them earn high weights, and with them high p-values.

    Attributes
    ----------
    coef : ndarray of float64, shape (d,)
    log_scale : float
        Intercept, with ``log(n_source / n_target)`` in it.
    n_source, n_target : int
        Rows that it was fitted on.
    overlap : float
        Mean weight of the source rows: about 1, or less where there are target rows whose like is not among the
        source rows (or which are beyond the clip).
    """

    coef: NDArray[np.float64]
    log_scale: float
    n_source: int
    n_target: int
    overlap: float

    @classmethod
    def fit(cls, source: Rows, target: Rows, *, seed: int) -> Self:
        """Fit the ratio on scaled rows; needs scikit-learn.

        Parameters
        ----------
        source : ndarray of float, shape (n_source, d)
            Rows distributed as the calibration rows, but others (the adapt rows).
        target : ndarray of float, shape (n_target, d)
            A sample of the rows that are met now.
        seed : int
            Of the folds by which the penalty is chosen.

        Raises
        ------
        DataError
            Fewer than 20 rows of a kind or than 10 for each column, rows that are not finite or differ in width, or
            too little overlap: source rows stand for less than half of the target rows.
        """
        columns = source.shape[-1]
        needed = max(MIN_ROWS, ROWS_PER_COLUMN * columns)
        for name, rows in (("source", source), ("target", target)):
            if rows.shape[1:] != (columns,) or len(rows) < needed or not np.isfinite(rows).all():
                raise DataError(
                    f"{name} rows have shape {rows.shape}; weights of {columns} columns need at least {needed} source "
                    "and as many target rows, all finite"
                )
        coef, intercept = _regress(source, target, seed)
        unchecked = cls(coef, intercept + math.log(len(source) / len(target)), len(source), len(target), math.nan)
        overlap = float(unchecked.weights(source).mean())
        if overlap < MIN_OVERLAP:
            raise DataError(
                f"target rows are unlike the source rows: these stand for {overlap:.0%} of them, and it takes "
                f"{MIN_OVERLAP:.0%}; weights cannot bridge that, calibrate on newer rows"
            )
        return cls(coef, unchecked.log_scale, len(source), len(target), overlap)

    def weights(self, X: Rows) -> NDArray[np.float64]:
        """Return w(x) of scaled rows of shape (n, d), shape (n,), in [1 / 50, 50].

        Raises
        ------
        InputError
            The rows are of another width.
        """
        if X.ndim != 2 or X.shape[1] != self.coef.size:
            raise InputError(f"rows have shape {X.shape}; weights need (n, {self.coef.size})")
        logs = np.empty(len(X), dtype=np.float64)
        for start in range(0, len(X), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            logs[block] = (X[block] * self.coef).sum(axis=1)  # no matrix product: it rounds otherwise in a batch
        limit = math.log(CLIP)
        return np.exp(np.clip(logs + self.log_scale, -limit, limit))

    def to_part(self) -> Part:
        """Return the fitted ratio as a part."""
        names = ("log_scale", "n_source", "n_target", "overlap")
        return Part("density_ratio", {name: getattr(self, name) for name in names}, {"coef": self.coef})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the ratio that `to_part` described (see `load_ratio`)."""
        config = {"log_scale": float, "n_source": Count, "n_target": Count, "overlap": NotNegative}
        check_part(part, config, {"coef": "float64 d"})
        return cls(coef=part.arrays["coef"], **part.config)


_RATIO = Family[DensityRatio]("density ratio", {"density_ratio": DensityRatio})


def load_ratio(part: Part) -> DensityRatio:
    """Return the ratio that a part describes; needs numpy alone.

    Raises
    ------
    ScorerError
        The part is of another kind, or damaged.
    """
    return _RATIO.load(part)


def _regress(source: Rows, target: Rows, seed: int) -> tuple[NDArray[np.float64], float]:
    """Return coefficients and intercept of the log odds that a row is a target row."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    rows = np.concatenate([source, target]).astype(np.float64)
    truth = np.repeat([0, 1], [len(source), len(target)])
    model = LogisticRegressionCV(
        Cs=PENALTIES,
        l1_ratios=(0.0,),
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
        scoring="neg_log_loss",
        max_iter=1000,
        use_legacy_attributes=False,
    )
    with threadpool_limits(limits=1):  # with another number of threads it rounds in another way
        model.fit(rows, truth)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])
