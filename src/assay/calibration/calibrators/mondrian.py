"""Mondrian conformal calibration: p-values are valid within every stratum or category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Integers
from assay.calibration.calibrators.conformal import (
    check_scores,
    check_tie_breaks,
    count_at_least,
    reference_scores,
    row_count,
    rows_needed,
    split_references,
)
from assay.errors import DataError, InputError
from assay.families import check_part
from assay.parameters import Says, check_parameters, parameters_of
from assay.parts import Part

Keys = Annotated[tuple[int, ...] | tuple[str, ...], Says("a list of integers, or of texts")]


@dataclass(eq=False, repr=False)
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

    side_information: Literal["stratum", "category"]

    def __post_init__(self) -> None:
        check_parameters(f"calibrator {self.kind!r}", type(self), vars(self))

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
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows, of all keys."""
        return sum(reference.size for reference in self.references_)

    @property
    def guarantee(self) -> str:
        """The guarantee and its assumption."""
        fixed = ", with stratum edges fixed on other rows" if self.side_information == "stratum" else ""
        key = self.side_information
        return (
            f"P(p <= eps) <= eps inside every {key}, for a row that is exchangeable with the calibration "
            f"rows of its {key}{fixed}."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate at which rows of any key can be flagged: 1 / (largest m_key + 1)."""
        return 1 / (max(reference.size for reference in self.references_) + 1)

    def limits(self, eps: float) -> str:
        """Return a sentence on the keys in which no row can be flagged at `eps`, or "" if there are none."""
        needed = rows_needed(eps)
        sizes = zip(self.keys_, self.references_, strict=True)
        short = [f"{key} ({reference.size} rows)" for key, reference in sizes if reference.size < needed]
        if not short:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged in {self.side_information} {_listed(short)}: "
            f"it takes {row_count(needed)} calibration rows in each."
        )

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
        """
        check_scores(scores)
        if side_information is None or np.shape(side_information) != scores.shape:
            raise InputError(f"{np.shape(scores)} scores need the {self.side_information} of each row as well")
        indices = self._key_indices(np.asarray(side_information).tolist())
        breaks = check_tie_breaks(tie_breaks, scores.shape)
        p_values = np.empty(scores.shape, dtype=np.float64)
        for index in np.flatnonzero(np.bincount(indices)):
            rows, reference = np.flatnonzero(indices == index), self.references_[index]
            counts = count_at_least(reference, scores[rows], None if breaks is None else breaks[rows])
            p_values[rows] = (1 + counts) / (reference.size + 1)
        return p_values

    def to_part(self) -> Part:
        """Return the keys and the sorted calibration scores of each as a part."""
        sizes = np.array([reference.size for reference in self.references_], dtype=np.int64)
        arrays: dict[str, NDArray[Any]] = {"scores": np.concatenate(self.references_), "sizes": sizes}
        return Part(self.kind, {"beside": self.side_information, "keys": list(self.keys_)}, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        config = {"beside": parameters_of(cls)["side_information"], "keys": Keys}
        check_part(part, config, {"scores": "float32 m", "sizes": "int64 keys"})
        calibrator, keys = cls(part.config["beside"]), part.config["keys"]
        if sorted(set(keys)) != keys or len(keys) != part.arrays["sizes"].size:
            raise ValueError("its keys are not in increasing order, or not as many as its sizes")
        references = split_references(part.arrays["scores"], part.arrays["sizes"], least=1)
        calibrator.keys_, calibrator.references_ = tuple(keys), references
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
