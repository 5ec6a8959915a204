"""Gaussian kernel density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.spatial.distance import cdist

from assay.arrays import FLOAT32_MAX, Doubles, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline
from assay.parameters import Positive
from assay.parts import Array

_BLOCK_DISTANCES = 2**18  # at once: more do not fit the processor's cache


@dataclass(frozen=True, slots=True)
class GaussianKernels(ArrayForm):
    """Negative log of a Gaussian kernel density (Rosenblatt 1956, Parzen 1962), exact.

    A row so far away that every kernel underflows still has a finite score: the largest exponent is taken out
    of the sum. Differs from scikit-learn, whose trees add and subtract bounds, which loses digits where the
    density is low; with one leaf for all rows scikit-learn gives the scores of this form.

    Distances come by matrix products. A row whose score could round to another float32 by their error, about one in
    10,000, is scored by sums of squared differences in place of them, so that scores in float32 are as by these alone.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    bandwidth : float
        Standard deviation of the kernels.
    centres : ndarray of float64, shape (m, d)
        The rows in float64.
    squares : ndarray of float64, shape (m,)
        Their squared norms.
    """

    stored: ClassVar[Mapping[str, str]] = {"rows": "float32 m n_features", "bandwidth": "float64 1 in (0,)"}

    rows: Singles
    bandwidth: float
    centres: Doubles = field(init=False, repr=False, compare=False)
    squares: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "centres", self.rows.astype(np.float64))
        object.__setattr__(self, "squares", np.square(self.centres).sum(axis=1))

    @classmethod
    def export(cls, estimator: Any, rows: Singles) -> Self:
        """Convert a `sklearn.neighbors.KernelDensity` fitted on the rows."""
        return cls(rows, float(estimator.bandwidth_))

    def score(self, rows: Singles) -> Doubles:
        """Return the negative log densities, rounded to float32."""
        block = max(1, _BLOCK_DISTANCES // len(self.centres))
        blocks = (rows[start : start + block].astype(np.float64) for start in range(0, len(rows), block))
        return np.concatenate([np.empty(0), *map(self._score, blocks)])

    def _score(self, rows: Doubles) -> Doubles:
        """Return the scores of some rows: of products where float32 does not show the difference, or exact."""
        n_centres, width = self.centres.shape
        normaliser = np.log(n_centres) + width * (np.log(self.bandwidth) + np.log(2.0 * np.pi) / 2.0)
        squares = np.square(rows).sum(axis=1)
        exponents = (2.0 * rows) @ self.centres.T
        exponents -= self.squares
        exponents -= squares[:, None]
        scores, largest = _negative_logs(exponents, self.bandwidth, normaliser)
        # A product of d pairs is off by at most d times the rounding of its norms; all other steps add a few. The
        # exponent that is off most bounds the logarithm of the sum. Its n terms add the rounding of each, of 1 at most.
        rounding = 8 * np.finfo(np.float64).eps
        slack = (width + 8) * (squares + self.squares.max()) / (2.0 * self.bandwidth**2)
        slack = rounding * (slack + n_centres + abs(normaliser) + np.abs(largest))
        unsure = ~(_rounded(scores - slack) == _rounded(scores + slack))
        if unsure.any():
            exact = -cdist(rows[unsure], self.centres, "sqeuclidean")
            scores[unsure] = _negative_logs(exact, self.bandwidth, normaliser)[0]
        return _rounded(scores).astype(np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows and the bandwidth."""
        return {"rows": self.rows, "bandwidth": np.array([self.bandwidth])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form; raise `ValueError` without rows."""
        if not len(arrays["rows"]):
            raise ValueError("its array 'rows' is empty")
        return cls(arrays["rows"], float(arrays["bandwidth"][0]))


def _negative_logs(exponents: Doubles, bandwidth: float, normaliser: float) -> tuple[Doubles, Doubles]:
    """Return the scores for negative squared distances (n, m), which are overwritten, and their largest exponents."""
    exponents /= 2.0 * bandwidth**2
    largest = exponents.max(axis=1)
    exponents -= largest[:, None]
    total = np.exp(exponents, out=exponents).sum(axis=1)
    return normaliser - largest - np.log(total), largest


def _rounded(scores: Doubles) -> Singles:
    return np.clip(scores, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


@dataclass(kw_only=True, eq=False, repr=False)
class KernelDensity(Baseline):
    """Negative log of a Gaussian kernel density, scikit-learn's, exact.

    The score of a training row includes its own kernel. Scoring time is proportional to the number of rows.
    At most 20,000 rows are kept, picked at random.

    Parameters
    ----------
    bandwidth : float or "scott"
        Standard deviation of the kernels, the same for all columns; "scott" is n^(-1 / (d + 4)), which suits
        standardised columns (Scott 1992).
    """

    kind = "kde"
    stores_rows = True
    array_form = GaussianKernels

    bandwidth: Positive | Literal["scott"] = "scott"

    def _fitted_form(self, rows: Singles) -> ArrayForm:
        from sklearn.neighbors import KernelDensity as Density

        return GaussianKernels.export(Density(bandwidth=self.bandwidth).fit(rows.astype(np.float64)), rows)
