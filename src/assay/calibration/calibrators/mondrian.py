"""Mondrian conformal calibration: a reference for every stratum or category, and validity inside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from assay.calibration.calibrators.conformal import (
    Scores,
    check_scores,
    check_tie_breaks,
    counted,
    reference_scores,
    row_count,
    rows_needed,
    split_references,
)
from assay.errors import DataError, InputError
from assay.families import check_part, stored_parameters
from assay.parameters import Says, check_parameters
from assay.parts import Part

Keys = Annotated[tuple[int, ...] | tuple[str, ...], Says("a list of integers, or of texts")]


@dataclass(eq=False, repr=False)
class MondrianCalibrator:
    """Compares a score with the scores of the calibration rows of the same stratum or category.

    ``p = (1 + #{calibration scores of the key >= score}) / (m_key + 1)``, so that ``P(p <= eps) <= eps`` holds
    inside every key, for rows exchangeable with the calibration rows of their key (Vovk, Gammerman, Shafer
    2005, section 4.5). What a row's key is must have been fixed on other rows: the edges of hardness strata on
    the adapt rows, never on the calibration rows. The price is that every key needs calibration rows of its
    own, see `limits`.

    Parameters
    ----------
    beside : str
        What the keys are: "stratum" (integers, see `assay.calibration.hardness.Strata`) or "category"
        (integers or strings, for instance a column of the user's).

    Attributes
    ----------
    keys_ : tuple of int or of str
        The keys calibrated, in increasing order.
    references_ : tuple of ndarray of float32, shape (m_key,)
        The calibration scores of every key, in increasing order.

    Raises
    ------
    ConfigError
        `beside` is neither.
    """

    kind: ClassVar[str] = "mondrian"

    beside: Literal["stratum", "category"]

    def __post_init__(self) -> None:
        check_parameters(f"calibrator {self.kind!r}", type(self), vars(self))

    def fit(self, scores: Scores, keys: NDArray[Any]) -> Self:
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
        places = self._places(names)
        self.references_ = tuple(np.sort(rounded[places == place]) for place in range(len(self.keys_)))
        return self

    @property
    def n_rows(self) -> int:
        """Number m of calibration rows, of all keys."""
        return sum(reference.size for reference in self.references_)

    @property
    def guarantee(self) -> str:
        """What is guaranteed, and under which assumption."""
        fixed = ", with stratum edges fixed on other rows" if self.beside == "stratum" else ""
        return (
            f"P(p <= eps) <= eps inside every {self.beside}, for a row that is exchangeable with the calibration "
            f"rows of its {self.beside}{fixed}."
        )

    @property
    def smallest_eps(self) -> float:
        """The smallest false-positive rate that can ever flag a row of some key: 1 / (largest m_key + 1)."""
        return 1 / (max(reference.size for reference in self.references_) + 1)

    def limits(self, eps: float) -> str:
        """Return "", or a sentence that names the keys in which no row can be flagged, and what it would take."""
        needed = rows_needed(eps)
        sizes = zip(self.keys_, self.references_, strict=True)
        short = [f"{key} ({reference.size} rows)" for key, reference in sizes if reference.size < needed]
        if not short:
            return ""
        return (
            f"At eps {eps:g} no row can be flagged in {self.beside} {_listed(short)}: "
            f"it takes {row_count(needed)} calibration rows in each."
        )

    def p_values(
        self,
        scores: Scores,
        beside: NDArray[Any] | None = None,
        *,
        tie_breaks: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float64]:
        """Return the p-value of each row inside its key, shape (n,), in float64.

        Parameters
        ----------
        scores : ndarray of float, shape (n,)
        beside : ndarray of int or str, shape (n,)
            The key of each row.
        tie_breaks : ndarray of float, shape (n,), optional
            As in `ConformalCalibrator.p_values`; ``P(p <= l / (m_key + 1)) = l / (m_key + 1)`` inside every key.

        Raises
        ------
        InputError
            A score is NaN, a key is missing or was never calibrated, or `tie_breaks` are not as described.
        """
        check_scores(scores)
        if beside is None or np.shape(beside) != scores.shape:
            raise InputError(f"{np.shape(scores)} scores need the {self.beside} of each row beside them")
        places = self._places(np.asarray(beside).tolist())
        breaks = check_tie_breaks(tie_breaks, scores.shape)
        p_values = np.empty(scores.shape, dtype=np.float64)
        for place in np.flatnonzero(np.bincount(places)):
            rows, reference = np.flatnonzero(places == place), self.references_[place]
            counts = counted(reference, scores[rows], None if breaks is None else breaks[rows])
            p_values[rows] = (1 + counts) / (reference.size + 1)
        return p_values

    def to_part(self) -> Part:
        """Return the keys and the sorted calibration scores of each as a part."""
        sizes = np.array([reference.size for reference in self.references_], dtype=np.int64)
        arrays: dict[str, NDArray[Any]] = {"scores": np.concatenate(self.references_), "sizes": sizes}
        return Part(self.kind, {"beside": self.beside, "keys": list(self.keys_)}, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the calibrator that `to_part` described (see `load_calibrator`)."""
        check_part(part, {**stored_parameters(cls), "keys": Keys}, {"scores": "float32 m", "sizes": "int64 keys"})
        calibrator, keys = cls(part.config["beside"]), part.config["keys"]
        if sorted(set(keys)) != keys or len(keys) != part.arrays["sizes"].size:
            raise ValueError("its keys are not in increasing order, or not as many as its sizes")
        references = split_references(part.arrays["scores"], part.arrays["sizes"], least=1)
        calibrator.keys_, calibrator.references_ = tuple(keys), references
        return calibrator

    def _places(self, names: list[Any]) -> NDArray[np.int64]:
        """Return the place of each key among those calibrated."""
        place = {key: number for number, key in enumerate(self.keys_)}
        try:
            return np.fromiter(map(place.__getitem__, names), dtype=np.int64, count=len(names))
        except KeyError as error:
            known = _listed([repr(key) for key in self.keys_])
            raise InputError(f"{self.beside} {error.args[0]!r} was never calibrated; known are {known}") from error


def as_keys(keys: NDArray[Any], m: int) -> list[Any]:
    """Return the keys of m calibration rows as a list of ints or of strings.

    Raises
    ------
    DataError
        They are neither all integers nor all strings, or not m.
    """
    names: list[Any] = np.asarray(keys).tolist()
    kind = next((kind for kind in (int, str) if all(isinstance(name, kind) for name in names)), None)
    if kind is None or np.shape(keys) != (m,):
        raise DataError(f"keys of shape {np.shape(keys)} for {m} scores; give one each, all integers or all strings")
    return names


def _listed(words: Sequence[str], most: int = 6) -> str:
    return ", ".join(words[:most]) + (f", and {len(words) - most} more" if len(words) > most else "")
