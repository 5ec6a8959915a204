"""Weighted conformal calibration under covariate shift, and the weights of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Integers, Singles
from assay.calibration.calibrators.conformal import (
    check_scores,
    check_tie_breaks,
    count_at_least,
    reference_scores,
    require_reference,
)
from assay.calibration.calibrators.promise import Bands
from assay.calibration.calibrators.ranks import row_count, rows_needed
from assay.errors import DataError, InputError
from assay.families import Family, check_part
from assay.parameters import Count, NotNegative
from assay.parts import Part

TOTAL_BITS = 51  # of the sum of weights; rounding up adds at most 1 per row, so sums stay exact in float64
CLIP = 50.0
_MIN_ROWS = 20
ROWS_PER_COLUMN = 10
MIN_OVERLAP = 0.5
MOST_SPREAD, MOST_COLUMN_SPREAD = 1.1, 1.25
SPREAD_LEVEL = 0.001
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_BLOCK_ROWS = 4096


class WeightedCalibrator:
    """Compares a score with weighted scores of calibration rows from another feature distribution.

    ``p = (sum_i w_i 1{s_i >= s} + w(x)) / (sum_i w_i + w(x))``, where w is the density of current normal rows divided
    by that of the calibration rows, up to a factor (Tibshirani, Barber, Candes, Ramdas 2019; as a p-value, Jin, Candes
    2023). With known weights ``P(p <= eps) <= eps``; with estimated ones (`DensityRatio`) the bound is as accurate as
    the estimate. A row of weight w(x) can be flagged only if ``w(x) / (sum_i w_i + w(x)) <= eps``: rows of large
    weight are hard to flag.

    Weights are stored as integers, in units of at most 2^-50 of their sum, rounded up. Their sums are exact, and p is
    the correctly rounded quotient of two integers: with equal weights it is that of `ConformalCalibrator`.

    Attributes
    ----------
    scores_ : ndarray of float32, shape (m,)
        The calibration scores in increasing order; equal scores are in random order.
    weights_ : ndarray of int64, shape (m,)
        Their weights, in units of ``2 ** exponent_``.
    exponent_ : int
    """

    kind: ClassVar[str] = "weighted"
    side_information: ClassVar[str] = "weight"
    scores_: Singles
    weights_: Integers
    exponent_: int
    _above: Doubles

    def fit(self, scores: Floats, weights: Floats, *, seed: int = 0) -> Self:
        """Store the scores of the calibration rows with their weights.

        Parameters
        ----------
        scores : ndarray of float, shape (m,)
            Higher = more anomalous.
        weights : ndarray of float, shape (m,)
            Finite, none negative, not all 0.
        seed : int
            Seed of the order of equal scores; it matters only with tie breaks.

        Raises
        ------
        DataError
            There are no scores, one is NaN, or the weights have a wrong shape or range.
        """
        rounded, weights = reference_scores(scores), np.asarray(weights, dtype=np.float64)
        total = weights.sum()
        if weights.shape != rounded.shape or not (weights >= 0).all() or not 0 < total < math.inf:
            raise DataError(
                f"weights of shape {weights.shape} with sum {total:g} for {rounded.size} scores; give one for each, "
                "finite, none negative, not all 0"
            )
        # A stable sort of shuffled rows puts equal scores in random order.
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
        """Effective sample size ``(sum w)^2 / sum w^2``, a number of rows of equal weight."""
        relative = self.weights_ / self.weights_.max()
        return float(relative.sum() ** 2 / (relative**2).sum())

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        return (
            f"P(p <= eps) <= eps for a row independent of the {self.n_rows} calibration rows, if the weights are the "
            "true ratios of its density to theirs; for estimated weights it holds only approximately."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which a row of usual weight can be flagged: 1 / (`effective_rows` + 1).

        The usual weight is the mean weight of current rows, ``sum w^2 / sum w``. Rows of lower weight can be flagged at
        a smaller rate.
        """
        return 1 / (self.effective_rows + 1)

    def limits(self, eps: float) -> str:
        """Return a sentence on what it takes to flag rows of usual weight at `eps` if none can be flagged, else ""."""
        needed = rows_needed(eps)
        if self.smallest_eps <= eps:
            return ""
        rows = math.ceil(needed * self.n_rows / Fraction(self.effective_rows))
        return (
            f"At eps {eps:g} no row of the usual weight can be flagged: it takes calibration rows that count for "
            f"{row_count(needed)}; the {self.n_rows} there are count for {self.effective_rows:.3g} as they are "
            f"weighted, so that it takes about {row_count(rows)} of their kind."
        )

    def fpr_bands(self, eps: float) -> Bands:
        """Return nothing: no band is known for the false-positive rate of one scorer."""
        return {}

    def p_values(
        self,
        scores: Floats,
        side_information: NDArray[Any] | None = None,
        *,
        tie_breaks: Floats | None = None,
    ) -> Doubles:
        """Return the weighted p-value of each row, float64 of shape (n,), in (0, 1].

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        side_information : ndarray of float, shape (n,)
            The weight w(x) of each row, finite, not negative. A weight of 0 (such rows do not occur now) counts as the
            smallest unit.
        tie_breaks : ndarray of float, shape (n,), optional
            Uniform in [0, 1). As in `ConformalCalibrator.p_values`, the row is ranked at random among the calibration
            rows with the same score, which are in random order; its weight counts in full. With known weights
            ``P(p <= t) = t`` then holds for every t that p can take, given the set of calibration rows and row and the
            order of its ties.

        Raises
        ------
        InputError
            A score is NaN, a weight is missing, negative or infinite, or `tie_breaks` have a wrong shape or range.
        """
        check_scores(scores)
        row_units = self._units(scores, side_information)
        above = self._above[count_at_least(self.scores_, scores, check_tie_breaks(tie_breaks, scores.shape))]
        return np.asarray((above + row_units) / (self._above[-1] + row_units), dtype=np.float64)

    def to_part(self) -> Part:
        """Return the sorted calibration scores and their weights as a part."""
        return Part(self.kind, {"exponent": self.exponent_}, {"scores": self.scores_, "weights": self.weights_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {"exponent": int}, {"scores": "float32? m", "weights": "int64 m"})
        scores, weights = part.arrays["scores"], part.arrays["weights"]
        require_reference(scores)
        if not weights.min() >= 0 < weights.max():
            raise ValueError("its weights are negative, or all 0")
        if sum(weights.tolist()) > 2**53:
            raise ValueError("its weights add up to more than float64 holds exactly")
        return cls()._set(scores, weights, part.config["exponent"])

    def _set(self, scores: Singles, weights: Integers, exponent: int) -> Self:
        self.scores_, self.weights_, self.exponent_ = scores, weights, exponent
        self._above = np.concatenate([[0], np.cumsum(weights[::-1])]).astype(np.float64)
        return self

    def _units(self, scores: Floats, weights: NDArray[Any] | None) -> Doubles:
        """Return the weights of rows in the units of the calibration rows' weights, rounded up, at least 1."""
        if weights is None or np.shape(weights) != scores.shape:
            raise InputError(f"{np.shape(scores)} scores need the weight of each row as well; see DensityRatio")
        values = np.asarray(weights, dtype=np.float64)
        if not ((values >= 0) & (values < np.inf)).all():
            raise InputError("a weight is negative or not finite; give w(x) = p_target(x) / p_source(x) of each row")
        with np.errstate(over="ignore"):
            # 2^200 units are far beyond every sum of calibration weights: p is 1, and the quotient stays finite.
            units = np.minimum(np.ldexp(values, -self.exponent_), 2.0**200)
        return np.maximum(np.ceil(units), 1.0)


@dataclass(frozen=True, slots=True)
class DensityRatio:
    """Weights of rows: the density of target rows divided by that of source rows, by logistic regression.

    ``w(x) = n_source / n_target * exp(intercept + coef . x)``, the odds that a row is a target row, corrected for the
    numbers of rows (Tibshirani et al. 2019, section 2.3) and clipped to ``[1 / 50, 50]``. The clip keeps single rows
    from dominating; where the true ratio lies beyond it, validity suffers. The penalty of the regression is
    chosen by log loss on held-out rows, so that weights are near 1 where no shift is detectable.

    The accuracy of the weights depends on the number of rows per column. Rate at eps .05 with 300 calibration rows, the
    mean of one column moved by one standard deviation (.19 without weights, .03 with known ones): .11 with 2 rows per
    column, .08 with 5, .055 with 10. Fewer than 10 are refused.

    The ratio is log-linear in the features: it models a shift of means, not of variances. Where target rows are spread
    more widely than the weighted source rows, weights are near 1 and too many rows are flagged: with three columns
    spread 1.5 times, .33 at eps .05. So a spread is refused that is significantly (together at .001) more than 1.1
    times over all columns, or 1.25 times in one.

    Nearly all target rows should be normal: anomalies among them get high weights, and thus high p-values. With 10 %
    of anomalies, three standard deviations along a shift of one, the power fell from .20 to .15 (400 rows of three
    columns). They can also pass for a spread.

    Attributes
    ----------
    coef : ndarray of float64, shape (d,)
    log_scale : float
        Intercept plus ``log(n_source / n_target)``.
    n_source, n_target : int
        Numbers of rows of the fit.
    overlap : float
        Mean weight of the source rows: about 1, or less if some target rows are unlike all source rows (or beyond the
        clip).
    """

    coef: Doubles
    log_scale: float
    n_source: int
    n_target: int
    overlap: float

    @classmethod
    def fit(cls, source: Floats, target: Floats, *, seed: int) -> Self:
        """Fit the ratio on scaled rows; needs scikit-learn.

        Parameters
        ----------
        source : ndarray of float, shape (n_source, d)
            Rows distributed like the calibration rows, but not the same rows (the adapt rows).
        target : ndarray of float, shape (n_target, d)
            A sample of current rows.
        seed : int
            Seed of the folds that choose the penalty.

        Raises
        ------
        DataError
            There are fewer than 20 source or target rows or fewer than 10 per column; values are not finite; widths
            differ; the overlap is below one half; or target rows are spread more widely than weights explain.
        """
        columns = source.shape[-1]
        needed = max(_MIN_ROWS, ROWS_PER_COLUMN * columns)
        for name, rows in (("source", source), ("target", target)):
            if rows.shape[1:] != (columns,) or len(rows) < needed or not np.isfinite(rows).all():
                raise DataError(
                    f"{name} rows have shape {rows.shape}; weights of {columns} columns need at least {needed} source "
                    "and as many target rows, all finite"
                )
        coef, intercept = _regress(source, target, seed)
        unchecked = cls(coef, intercept + math.log(len(source) / len(target)), len(source), len(target), math.nan)
        weights = unchecked.weights(source)
        overlap = float(weights.mean())
        if overlap < MIN_OVERLAP:
            raise DataError(
                f"target rows are unlike the source rows: these stand for {overlap:.0%} of them, and it takes "
                f"{MIN_OVERLAP:.0%}; weights cannot bridge that, calibrate on newer rows"
            )
        _require_spread(weights / weights.sum(), source, target)
        return cls(coef, unchecked.log_scale, len(source), len(target), overlap)

    def weights(self, X: Floats) -> Doubles:
        """Return w(x) of scaled rows of shape (n, d), shape (n,), in [1 / 50, 50].

        Raises
        ------
        InputError
            The rows have another width.
        """
        if X.ndim != 2 or X.shape[1] != self.coef.size:
            raise InputError(f"rows have shape {X.shape}; weights need (n, {self.coef.size})")
        logs = np.empty(len(X), dtype=np.float64)
        for start in range(0, len(X), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            logs[block] = (X[block] * self.coef).sum(axis=1)  # a matrix product rounds differently by batch
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
    """Return the ratio that a part describes; needs only numpy.

    Raises
    ------
    ScorerError
        The part has another kind, or is damaged.
    """
    return _RATIO.load(part)


def _require_spread(shares: Doubles, source: Floats, target: Floats) -> None:
    """Raise `DataError` if target rows are spread more widely than source rows with these shares of the weight."""
    from scipy.special import ndtri

    rows = source.astype(np.float64), target.astype(np.float64)
    ours = np.square(rows[0] - (shares[:, None] * rows[0]).sum(axis=0))
    theirs = np.square(rows[1] - rows[1].mean(axis=0))
    limit = ndtri(1 - SPREAD_LEVEL / (1 + source.shape[1]))
    for most, squares, of_target, where in (
        (MOST_SPREAD, ours.sum(axis=1)[:, None], theirs.sum(axis=1)[:, None], "over all columns"),
        (MOST_COLUMN_SPREAD, ours, theirs, "in one column"),
    ):
        variance = (shares[:, None] * squares).sum(axis=0)
        excess = of_target.mean(axis=0) - most**2 * variance
        error = of_target.var(axis=0, ddof=1) / len(of_target)
        error += most**4 * (shares[:, None] ** 2 * np.square(squares - variance)).sum(axis=0)
        wide = np.flatnonzero(excess > limit * np.sqrt(error))
        if wide.size:
            ratio = _ratio(of_target.mean(axis=0), variance, wide)
            raise DataError(
                f"target rows are spread {ratio:.3g} times as widely {where} as "
                f"weights explain, which model a shift of means alone; more than {most:g} times would flag too many "
                "normal rows: take anomalies out of the target rows, or calibrate on newer rows"
            )


def _ratio(of_target: Doubles, of_source: Doubles, wide: NDArray[np.intp]) -> float:
    """Return the largest ratio of standard deviations; infinity where a column did not vary."""
    with np.errstate(divide="ignore"):
        return float(np.sqrt(of_target[wide] / of_source[wide]).max())


def _regress(source: Floats, target: Floats, seed: int) -> tuple[Doubles, float]:
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
    with threadpool_limits(limits=1):  # the rounding depends on the number of threads
        model.fit(rows, truth)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])
