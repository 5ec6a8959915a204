"""Blend: the sum of what several detectors say of a row, in units of rows that no member was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Len
from numpy.typing import NDArray

from assay.arrays import FLOAT32_MAX, Doubles, Labels, Singles
from assay.detectors.base import Detector, EpochProgress, check_rows, require_fitted, require_varied
from assay.detectors.wrappers.wrapper import Inner, WrapperOfSome
from assay.errors import TrainingError
from assay.parameters import Says
from assay.parts import Array

HELD_SHARE, FEWEST_HELD, MOST_HELD = 0.2, 50, 500
TAIL = 0.1
Several = Annotated[
    Sequence[Inner], Len(2, 20), Says("a list of 2 to 20 detectors, each a name or {name: {parameter: value}}")
]


@dataclass(kw_only=True, eq=False, repr=False)
class Blend(WrapperOfSome):
    """Sum of the scores of several detectors, each in units of training rows that are held out of all of them.

    In such units a score is -log of the share of held rows beyond it. From their upper tenth on, where few
    rows are left to count, the tail is exponential, with the held rows' mean excess. The tail is that of the
    logarithm of a score, or of the score itself where it is negative for a held row: a log density has no
    logarithm. Units rise with the score, so that a blend orders rows as a member does where the others agree.

    Units have to come from rows that the members have not seen: a neighbour at distance 0 or a network's own
    training rows say nothing of new ones. A detector is fitted on training rows alone. So a seeded fifth of
    these, 50 to 500, is held out of the members, which therefore learn from fewer rows than each alone would,
    and held rows are as contaminated as the other training rows; rows set aside for it would be neither.

    The sum of independent p-values' -log is Fisher's (1932) statistic; members depend on each other, and the
    sum is only a score. Not better than the default alone beyond noise: see docs/benchmarks/blend.md.

    Parameters
    ----------
    of : list of str or dict
        The members, 2 to 20: names, or {name: {parameter: value}}. Those that learn from labelled anomalies get
        them, the others do not.
    image_shape, series_shape, device
        Passed to the members.
    seed : int
        Draws the held rows and the members' seeds; that of member i depends only on (seed, i).

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    uses_labels : bool
        Whether a member does; set by `check`.
    members_ : list of Detector
    units_ : list of Units
        One for each member.

    Raises
    ------
    TrainingError
        By `fit`: fewer than 100 training rows without label 1, a member that cannot be fitted, or one that gives all
        held rows the same score.
    """

    kind: ClassVar[str] = "blend"
    passes_labels: ClassVar[bool] = True
    stored: ClassVar[Mapping[str, str]] = {"held": "float32 members held", "tail": "float64 members 3"}
    squared_score: ClassVar[bool] = False  # whatever those of the members are

    of: Several = ()

    def decision_function(self, X: Singles) -> Singles:
        """Return the sum of the members' scores of rows (n, d) in their units, of shape (n,)."""
        require_fitted(self, "members_")
        rows = check_rows(X, self.n_features_in_)
        total = np.zeros(len(rows))
        for member, units in zip(self.members_, self.units_, strict=True):
            total += units.of(member.decision_function(rows))
        return np.minimum(total, FLOAT32_MAX).astype(np.float32)

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        ordinary = np.flatnonzero(labels != 1)
        n_held = min(max(FEWEST_HELD, int(HELD_SHARE * len(ordinary))), MOST_HELD)
        if len(ordinary) < 2 * FEWEST_HELD:
            raise TrainingError(
                f"detector 'blend' holds {FEWEST_HELD} or more training rows out of its members, and has "
                f"{len(ordinary)} (without those of label 1); it needs {2 * FEWEST_HELD}: give more rows, or list its "
                "members as detectors of their own"
            )
        held = np.random.default_rng(self.seed).choice(ordinary, n_held, replace=False)
        given = np.ones(len(rows), dtype=np.bool_)
        given[held] = False
        members: list[Detector] = []
        for i, named in enumerate(self.of):
            member = self._made(named, int(np.random.default_rng([self.seed, i]).integers(2**31)))
            own = given if member.uses_labels else given & (labels != 1)
            members.append(member.fit(rows[own], labels[own], progress=self._reported(progress, i)))
        self.units_ = [Units.fit(member.kind, member.decision_function(rows[held])) for member in members]
        self.members_ = members

    def _reported(self, progress: EpochProgress | None, i: int) -> EpochProgress | None:
        """Return the progress of member i as that of the blend."""
        if progress is None:
            return None
        return lambda epoch, epochs, loss: progress(i * epochs + epoch, len(self.of) * epochs, loss)

    def _own_arrays(self) -> dict[str, Array]:
        return {
            "held": np.stack([units.held for units in self.units_]),
            "tail": np.array([(units.start, units.base, units.length) for units in self.units_]),
        }

    def _named(self) -> Sequence[Inner]:
        return self.of

    def _inner(self) -> list[Detector]:
        return self.members_

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        if not len(loaded) == len(self.of) == len(arrays["held"]):
            raise ValueError(f"it holds {len(loaded)} members and units of {len(arrays['held'])}, not {len(self.of)}")
        self.members_ = loaded
        self.units_ = [
            Units(held, *map(float, tail)) for held, tail in zip(arrays["held"], arrays["tail"], strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Units:
    """Scores as -log of the share of held rows beyond them, with an exponential tail.

    Attributes
    ----------
    held : ndarray of float32, shape (m,)
        Scores of the held rows, ascending.
    start, base, length : float
        Beyond `start`, on the scale of the tail, the result is `base` and the excess in units of `length`.
    """

    held: Singles
    start: float
    base: float
    length: float

    def __post_init__(self) -> None:
        if not self.held.size or (np.diff(self.held) < 0).any():
            raise ValueError("its array 'held' is empty, or not ascending")
        if not self.length > 0:
            raise ValueError(f"the third column of its array 'tail' holds {self.length}, which is not above 0")

    @classmethod
    def fit(cls, kind: str, scores: Singles) -> Self:
        """Return the units of the scores (m,) of a member, at least one of which differs from the others.

        Where more than a tenth tie at the top, no held row is beyond the start: `length` is their deviation then.
        """
        require_varied(kind, scores)
        held = np.sort(scores)
        values = _for_tail(held, held)
        start = float(np.quantile(values, 1 - TAIL))
        excess = values[values > start] - start
        # No lower than what a row at the start gets by counting, so that units rise with the score.
        base = max(-np.log(TAIL), -np.log((len(excess) + 1) / (len(values) + 1)))
        return cls(held, start, float(base), float(excess.mean() if len(excess) else values.std()))

    def of(self, scores: Singles) -> Doubles:
        """Return scores (n,) in these units."""
        n_beyond = len(self.held) - np.searchsorted(self.held, scores, side="right")
        counted = -np.log((n_beyond + 1) / (len(self.held) + 1))
        values = _for_tail(scores, self.held)
        return np.asarray(np.where(values > self.start, self.base + (values - self.start) / self.length, counted))


def _for_tail(scores: Singles, held: Singles) -> Doubles:
    """Return scores on the scale of the tail, of which a millionth of the held rows' median is the least."""
    values = scores.astype(np.float64)
    if held[0] < 0:
        return values
    least = max(1e-6 * float(np.median(held.astype(np.float64))), float(np.finfo(np.float32).tiny))
    return np.asarray(np.log(np.maximum(values, least)))
