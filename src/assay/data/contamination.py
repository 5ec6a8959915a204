"""Contamination levels: rows that are injected into train, with their origin; and probe anomalies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.data.dataset import ANOMALY, MADE, MASK, RowSet, is_among
from assay.data.fingerprints import ONLY_NUMBERS, SCHEME, fingerprints
from assay.data.modalities.base import Modality
from assay.data.recipes import synthesize
from assay.errors import ConfigError, DataError, PoolTooSmallError
from assay.hashing import uniform_hashes

POOL, AUTO = "pool", "auto"
AUTO_LEVELS = (0.01, 0.05, 0.1)
RECORD_COLUMNS = ("row_id", "label", "group", "time", "copy", "fingerprint", "source_row", "recipe", "seed")
_MAX_TRIES = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One contamination level.

    Attributes
    ----------
    rho : float
        Requested share n_injected / (n_train + n_injected).
    injected : RowSet
        The rows to add, with the columns `RECORD_COLUMNS`, and ``category`` where the dataset has categories.
    n_train : int
        Rows of train before injection.
    """

    rho: float
    injected: RowSet
    n_train: int


def rows_added(rho: float, n_train: int) -> int:
    """Return how many rows a level adds to `n_train` rows, so that they are a share `rho` of all."""
    return round(rho / (1 - rho) * n_train)


def inject(
    train: RowSet,
    pool: RowSet,
    *,
    levels: Sequence[float] | Literal["auto"],
    source: str,
    seed: int,
    modality: Modality,
    columns: tuple[str, ...],
    scheme: int = SCHEME,
    vocabulary: Mapping[str, tuple[str, ...]] = ONLY_NUMBERS,
) -> list[Level]:
    """Choose or synthesise the rows that each contamination level adds to `train`.

    A level adds round(rho / (1 - rho) * n_train) rows. Levels are nested: the rows of a level are the first
    rows of every higher one, and they do not depend on the other levels.

    Parameters
    ----------
    train, pool : RowSet
        As `assay.data.splitting.split_rows` returns them (with the column ``fingerprint``).
    levels : sequence of float or "auto"
        Strictly increasing shares in [0, 0.5), starting with 0, which adds nothing; "auto": 0 and those of
        `AUTO_LEVELS` that add a row and for which the pool has enough anomalies.
    source : str
        "pool": labelled anomalies of the pool, without replacement, in the order of a hash of their
        content and the seed; a key of the modality's recipes: synthetic rows fitted on train; "auto":
        "pool" if the pool has anomalies, else the modality's default recipe.
    seed : int
    modality : Modality
    columns : tuple of str
    scheme : {1, 2}
        Scheme of the rows' fingerprints.
    vocabulary : mapping of str to tuple of str
        The texts of each column of categories.

    Returns
    -------
    list of Level
        One for each of `levels`.

    Raises
    ------
    ConfigError
        Levels or source are not allowed, or the recipe cannot make enough new rows.
    PoolTooSmallError
        The pool holds fewer anomalies than the highest level needs.
    DataError
        Train has no rows, or a recipe cannot be fitted on them.
    """
    if not isinstance(levels, str):
        _check_levels(levels)
    if source not in (allowed := (AUTO, POOL, *modality.recipes)):
        raise ConfigError(f"source {source!r} is not allowed; use {', '.join(allowed)}")
    if len(train) == 0:
        raise DataError("train has no rows; there is nothing to inject into")
    anomalies = pool.take(pool.labels == ANOMALY)
    if source == AUTO:
        source = POOL if len(anomalies) else modality.default_recipe
    if isinstance(levels, str):
        most = len(anomalies) if source == POOL else len(train)
        levels = (0.0, *(rho for rho in AUTO_LEVELS if 0 < rows_added(rho, len(train)) <= most))
    counts = [rows_added(rho, len(train)) for rho in levels]
    if source == POOL:
        _check_pool(len(anomalies), len(train), levels[-1], counts[-1], modality)
        rows = _from_pool(anomalies, counts[-1], seed)
    else:
        excluded_fingerprints = pd.concat([train.rows["fingerprint"], pool.rows["fingerprint"]])
        making = _Making(seed, modality, columns, scheme, vocabulary)
        rows = _synthetic(source, train, counts[-1], making, excluded_fingerprints)
    return [Level(float(rho), rows.take(np.arange(n)), len(train)) for rho, n in zip(levels, counts, strict=True)]


def choose_labelled(pool: RowSet, *, share: float, n_train: int, seed: int) -> tuple[RowSet, RowSet]:
    """Set aside the anomalies of the pool whose labels training may use.

    Parameters
    ----------
    pool : RowSet
        As `assay.data.splitting.split_rows` returns it.
    share : float
        round(share * n_train) rows are set aside, in the order of a hash of their content and the seed.
    n_train : int
        Rows of train before injection.
    seed : int

    Returns
    -------
    labelled, rest : RowSet
        They have no content in common.

    Raises
    ------
    PoolTooSmallError
        The pool holds fewer anomalies than that.
    """
    anomalies = pool.take(pool.labels == ANOMALY)
    n_labelled = round(share * n_train)
    if n_labelled > len(anomalies):
        raise PoolTooSmallError(
            f"contaminate.labelled is {share:g}: {n_labelled} labelled anomalies for {n_train} training rows, and the "
            f"injection pool holds {len(anomalies)}; the largest share possible is {len(anomalies) / n_train:.4g}"
        )
    prints = anomalies.rows["fingerprint"].to_numpy(dtype=object)
    order = np.argsort(uniform_hashes(prints, f"labelled:{seed}"), kind="stable")
    labelled = anomalies.take(np.sort(order[:n_labelled]))
    is_labelled = pool.rows["fingerprint"].isin(labelled.rows["fingerprint"]).to_numpy()
    return labelled, pool.take(~is_labelled)


def make_probe_rows(
    normals: RowSet,
    *,
    recipes: Sequence[str],
    n: int,
    seed: int,
    columns: tuple[str, ...],
    modality: Modality,
    scheme: int = SCHEME,
    vocabulary: Mapping[str, tuple[str, ...]] = ONLY_NUMBERS,
    avoided: pd.Series[str] | None = None,
) -> RowSet:
    """Make probe anomalies from normal rows, for evaluation with too few labelled anomalies.

    The caller passes other recipes and another seed than those of the rows injected into train.

    Parameters
    ----------
    normals : RowSet
        Rows with the column ``fingerprint``.
    recipes : sequence of str
        Recipes of the modality; each makes an equal share (the first ones one row more if `n` is not a multiple).
    n : int
        Number of probes in all.
    seed : int
    columns : tuple of str
    modality : Modality
    scheme : {1, 2}
        Scheme of the rows' fingerprints.
    vocabulary : mapping of str to tuple of str
        The texts of each column of categories.
    avoided : Series of str, optional
        Fingerprints that no probe gets; by default those of the normals.

    Returns
    -------
    RowSet of n rows
        With the columns `RECORD_COLUMNS`.

    Raises
    ------
    ConfigError
        A recipe is unknown or cannot make enough new rows, or `n` is smaller than the number of recipes.
    DataError
        A recipe cannot be fitted on the normals.
    """
    unknown = [recipe for recipe in recipes if recipe not in modality.recipes]
    if unknown or not recipes or len(set(recipes)) < len(recipes):
        raise ConfigError(
            f"recipes {list(recipes)} are not allowed; use different ones of {', '.join(modality.recipes)}"
        )
    if n < len(recipes):
        raise ConfigError(f"{n} probes cannot be shared by {len(recipes)} recipes; request at least one of each")
    excluded_fingerprints = normals.rows["fingerprint"] if avoided is None else avoided
    making = _Making(seed, modality, columns, scheme, vocabulary)
    parts = []
    for i, recipe in enumerate(recipes):
        share = n // len(recipes) + (i < n % len(recipes))
        parts.append(_synthetic(recipe, normals, share, making, excluded_fingerprints))
        excluded_fingerprints = pd.concat([excluded_fingerprints, parts[-1].rows["fingerprint"]])
    features = np.concatenate([part.features for part in parts])
    return RowSet(features, pd.concat([part.rows for part in parts], ignore_index=True))


def _check_levels(levels: Sequence[float]) -> None:
    fine = len(levels) > 0 and levels[0] == 0 and all(0 <= rho < 0.5 for rho in levels)
    if not fine or any(a >= b for a, b in pairwise(levels)):
        raise ConfigError(
            f"levels {list(levels)} are not allowed; start with 0 and go up strictly, all below 0.5, "
            "for example [0, 0.01, 0.05]"
        )


def _check_pool(n_pool: int, n_train: int, rho: float, n_needed: int, modality: Modality) -> None:
    if n_needed > n_pool:
        largest = min(1000 * n_pool // (n_train + n_pool), 499) / 1000
        raise PoolTooSmallError(
            f"level {rho} of {n_train} training rows needs {n_needed} anomalies but the pool has {n_pool}; "
            f"the largest rho possible is {largest:.3f}: lower the levels (auto takes those that can be had), "
            f"or set the source to one of {', '.join(modality.recipes)}"
        )


def _from_pool(anomalies: RowSet, n: int, seed: int) -> RowSet:
    """Return the first `n` anomalies in seeded order; rows of equal content are ordered by id."""
    hashes = uniform_hashes(anomalies.rows["fingerprint"], f"inject:{seed}")
    row_id = anomalies.rows["row_id"]
    order = np.lexsort((row_id.to_numpy(dtype=object), anomalies.rows["fingerprint"].to_numpy(dtype=object), hashes))
    picked = anomalies.take(order[:n])
    record = picked.rows.assign(source_row=picked.rows["row_id"], recipe=POOL, seed=seed)
    return RowSet(picked.features, record[[name for name in (*RECORD_COLUMNS, "category", MASK) if name in record]])


@dataclass(frozen=True, slots=True)
class _Making:
    """How synthetic rows are made and named."""

    seed: int
    modality: Modality
    columns: tuple[str, ...]
    scheme: int
    vocabulary: Mapping[str, tuple[str, ...]]

    def rows(self, recipe: str, normals: Doubles, n: int) -> tuple[Doubles, NDArray[np.intp]]:
        coded = [i for i, name in enumerate(self.columns) if name in self.vocabulary]
        return synthesize(recipe, normals, n, seed=self.seed, modality=self.modality, coded=coded)

    def contents(self, features: Doubles) -> NDArray[np.str_]:
        return fingerprints(features, self.columns, scheme=self.scheme, vocabulary=self.vocabulary)


def _synthetic(recipe: str, fitted: RowSet, n: int, making: _Making, excluded_fingerprints: pd.Series[str]) -> RowSet:
    """Return `n` rows made by a recipe, with different fingerprints that are not among the excluded ones."""
    if n == 0:
        features, source = np.empty((0, fitted.features.shape[1])), np.empty(0, dtype=np.intp)
        return _record(recipe, fitted, features, source, np.empty(0, dtype="U32"), making.seed)
    for attempt in range(_MAX_TRIES):
        n_made = n * 2**attempt
        features, source = making.rows(recipe, fitted.features, n_made)
        prints = making.contents(features)
        content = pd.Series(prints)
        new = np.flatnonzero(~content.duplicated().to_numpy() & ~is_among(content, excluded_fingerprints))[:n]
        if len(new) == n:
            return _record(recipe, fitted, features[new], source[new], prints[new], making.seed)
    raise ConfigError(
        f"recipe {recipe!r} made only {len(new)} of {n} rows that differ from all others "
        f"({n_made} tries); the data have too few distinct values for it: use another of "
        + ", ".join(making.modality.recipes)
    )


def _record(
    recipe: str,
    fitted: RowSet,
    features: Doubles,
    source: NDArray[np.intp],
    prints: NDArray[np.str_],
    seed: int,
) -> RowSet:
    sources = fitted.rows["row_id"].iloc[np.maximum(source, 0)].to_numpy(dtype=object)
    rows = pd.DataFrame(
        {
            "row_id": [f"synthetic-{recipe}-{seed}-{i}" for i in range(len(features))],
            "label": np.full(len(features), ANOMALY, dtype=np.int8),
            "group": "",
            "time": "",
            "copy": MADE,
            "fingerprint": prints.astype(object),
            "source_row": np.where(source < 0, "", sources),
            "recipe": recipe,
            "seed": seed,
        }
    )
    if "category" in fitted.rows:
        similar_rows = np.where(source < 0, np.arange(len(source)) % max(1, len(fitted)), source)
        rows["category"] = fitted.rows["category"].to_numpy(dtype=object)[similar_rows]
    return RowSet(features, rows)
