"""Local outlier factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from scipy.spatial import cKDTree

from assay.arrays import Doubles, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline, n_workers
from assay.errors import TrainingError
from assay.parameters import Count
from assay.parts import Array

SMALLEST_REACH = 1e-10  # as scikit-learn's, so that duplicates have a finite density


@dataclass(frozen=True, slots=True)
class LocalOutlierFactors(ArrayForm):
    """Local outlier factor (Breunig, Kriegel, Ng and Sander 2000) of new rows, exact.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    reach : ndarray of float64, shape (m,)
        Distance of each stored row to its k-th nearest other one (definition 3).
    density : ndarray of float64, shape (m,)
        Local reachability density of each stored row (definition 6).
    n_neighbors : int
        k.
    tree : cKDTree
        Index of the rows.
    """

    stored: ClassVar[Mapping[str, str]] = {
        "rows": "float32 m n_features",
        "reach": "float64 m in [0,)",
        "density": "float64 m in [0,)",
        "n_neighbors": "int32 1 in [1,m]",
    }

    rows: Singles
    reach: Doubles
    density: Doubles
    n_neighbors: int
    tree: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.rows.astype(np.float64)))

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Convert a fitted `sklearn.neighbors.LocalOutlierFactor`."""
        k = estimator.n_neighbors_
        reach = np.ascontiguousarray(estimator._distances_fit_X_[:, k - 1], dtype=np.float64)
        return cls(np.array(estimator._fit_X, dtype=np.float32), reach, estimator._lrd, k)

    def score(self, rows: Singles) -> Doubles:
        """Return the mean density of the neighbours divided by the density of the row (definition 7)."""
        nearest = np.arange(1, self.n_neighbors + 1)
        distances, neighbours = self.tree.query(rows.astype(np.float64), k=nearest, workers=n_workers(len(rows)))
        reachability = np.maximum(distances, self.reach[neighbours]).mean(axis=1)
        row_density = 1.0 / (reachability + SMALLEST_REACH)
        return np.asarray((self.density[neighbours] / row_density[:, None]).mean(axis=1), dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows, their reach and density, and k."""
        k = np.array([self.n_neighbors], dtype=np.int32)
        return {"rows": self.rows, "reach": self.reach, "density": self.density, "n_neighbors": k}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form, and its tree."""
        return cls(arrays["rows"], arrays["reach"], arrays["density"], int(arrays["n_neighbors"][0]))


@dataclass(kw_only=True, eq=False, repr=False)
class LocalOutlierFactor(Baseline):
    """Local outlier factor (Breunig, Kriegel, Ng and Sander 2000), scikit-learn's for new rows, exact.

    A training row is its own first neighbour when it is scored, as in scikit-learn.
    At most 20,000 rows are kept, picked at random.

    Parameters
    ----------
    n_neighbors : int
        k; less than the number of training rows.
    """

    kind = "lof"
    stores_rows = True
    array_form = LocalOutlierFactors

    n_neighbors: Count = 20

    def _fitted_form(self, rows: Singles) -> ArrayForm:
        from sklearn.neighbors import LocalOutlierFactor as Factor

        if self.n_neighbors >= len(rows):
            raise TrainingError(
                f"n_neighbors is {self.n_neighbors}, but a training row has {len(rows) - 1} others; lower it"
            )
        estimator = Factor(n_neighbors=self.n_neighbors, novelty=True)
        return LocalOutlierFactors.export(estimator.fit(rows.astype(np.float64)))
