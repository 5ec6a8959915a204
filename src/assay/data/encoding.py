"""Tables with missing values, categories and dates as numbers: an encoder fitted on training rows.

Every column keeps its own scale. What is not a measurement is not z-scored: two rows that differ in a category, or of
which one lacks a value, are `MISMATCH` apart in it, whatever the number of categories. That is how far two independent
rows are apart, in the mean square, in a column of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from annotated_types import Predicate
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Flags, Integers, Singles
from assay.data.mapped import row_blocks
from assay.data.scaling import Precision, centre_and_spread, check_finite
from assay.errors import DataError
from assay.families import check_part
from assay.parameters import Says
from assay.parts import Part

MISMATCH = math.sqrt(2.0)
MOST_SLOTS = 31
CYCLES = 4
DAY = 86_400.0
FIRST_MONDAY = 4 * DAY  # 1970 began on a Thursday
LEAST_MISSING = 0.01
_NEVER = float(np.finfo(np.float64).max)  # the scale of a column that training rows never have: its values become 0

_Vocabulary = Annotated[
    Mapping[str, Any],
    Predicate(
        lambda table: all(
            name.isdecimal() and isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
            for name, texts in table.items()
        )
    ),
    Says("a list of texts for each column of categories"),
]
_Positions = Annotated[
    Sequence[int],
    Predicate(lambda columns: all(type(c) is int and c >= 0 for c in columns)),
    Says("a list of the positions of columns"),
]


class Encoder:
    """Fills missing numbers, scales numbers, and turns categories into blocks of zeros and ones.

    Numbers: a missing one becomes the median of the training rows that have the column; then the mean of these rows is
    subtracted, and the result divided by their standard deviation. A column that more than 1 % of the training rows
    lack gets an indicator beside it. Categories: one slot for each of the 31 most frequent ones in the training rows,
    one for all others among them, one for missing values if training rows have any, and one for everything that they
    do not have.

    Parameters
    ----------
    width : int
        Number of columns of raw rows.
    vocabulary : mapping of int to tuple of str
        The texts of each column of categories, by its position; raw rows hold positions in these. Once fitted, those
        that training rows do not have are "", and positions beyond the last that they have are unknown.
    imputed : collection of int
        Positions of the columns that may be missing (NaN); a missing value elsewhere is an error.
    dates : collection of int
        Positions of the columns of dates, as seconds since 1970 in UTC. Each is scaled as a number, which is the time
        that has passed, and is followed by cosine and sine of the hour of the day and of the day of the week, which
        are 0 where it is missing.

    Attributes
    ----------
    mean_, scale_, fill_ : ndarray of float64, shape (width,)
        0, 1 and 0 for columns of categories.
    slots_ : mapping of int to ndarray of int64
        For each column of categories: the slot of each text of the vocabulary, then of all others, then of missing
        values.
    indicated_ : ndarray of bool, shape (width,)
        Columns of numbers with an indicator.
    """

    kind: ClassVar[str] = "encoded"
    precision: Precision = "float64"
    mean_: Doubles
    scale_: Doubles
    fill_: Doubles
    slots_: dict[int, Integers]
    indicated_: Flags

    def __init__(
        self,
        width: int,
        vocabulary: Mapping[int, tuple[str, ...]],
        imputed: Collection[int],
        dates: Collection[int] = (),
    ) -> None:
        self.width = width
        self.vocabulary = dict(vocabulary)
        self.imputed = np.isin(np.arange(width), sorted(imputed))
        self.dates = np.isin(np.arange(width), sorted(dates))

    def category_counts(self, *parts: NDArray[Any]) -> dict[int, Integers]:
        """Return in how many raw rows, each part (n, width), every column of categories has what.

        By the column: of each of its m texts, of what is none of these, and of missing values, shape (m + 2,).
        """
        counts = {column: np.zeros(len(texts) + 2, dtype=np.int64) for column, texts in self.vocabulary.items()}
        for part in parts:
            for block in row_blocks(part):
                for column, texts in self.vocabulary.items():
                    places = _places(part[block, column], len(texts))
                    counts[column] += np.bincount(places, minlength=len(texts) + 2)
        return counts

    def fit(self, X: NDArray[Any], counts: Mapping[int, Integers] | None = None) -> Self:
        """Learn medians, means, deviations and slots from raw rows, shape (n, width).

        Parameters
        ----------
        X : ndarray, shape (n, width)
        counts : mapping of int to ndarray, optional
            `category_counts` of all training rows, where `X` is a sample of them: a category that the sample lacks is
            rare, not new.

        Raises
        ------
        DataError
            There is no row, or a value is infinite, or missing in a column where that is not allowed.
        """
        rows = self._checked(X)
        if rows.size == 0:
            raise DataError(f"an encoder cannot be fitted on rows of shape {X.shape}; give at least one row and column")
        missing = np.isnan(rows)
        self.mean_, self.scale_, self.fill_ = np.zeros(self.width), np.ones(self.width), np.zeros(self.width)
        self.slots_ = {}
        counts = self.category_counts(rows) if counts is None else counts
        for column in range(self.width):
            if column in self.vocabulary:
                self._fit_categories(column, counts[column])
                continue
            observed = rows[~missing[:, column], column]
            if not observed.size:
                self.scale_[column] = _NEVER
                continue
            mean, spread = centre_and_spread(observed[:, None])
            self.mean_[column], self.scale_[column] = mean[0], spread[0] or 1.0
            self.fill_[column] = np.median(observed)
        self.indicated_ = (missing.mean(axis=0) > LEAST_MISSING) & ~np.isin(np.arange(self.width), list(self.slots_))
        return self

    def _fit_categories(self, column: int, counts: Integers) -> None:
        """Learn the slots of a column, and forget the texts that training rows do not have."""
        texts = self.vocabulary[column]
        slots = _slots(counts)
        n_kept = int(np.flatnonzero(counts[:-1]).max(initial=-1)) + 1
        kept = [text if count else "" for text, count in zip(texts, counts, strict=False)][:n_kept]
        self.vocabulary[column] = tuple(kept)
        self.slots_[column] = np.concatenate([slots[: len(kept)], slots[-2:]])

    def transform(self, X: NDArray[Any]) -> Singles:
        """Return encoded rows, shape (n, k), computed in float64.

        An observed number that would become exactly what a missing one becomes is moved by the smallest step that
        float32 knows. So the value alone tells `ObservedMean` that a number was missing.

        Raises
        ------
        DataError
            See `fit`; also if the number of columns is not the fitted one.
        """
        rows = self._checked(X)
        missing = np.isnan(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            values = (np.where(missing, self.fill_, rows) - self.mean_) / self.scale_
        numbers = np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        blocks = []
        for column in range(self.width):
            if column in self.slots_:
                blocks.append(self._one_hot(column, rows[:, column]))
                continue
            blocks.append(numbers[:, column : column + 1])
            if self.dates[column]:
                blocks.append(_cycles(rows[:, column]))
            if self.indicated_[column]:
                blocks.append((missing[:, column : column + 1] * MISMATCH).astype(np.float32))
        encoded = np.concatenate(blocks, axis=1)
        same = (encoded == self.fills) & ~missing[:, self.origins]
        encoded[same] = np.nextafter(encoded, np.where(encoded == 0, np.float32(1), np.float32(0)))[same]
        return encoded

    @property
    def origins(self) -> Integers:
        """The raw column that each encoded one comes from, shape (k,)."""
        widths = [self._block(column) for column in range(self.width)]
        return np.repeat(np.arange(self.width), widths)

    @property
    def fills(self) -> Singles:
        """What a missing number becomes in each encoded column, shape (k,); NaN where none can be missing."""
        origins = self.origins
        marks = np.full(len(origins), np.nan, dtype=np.float32)
        for column in np.flatnonzero(self.imputed):
            if column not in self.slots_:
                first = int(np.searchsorted(origins, column))
                marks[first] = self._filled()[column]
                marks[first + 1 : first + 1 + CYCLES * self.dates[column]] = 0
        return marks

    def usable(self, X: NDArray[Any]) -> Flags:
        """Return which values of raw rows (n, width) can be encoded: finite ones, and missing ones where allowed."""
        return np.asarray(np.isfinite(X) | (np.isnan(X) & self.imputed))

    def lacks(self, X: NDArray[Any]) -> Flags:
        """Return which raw rows (n, width) have a missing value, or a category that training rows do not have."""
        rows = self._checked(X)
        odd: Flags = np.asarray(np.isnan(rows).any(axis=1))
        for column, slots in self.slots_.items():
            odd = odd | (self._slot(column, rows[:, column]) == slots[-2])
        return odd

    def to_part(self) -> Part:
        """Return vocabulary, columns that may be missing, and what was fitted."""
        config = {
            "precision": self.precision,
            "vocabulary": {str(column): list(texts) for column, texts in self.vocabulary.items()},
            "imputed": np.flatnonzero(self.imputed).tolist(),
            "dates": np.flatnonzero(self.dates).tolist(),
        }
        slots = {f"slots.{column}": slots for column, slots in self.slots_.items()}
        fitted = {"mean": self.mean_, "scale": self.scale_, "fill": self.fill_}
        return Part(self.kind, config, {**fitted, "indicated": self.indicated_.astype(np.uint8), **slots})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the encoder from its part."""
        config = {
            "precision": Literal["float64"],
            "vocabulary": _Vocabulary,
            "imputed": _Positions,
            "dates": _Positions,
        }
        fitted = {"mean": "float64 d", "scale": "float64 d in (0,)", "fill": "float64 d", "indicated": "uint8 d"}
        check_part(part, config, {**fitted, "slots.*": "int64 ..."})
        arrays, width = part.arrays, len(part.arrays["mean"])
        vocabulary = {int(column): tuple(texts) for column, texts in part.config["vocabulary"].items()}
        encoder = cls(width, vocabulary, part.config["imputed"], part.config["dates"])
        encoder.mean_, encoder.scale_, encoder.fill_ = arrays["mean"], arrays["scale"], arrays["fill"]
        encoder.indicated_ = arrays["indicated"] == 1
        encoder.slots_ = {column: arrays[f"slots.{column}"] for column in vocabulary}
        for column, slots in encoder.slots_.items():
            if column >= width or slots.shape != (len(vocabulary[column]) + 2,) or not _are_slots(slots):
                raise ValueError(f"the slots of column {column} are not those of its {len(vocabulary[column])} texts")
        return encoder

    def _checked(self, X: NDArray[Any]) -> Doubles:
        """Return raw rows in float64; raise `DataError` where they cannot be encoded."""
        if X.ndim != 2 or X.shape[1] != self.width:
            raise DataError(f"rows have shape {X.shape}; the encoder takes (n, {self.width})")
        rows = np.asarray(X, dtype=np.float64)
        check_finite(np.where(self.usable(rows), 0.0, rows))
        return rows

    def _filled(self) -> Singles:
        with np.errstate(over="ignore"):
            values = (self.fill_ - self.mean_) / self.scale_
        return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)

    def _slot(self, column: int, codes: Doubles) -> Integers:
        return self.slots_[column][_places(codes, len(self.vocabulary[column]))]

    def _one_hot(self, column: int, codes: Doubles) -> Singles:
        return np.eye(self._block(column), dtype=np.float32)[self._slot(column, codes)]

    def _block(self, column: int) -> int:
        if column in self.slots_:
            return int(self.slots_[column].max()) + 1
        return 1 + CYCLES * int(self.dates[column]) + int(self.indicated_[column])


def _cycles(seconds: Doubles) -> Singles:
    """Return cosine and sine of the hour of the day and of the day of the week (from Monday), shape (n, 4)."""
    since_monday = seconds - FIRST_MONDAY
    turns = [2 * np.pi * np.mod(since_monday, period) / period for period in (DAY, 7 * DAY)]
    cycles = np.stack([wave(turn) for turn in turns for wave in (np.cos, np.sin)], axis=1)
    return np.where(np.isnan(cycles), 0, cycles).astype(np.float32)


def _are_slots(slots: Integers) -> bool:
    """Return whether slots are those that `_slots` returns: numbered from 0, that of unseen values last."""
    return bool((np.unique(slots) == np.arange(slots.max() + 1)).all()) and slots[-2] == slots.max()


def _places(codes: Doubles, n_texts: int) -> Integers:
    """Return the position of each code among the texts; n_texts where it is none of theirs, one more where missing."""
    is_in_vocabulary = (codes >= 0) & (codes < n_texts)
    places = np.where(np.isnan(codes), n_texts + 1, np.where(is_in_vocabulary, codes, n_texts))
    return np.asarray(places, dtype=np.int64)


def _slots(counts: Integers) -> Integers:
    """Return the slot of each text, then of unseen values, then of missing ones, by `Encoder.category_counts`."""
    of_texts = counts[:-2]
    by_count = np.argsort(-of_texts, kind="stable")[: np.count_nonzero(of_texts)]
    frequent = by_count if len(by_count) <= MOST_SLOTS + 1 else by_count[:MOST_SLOTS]
    slots = np.full(len(counts), -1, dtype=np.int64)
    slots[frequent] = np.arange(len(frequent))
    free = len(frequent)
    if len(by_count) > len(frequent):
        slots[by_count[len(frequent) :]] = free
        free += 1
    if counts[-1]:
        slots[-1] = free
        free += 1
    slots[slots < 0] = free
    return slots
