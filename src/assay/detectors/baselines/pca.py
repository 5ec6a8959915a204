"""Reconstruction error outside the leading principal components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np

from assay.arrays import FLOAT32_MAX, Doubles, Singles
from assay.detectors.base import check_rows, require_fitted
from assay.detectors.baselines.base import SMALLEST_VARIANCE, ArrayForm, Baseline
from assay.errors import TrainingError
from assay.parameters import Count, Share


@dataclass(frozen=True, slots=True)
class PrincipalResiduals(ArrayForm):
    """Squared reconstruction error outside the leading principal components, over the noise variance.

    That is the Q statistic of Jackson and Mudholkar (1979), divided by the maximum-likelihood noise variance
    of probabilistic PCA (Tipping and Bishop 1999, eq 8): the mean variance of the directions left out.

    Attributes
    ----------
    mean : ndarray of float64, shape (d,)
    components : ndarray of float64, shape (q, d)
        Orthonormal.
    noise_variance : ndarray of float64, shape (1,)
    """

    stored: ClassVar[Mapping[str, str]] = {
        "mean": "float64 n_features",
        "components": "float64 q n_features",
        "noise_variance": "float64 1 in (0,)",
    }

    mean: Doubles
    components: Doubles
    noise_variance: Doubles

    @classmethod
    def export(cls, estimator: Any, n_components: int, n_varying: int) -> Self:
        """Convert the leading components of a fitted `sklearn.decomposition.PCA` that has all of them.

        The noise variance is at least a millionth of the mean variance of the varying columns, so that scores are
        finite if the components left out have no variance.
        """
        variances = estimator.explained_variance_
        noise = variances[n_components:].sum() / (n_varying - n_components)
        noise = max(noise, SMALLEST_VARIANCE * variances.sum() / n_varying)
        components = np.ascontiguousarray(estimator.components_[:n_components])
        return cls(estimator.mean_, components, np.array([noise]))

    def codes(self, rows: Singles) -> Doubles:
        """Return the coordinates along the components, of shape (n, q); row by row, like the scores."""
        centred = rows.astype(np.float64) - self.mean
        return np.asarray((self.components @ centred[:, :, None])[:, :, 0], dtype=np.float64)

    def score(self, rows: Singles) -> Doubles:
        """Return the standardised squared errors; row by row, so that no product depends on the batch."""
        centred = rows.astype(np.float64) - self.mean
        errors = centred - (self.components.T @ self.codes(rows)[:, :, None])[:, :, 0]
        return np.asarray(np.square(errors).sum(axis=1) / self.noise_variance[0], dtype=np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class PrincipalComponents(Baseline):
    """Squared reconstruction error outside the leading principal components, over the noise variance.

    The score is the Q statistic (Jackson and Mudholkar 1979) divided by the mean variance of the components
    left out (Tipping and Bishop 1999, eq 8), so that it does not depend on the unit of the rows. The noise
    variance has a floor, for constant and collinear columns (see `PrincipalResiduals.export`).

    Parameters
    ----------
    n_components : int or float
        Number of leading components, less than the number of varying columns; or a share of the variance
        between 0 and 1: the fewest components that explain more than it. At least one component is left out.
    """

    kind = "pca"
    squared_score = True
    array_form = PrincipalResiduals

    n_components: Count | Share = 0.9

    def embed(self, X: Singles) -> Singles:
        """Return the coordinates of rows (n, d) along the leading components, as one member, of shape (1, n, k)."""
        require_fitted(self, "form_")
        codes = cast(PrincipalResiduals, self.form_).codes(check_rows(X, self.n_features_in_))
        return np.clip(codes, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)[None]

    def _fitted_form(self, rows: Singles) -> ArrayForm:
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
