"""Recipes for synthetic anomalies: local, global, cluster and dependency.

After ADBench (Han, Hu, Huang, Jiang, Zhao: ADBench, NeurIPS 2022, section 3.3 and its data
generator). What differs from it, for all recipes:

* Values are clipped to the bounds of the modality: mostly [min - range/2, max + range/2] of each column of the fitted
  rows, so that a range check alone does not find them; images to the smallest and largest of all their pixels.
* Fitting uses at most `MAX_FITTED` rows.
* A recipe is a stream: asked for more rows, it gives the same ones first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Singles
from assay.data.scaling import FLOAT32_MAX, check_finite
from assay.errors import DataError

if TYPE_CHECKING:
    from assay.data.modalities.base import Modality

MAX_FITTED = 5_000
CLUSTERS = 3
STRETCH = 5.0
WIDENING = 0.1
_MIN_NEIGHBOURS, _MAX_NEIGHBOURS = 50, 200

Made = tuple[Doubles, NDArray[np.intp]]
Recipe = Callable[[Doubles, int, np.random.Generator], Made]


def synthesize(
    recipe: str, normals: Singles, n: int, *, seed: int, modality: Modality
) -> tuple[Singles, NDArray[np.intp]]:
    """Make `n` synthetic anomalies by a recipe fitted on `normals`.

    Parameters
    ----------
    recipe : str
        A key of the modality's recipes.
    normals : ndarray of float32, shape (m, d)
    n : int
    seed : int
    modality : Modality
        What the rows hold: its recipes, and the bounds of what they make.

    Returns
    -------
    features : ndarray of float32, shape (n, d)
        The first rows of what a larger `n` gives.
    sources : ndarray of int, shape (n,)
        Index of the row of `normals` each was made from; -1 where it was made from all of them.

    Raises
    ------
    DataError
        There are fewer than two normals, or a value is not finite.
    """
    check_finite(normals)
    if len(normals) < 2:
        raise DataError(f"{len(normals)} rows cannot be fitted; synthetic anomalies need at least 2")
    choice, making = np.random.default_rng((seed, list(modality.recipes).index(recipe))).spawn(2)
    fitted = np.sort(choice.permutation(len(normals))[:MAX_FITTED])
    X = normals[fitted].astype(np.float64)
    made, source = modality.recipes[recipe](X, n, making)
    low, high = modality.bounds(X)
    return np.clip(made, low, high).astype(np.float32), np.where(source < 0, -1, fitted[source])


def local(X: Doubles, n: int, rng: np.random.Generator) -> Made:
    """Draw each row from the Gaussian of a random row's neighbourhood, its covariance times 5.

    Differs from ADBench: one Gaussian per row (mean and covariance of its nearest rows, columns
    standardised) in place of a Gaussian mixture chosen by BIC. It needs no EM, cannot be singular, and
    knows which row an anomaly came from.
    """
    choice, noise = rng.spawn(2)
    anchors = choice.integers(len(X), size=n)
    mean, scale = _standardise(X)
    Z = (X - mean) / scale
    near = _neighbours(Z, anchors)
    draws = noise.standard_normal((n, near.shape[1])) * np.sqrt(STRETCH)
    made = np.empty((n, X.shape[1]))
    for i, (rows, draw) in enumerate(zip(near, draws, strict=True)):
        centre, spread = _gaussian(Z[rows])
        made[i] = centre + draw @ spread
    return made * scale + mean, anchors


def scattered(X: Doubles, n: int, rng: np.random.Generator) -> Made:
    """Draw each column uniformly from its range, widened by 10 % of it on each side ("global").

    Differs from ADBench: it multiplies the ends themselves by 1.1, which narrows a range of
    positive values from below.
    """
    low, high = X.min(axis=0), X.max(axis=0)
    margin = WIDENING * (high - low)
    return rng.uniform(low - margin, high + margin, size=(n, X.shape[1])), _no_source(n)


def cluster(X: Doubles, n: int, rng: np.random.Generator) -> Made:
    """Draw rows from 3 Gaussians whose means lie 5 times as far from the centre as rows do.

    Differs from ADBench: in place of the components of a mixture, the means are rows from the outer half
    of the data and the covariances those of their neighbourhoods; distances count from the mean of the
    data, not from the origin, which would leave the mean of centred data where it is; and means stay two
    deviations inside the clipping bounds, so that clipping does not make the rows of a cluster equal.
    """
    choice, assignment, noise = rng.spawn(3)
    mean, scale = _standardise(X)
    Z = (X - mean) / scale
    outer = np.argsort((Z**2).sum(axis=1), kind="stable")[len(Z) // 2 :]
    anchors = choice.choice(outer, size=CLUSTERS)
    near = _neighbours(Z, anchors)
    low, high = (column_bounds(X) - mean) / scale
    made_by = assignment.integers(CLUSTERS, size=n)
    draws = noise.standard_normal((n, near.shape[1]))
    made = np.empty((n, X.shape[1]))
    for number in range(CLUSTERS):
        _, spread = _gaussian(Z[near[number]])
        margin = np.minimum(2.0 * Z[near[number]].std(axis=0), (high - low) / 4)
        far = np.clip(STRETCH * Z[anchors[number]], low + margin, high - margin)
        mine = made_by == number
        made[mine] = far + draws[mine] @ spread
    return made * scale + mean, anchors[made_by]


def dependency(X: Doubles, n: int, rng: np.random.Generator) -> Made:
    """Draw each column from its own Gaussian kernel density (Scott's bandwidth): no dependence is left.

    As in ADBench, without its vine copula, which models the normal rows it makes and we have.
    """
    d = X.shape[1]
    choice, noise = rng.spawn(2)
    picked = choice.integers(len(X), size=(n, d))
    bandwidth = X.std(axis=0, ddof=1) * len(X) ** -0.2
    return X[picked, np.arange(d)] + bandwidth * noise.standard_normal((n, d)), _no_source(n)


RECIPES: dict[str, Recipe] = {
    "local": local,
    "global": scattered,
    "cluster": cluster,
    "dependency": dependency,
}


def column_bounds(X: Doubles) -> Doubles:
    """Return half a range below the least and above the greatest value of each column, shape (2, d)."""
    low, high = X.min(axis=0), X.max(axis=0)
    half = (high - low) / 2
    bounds: Doubles = np.clip(np.stack([low - half, high + half]), -FLOAT32_MAX, FLOAT32_MAX)
    return bounds


def _standardise(X: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean and standard deviation of each column; 1 where it is constant."""
    constant = X.min(axis=0) == X.max(axis=0)
    return np.where(constant, X[0], X.mean(axis=0)), np.where(constant, 1.0, X.std(axis=0))


def _neighbours(Z: Doubles, anchors: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices of the k nearest rows of each anchor, itself included, shape (n, k)."""
    from sklearn.neighbors import NearestNeighbors

    k = min(len(Z), max(_MIN_NEIGHBOURS, min(2 * Z.shape[1], _MAX_NEIGHBOURS)))
    unique, codes = np.unique(anchors, return_inverse=True)
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(Z).kneighbors(Z[unique], return_distance=False)
    return np.asarray(found, dtype=np.intp)[codes]


def _gaussian(rows: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean (d,) and a factor F (k, d) of the covariance of `rows`: F.T @ F is the covariance."""
    mean = rows.mean(axis=0)
    return mean, (rows - mean) / np.sqrt(len(rows) - 1)


def _no_source(n: int) -> NDArray[np.intp]:
    return np.full(n, -1, dtype=np.intp)
