"""Windows of series: which steps of a table make a window, in which block of time each lies, and which are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Len

from assay.arrays import Doubles, Flags, Integers
from assay.errors import DataError
from assay.parameters import Count, Positive, check_parameters

GAP_STEPS = 5.0  # times the usual step
BLOCK_WINDOWS = 3  # windows
UNEVEN = 0.1  # of the usual step
UNLIKE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How a file of series becomes windows; on the card of a dataset and in ``scorer.json``.

    Attributes
    ----------
    time, entity : str, str or None
        The column of times, and that of what tells series apart.
    channels : tuple of str
        In the order in which the steps of a window hold them.
    length, stride : int
        Steps of a window, and from the start of one to that of the next.
    step : float
        The usual time from a step to the next one, in seconds or in the unit of numeric times: the median.
    roles_by : {"block", "group"}
        Whether roles are those of contiguous blocks of a series, or of groups of whole series.
    """

    time: str
    entity: str | None
    channels: Annotated[tuple[str, ...], Len(1)]
    length: Count
    stride: Count
    step: Positive
    roles_by: Literal["block", "group"]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Windows:
        """Return what `to_json` wrote; raise `ConfigError` for anything else."""
        check_parameters("windows", cls, fields)
        return cls(**{**fields, "channels": tuple(fields["channels"])})

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON has them."""
        return {**asdict(self), "channels": list(self.channels)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of flattened windows: "channel@step", all channels of step 0 first."""
        width = len(str(self.length - 1))
        return tuple(f"{channel}@{step:0{width}d}" for step in range(self.length) for channel in self.channels)


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of all series of a file, series by series in order of time.

    Attributes
    ----------
    order : ndarray of int, shape (n,)
        The row of the file that each step is.
    entities : ndarray of int, shape (n,)
    times : ndarray of float64, shape (n,)
        In seconds, or in the unit of numeric times, since the first.
    usable : ndarray of bool, shape (n,)
        False where a channel lacks its value.
    """

    order: Integers
    entities: Integers
    times: Doubles
    usable: Flags

    @property
    def intervals(self) -> Doubles:
        """The times from each step to the next one of its series."""
        return np.asarray(np.diff(self.times)[np.diff(self.entities) == 0])

    def usual_step(self) -> float:
        """Return the median interval; raise `DataError` where there is none."""
        if not self.intervals.size:
            raise DataError("no series has two steps; name the column that tells series apart with --entity, or none")
        return float(np.median(self.intervals))


@dataclass(frozen=True, slots=True)
class Cut:
    """Windows of some steps.

    Attributes
    ----------
    starts : ndarray of int, shape (n,)
        The first step of each window, as a position in `Steps`.
    blocks : ndarray of int, shape (n,)
        The number of its block within its series; 0 where there are no blocks.
    n_broken : int
        Windows that were not made since a gap or a missing value would be in them, if all began a stride apart.
    """

    starts: Integers
    blocks: Integers
    n_broken: int


def cut(steps: Steps, windows: Windows, *, by_block: bool, to_the_end: bool = False) -> Cut:
    """Return the windows of series.

    A window lies in one piece: consecutive steps of one series without a gap, a missing value or the end of a block
    between them. A gap is an interval of more than 5 times the usual step. In each piece the first window begins with
    its first step, and the next ones a stride later each.

    Blocks are of 3 windows' lengths each, counted in steps from the first step of the series. The length of one window
    after each is in no window: it lies between the windows of two blocks.

    Parameters
    ----------
    by_block : bool
        Whether windows end with blocks.
    to_the_end : bool
        Whether the last window of each piece ends with it, so that every step of a piece that is long enough is in one.
    """
    length, stride, n = windows.length, windows.stride, len(steps.order)
    is_first = np.r_[True, np.diff(steps.entities) != 0]
    place = np.arange(n) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    blocks, within = np.divmod(place, (BLOCK_WINDOWS + 1) * length) if by_block else (np.zeros_like(place), place)
    allowed = within < BLOCK_WINDOWS * length if by_block else np.ones(n, dtype=bool)
    same_run = ~is_first & (blocks == np.r_[-1, blocks[:-1]]) & np.r_[False, allowed[:-1]] & allowed
    gap = np.r_[False, np.diff(steps.times) > GAP_STEPS * windows.step] & same_run
    goes_on = same_run & ~gap & steps.usable & np.r_[True, steps.usable[:-1]]
    starts = _starts(goes_on, allowed & steps.usable, length, stride, to_the_end=to_the_end)
    even = _starts(same_run, allowed, length, stride, to_the_end=to_the_end)
    n_gaps, n_lacking = np.r_[0, np.cumsum(gap)], np.r_[0, np.cumsum(~steps.usable)]
    broken = (n_gaps[even + length] > n_gaps[even + 1]) | (n_lacking[even + length] > n_lacking[even])
    return Cut(starts, blocks[starts], int(broken.sum()))


def _starts(goes_on: Flags, allowed: Flags, length: int, stride: int, *, to_the_end: bool) -> Integers:
    """Return the starts of windows in pieces: steps that go on from the one before; single ones may not be allowed."""
    firsts = np.flatnonzero(~goes_on)
    sizes = np.diff(np.r_[firsts, len(goes_on)])
    enough = (sizes >= length) & allowed[firsts]
    starts = [
        np.unique(np.r_[np.arange(first, first + size - length + 1, stride), [first + size - length] * to_the_end])
        for first, size in zip(firsts[enough], sizes[enough], strict=True)
    ]
    return np.concatenate([np.empty(0, dtype=np.intp), *starts]).astype(np.intp)


def unlike(steps: Steps, windows: Windows) -> str:
    """Return how the spacing of steps differs from that of other series, where it is another one; else ""."""
    step = steps.usual_step()
    if windows.step / UNLIKE <= step <= windows.step * UNLIKE:
        return ""
    return f"is {step:g}, and that of the series that windows were made of before {windows.step:g}"


def irregularities(steps: Steps, step: float) -> list[str]:
    """Return what is odd about the times and values of series, for people: gaps, uneven sampling, missing values."""
    intervals, said = steps.intervals, []
    gaps = intervals[intervals > GAP_STEPS * step]
    if len(gaps):
        said.append(f"{len(gaps)} gaps of more than {GAP_STEPS:g} steps, the longest of {gaps.max():g}")
    uneven = (np.abs(intervals - step) > UNEVEN * step) & (intervals <= GAP_STEPS * step)
    if uneven.any():
        said.append(f"{uneven.mean():.1%} of the intervals differ by more than {UNEVEN:.0%} from {step:g}, the usual")
    if lacking := int((~steps.usable).sum()):
        said.append(f"{lacking} steps lack a value")
    return said
