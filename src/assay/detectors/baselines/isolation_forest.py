"""Isolation Forest: anomalies are isolated by few random splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Integers, Singles
from assay.detectors.baselines.base import ArrayForm, Baseline
from assay.parameters import Seed, Trees

EULER_GAMMA = float(np.euler_gamma)
_BLOCK_ROWS = 512  # whose places in all trees fit into the processor's cache


@dataclass(frozen=True, slots=True)
class IsolationTrees(ArrayForm):
    """Isolation Forest (Liu, Ting and Zhou 2008): 2^(-mean path length / expected path length).

    The nodes of all trees are concatenated. A leaf is its own child, so that every row takes the same
    number of steps.

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

    stored: ClassVar[Mapping[str, str]] = {
        "roots": "int32 trees in [0,nodes)",
        "feature": "int32 nodes in [0,n_features)",
        "threshold": "float64 nodes",
        "children": "int32 nodes 2 in [0,nodes)",
        "length": "float64 nodes in [0,)",
        "depth": "int32 1 in [0,nodes)",
        "expected": "float64 1 in (0,)",
    }

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Doubles
    children: NDArray[np.int32]
    length: Doubles
    depth: NDArray[np.int32]
    expected: Doubles
    _feature: NDArray[np.intp] = field(init=False, repr=False, compare=False)
    _children: NDArray[np.intp] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.roots):
            raise ValueError("its array 'roots' is empty")
        object.__setattr__(self, "_feature", self.feature.astype(np.intp))
        object.__setattr__(self, "_children", self.children.ravel().astype(np.intp))

    @classmethod
    def export(cls, estimator: Any) -> Self:
        """Convert a fitted `sklearn.ensemble.IsolationForest` that splits on all columns."""
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

    def score(self, rows: Singles) -> Doubles:
        """Return the anomaly scores, in (0, 1)."""
        lengths = [self._lengths(rows[start : start + _BLOCK_ROWS]) for start in range(0, len(rows), _BLOCK_ROWS)]
        total = np.concatenate(lengths) if lengths else np.zeros(0)
        return np.asarray(np.exp2(-total / (len(self.roots) * self.expected[0])), dtype=np.float64)

    def _lengths(self, rows: Singles) -> Doubles:
        """Return the path lengths of rows, summed over the trees; `take` is twice as fast as an index."""
        values, start = rows.ravel(), np.arange(len(rows))[:, None] * rows.shape[1]
        node = np.repeat(self.roots[None].astype(np.intp), len(rows), axis=0)
        for _ in range(int(self.depth[0])):
            right = values.take(start + self._feature.take(node)) > self.threshold.take(node)
            node = self._children.take(2 * node + right)
        total = np.zeros(len(rows))  # tree by tree: a sum over an axis may add in another order for a single row
        for column in self.length.take(node).T:
            total += column
        return total


def _children(tree: Any) -> Integers:
    """Return the left and right child of every node, of shape (nodes, 2); both children of a leaf are itself."""
    pair = np.stack([tree.children_left, tree.children_right], axis=1)
    return np.where(pair < 0, np.arange(tree.node_count)[:, None], pair)


def _node_depths(tree: Any) -> Integers:
    """Return the depth of every node, 0 for the root; parents come before their children."""
    depth = np.zeros(tree.node_count, dtype=np.int64)
    for node, pair in enumerate(_children(tree)):
        depth[pair[pair != node]] = depth[node] + 1
    return depth


def expected_path_length(n_rows: NDArray[Any]) -> Doubles:
    """Return the expected path length of an unsuccessful search among n rows (Liu et al. 2008, eq 1)."""
    n = np.maximum(np.asarray(n_rows, dtype=np.float64), 2.0)
    length = 2.0 * (np.log(n - 1.0) + EULER_GAMMA) - 2.0 * (n - 1.0) / n
    return np.asarray(np.where(n_rows <= 1, 0.0, np.where(n_rows == 2, 1.0, length)), dtype=np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class IsolationForest(Baseline):
    """Isolation Forest (Liu, Ting and Zhou 2008), scikit-learn's, on 256 rows a tree.

    Parameters
    ----------
    n_estimators : int
        Number of trees.
    seed : int
    """

    kind = "isolation_forest"
    array_form = IsolationTrees

    n_estimators: Trees = 100
    seed: Seed = 0

    def _fitted_form(self, rows: Singles) -> ArrayForm:
        from sklearn.ensemble import IsolationForest as Forest

        return IsolationTrees.export(Forest(n_estimators=self.n_estimators, random_state=self.seed).fit(rows))
