"""Robust Mahalanobis distance by the minimum covariance determinant."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Singles
from assay.detectors.baselines.base import SMALLEST_VARIANCE, ArrayForm, Baseline
from assay.errors import TrainingError
from assay.parameters import Seed

MOST_MCD_ROWS = 10_000
MOST_MCD_COLUMNS = 256


@dataclass(frozen=True, slots=True)
class Mahalanobis(ArrayForm):
    """Squared Mahalanobis distance to a location, in the directions of the covariance's eigenvectors.

    Eigenvalues have a floor of a millionth of their mean. So a singular covariance is usable, and a row outside
    the subspace of the training rows is far away. Differs from scikit-learn, whose pseudo-inverse ignores that
    distance.

    Attributes
    ----------
    columns : ndarray of int32, shape (r,)
        The columns that are used.
    location : ndarray of float64, shape (r,)
    whitening : ndarray of float64, shape (r, r)
        Turns and scales centred rows so that the distance is Euclidean.
    """

    stored: ClassVar[Mapping[str, str]] = {
        "columns": "int32 r in [0,n_features)",
        "location": "float64 r",
        "whitening": "float64 r r",
    }

    columns: NDArray[np.int32]
    location: Doubles
    whitening: Doubles

    @classmethod
    def export(cls, estimator: Any, columns: NDArray[Any]) -> Self:
        """Convert a fitted `sklearn.covariance.MinCovDet` of the given columns."""
        variances, directions = np.linalg.eigh(estimator.covariance_)
        variances = np.maximum(variances, SMALLEST_VARIANCE * variances.mean())
        return cls(columns.astype(np.int32), estimator.location_, directions / np.sqrt(variances))

    def score(self, rows: Singles) -> Doubles:
        """Return the squared distances."""
        centred = rows[:, self.columns] - self.location
        return np.asarray(np.square(centred @ self.whitening).sum(axis=1), dtype=np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class MinimumCovarianceDeterminant(Baseline):
    """Squared robust Mahalanobis distance: location and covariance by FastMCD (Rousseeuw, Van Driessen 1999).

    Columns that are constant in training are not used. A singular covariance is usable (see `Mahalanobis`), so
    scikit-learn's warnings about it are silenced. Fitting time grows with the cube of the columns: at most 256
    are allowed. At most 10,000 rows, drawn with the seed, are used.

    Parameters
    ----------
    seed : int
    """

    kind = "mcd"
    squared_score = True
    array_form = Mahalanobis

    seed: Seed = 0

    def _fitted_form(self, rows: Singles) -> ArrayForm:
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
