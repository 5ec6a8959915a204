"""Recipes for synthetic anomalies: local, global, cluster and dependency.

After ADBench (Han, Hu, Huang, Jiang, Zhao: ADBench, NeurIPS 2022, section 3.3 and its data
generator). Differences from it, for all recipes:

* Values are clipped to the bounds of the modality, so that a range check alone does not find them: mostly to
  [min - range/2, max + range/2] of each column of the fitted rows, for images to the range of all pixels.
* Fitting uses at most `MAX_FITTED` rows.
* A recipe is a stream: the first rows are the same for any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats
from assay.data.scaling import centre_and_spread, check_finite
from assay.errors import DataError

MAX_FITTED = 5_000
CLUSTERS = 3
STRETCH = 5.0
WIDENING = 0.1
_MIN_NEIGHBOURS, _MAX_NEIGHBOURS = 50, 200

_RowsAndSources = tuple[Doubles, NDArray[np.intp]]
Recipe = Callable[[Doubles, int, np.random.Generator], _RowsAndSources]


class HasRecipes(Protocol):
    """What a modality (`assay.data.modalities.base.Modality`) brings for synthetic rows."""

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """The recipes by name."""
        ...

    @property
    def padded(self) -> bool:
        """Whether rows end in NaN where they are short."""
        ...

    def bounds(self, X: Doubles) -> Doubles:
        """Return the least and the greatest value of each column, shape (2, d)."""
        ...


def synthesize(
    recipe: str, normals: Floats, n: int, *, seed: int, modality: HasRecipes, coded: Sequence[int] = ()
) -> tuple[Doubles, NDArray[np.intp]]:
    """Make `n` synthetic anomalies by a recipe fitted on `normals`.

    Parameters
    ----------
    recipe : str
        A key of the modality's recipes.
    normals : ndarray of float, shape (m, d)
    n : int
    seed : int
    modality : HasRecipes
        The modality of the rows, with its recipes and their bounds.
    coded : sequence of int
        Positions of the columns of categories, which hold codes. A row has the categories of the row that it was made
        from, and one of them is exchanged for another that other rows have; by the recipe "global" each is any that
        rows have, by "dependency" each is that of some other row. It lacks the numbers that the row it was made from
        lacks, or any row.

    Returns
    -------
    features : ndarray of float64, shape (n, d)
        A larger `n` gives the same rows first.
    sources : ndarray of int, shape (n,)
        Index of the row of `normals` that each was made from; -1 if it was made from all of them.

    Raises
    ------
    DataError
        There are fewer than two normals, or a value is infinite.
    """
    check_finite(np.nan_to_num(normals, nan=0.0, posinf=np.inf, neginf=-np.inf))
    if len(normals) < 2:
        raise DataError(f"{len(normals)} rows cannot be fitted; synthetic anomalies need at least 2")
    rng = np.random.default_rng((seed, list(modality.recipes).index(recipe)))
    choice, making = rng.spawn(2)
    fitted_rows = np.sort(choice.permutation(len(normals))[:MAX_FITTED])
    X = normals[fitted_rows].astype(np.float64)
    if modality.padded:
        synthetic, source = modality.recipes[recipe](X, n, making)
    elif len(coded) or np.isnan(X).any():
        synthetic, source = _mixed(recipe, X, n, making, rng.spawn(1)[0], modality, coded)
    else:
        synthetic, source = modality.recipes[recipe](X, n, making)
        synthetic = np.clip(synthetic, *modality.bounds(X))
    return synthetic, np.where(source < 0, -1, fitted_rows[source])


def _mixed(
    recipe: str,
    X: Doubles,
    n: int,
    making: np.random.Generator,
    mixing: np.random.Generator,
    modality: HasRecipes,
    coded: Sequence[int],
) -> _RowsAndSources:
    """Make rows with categories and missing values; the recipe makes the numbers, from rows filled with medians."""
    by_row, by_source = mixing.spawn(2)
    draws = by_row.random((n, 3 + len(coded)))
    numbers = np.setdiff1d(np.arange(X.shape[1]), coded)
    synthetic = np.empty((n, X.shape[1]))
    source = (draws[:, 0] * len(X)).astype(np.intp)
    template = source
    if len(numbers):
        missing = np.isnan(X[:, numbers])
        filled = np.where(missing, _medians(X[:, numbers]), X[:, numbers])
        made, source = modality.recipes[recipe](filled, n, making)
        template = np.where(source < 0, template, source)
        made = np.clip(made, *modality.bounds(filled))
        synthetic[:, numbers] = np.where(missing[template], np.nan, made)
    if len(coded):
        swaps = by_source.random((len(X), 2))[template] if recipe == "cluster" else draws[:, 1:3]
        synthetic[:, coded] = _codes(recipe, X[:, coded], template, swaps, draws[:, 3:])
    if not len(numbers) and recipe in ("global", "dependency"):
        source = _no_source(n)
    return synthetic, source


def _codes(recipe: str, codes: Doubles, template: NDArray[np.intp], swaps: Doubles, draws: Doubles) -> Doubles:
    """Return the categories of synthetic rows, shape (n, c); see `synthesize`."""
    levels = [np.unique(column[~np.isnan(column)]) for column in codes.T]
    if recipe == "global":
        picked = [
            present[(u * len(present)).astype(np.intp)] if len(present) else u * np.nan
            for present, u in zip(levels, draws.T, strict=True)
        ]
        return np.stack(picked, axis=1)
    if recipe == "dependency":
        return codes[(draws * len(codes)).astype(np.intp), np.arange(codes.shape[1])]
    made = codes[template]
    several = [column for column, present in enumerate(levels) if len(present) > 1]
    if several:
        columns = np.array(several)[(swaps[:, 0] * len(several)).astype(np.intp)]
        for column in several:
            rows = np.flatnonzero(columns == column)
            own = np.searchsorted(levels[column], made[rows, column])  # len(levels) wrows missing: no level is its own
            others = len(levels[column]) - (own < len(levels[column]))
            other = (swaps[rows, 1] * others).astype(np.intp)
            made[rows, column] = levels[column][other + (other >= own)]
    return made


def _medians(X: Doubles) -> Doubles:
    """Return the median of what each column has, 0 where it has nothing."""
    return np.array([np.median(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in X.T])


def local(X: Doubles, n: int, rng: np.random.Generator) -> _RowsAndSources:
    """Draw each row from the Gaussian of a random row's neighbourhood, its covariance times 5.

    Differs from ADBench: one Gaussian per row (mean and covariance of its nearest rows, columns
    standardised) instead of a Gaussian mixture chosen by BIC. It needs no EM, cannot be singular, and
    each anomaly has a source row.
    """
    choice, noise = rng.spawn(2)
    anchors = choice.integers(len(X), size=n)
    mean, scale = _standardise(X)
    Z = (X - mean) / scale
    near = _neighbours(Z, anchors)
    draws = noise.standard_normal((n, near.shape[1])) * np.sqrt(STRETCH)
    synthetic = np.empty((n, X.shape[1]))
    for i, (rows, draw) in enumerate(zip(near, draws, strict=True)):
        centre, spread = _gaussian(Z[rows])
        synthetic[i] = centre + draw @ spread
    return synthetic * scale + mean, anchors


def scattered(X: Doubles, n: int, rng: np.random.Generator) -> _RowsAndSources:
    """Draw each column uniformly from its range, widened by 10 % on each side ("global").

    Differs from ADBench, which multiplies both ends by 1.1: that narrows a range of positive values
    from below.
    """
    low, high = X.min(axis=0), X.max(axis=0)
    margin = WIDENING * (high - low)
    return rng.uniform(low - margin, high + margin, size=(n, X.shape[1])), _no_source(n)


def cluster(X: Doubles, n: int, rng: np.random.Generator) -> _RowsAndSources:
    """Draw rows from 3 Gaussians whose means lie 5 times as far from the centre as the rows they are made from.

    Differs from ADBench: means are rows from the outer half of the data, and covariances those of their
    neighbourhoods, instead of a mixture's components; distances are taken from the mean of the data instead of
    the origin, which would not move the mean of centred data; and means stay two standard deviations inside
    the clipping bounds, so that clipping does not make the rows of a cluster equal.
    """
    choice, assignment, noise = rng.spawn(3)
    mean, scale = _standardise(X)
    Z = (X - mean) / scale
    outer = np.argsort((Z**2).sum(axis=1), kind="stable")[len(Z) // 2 :]
    anchors = choice.choice(outer, size=CLUSTERS)
    near = _neighbours(Z, anchors)
    low, high = (column_bounds(X) - mean) / scale
    cluster_of = assignment.integers(CLUSTERS, size=n)
    draws = noise.standard_normal((n, near.shape[1]))
    synthetic = np.empty((n, X.shape[1]))
    for index in range(CLUSTERS):
        _, spread = _gaussian(Z[near[index]])
        margin = np.minimum(2.0 * Z[near[index]].std(axis=0), (high - low) / 4)
        far = np.clip(STRETCH * Z[anchors[index]], low + margin, high - margin)
        for row in np.flatnonzero(cluster_of == index):
            # One by one: a product of matrices may add in another order for another number of rows.
            synthetic[row] = far + draws[row] @ spread
    return synthetic * scale + mean, anchors[cluster_of]


def dependency(X: Doubles, n: int, rng: np.random.Generator) -> _RowsAndSources:
    """Draw each column from its own Gaussian kernel density (Scott's bandwidth): columns become independent.

    As in ADBench, but without its vine copula: that generates normal rows, which are given here.
    """
    d = X.shape[1]
    choice, noise = rng.spawn(2)
    picked = choice.integers(len(X), size=(n, d))
    bandwidth = centre_and_spread(X)[1] * np.sqrt(len(X) / (len(X) - 1)) * len(X) ** -0.2
    return X[picked, np.arange(d)] + bandwidth * noise.standard_normal((n, d)), _no_source(n)


RECIPES: dict[str, Recipe] = {
    "local": local,
    "global": scattered,
    "cluster": cluster,
    "dependency": dependency,
}


def column_bounds(X: Doubles) -> Doubles:
    """Return the minimum minus and the maximum plus half the range of each column, shape (2, d)."""
    low, high = X.min(axis=0), X.max(axis=0)
    half = (high - low) / 2
    return np.stack([low - half, high + half])


def _standardise(X: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean and standard deviation of each column; the deviation of a constant column is 1."""
    mean, spread = centre_and_spread(X)
    return mean, np.where(spread == 0, 1.0, spread)


def _neighbours(Z: Doubles, anchors: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices of the k nearest rows of each anchor, itself included, shape (n, k)."""
    from sklearn.neighbors import NearestNeighbors

    k = min(len(Z), max(_MIN_NEIGHBOURS, min(2 * Z.shape[1], _MAX_NEIGHBOURS)))
    unique, codes = np.unique(anchors, return_inverse=True)
    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(Z).kneighbors(Z[unique], return_distance=False)
    return np.asarray(neighbours, dtype=np.intp)[codes]


def _gaussian(rows: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean (d,) and a factor F (k, d) of the covariance of `rows`: F.T @ F is the covariance.

    Standard normals (k,) times F have that covariance, even where it is singular and has no Cholesky factor.
    """
    mean = rows.mean(axis=0)
    return mean, (rows - mean) / np.sqrt(len(rows) - 1)


def _no_source(n: int) -> NDArray[np.intp]:
    return np.full(n, -1, dtype=np.intp)
