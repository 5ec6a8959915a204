"""Array forms of fitted scikit-learn estimators: what is stored of them, and how it scores.

scikit-learn fits, the array form scores, from the moment of fitting on: what is served is what was
measured, and no pickle is needed. Every form gives the scores of its estimator up to rounding (or says how it
differs), and a row's score never depends on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from assay.detectors.base import Doubles, Floats
from assay.parts import Array

EULER_GAMMA = float(np.euler_gamma)
SMALLEST_VARIANCE = 1e-6
SMALLEST_REACH = 1e-10  # as scikit-learn's, so that duplicates have a finite density
BLOCK_DISTANCES = 2**20


class ArrayForm(Protocol):
    """A fitted scorer that consists of arrays."""

    def score(self, rows: Floats) -> Doubles:
        """Return scores of shape (n,) of checked rows (n, d); higher = more anomalous."""
        ...

    def arrays(self) -> dict[str, Array]:
        """Return the arrays to store."""
        ...

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form from what `arrays` returned."""
        ...


@dataclass(frozen=True, slots=True)
class NeighbourDistances:
    """Distance to the k-th nearest of the stored rows (Ramaswamy, Rastogi and Shim 2000), exact.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    n_neighbors : int
        k.
    tree : cKDTree
        Made from the rows.
    """

    rows: Floats
    n_neighbors: int
    tree: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.rows.astype(np.float64)))

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Take over a fitted `sklearn.neighbors.NearestNeighbors`."""
        return cls(np.array(estimator._fit_X, dtype=np.float32), estimator.n_neighbors)

    def score(self, rows: Floats) -> Doubles:
        """Return the distances to the k-th nearest stored row."""
        distances, _ = self.tree.query(rows.astype(np.float64), k=[self.n_neighbors])
        return np.asarray(distances[:, 0], dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows and k."""
        return {"rows": self.rows, "n_neighbors": np.array([self.n_neighbors], dtype=np.int32)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form, and its tree."""
        return cls(arrays["rows"], int(arrays["n_neighbors"][0]))


@dataclass(frozen=True, slots=True)
class IsolationTrees:
    """Isolation Forest (Liu, Ting and Zhou 2008): 2^(-mean path length / expected path length).

    The nodes of all trees lie one after the other. A leaf is its own child, so that every row takes the
    same number of steps.

    Attributes
    ----------
    roots : ndarray of int32, shape (trees,)
    feature : ndarray of int32, shape (nodes,)
        Column that a node splits on.
    threshold : ndarray of float64, shape (nodes,)
        Rows at or below it go left.
    children : ndarray of int32, shape (nodes, 2)
        Left and right child.
    length : ndarray of float64, shape (nodes,)
        Depth plus the expected further path length among the leaf's training rows (eq 1).
    depth : ndarray of int32, shape (1,)
        Steps from a root to the deepest leaf.
    expected : ndarray of float64, shape (1,)
        Expected path length among the rows that one tree was grown on.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Doubles
    children: NDArray[np.int32]
    length: Doubles
    depth: NDArray[np.int32]
    expected: Doubles

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Take over a fitted `sklearn.ensemble.IsolationForest` that splits on all columns."""
        trees = [member.tree_ for member in estimator.estimators_]
        sizes = [tree.node_count for tree in trees]
        roots = np.cumsum([0, *sizes[:-1]])
        depths = [_node_depths(tree) for tree in trees]
        counts = np.concatenate([tree.n_node_samples for tree in trees])
        children = np.concatenate([_children(tree) + root for tree, root in zip(trees, roots, strict=True)])
        leaf = children[:, 0] == np.arange(len(children))
        return cls(
            roots=roots.astype(np.int32),
            feature=np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.int32),
            threshold=np.concatenate([tree.threshold for tree in trees]),
            children=children.astype(np.int32),
            length=np.concatenate(depths) + expected_path_length(counts),
            depth=np.array([max(depth.max() for depth in depths)], dtype=np.int32),
            expected=expected_path_length(np.array([estimator.max_samples_])),
        )

    def score(self, rows: Floats) -> Doubles:
        """Return the anomaly scores, in (0, 1)."""
        values, start = rows.ravel(), np.arange(len(rows))[:, None] * rows.shape[1]
        children = self.children.ravel()
        node = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        for _ in range(int(self.depth[0])):
            right = values[start + self.feature[node]] > self.threshold[node]
            node = children[2 * node + right]
        total = np.zeros(len(rows))
        for column in self.length[node].T:
            total += column
        return np.asarray(np.exp2(-total / (len(self.roots) * self.expected[0])), dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the attributes by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form."""
        return cls(**arrays)


def _children(tree: Any) -> NDArray[np.int64]:
    """Return the left and right child of every node, of shape (nodes, 2); a leaf's are itself."""
    pair = np.stack([tree.children_left, tree.children_right], axis=1)
    return np.where(pair < 0, np.arange(tree.node_count)[:, None], pair)


def _node_depths(tree: Any) -> NDArray[np.int64]:
    """Return the depth of every node, the root's being 0; parents come before their children."""
    depth = np.zeros(tree.node_count, dtype=np.int64)
    for node, pair in enumerate(_children(tree)):
        depth[pair[pair != node]] = depth[node] + 1
    return depth


def expected_path_length(n_rows: NDArray[Any]) -> Doubles:
    """Return the expected path length of an unsuccessful search among n rows (Liu et al. 2008, eq 1)."""
    n = np.maximum(np.asarray(n_rows, dtype=np.float64), 2.0)
    length = 2.0 * (np.log(n - 1.0) + EULER_GAMMA) - 2.0 * (n - 1.0) / n
    return np.asarray(np.where(n_rows <= 1, 0.0, np.where(n_rows == 2, 1.0, length)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """Squared Mahalanobis distance to a location, in the directions of the covariance's eigenvectors.

    Eigenvalues below a millionth of their mean are raised to that. So a singular covariance stays usable,
    and a row that leaves the plane of the training rows is far away. Differs from scikit-learn: its
    pseudo-inverse does not see such a row at all.

    Attributes
    ----------
    columns : ndarray of int32, shape (r,)
        The columns that are used.
    location : ndarray of float64, shape (r,)
    whitening : ndarray of float64, shape (r, r)
        Turns and scales centred rows so that the distance is Euclidean.
    """

    columns: NDArray[np.int32]
    location: Doubles
    whitening: Doubles

    @classmethod
    def export(cls, estimator: Any, columns: NDArray[Any]) -> Self:
        """Take over a fitted `sklearn.covariance.MinCovDet` of the given columns."""
        variances, directions = np.linalg.eigh(estimator.covariance_)
        variances = np.maximum(variances, SMALLEST_VARIANCE * variances.mean())
        return cls(columns.astype(np.int32), estimator.location_, directions / np.sqrt(variances))

    def score(self, rows: Floats) -> Doubles:
        """Return the squared distances."""
        centred = rows[:, self.columns] - self.location
        return np.asarray(np.square(centred @ self.whitening).sum(axis=1), dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the attributes by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form."""
        return cls(**arrays)


@dataclass(frozen=True, slots=True)
class GaussianKernels:
    """Negative log of a Gaussian kernel density (Rosenblatt 1956, Parzen 1962), exact.

    A row so far away that every kernel underflows still has a finite score: the largest exponent is taken out
    of the sum first. Differs from scikit-learn: its trees add and subtract bounds, which loses digits where the
    density is low; one leaf that holds all rows gives the scores of this form.

    Attributes
    ----------
    rows : ndarray of float32, shape (m, d)
    bandwidth : float
        Standard deviation of the kernels.
    centres : ndarray of float64, shape (m, d)
        The rows.
    """

    rows: Floats
    bandwidth: float
    centres: Doubles = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "centres", self.rows.astype(np.float64))

    @classmethod
    def export(cls, estimator: Any, rows: Floats) -> Self:
        """Take over a `sklearn.neighbors.KernelDensity` fitted on the rows."""
        return cls(rows, float(estimator.bandwidth_))

    def score(self, rows: Floats) -> Doubles:
        """Return the negative log densities."""
        n_centres, width = self.centres.shape
        normaliser = np.log(n_centres) + width * (np.log(self.bandwidth) + np.log(2.0 * np.pi) / 2.0)
        scores = np.empty(len(rows))
        block = max(1, BLOCK_DISTANCES // n_centres)
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
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form."""
        return cls(arrays["rows"], float(arrays["bandwidth"][0]))


@dataclass(frozen=True, slots=True)
class PrincipalResiduals:
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

    mean: Doubles
    components: Doubles
    noise_variance: Doubles

    @classmethod
    def export(cls, estimator: Any, n_components: int, n_varying: int) -> Self:
        """Take over the leading components of a fitted `sklearn.decomposition.PCA` that has all of them.

        The noise variance is at least a millionth of the mean variance of the columns that vary, so that
        scores stay finite where the components left out have no variance at all.
        """
        variances = estimator.explained_variance_
        noise = variances[n_components:].sum() / (n_varying - n_components)
        noise = max(noise, SMALLEST_VARIANCE * variances.sum() / n_varying)
        components = np.ascontiguousarray(estimator.components_[:n_components])
        return cls(estimator.mean_, components, np.array([noise]))

    def codes(self, rows: Floats) -> Doubles:
        """Return the coordinates along the components, of shape (n, q); row by row, like the scores."""
        centred = rows.astype(np.float64) - self.mean
        return np.asarray((self.components @ centred[:, :, None])[:, :, 0], dtype=np.float64)

    def score(self, rows: Floats) -> Doubles:
        """Return the standardised squared errors; row by row, so that no product depends on the batch."""
        centred = rows.astype(np.float64) - self.mean
        errors = centred - (self.components.T @ self.codes(rows)[:, :, None])[:, :, 0]
        return np.asarray(np.square(errors).sum(axis=1) / self.noise_variance[0], dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the attributes by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form."""
        return cls(**arrays)


@dataclass(frozen=True, slots=True)
class LocalOutlierFactors:
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
        Made from the rows.
    """

    rows: Floats
    reach: Doubles
    density: Doubles
    n_neighbors: int
    tree: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.rows.astype(np.float64)))

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Take over a fitted `sklearn.neighbors.LocalOutlierFactor`."""
        k = estimator.n_neighbors_
        reach = np.ascontiguousarray(estimator._distances_fit_X_[:, k - 1], dtype=np.float64)
        return cls(np.array(estimator._fit_X, dtype=np.float32), reach, estimator._lrd, k)

    def score(self, rows: Floats) -> Doubles:
        """Return the mean density of the neighbours over the row's own (definition 7)."""
        distances, neighbours = self.tree.query(rows.astype(np.float64), k=np.arange(1, self.n_neighbors + 1))
        reachability = np.maximum(distances, self.reach[neighbours]).mean(axis=1)
        own = 1.0 / (reachability + SMALLEST_REACH)
        return np.asarray((self.density[neighbours] / own[:, None]).mean(axis=1), dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        """Return the stored rows, what is known of each, and k."""
        k = np.array([self.n_neighbors], dtype=np.int32)
        return {"rows": self.rows, "reach": self.reach, "density": self.density, "n_neighbors": k}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """Rebuild the form, and its tree."""
        return cls(arrays["rows"], arrays["reach"], arrays["density"], int(arrays["n_neighbors"][0]))
