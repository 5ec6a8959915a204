"""Mondrian conformal calibration: p-values are valid within every stratum or category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Integers
from assay.calibration.calibrators.conformal import (
    check_scores,
    check_tie_breaks,
    count_at_least,
    reference_scores,
    split_references,
)
from assay.calibration.calibrators.promise import (
    AVERAGE,
    Bands,
    Promise,
    fpr_band,
    largest_count,
    stored_p_values,
    stored_promise,
)
from assay.calibration.calibrators.ranks import check_eps, row_count
from assay.errors import DataError, InputError
from assay.parameters import Says, check_value, declaration
from assay.parts import Part

_Keyed = Literal["stratum", "category"]
Keys = Annotated[tuple[int, ...] | tuple[str, ...], Says("a list of integers, or of texts")]


class MondrianCalibrator:
    """Compares a score with the scores of the calibration rows of the same stratum or category.

    ``p = (1 + #{calibration scores of the key >= score}) / (m_key + 1)``, so that ``P(p <= eps) <= eps`` holds
    within every key, for rows exchangeable with the calibration rows of their key (Vovk, Gammerman, Shafer
    2005, section 4.5). The rule that gives a row its key must not depend on the calibration rows: the edges of
    hardness strata come from the adapt rows. Every key needs enough calibration rows, see `limits`.

    Parameters
    ----------
    side_information : str
        The kind of keys: "stratum" (integers, see `assay.calibration.hardness.Strata`) or "category"
        (integers or strings, for instance from a column of the data).
    promise : Promise
        What p <= eps promises within every key.

    Attributes
    ----------
    keys_ : tuple of int or of str
        The calibrated keys in increasing order.
    references_ : tuple of ndarray of float32, shape (m_key,)
        The calibration scores of every key, in increasing order.

    Raises
    ------
    ConfigError
        `side_information` has another value.
    """

    kind: ClassVar[str] = "mondrian"

    _p_values: list[Doubles]

    def __init__(self, side_information: _Keyed, promise: Promise = AVERAGE) -> None:
        check_value(f"calibrator {self.kind!r}: side_information", side_information, _Keyed)
        self.side_information, self.promise = side_information, promise

    def fit(self, scores: Floats, keys: NDArray[Any]) -> Self:
        """Store the scores of the calibration rows by key.

        Parameters
        ----------
        scores : ndarray of float, shape (m,)
            Higher = more anomalous.
        keys : ndarray of int or str, shape (m,)

        Raises
        ------
        DataError
            There are no scores, one is NaN, or the keys are not all integers or all strings, one for each score.
        """
        rounded = reference_scores(scores)
        names = as_keys(keys, rounded.size)
        self.keys_: tuple[int, ...] | tuple[str, ...] = tuple(sorted(set(names)))
        indices = self._key_indices(names)
        self.references_ = tuple(np.sort(rounded[indices == index]) for index in range(len(self.keys_)))
        self._p_values = [self.promise.p_values(m) for m in self.sizes]
        return self

    @property
    def sizes(self) -> list[int]:
        """Numbers m_key of calibration rows, in the order of the keys."""
        return [reference.size for reference in self.references_]

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows, of all keys."""
        return sum(self.sizes)

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        fixed = ", with stratum edges fixed on other rows" if self.side_information == "stratum" else ""
        key = self.side_information
        return self.promise.describe(
            f"a row that is exchangeable with the calibration rows of its {key}{fixed}, inside every {key}"
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which rows of any key can be flagged."""
        return float(min(table[0] for table in self._p_values))

    def limits(self, eps: float) -> str:
        """Return a sentence on the keys in which no row can be flagged at `eps`, or "" if there are none."""
        check_eps(eps)
        smallest = zip(self.keys_, self._p_values, strict=True)
        short = [f"{key} ({table.size - 1} rows)" for key, table in smallest if table[0] > eps]
        if not short:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged in {self.side_information} {_listed(short)}: "
            f"it takes {row_count(self.promise.rows_needed(eps))} calibration rows in each."
        )

    def fpr_bands(self, eps: float) -> Bands:
        """Return the band of the false-positive rate at `eps` in each key, as text; see `fpr_band`."""
        tables = zip(self.keys_, self._p_values, strict=True)
        return {str(key): fpr_band(largest_count(table, eps), table.size - 1) for key, table in tables}

    def p_values(
        self,
        scores: Floats,
        side_information: NDArray[Any] | None = None,
        *,
        tie_breaks: Floats | None = None,
    ) -> Doubles:
        """Return the p-value of each row within its key, float64 of shape (n,).

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        side_information : ndarray of int or str, shape (n,)
            The key of each row.
        tie_breaks : ndarray of float, shape (n,), optional
            As in `ConformalCalibrator.p_values`; ``P(p <= l / (m_key + 1)) = l / (m_key + 1)`` within every key.

        Raises
        ------
        InputError
            A score is NaN, a key is missing or was never calibrated, or `tie_breaks` have a wrong shape or range.
        ConfigError
            `tie_breaks` are given, and the promise has a confidence.
        """
        check_scores(scores)
        if side_information is None or np.shape(side_information) != scores.shape:
            raise InputError(f"{np.shape(scores)} scores need the {self.side_information} of each row as well")
        indices = self._key_indices(np.asarray(side_information).tolist())
        breaks = check_tie_breaks(tie_breaks, scores.shape, self.promise)
        p_values = np.empty(scores.shape, dtype=np.float64)
        for index in np.flatnonzero(np.bincount(indices)):
            rows, reference = np.flatnonzero(indices == index), self.references_[index]
            counts = count_at_least(reference, scores[rows], None if breaks is None else breaks[rows])
            p_values[rows] = self._p_values[index][counts]
        return p_values

    def to_part(self) -> Part:
        """Return the keys and the sorted calibration scores of each as a part."""
        sizes = np.array(self.sizes, dtype=np.int64)
        arrays: dict[str, NDArray[Any]] = {"scores": np.concatenate(self.references_), "sizes": sizes}
        config: dict[str, Any] = {"beside": self.side_information, "keys": list(self.keys_)}
        if not self.promise.is_average:
            config["promise"] = self.promise.setting()
            arrays["p_values"] = np.concatenate(self._p_values)
        return Part(self.kind, config, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        config = {"beside": declaration(_Keyed), "keys": Keys}
        promise = stored_promise(part, {"scores": "float32? m", "sizes": "int64 keys"}, config)
        calibrator, keys = cls(part.config["beside"], promise), part.config["keys"]
        if sorted(set(keys)) != keys or len(keys) != part.arrays["sizes"].size:
            raise ValueError("its keys are not in increasing order, or not as many as its sizes")
        references = split_references(part.arrays["scores"], part.arrays["sizes"], least=1)
        calibrator.keys_, calibrator.references_ = tuple(keys), references
        calibrator._p_values = stored_p_values(part, promise, calibrator.sizes)
        return calibrator

    def _key_indices(self, names: list[Any]) -> Integers:
        """Return the index of each key in `keys_`."""
        index_of = {key: index for index, key in enumerate(self.keys_)}
        try:
            return np.fromiter(map(index_of.__getitem__, names), dtype=np.int64, count=len(names))
        except KeyError as error:
            message = f"{self.side_information} {error.args[0]!r} was never calibrated; known are "
            raise InputError(message + _listed([repr(key) for key in self.keys_])) from error


def as_keys(keys: NDArray[Any], m: int) -> list[Any]:
    """Return the keys of m calibration rows as a list of ints or of strings.

    Raises
    ------
    DataError
        The keys are neither all integers nor all strings, or there are not m of them.
    """
    names: list[Any] = np.asarray(keys).tolist()
    kind = next((kind for kind in (int, str) if all(isinstance(name, kind) for name in names)), None)
    if kind is None or np.shape(keys) != (m,):
        raise DataError(f"keys of shape {np.shape(keys)} for {m} scores; give one each, all integers or all strings")
    return names


def _listed(texts: Sequence[str], most: int = 6) -> str:
    return ", ".join(texts[:most]) + (f", and {len(texts) - most} more" if len(texts) > most else "")
