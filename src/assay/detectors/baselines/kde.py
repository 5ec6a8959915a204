"""Gaussian kernel density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.spatial.distance import cdist

from assay.arrays import Doubles, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline
from assay.parameters import Positive
from assay.parts import Array

_BLOCK_DISTANCES = 2**20  # held in memory at once


@dataclass(frozen=True, slots=True)
class GaussianKernels(ArrayForm):
    """Negative log of a Gaussian kernel density (Rosenblatt 1956, Parzen 1962), exact.

    A row so far away that every kernel underflows still has a finite score: the largest exponent is taken out
    of the sum. Differs from scikit-learn, whose trees add and subtract bounds, which loses digits where the
    density is low; with one leaf for all rows scikit-learn gives the scores of this form.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    bandwidth : float
        Standard deviation of the kernels.
    centres : ndarray of float64, shape (m, d)
        The rows in float64.
    """

    stored: ClassVar[Mapping[str, str]] = {"rows": "float32 m n_features", "bandwidth": "float64 1 in (0,)"}

    rows: Singles
    bandwidth: float
    centres: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "centres", self.rows.astype(np.float64))

    @classmethod
    def export(cls, estimator: Any, rows: Singles) -> Self:
        """Convert a `sklearn.neighbors.KernelDensity` fitted on the rows."""
        return cls(rows, float(estimator.bandwidth_))

    def score(self, rows: Singles) -> Doubles:
        """Return the negative log densities."""
        n_centres, width = self.centres.shape
        normaliser = np.log(n_centres) + width * (np.log(self.bandwidth) + np.log(2.0 * np.pi) / 2.0)
        scores = np.empty(len(rows))
        block = max(1, _BLOCK_DISTANCES // n_centres)
        for start in range(0, len(rows), block):
            exponents = cdist(rows[start : start + block].astype(np.float64), self.centres, "sqeuclidean")
            exponents /= -2.0 * self.bandwidth**2
            largest = exponents.max(axis=1)
            total = np.exp(exponents - largest[:, None]).sum(axis=1)
            scores[start : start + block] = normaliser - largest - np.log(total)
        return scores

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows and the bandwidth."""
        return {"rows": self.rows, "bandwidth": np.array([self.bandwidth])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form; raise `ValueError` without rows."""
        if not len(arrays["rows"]):
            raise ValueError("its array 'rows' is empty")
        return cls(arrays["rows"], float(arrays["bandwidth"][0]))


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
