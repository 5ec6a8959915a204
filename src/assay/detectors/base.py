"""The interface of detectors, and checks of rows and labels and chunked scoring that all detectors share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags, Integers, Labels, Singles
from assay.errors import ConfigError, InputError, TrainingError
from assay.parts import Part

EpochProgress = Callable[[int, int, float], None]
ROWS_AT_ONCE = 2048  # rows scored at once


@runtime_checkable
class Detector(Protocol):
    """An anomaly detector with scikit-learn's conventions (`get_params`, `set_params`, `clone`).

    Its rows are already scaled. Scores are computed in float64 row by row and rounded once, so that a row has
    the same score alone, in any batch, and after saving and loading.
    """

    kind: str
    uses_labels: bool
    n_features_in_: int

    def fit(self, X: Singles, y: NDArray[Any] | None = None, *, progress: EpochProgress | None = None) -> Self:
        """Fit on rows of shape (n, d); `progress(epoch, epochs, loss)` is called after every epoch, if any.

        Labels `y` of shape (n,) are 0 (normal), 1 (anomaly) or -1 (unknown, presumed normal); None = all -1.
        A detector with `uses_labels` learns from the anomalies among them; any other refuses rows with label 1.
        """
        ...

    def decision_function(self, X: Singles) -> Singles:
        """Return scores of shape (n,); higher = more anomalous."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor arguments by name."""
        ...

    def to_part(self) -> Part:
        """Return the part from which `assay.detectors.registry.load_detector` rebuilds the fitted detector."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A detector that maps rows to a latent space."""

    def embed(self, X: Singles) -> Singles:
        """Return the latent codes of rows (n, d) by each of the S members, of shape (S, n, k)."""
        ...


@runtime_checkable
class ReadsWords(Protocol):
    """A detector of documents: its rows are mean word vectors, followed by the numbers of the words (-1: none).

    It is fitted with the words and their vectors: ``fit(X, y, lexicon=...)``, a `assay.data.word_vectors.WordVectors`.
    """

    def contexts(self) -> list[list[str]]:
        """Return the words that are most typical of each context of normal documents."""
        ...

    def read(self, X: Singles) -> tuple[Doubles, Doubles]:
        """Return distances from contexts, (n, contexts), and how each attends to words, (n, contexts, places)."""
        ...


@runtime_checkable
class Localises(Protocol):
    """A detector of images that says which pixels are anomalous."""

    def heat_maps(self, X: Singles) -> Singles:
        """Return heat maps (n, h, w) of images (n, h * w); higher = more anomalous."""
        ...


@runtime_checkable
class PredictsSteps(Protocol):
    """A detector of series that says how far each value is from its prediction."""

    def step_errors(self, X: Singles) -> Singles:
        """Return the squared errors of flattened windows (n, d), of the same shape; 0 where nothing is predicted."""
        ...


@runtime_checkable
class CrossFitted(Protocol):
    """A detector fitted K times, each time without one fold of the training rows.

    The attributes refer to the training rows without label 1, in their order.

    Attributes
    ----------
    n_folds : int
        K.
    fold_of_ : ndarray of int64, shape (m,)
        The fold of each row, from 0 to K - 1: the one whose detector was fitted without it.
    held_out_scores_ : ndarray of float32, shape (m,)
        The score of each row by the detector of its fold.
    """

    n_folds: int
    fold_of_: Integers
    held_out_scores_: Singles

    def fold_scores(self, X: Singles) -> Singles:
        """Return the scores of rows (n, d) by each fold's detector, of shape (K, n)."""
        ...

    def fold_of_new(self, X: Singles) -> Integers:
        """Return a fold for each of the rows (n, d), none of which is a training row; of shape (n,)."""
        ...


@runtime_checkable
class Suspects(Protocol):
    """A detector that suspects some of its training rows to be anomalies; attributes are in the order of the rows.

    Attributes
    ----------
    suspicion_ : ndarray of float32, shape (n,)
        Higher = more suspect.
    suspects_ : ndarray of bool, shape (n,)
        The rows that it finally treated as anomalies.
    """

    suspicion_: Singles
    suspects_: Flags


@runtime_checkable
class GroupsSuspects(Suspects, Protocol):
    """A detector that groups its suspects.

    Attributes
    ----------
    groups_ : ndarray of int64, shape (n,)
        Number of each suspect's group, from 1; 0 for all other rows.
    """

    groups_: Integers


@dataclass(kw_only=True, eq=False, repr=False)
class Parametrised:
    """scikit-learn's conventions for parameters, for classes whose fields these are.

    What scikit-learn's own base class would add takes a second to import, and no scorer needs it.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor arguments by name; none of them has parameters of its own."""
        return {name: getattr(self, name) for name in sorted(field.name for field in fields(self))}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments; raise `ConfigError` for a name that is none of them."""
        if unknown := sorted(params.keys() - self.get_params().keys()):
            names = ", ".join(self.get_params())
            raise ConfigError(f"{type(self).__name__} has no parameter {unknown[0]!r}; it has {names}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's pipelines ask of a step."""
        from sklearn.base import BaseEstimator

        return BaseEstimator().__sklearn_tags__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"


def check_rows(X: Any, n_features: int | None = None) -> Singles:
    """Return rows as a C-ordered float32 array of shape (n, d).

    Parameters
    ----------
    X : array_like
    n_features : int, optional
        The required width; None while fitting.

    Raises
    ------
    InputError
        The rows are not numbers, not two-dimensional, of width 0 or the wrong width, or not finite in float32; or,
        while fitting, a column varies and is one value in float32.
    """
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise InputError(f"rows must be an array of shape (n, d): {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"rows have dtype {array.dtype}; they must be real numbers: encode or drop other columns")
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"rows have shape {array.shape}; it must be (n, d): reshape a single row to (1, d)")
    if n_features is not None and array.shape[1] != n_features:
        raise InputError(
            f"rows have {array.shape[1]} columns; the detector was fitted on {n_features}: pass the same columns"
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise InputError(
            f"row {row}, column {column} is {array[row, column]}; "
            "every value must be finite in float32: drop or fill it"
        )
    if n_features is None and array.dtype != np.float32 and len(rows):
        _require_distinct(array, rows)
    return rows


def _require_distinct(array: NDArray[Any], rows: Singles) -> None:
    """Raise `InputError` if a column of numbers that differ has become one value in float32."""
    merged = np.flatnonzero((array != array[0]).any(axis=0) & (rows == rows[0]).all(axis=0))
    if len(merged):
        column = merged[0]
        raise InputError(
            f"column {column} varies, from {array[:, column].min()} to {array[:, column].max()}, but is one value in "
            "float32, in which detectors compute: centre and scale the rows first"
        )


def check_labels(kind: str, y: Any, n_rows: int, *, uses_labels: bool) -> Labels:
    """Return labels as int8 of shape (n,); None means that all are unknown.

    Raises
    ------
    InputError
        They are not n values of 0, 1 and -1, or include anomalies that the detector cannot use.
    """
    if y is None:
        return np.full(n_rows, -1, dtype=np.int8)
    labels = np.asarray(y)
    if labels.shape != (n_rows,):
        raise InputError(f"labels have shape {labels.shape}; there are {n_rows} rows: give one label for each")
    if not np.isin(labels, (-1, 0, 1)).all():
        odd = labels[~np.isin(labels, (-1, 0, 1))][0]
        raise InputError(f"a label is {odd!r}; labels are 0 (normal), 1 (anomaly) or -1 (unknown)")
    n_anomalies = int((labels == 1).sum())
    if n_anomalies and not uses_labels:
        raise InputError(
            f"detector {kind!r} cannot use labelled anomalies, and {n_anomalies} rows have label 1: leave those out, "
            "or use a detector that learns from them, for instance deep_sad"
        )
    if n_anomalies == n_rows > 0:
        raise InputError("all rows have label 1; a detector needs normal or unlabelled rows as well: give some")
    return labels.astype(np.int8)


def require_fitted(detector: object, attribute: str) -> None:
    """Raise scikit-learn's `NotFittedError` unless the detector has the fitted attribute."""
    if not hasattr(detector, attribute):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(f"this {type(detector).__name__} is not fitted yet; call fit first")


def score_in_chunks(score: Callable[[Singles], Doubles], rows: Singles, *, chunk: int) -> Singles:
    """Score rows in chunks, which bounds memory; round the float64 scores once, to float32."""
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), chunk):
        scores[start : start + chunk] = score(rows[start : start + chunk])
    return scores


def latent_codes(detector: Detector, X: Singles) -> Singles:
    """Return the codes of rows (n, d) by each of the S members, of shape (S, n, k).

    For a detector without latent space the codes are the rows themselves, as one member.
    """
    return detector.embed(X) if isinstance(detector, Embeds) else X[None]


def score_is_squared(detector: Detector) -> bool:
    """Return whether a detector's score is a square whose root is a norm, such as a mean squared error.

    A detector says so by a true attribute ``squared_score``; without it the score is in a unit of its own.
    """
    return bool(getattr(detector, "squared_score", False))


def require_varied(kind: str, scores: Singles) -> None:
    """Reject a detector whose scores of the training rows are not finite or all the same.

    Raises
    ------
    TrainingError
        Such a detector would pass every later step and detect nothing.
    """
    if not np.isfinite(scores).all():
        raise TrainingError(f"detector {kind!r} gives scores that are not finite to training rows; scale the features")
    if len(scores) > 1 and scores.min() == scores.max():
        raise TrainingError(
            f"detector {kind!r} gives every training row the score {scores[0] + 0.0:g}; "
            "check that the training rows differ, or change its parameters"
        )


def n_stored_floats(part: Part) -> int:
    """Return the number of array elements that a part stores: the tie-break between equally good detectors."""
    return sum(array.size for array in part.arrays.values())
