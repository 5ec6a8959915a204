"""k nearest neighbours: the distance to the k-th."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from assay.arrays import Doubles, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline, n_workers
from assay.detectors.baselines.nearest import NearestRows
from assay.errors import TrainingError
from assay.parameters import Count
from assay.parts import Array


@dataclass(frozen=True, slots=True)
class NeighbourDistances(ArrayForm):
    """Distance to the k-th nearest of the stored rows (Ramaswamy, Rastogi and Shim 2000), exact.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    n_neighbors : int
        k.
    tree : NearestRows
        Index of the rows.
    """

    stored: ClassVar[Mapping[str, str]] = {"rows": "float32 m n_features", "n_neighbors": "int32 1 in [1,m]"}

    rows: Singles
    n_neighbors: int
    tree: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", NearestRows(self.rows.astype(np.float64)))

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Convert a fitted `sklearn.neighbors.NearestNeighbors`."""
        return cls(np.array(estimator._fit_X, dtype=np.float32), estimator.n_neighbors)

    def score(self, rows: Singles) -> Doubles:
        """Return the distances to the k-th nearest stored row."""
        distances, _ = self.tree.query(rows.astype(np.float64), k=[self.n_neighbors], workers=n_workers(len(rows)))
        return np.asarray(distances[:, 0], dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows and k."""
        return {"rows": self.rows, "n_neighbors": np.array([self.n_neighbors], dtype=np.int32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuild the form, and its tree."""
        return cls(arrays["rows"], int(arrays["n_neighbors"][0]))


@dataclass(kw_only=True, eq=False, repr=False)
class KNearestNeighbors(Baseline):
    """Distance to the k-th nearest training row (Ramaswamy, Rastogi and Shim 2000), exact.

    A training row is its own first neighbour when it is scored.
    At most 20,000 rows are kept, picked at random.

    Parameters
    ----------
    n_neighbors : int
        k; at most the number of training rows.
    """

    kind = "knn"
    stores_rows = True
    array_form = NeighbourDistances

    n_neighbors: Count = 5

    def _fitted_form(self, rows: Singles) -> ArrayForm:
        from sklearn.neighbors import NearestNeighbors

        if self.n_neighbors > len(rows):
            raise TrainingError(f"n_neighbors is {self.n_neighbors}, but there are {len(rows)} training rows; lower it")
        return NeighbourDistances.export(NearestNeighbors(n_neighbors=self.n_neighbors).fit(rows))
