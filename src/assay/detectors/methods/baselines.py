"""The baselines that can be packaged: fitted by scikit-learn, scored by arrays of ours."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from assay.detectors.base import (
    FLOAT32_MAX,
    Allowed,
    Doubles,
    Floats,
    Progress,
    check_labels,
    check_parameters,
    check_rows,
    plain_parameters,
    real,
    require_fitted,
    require_varied,
    score_rows,
    seed,
    whole,
)
from assay.detectors.methods.exporters import (
    ArrayForm,
    GaussianKernels,
    IsolationTrees,
    LocalOutlierFactors,
    Mahalanobis,
    NeighbourDistances,
    PrincipalResiduals,
)
from assay.detectors.plugged.adapter import CHUNK, probe_rows, require_steady, rows_to_compare
from assay.errors import TrainingError
from assay.parts import Part

MOST_MCD_ROWS = 10_000
MOST_MCD_COLUMNS = 256


class Baseline(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator that becomes an array form (see `assay.detectors.methods.exporters`) when fitted.

    A subclass names its form and says how to fit it. Every fitted one is probed as a plugged-in detector is.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    form_ : ArrayForm
        What scores the rows.
    """

    kind: ClassVar[str]
    allowed: ClassVar[dict[str, Allowed]]
    uses_labels: ClassVar[bool] = False
    array_form: ClassVar[type[ArrayForm]]

    def fit(self, X: Floats, y: NDArray[Any] | None = None, *, progress: Progress | None = None) -> Self:
        """Fit on rows of shape (n, d); there is no progress to report.

        Raises
        ------
        ConfigError
            A constructor argument is not allowed.
        InputError
            The rows are not a finite array of shape (n, d), or `y` holds labelled anomalies.
        TrainingError
            The estimator cannot be fitted, or does not pass the probe.
        """
        check_parameters(self.kind, self.get_params(deep=False), self.allowed)
        rows = check_rows(X)
        check_labels(self.kind, y, len(rows), uses_labels=self.uses_labels)
        if len(rows) < 2:
            raise TrainingError(f"{len(rows)} training rows; detector {self.kind!r} needs at least 2: give more")
        with threadpool_limits(limits=1):
            try:
                form = self._fitted_form(rows)
            except ValueError as error:
                raise TrainingError(f"detector {self.kind!r} cannot be fitted: {error}") from error
            require_steady(self.kind, form, probe_rows(rows))
        self.form_, self.n_features_in_ = form, rows.shape[1]
        require_varied(self.kind, self.decision_function(rows_to_compare(rows)))
        return self

    def decision_function(self, X: Floats) -> Floats:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous.

        A squared distance beyond float32 becomes its largest value, never infinity.
        """
        require_fitted(self, "form_")
        return score_rows(self._score, check_rows(X, self.n_features_in_), chunk=CHUNK)

    def _score(self, rows: Floats) -> Doubles:
        return np.clip(self.form_.score(rows), -FLOAT32_MAX, FLOAT32_MAX)

    def to_part(self) -> Part:
        """Return the array form."""
        require_fitted(self, "form_")
        config = {"params": plain_parameters(self.get_params(deep=False)), "n_features": self.n_features_in_}
        return Part(self.kind, config, self.form_.arrays())

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild what `to_part` was called on."""
        detector = cls(**part.config["params"])
        detector.form_ = cls.array_form.from_arrays(part.arrays)
        detector.n_features_in_ = part.config["n_features"]
        return detector

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        raise NotImplementedError


class KNearestNeighbors(Baseline):
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

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        from sklearn.neighbors import NearestNeighbors

        if self.n_neighbors > len(rows):
            raise TrainingError(f"n_neighbors is {self.n_neighbors}, but there are {len(rows)} training rows; lower it")
        return NeighbourDistances.export(NearestNeighbors(n_neighbors=self.n_neighbors).fit(rows))


class IsolationForest(Baseline):
    """Isolation Forest (Liu, Ting and Zhou 2008), scikit-learn's, on 256 rows a tree.

    Parameters
    ----------
    n_estimators : int
        Number of trees.
    seed : int
    """

    kind = "isolation_forest"
    allowed: ClassVar[dict[str, Allowed]] = {"n_estimators": whole(1), "seed": seed()}
    array_form = IsolationTrees

    def __init__(self, n_estimators: int = 100, *, seed: int = 0) -> None:
        self.n_estimators = n_estimators
        self.seed = seed

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        from sklearn.ensemble import IsolationForest as Forest

        return IsolationTrees.export(Forest(n_estimators=self.n_estimators, random_state=self.seed).fit(rows))


class MinimumCovarianceDeterminant(Baseline):
    """Squared robust Mahalanobis distance: location and covariance by FastMCD (Rousseeuw, Van Driessen 1999).

    Columns that are constant in training are not used. A singular covariance stays usable (see
    `assay.detectors.methods.exporters.Mahalanobis`), so scikit-learn's warnings about one are silenced. The time of
    a fit grows with the cube of the columns, so that there may be at most 256, and no more than 10,000
    rows, drawn by the seed, are used.

    Parameters
    ----------
    seed : int
    """

    kind = "mcd"
    allowed: ClassVar[dict[str, Allowed]] = {"seed": seed()}
    array_form = Mahalanobis

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _fitted_form(self, rows: Floats) -> ArrayForm:
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


class KernelDensity(Baseline):
    """Negative log of a Gaussian kernel density, scikit-learn's, exact.

    A training row counts its own kernel when it is scored. Scoring a row takes time in proportion to the
    training rows.

    Parameters
    ----------
    bandwidth : float or "scott"
        Standard deviation of the kernels, the same for all columns; "scott" is n^(-1 / (d + 4)), which suits
        standardised columns (Scott 1992).
    """

    kind = "kde"
    allowed: ClassVar[dict[str, Allowed]] = {
        "bandwidth": Allowed(
            "a number > 0, or 'scott'", lambda value: value == "scott" or real(0, above=True).accepts(value)
        )
    }
    array_form = GaussianKernels

    def __init__(self, bandwidth: float | str = "scott") -> None:
        self.bandwidth = bandwidth

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        from sklearn.neighbors import KernelDensity as Density

        return GaussianKernels.export(Density(bandwidth=self.bandwidth).fit(rows.astype(np.float64)), rows)


class PrincipalComponents(Baseline):
    """Squared reconstruction error outside the leading principal components, over the noise variance.

    The score is the Q statistic (Jackson and Mudholkar 1979) divided by the mean variance of the components
    left out (Tipping and Bishop 1999, eq 8), so that it does not depend on the unit of the rows. Constant and
    collinear columns are safe: the noise variance has a floor (see
    `assay.detectors.methods.exporters.PrincipalResiduals`).

    Parameters
    ----------
    n_components : int or float
        A whole number of leading components, less than the columns that vary; or a share of the variance,
        between 0 and 1: the fewest components that hold more than it, but at least one is always left out.
    """

    kind = "pca"
    allowed: ClassVar[dict[str, Allowed]] = {
        "n_components": Allowed(
            "an integer >= 1, or a number between 0 and 1",
            lambda value: whole(1).accepts(value) or (real(0, above=True).accepts(value) and value < 1),
        )
    }
    array_form = PrincipalResiduals

    def __init__(self, n_components: int | float = 0.9) -> None:
        self.n_components = n_components

    def embed(self, X: Floats) -> Floats:
        """Return the coordinates of rows (n, d) along the leading components, as one member, of shape (1, n, k)."""
        require_fitted(self, "form_")
        codes = cast(PrincipalResiduals, self.form_).codes(check_rows(X, self.n_features_in_))
        return np.clip(codes, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)[None]

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        from sklearn.decomposition import PCA

        n_varying = int((rows != rows[0]).any(axis=0).sum())
        most = min(n_varying, len(rows)) - 1
        if most < 1 or self.n_components > most:
            raise TrainingError(
                f"{len(rows)} training rows and {n_varying} columns that vary; with n_components "
                f"{self.n_components} detector 'pca' needs more of both than components, and at least 2: "
                "lower it, or use another detector"
            )
        fitted = PCA().fit(rows.astype(np.float64))
        held = np.cumsum(fitted.explained_variance_ratio_)
        share = self.n_components < 1
        n = int(np.searchsorted(held, self.n_components, side="right")) + 1 if share else int(self.n_components)
        return PrincipalResiduals.export(fitted, min(n, most), n_varying)


class LocalOutlierFactor(Baseline):
    """Local outlier factor (Breunig, Kriegel, Ng and Sander 2000), scikit-learn's for new rows, exact.

    A training row counts itself as its first neighbour when it is scored, as scikit-learn's does.

    Parameters
    ----------
    n_neighbors : int
        k; less than the number of training rows.
    """

    kind = "lof"
    allowed: ClassVar[dict[str, Allowed]] = {"n_neighbors": whole(1)}
    array_form = LocalOutlierFactors

    def __init__(self, n_neighbors: int = 20) -> None:
        self.n_neighbors = n_neighbors

    def _fitted_form(self, rows: Floats) -> ArrayForm:
        from sklearn.neighbors import LocalOutlierFactor as Factor

        if self.n_neighbors >= len(rows):
            raise TrainingError(
                f"n_neighbors is {self.n_neighbors}, but a training row has {len(rows) - 1} others; lower it"
            )
        estimator = Factor(n_neighbors=self.n_neighbors, novelty=True)
        return LocalOutlierFactors.export(estimator.fit(rows.astype(np.float64)))
