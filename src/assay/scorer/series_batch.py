"""Scoring of a file of series: every step gets a score, a p-value and a decision, from the windows that cover it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from assay.arrays import Doubles, Floats, Integers, Singles
from assay.calibration.decisions import Rule
from assay.console import counted_progress, say
from assay.data.blocks import VALUES_AT_ONCE, read_frame
from assay.data.columns import features_of
from assay.data.dialects import Dialect
from assay.data.series_files import flattened, steps_of
from assay.data.windows import Steps, Windows, cut, irregularities, unlike
from assay.errors import DataError, InputError
from assay.scorer.explaining_series import Moment, window_moments
from assay.scorer.scorer import Scorer
from assay.scorer.writing import row_writer

if TYPE_CHECKING:
    import pyarrow as pa

OF_STEPS = ("score", "p_value", "flagged", "window_start", "window_end")


def score_steps(
    scorer: Scorer, windows: Windows, path: Path, out: Path, rule: Rule, *, explain: int, dialect: Dialect
) -> tuple[int, int]:
    """Score the steps of a file of series; returns how many steps are judged, and how many are flagged.

    A step has the score and the p-value of the least anomalous of the windows that cover it: of those with the largest
    p-value the one with the lowest score. So ``P(p <= eps) <= eps`` for a step whose windows are all as the guarantee
    of the scorer assumes: no p-value is larger, and each of them is valid. (A mean or the smallest one would be no
    p-value.) A step that a gap, a missing value or the end of a series leaves without a window has no score.

    Parameters
    ----------
    path : Path
        See `assay.data.blocks.read_frame`; with the columns of times, entities and channels. It is read whole.
    out : Path
        The rows of the file in their order, without the channels, with `OF_STEPS`; window_start and window_end are
        the times of the first and the last step of that window, and because, with explanations, names moments of it.

    Raises
    ------
    DataError, InputError
        The file cannot be read or lacks a column, a value is infinite, times are spaced otherwise than those that the
        scorer was trained on, or there is no window.
    """
    special = [windows.time, *([] if windows.entity is None else [windows.entity])]
    frame = read_frame(path, special, numbers=windows.channels, dialect=dialect)
    if missing := [channel for channel in windows.channels if channel not in frame.columns]:
        raise DataError(f"{path.name} has no column {missing[0]!r}; this scorer needs all of its channels in the file")
    added = (*OF_STEPS, *(["because"] if explain else []))
    if taken := [name for name in added if name in frame.columns and name not in windows.channels]:
        raise DataError(f"{path.name} has a column {taken[0]!r} already; rename it, that name is given to the result")
    features = features_of(frame, windows.channels).rows
    if np.isinf(features).any():
        row, channel = np.argwhere(np.isinf(features))[0]
        raise InputError(f"{path.name}, row {row}, column {windows.channels[channel]!r}: infinite")
    steps, _, times = steps_of(path, frame, windows.time, windows.entity, features)
    starts = _starts(path, steps, windows)
    scores, p_values = _judged(scorer, path, features, steps, starts, windows)
    decisive = least_anomalous(scores, p_values, starts, windows.length, len(frame))
    rows = decisive[np.argsort(steps.order)]  # in the order of the file
    covered = rows >= 0
    flags = rule.flags(p_values)
    first = steps.order[starts]
    last = steps.order[starts + windows.length - 1]
    result = frame[[name for name in frame.columns if name not in windows.channels]].copy()
    columns: dict[str, Any] = {"score": scores, "p_value": p_values, "flagged": flags.astype(np.int8)}
    columns |= {"window_start": times[first], "window_end": times[last]}
    if explain:
        needed = np.intersect1d(np.flatnonzero(flags), rows)
        columns["because"] = _because(scorer, features, steps, starts, windows, needed, times, explain)
    types = _types(result)
    for name, of_windows in columns.items():
        values = pd.Series(of_windows[rows])
        result[name] = values.astype("Int8" if name == "flagged" else values.dtype).where(covered).array
    with row_writer(out, types | {name: kind for name, kind in _added().items() if name in added}) as writer:
        writer.write(result)
    if left := int((~covered).sum()):
        say(f"{path.name}: {left} of {len(frame)} steps are in no window and have no score")
    return int(covered.sum()), int(flags[rows[covered]].sum())


def least_anomalous(scores: Floats, p_values: Doubles, starts: Integers, length: int, n: int) -> Integers:
    """Return the window that decides about each of n steps, -1 where none covers it; see `score_steps`.

    Of windows with the same p-value and score the first decides.
    """
    order = np.lexsort((np.arange(len(starts)), scores, -p_values))
    rank = np.empty(len(starts), dtype=np.int64)
    rank[order] = np.arange(len(starts))
    best = np.full(n, len(starts))
    for offset in range(length):
        np.minimum.at(best, starts + offset, rank)
    return np.asarray(np.r_[order, -1][best])


def _starts(path: Path, steps: Steps, windows: Windows) -> Integers:
    for sentence in irregularities(steps, windows.step):
        say(f"{path.name}: {sentence}")
    if how := unlike(steps, windows):
        raise InputError(
            f"the usual step of {path.name} {how}; bring the file to that step, or train on series like it"
        )
    starts = cut(steps, windows, by_block=False, to_the_end=True).starts
    if not len(starts):
        raise InputError(f"{path.name} has no {windows.length} steps in a row without a gap or a missing value")
    return starts


def _judged(
    scorer: Scorer, path: Path, features: Doubles, steps: Steps, starts: Integers, windows: Windows
) -> tuple[Singles, Doubles]:
    """Return scores and p-values of windows, judged in parts so that memory does not grow with their overlap."""
    scores = np.empty(len(starts), dtype=np.float32)
    p_values = np.empty(len(starts))
    at_once = max(1, VALUES_AT_ONCE // len(windows.columns))
    with counted_progress(path.name, len(starts)) as count:
        for begin in range(0, len(starts), at_once):
            part = slice(begin, begin + at_once)
            judged = scorer.judge(flattened(features, steps, starts[part], windows.length))
            scores[part], p_values[part] = judged.scores, judged.p_values
            count(len(judged.scores))
    return scores, p_values


def _because(
    scorer: Scorer,
    features: Doubles,
    steps: Steps,
    starts: Integers,
    windows: Windows,
    needed: Integers,
    times: Any,
    n_moments: int,
) -> Any:
    """Return for each window that is `needed` which moments add most to its score, as text; "" for others."""
    because = np.full(len(starts), "", dtype=object)
    for window in needed:
        named = times[steps.order[starts[window] : starts[window] + windows.length]]
        flat = flattened(features, steps, starts[window : window + 1], windows.length)
        because[window] = ", ".join(
            _named(moment, named) for moment in window_moments(scorer, flat, windows, n_moments)
        )
    return because


def _named(moment: Moment, times: Any) -> str:
    """Return a moment as text: "Pressure at 10:00:07 34%", or "Pressure from 10:00:07 to 10:00:11 34%"."""
    first, last = times[moment.first], times[moment.last]
    when = f"at {first}" if moment.first == moment.last else f"from {first} to {last}"
    return f"{moment.channel} {when} {moment.share:.0%}"


def _types(frame: pd.DataFrame) -> dict[str, pa.DataType]:
    import pyarrow as pa

    return {field.name: field.type for field in pa.Schema.from_pandas(frame, preserve_index=False)}


def _added() -> dict[str, pa.DataType]:
    import pyarrow as pa

    kinds = (pa.float32(), pa.float64(), pa.int8(), pa.string(), pa.string(), pa.string())
    return dict(zip((*OF_STEPS, "because"), kinds, strict=True))
