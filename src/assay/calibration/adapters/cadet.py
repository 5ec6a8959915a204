"""CADET: scores adjusted for the hardness of the row (`CADET: Calibrated Anomaly Detection`, eq 2-11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge

from assay.arrays import Doubles, Floats
from assay.calibration.adapters.outputs import LARGEST, Outputs
from assay.errors import DataError
from assay.families import check_part, stored_parameters
from assay.parameters import NotNegative, Seed, Share, check_parameters, parameters_of, plain_parameters
from assay.parts import Part

MIN_QUANTILE_ROWS = 20
ROWS_PER_INTERVAL = 60
MAX_INTERVALS = 4
FLOOR_FRACTION = 0.1
LEFT_OUT = 0.01
LEAST_SHARE = 1e-6  # of the median: what is taken for 0 where a logarithm is taken
MOST_SPREADS = 1000.0
STORED = {"floor": NotNegative, "hardness_mean": float, "hardness_std": NotNegative, "fallback": str}
BEFORE_ERROR = "former"  # a part without the setting "error"
SCALE = {"scale": Literal["given", "root", "log"], "least_score": NotNegative, "least_hardness": NotNegative}


@dataclass(kw_only=True, eq=False, repr=False)
class Cadet:
    """Score in units of the spread of normal rows of the same hardness.

    ``s = (Err - q_a(H)) / max(q_.75(H) - q_.25(H), floor) + prior_weight * |z(H)|`` (CADET eq 9-10), where
    q are quantiles of the error Err given the hardness H, fitted by B-splines on rows not used to train the
    detector, and z is the z-score of H among those rows.

    ``error="norm"`` is the paper's form: Err is the norm of the error (eq 1 and 6), in the unit of H. For a detector
    whose score is a square (`assay.detectors.base.score_is_squared`), such as a mean squared error, Err is the root of
    its score, up to a constant factor, which does not matter; any other score is taken as it is. ``error="log"`` is not
    in the paper: the logarithm of Err against the logarithm of H, both for Err and in z, with curves that are straight
    lines; a factor of the error then counts the same at every hardness. Where a score of an adapt row is negative it
    has no logarithm and is no error: it is a log density or a difference, and is taken as it is.

    Differs from the paper:

    - The level a of q_a is a parameter of the adapter, not 1 - eps: no score depends on the user's eps.
    - Splines have degree 1 and knots at up to five quantiles of H, fewer for few rows (one interval per 60 rows).
      On held-out normal rows of seven ADBench sets their pinball loss equalled that of cubic splines at 1,000
      rows and was lower with fewer rows, and the false-positive rates of the strata were equally even.
    - H is clipped to the range of the fitting rows without the 1 % (at least one row) at either end: a spline
      extrapolates badly, anomalies lie outside, and one wild row would stretch the range. Errors further than
      1,000 interquartile ranges from the median are drawn in to that for the fit.
    - Quantiles that cross at a knot are sorted (Chernozhukov, Fernandez-Val, Galichon 2010), and the
      spread never falls below a tenth of the interquartile range of all errors.
    - `prior_weight` (the paper's lambda) is .74 = 1 / 1.349, which gives one standard deviation of H the weight
      of one standard deviation of a normally distributed Err. The paper names no value, and chooses it by test
      labels. At 0 the strata's false-positive rates are the most even. But where hardness itself separates
      anomalies, as on most tabular sets, the first term alone removes this signal: on the development sets
      cardio and thyroid it ranked worse than chance.

    Parameters
    ----------
    error : {"norm", "log"}
    quantile : float
        The level a, between 0 and 1.
    prior_weight : float
        Weight of the hardness prior, >= 0.
    max_rows : int
        Quantiles are fitted on at most this many rows, picked at random: time grows faster than linearly.
    seed : int
        Seed of this sample.

    Attributes
    ----------
    scale_ : {"given", "root", "log", "former"}
        What Err is: the score, its root or its logarithm. "former": the score, in an adapter that was stored before
        there was a choice.
    least_score_, least_hardness_ : float
        Smaller values count as these where logarithms are taken: a millionth of the median of the fitting rows.
    knots_ : ndarray of float64, shape (k,)
        Hardness values, increasing; a single one after a fallback to unconditional quantiles.
    curves_ : ndarray of float64, shape (k, 3)
        Quantiles of Err at the knots, for levels .25, .75 and a; linear in between. These are the coefficients of
        the B-splines of degree 1.
    floor_ : float
        Smallest spread.
    hardness_mean_, hardness_std_ : float
        Mean and standard deviation of the clipped H among the fitting rows.
    fallback_ : str
        Why the quantiles are unconditional; empty if they are conditional.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """

    kind: ClassVar[str] = "cadet"

    error: Literal["norm", "log"] = "norm"
    quantile: Share = 0.95
    prior_weight: NotNegative = 0.74
    max_rows: Annotated[int, Ge(MIN_QUANTILE_ROWS)] = 5000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_parameters(f"adapter {self.kind!r}", type(self), vars(self))

    def fit(self, outputs: Outputs) -> Self:
        """Fit the conditional quantiles on the outputs for adapt rows.

        If all rows were used to train the detector, give out-of-fold scores of its training rows (see
        `assay.detectors.wrappers.cross.Cross`): their scores by the detector itself are too small, and new rows would
        exceed the quantiles too often.

        With fewer than 20 rows, or if all scores or all hardness values are equal, the quantiles are unconditional,
        and ``fallback_`` holds the reason.

        Raises
        ------
        DataError
            There are no rows, the shapes differ, or a value is not finite.
        """
        scores, hardness = self._sample(_check(outputs.scores), _check(outputs.hardness))
        self._choose_scale(scores, hardness, squared=outputs.squared)
        errors, hardness = self._errors(scores), _without_ends(self._hardness(hardness))
        self.fallback_ = _degenerate(errors, hardness)
        # The standard deviation of equal values can be a rounding error instead of 0, hence the range is tested.
        self.hardness_mean_, self.hardness_std_ = (
            float(hardness.mean()),
            float(np.ptp(hardness) and hardness.std()),
        )
        # The solver works on standardised errors, so that its tolerances do not depend on the unit of the scores.
        centre, unit = float(np.median(errors)), _spread(errors)
        self.floor_ = FLOOR_FRACTION * unit
        levels = np.array([0.25, 0.75, self.quantile])
        standardised = np.clip((errors - centre) / unit, -MOST_SPREADS, MOST_SPREADS)
        if self.fallback_:
            self.knots_ = np.array([self.hardness_mean_])
            curves = np.quantile(standardised, levels)[None, :]
        else:
            self.knots_ = _place_knots(hardness, 1 if self.error == "log" else MAX_INTERVALS)
            curves = _fit_curves(standardised, hardness, self.knots_, levels)
        # Crossing quantiles are sorted into the order of their levels; `quantile` need not be the highest.
        curves[:, np.argsort(levels, kind="stable")] = np.sort(curves, axis=1)
        self.curves_ = centre + unit * curves
        return self

    def transform(self, outputs: Outputs) -> Doubles:
        """Return the adapted scores of rows with these outputs, float64 of shape (n,), finite in float32."""
        errors, hardness = self._errors(outputs.scores), self._hardness(outputs.hardness)
        low, high, base = (np.interp(hardness, self.knots_, curve) for curve in self.curves_.T)
        with np.errstate(over="ignore"):
            adapted: Doubles = (errors - base) / np.maximum(high - low, self.floor_)
            if self.prior_weight and self.hardness_std_:
                adapted += self.prior_weight * np.abs((hardness - self.hardness_mean_) / self.hardness_std_)
        return adapted if self.scale_ == BEFORE_ERROR else np.clip(adapted, -LARGEST, LARGEST)

    def to_part(self) -> Part:
        """Return the parameters and fitted curves as a part."""
        config = plain_parameters({name: getattr(self, name) for name in parameters_of(type(self))})
        config |= {name: getattr(self, f"{name}_") for name in (*STORED, *SCALE)}
        if self.scale_ == BEFORE_ERROR:
            config = {name: value for name, value in config.items() if name not in ("error", *SCALE)}
        return Part(self.kind, config, {"knots": self.knots_, "curves": self.curves_})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the adapter that `to_part` described; needs neither scikit-learn nor scipy.

        A part that says nothing of an error is of before there was a choice, and is read for ever.
        """
        former = part.config.keys().isdisjoint(("error", *SCALE))
        parameters, scale = stored_parameters(cls, without=("error",) if former else ()), {} if former else SCALE
        check_part(part, {**parameters, **STORED, **scale}, {"knots": "float64 knots", "curves": "float64 knots 3"})
        adapter = cls(**{name: part.config[name] for name in parameters})
        adapter.scale_, adapter.least_score_, adapter.least_hardness_ = BEFORE_ERROR, 0.0, 0.0
        for name in (*STORED, *scale):
            setattr(adapter, f"{name}_", part.config[name])
        if adapter.scale_ == "log" and not adapter.least_score_ > 0:
            raise ValueError("its least_score is 0, which has no logarithm")
        adapter.knots_, adapter.curves_ = part.arrays["knots"], part.arrays["curves"]
        return adapter

    def _choose_scale(self, scores: Doubles, hardness: Doubles, *, squared: bool) -> None:
        logarithms = self.error == "log"
        self.scale_ = "log" if logarithms and scores.min() >= 0 else "root" if squared and not logarithms else "given"
        self.least_score_ = _least(scores) if self.scale_ == "log" else 0.0
        self.least_hardness_ = _least(hardness) if logarithms else 0.0

    def _errors(self, scores: Floats) -> Doubles:
        """Return Err of rows with these scores."""
        values = np.asarray(scores, dtype=np.float64)
        if self.scale_ == "log":
            return np.log(np.maximum(values, self.least_score_))
        return np.sqrt(np.maximum(values, 0.0)) if self.scale_ == "root" else values

    def _hardness(self, hardness: Floats) -> Doubles:
        """Return H, or its logarithm where that of the error is taken."""
        values = np.asarray(hardness, dtype=np.float64)
        return np.log(np.maximum(values, self.least_hardness_)) if self.least_hardness_ else values

    def _sample(self, scores: Doubles, hardness: Doubles) -> tuple[Doubles, Doubles]:
        if scores.shape != hardness.shape:
            raise DataError(f"{scores.shape} scores but {hardness.shape} hardness values; give one of each for a row")
        if scores.size <= self.max_rows:
            return scores, hardness
        picked = np.random.default_rng(self.seed).choice(scores.size, self.max_rows, replace=False)
        return scores[picked], hardness[picked]


def _check(values: Floats) -> Doubles:
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"cadet cannot be fitted on values of shape {values.shape}; give (n,), n >= 1, all finite")
    return np.asarray(values, dtype=np.float64)


def _degenerate(scores: Doubles, hardness: Doubles) -> str:
    if scores.size < MIN_QUANTILE_ROWS:
        return f"{scores.size} rows, conditional quantiles need {MIN_QUANTILE_ROWS}"
    if np.ptp(scores) == 0:
        return "all scores are equal"
    return "all hardness values are equal" if np.ptp(hardness) == 0 else ""


def _spread(scores: Doubles) -> float:
    """Return the interquartile range; if it is 0 the full range, and if that is 0 too, 1."""
    low, high = np.quantile(scores, [0.25, 0.75])
    return float(high - low) or float(np.ptp(scores)) or 1.0


def _least(values: Doubles) -> float:
    """Return what counts as 0 before a logarithm: a millionth of the median, or of the mean; 1 if all are 0."""
    return LEAST_SHARE * (float(np.median(values)) or float(values.mean())) or 1.0


def _without_ends(hardness: Doubles) -> Doubles:
    """Return hardness clipped to its range without the 1 % at either end, at least one row."""
    ordered, left_out = np.sort(hardness), max(1, round(LEFT_OUT * hardness.size))
    return hardness if hardness.size <= 2 * left_out else np.clip(hardness, ordered[left_out], ordered[-1 - left_out])


def _place_knots(hardness: Doubles, most: int) -> Doubles:
    intervals = min(max(hardness.size // ROWS_PER_INTERVAL, 1), most)
    levels = np.linspace(0, 1, intervals + 1)
    return np.unique(np.quantile(hardness, levels, method="inverted_cdf"))


def _fit_curves(
    scores: Doubles,
    hardness: Doubles,
    knots: Doubles,
    levels: Doubles,
) -> Doubles:
    """Return the coefficients of quantile-regression splines, shape (knots, levels) (CADET eq 8)."""
    from sklearn.linear_model import QuantileRegressor
    from sklearn.preprocessing import SplineTransformer

    basis = SplineTransformer(degree=1, knots=knots[:, None]).fit_transform(hardness[:, None])
    curves = []
    for level in levels:
        regressor = QuantileRegressor(quantile=float(level), alpha=0, fit_intercept=False, solver="highs-ipm")
        curves.append(regressor.fit(basis, scores).coef_)
    return np.stack(curves, axis=1)
