"""scikit-learn's detectors through one adapter, and the three that can be packaged."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from threadpoolctl import threadpool_limits

from assay.detectors.base import (
    Allowed,
    Doubles,
    Floats,
    Progress,
    check_parameters,
    check_rows,
    plain_parameters,
    require_fitted,
    require_varied,
    score_rows,
    whole,
)
from assay.detectors.exporters import ArrayForm, IsolationTrees, Mahalanobis, NeighbourDistances
from assay.errors import ScorerError, TrainingError
from assay.parts import Part

CHUNK = 2048
PROBE_ROWS = 32
PROBE_TOLERANCE = 1e-6
MOST_MCD_ROWS = 10_000
MOST_MCD_COLUMNS = 256


class Scores(Protocol):
    """Anything that scores checked rows in float64."""

    def score(self, rows: Floats) -> Doubles:
        """Return scores of shape (n,); higher = more anomalous."""
        ...


class SklearnDetector(BaseEstimator):  # type: ignore[misc]
    """Any scikit-learn outlier or density estimator as a detector.

    After fitting it is probed: its scores must be finite, not all alike, the same when asked twice, and the
    same for a row alone and in a batch, because calibrated decisions mean nothing otherwise.

    Such a detector can be compared with others, not packaged. A subclass that fits an array form (see
    `assay.detectors.exporters`) can be packaged too.

    Parameters
    ----------
    estimator : scikit-learn estimator
        With a `score_samples` method where higher = more normal, as scikit-learn's have it. It is cloned,
        and has its own `random_state`.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    form_ : object
        What scores the rows.
    """

    kind: ClassVar[str] = "sklearn"
    allowed: ClassVar[dict[str, Allowed]] = {
        "estimator": Allowed(
            "a scikit-learn estimator with score_samples", lambda value: hasattr(value, "score_samples")
        )
    }
    array_form: ClassVar[type[ArrayForm] | None] = None

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Floats, y: NDArray[Any] | None = None, *, progress: Progress | None = None) -> Self:
        """Fit on rows of shape (n, d); labels are not used, and there is no progress to report.

        Raises
        ------
        ConfigError
            A constructor argument is not allowed.
        InputError
            The rows are not a finite array of shape (n, d).
        TrainingError
            The estimator cannot be fitted, or does not pass the probe.
        """
        check_parameters(self.kind, self.get_params(deep=False), self.allowed)
        rows = check_rows(X)
        if len(rows) < 2:
            raise TrainingError(f"{len(rows)} training rows; detector {self.kind!r} needs at least 2: give more")
        with threadpool_limits(limits=1):
            try:
                form = self._fitted_form(rows)
            except ValueError as error:
                raise TrainingError(f"detector {self.kind!r} cannot be fitted: {error}") from error
            require_steady(self.kind, form, rows[:: max(1, len(rows) // PROBE_ROWS)])
        self.form_, self.n_features_in_ = form, rows.shape[1]
        between = rows / 2 + np.roll(rows, 1, axis=0) / 2  # a row is its own neighbour; these are not
        require_varied(self.kind, self.decision_function(np.concatenate([rows, between])))
        return self

    def decision_function(self, X: Floats) -> Floats:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous."""
        require_fitted(self, "form_")
        return score_rows(self.form_.score, check_rows(X, self.n_features_in_), chunk=CHUNK)

    def to_part(self) -> Part:
        """Return the array form.

        Raises
        ------
        ScorerError
            There is none.
        """
        require_fitted(self, "form_")
        if self.array_form is None:
            raise ScorerError(
                f"{type(self.estimator).__name__} cannot be packaged: it has no array form; "
                "compare with it, and ship a detector that has one"
            )
        config = {"params": plain_parameters(self.get_params(deep=False)), "n_features": self.n_features_in_}
        return Part(self.kind, config, cast(ArrayForm, self.form_).arrays())

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild what `to_part` was called on."""
        if cls.array_form is None:
            raise ScorerError(f"detector {cls.kind!r} has no array form to load")
        detector = cls(**part.config["params"])
        detector.form_ = cls.array_form.from_arrays(part.arrays)
        detector.n_features_in_ = part.config["n_features"]
        return detector

    def _fitted_form(self, rows: Floats) -> Scores:
        return _Native(clone(self.estimator).fit(rows))


class _Native:
    """An estimator that scores by itself, turned so that higher = more anomalous."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def score(self, rows: Floats) -> Doubles:
        return -np.asarray(self.estimator.score_samples(rows), dtype=np.float64)


def require_steady(kind: str, form: Scores, rows: Floats) -> None:
    """Score some rows in a batch, again, and one by one, and compare.

    Raises
    ------
    TrainingError
        The scores are not finite, not the same twice, or depend on the batch.
    """
    batch, again = form.score(rows), form.score(rows)
    if not np.isfinite(batch).all():
        raise TrainingError(f"detector {kind!r} gives scores that are not finite; scale the features")
    if not np.array_equal(batch, again):
        raise TrainingError(f"detector {kind!r} gives the same rows other scores when asked again; fix its seed")
    alone = np.concatenate([form.score(rows[i : i + 1]) for i in range(len(rows))])
    if not np.allclose(batch, alone, rtol=PROBE_TOLERANCE, atol=0.0):
        raise TrainingError(
            f"detector {kind!r} scores a row differently alone and in a batch; "
            "its scores cannot be calibrated: use another detector"
        )


class KNearestNeighbors(SklearnDetector):
    """Distance to the k-th nearest training row (Ramaswamy, Rastogi and Shim 2000), exact.

    A training row counts itself as its first neighbour when it is scored.

    Parameters
    ----------
    n_neighbors : int
        k; at most the number of training rows.
    """

    kind = "knn"
    allowed: ClassVar[dict[str, Allowed]] = {"n_neighbors": whole(1)}
    array_form = NeighbourDistances

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def _fitted_form(self, rows: Floats) -> Scores:
        from sklearn.neighbors import NearestNeighbors

        if self.n_neighbors > len(rows):
            raise TrainingError(f"n_neighbors is {self.n_neighbors}, but there are {len(rows)} training rows; lower it")
        return NeighbourDistances.export(NearestNeighbors(n_neighbors=self.n_neighbors).fit(rows))


class IsolationForest(SklearnDetector):
    """Isolation Forest (Liu, Ting and Zhou 2008), scikit-learn's, on 256 rows a tree.

    Parameters
    ----------
    n_estimators : int
        Number of trees.
    seed : int
    """

    kind = "isolation_forest"
    allowed: ClassVar[dict[str, Allowed]] = {"n_estimators": whole(1), "seed": whole(0)}
    array_form = IsolationTrees

    def __init__(self, n_estimators: int = 100, *, seed: int = 0) -> None:
        self.n_estimators = n_estimators
        self.seed = seed

    def _fitted_form(self, rows: Floats) -> Scores:
        from sklearn.ensemble import IsolationForest as Forest

        return IsolationTrees.export(Forest(n_estimators=self.n_estimators, random_state=self.seed).fit(rows))


class MinimumCovarianceDeterminant(SklearnDetector):
    """Squared robust Mahalanobis distance: location and covariance by FastMCD (Rousseeuw, Van Driessen 1999).

    Columns that are constant in training are not used. A singular covariance stays usable (see
    `assay.detectors.exporters.Mahalanobis`), so scikit-learn's warnings about one are silenced. The time of
    a fit grows with the cube of the columns, so that there may be at most 256, and no more than 10,000
    rows, drawn by the seed, are used.

    Parameters
    ----------
    seed : int
    """

    kind = "mcd"
    allowed: ClassVar[dict[str, Allowed]] = {"seed": whole(0)}
    array_form = Mahalanobis

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _fitted_form(self, rows: Floats) -> Scores:
        from sklearn.covariance import MinCovDet

        columns = np.flatnonzero((rows != rows[0]).any(axis=0))
        self._require_covariance(len(rows), len(columns))
        if len(rows) > MOST_MCD_ROWS:
            drawn = np.random.default_rng(self.seed).choice(len(rows), MOST_MCD_ROWS, replace=False)
            rows = rows[np.sort(drawn)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The covariance matrix associated to your dataset")
            warnings.filterwarnings("ignore", message="Determinant has increased")
            fitted = MinCovDet(random_state=self.seed).fit(rows[:, columns].astype(np.float64))
        return Mahalanobis.export(fitted, columns)

    def _require_covariance(self, n_rows: int, n_columns: int) -> None:
        if n_columns == 0:
            raise TrainingError("all training rows are the same; detector 'mcd' needs rows that differ")
        if n_columns > MOST_MCD_COLUMNS:
            raise TrainingError(
                f"{n_columns} columns vary; detector 'mcd' takes at most {MOST_MCD_COLUMNS}: use another detector"
            )
        if n_rows <= n_columns:
            raise TrainingError(
                f"{n_rows} training rows and {n_columns} columns that vary; detector 'mcd' needs more rows than "
                "columns: give more rows, or use another detector"
            )
