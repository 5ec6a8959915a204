"""References: what the rows of a dataset are like, column by column, as counts that new rows are compared with.

A reference is plain JSON and is part of an expectation suite. All counts are of rows. ``spread`` says how many rows
count for one, since rows that follow each other are alike; ``missing_spread`` says it of what is missing. Both are 1
where there are groups, which are independent units whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

from assay.arrays import Doubles
from assay.data.card import Card
from assay.data.dataset import ANOMALY, UNKNOWN, Dataset, RowSet, number_copies
from assay.data.mapped import row_blocks
from assay.data.ranges import MANY_COLUMNS
from assay.data.summaries import IMAGE_SUMMARIES, WORDS, image_summaries, text_summaries

QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
CATEGORIES_KEPT = 20
NUMBER, CATEGORY, COUNTER = "number", "category", "counter"
MOST_GAPS, FEWEST_IN_ORDER, FEW_BLOCKS, CHANCE, DOUBT = 4, 30, 10, 1e-3, 0.05
ENOUGH_ROWS, COLUMNS_AT_ONCE, BYTES_AT_ONCE = 100, 64, 1 << 27
_INNER = slice(1, -1)

ReferenceCounts = dict[str, Any]


def learn_reference(dataset: Dataset) -> ReferenceCounts:
    """Return the reference of a dataset: counts per column, of labels and of contents by their number of copies.

    Per column: whether it holds numbers, categories or a counter; how many values are missing; of numbers nine
    quantiles, how many values are below and at most each of them, and the scale, a robust standard deviation (that of
    the interquartile range, or of wider ones where it is 0); of categories the counts of the 20 most frequent.
    A counter is a column of dates, one that only rises or only falls, or one of different whole numbers with few gaps:
    what it holds moves on from batch to batch.

    Returns
    -------
    dict
        JSON-able; equal data give equal dicts.
    """
    card, data = dataset.card, dataset.data
    more = np.bincount(number_copies(card.digests(data.features)))  # contents with more than 0, 1, ... copies
    contents = more - np.append(more[1:], 0)
    copies = np.flatnonzero(contents) + 1
    labels = data.labels[data.labels != UNKNOWN]
    order = _time_order(data.rows)
    columns = {name: _column(card, name, column[order]) for name, column in judged_columns(card, data.features)}
    number = count_units(data)
    if number < len(data):  # groups are what is independent, in any order
        columns = {name: column | {"spread": 1.0, "missing_spread": 1.0} for name, column in columns.items()}
    return {
        "rows": len(data),
        "units": number,
        "batches": [arrival.batch for arrival in card.batches if not arrival.dropped],
        "copies": [[int(copies), int(contents)] for copies, contents in zip(copies, contents[copies - 1], strict=True)],
        "labelled": len(labels),
        "anomalies": int((labels == ANOMALY).sum()),
        "columns": columns,
    }


def expected_repeats(reference: ReferenceCounts, n: int) -> float:
    """Return how many of n rows, drawn at random from those of a reference, repeat the content of another one.

    A content of c copies among N rows is not drawn with probability C(N - c, n) / C(N, n). The number of repeats grows
    faster than that of rows, so that shares of samples of unequal size do not compare.
    """
    total, copies = reference["rows"], np.array(reference["copies"], dtype=np.float64).reshape(-1, 2)
    rest = total - copies[:, 0]
    with np.errstate(invalid="ignore"):
        logarithm = gammaln(rest + 1) - gammaln(rest - n + 1) - gammaln(total + 1) + gammaln(total - n + 1)
    lacking = np.where(rest >= n, np.exp(np.minimum(logarithm, 0)), 0.0)
    return float(max(0.0, n - (copies[:, 1] * (1 - lacking)).sum()))


def contiguous_columns(features: Doubles) -> Iterator[Doubles]:
    """Yield the columns of rows (n, d), each of one piece of memory: of rows, it takes several times as long."""
    n, d = features.shape
    width = min(COLUMNS_AT_ONCE, max(1, BYTES_AT_ONCE // (8 * max(1, n))))
    for start in range(0, d, width):
        columns = np.empty((min(width, d - start), n))
        for block in row_blocks(features):
            columns[:, block] = features[block, start : start + width].T
        yield from columns


def judged_columns(
    card: Card, features: Doubles, known: Collection[str] = (WORDS, *IMAGE_SUMMARIES)
) -> Iterator[tuple[str, Doubles]]:
    """Yield what is judged of rows (n, d): each column by its name; of documents and large images, summaries.

    Of windows of a file of series, the mean and the standard deviation of each channel. `known` are the columns of the
    reference: those that an earlier Assay learned have every pixel of large images.
    """
    if card.modality.padded:
        yield from text_summaries(features, card.words)
    elif card.modality.name == "image" and features.shape[1] > MANY_COLUMNS and IMAGE_SUMMARIES[0] in known:
        yield from image_summaries(features, card.modality.shape or ())
    elif card.windows is not None:
        channels = features.reshape(len(features), card.windows.length, -1)
        for place, channel in enumerate(card.windows.channels):
            of_channel = channels[:, :, place]
            yield f"mean of {channel}", of_channel.mean(axis=1)
            yield f"spread of {channel}", of_channel.std(axis=1)
    else:
        yield from zip(card.columns, contiguous_columns(features), strict=True)


def _time_order(rows: pd.DataFrame) -> slice | NDArray[np.intp]:
    """Return what puts rows in the order of their times; without times, as they are."""
    if not (rows["time"] != "").any():
        return slice(None)
    return np.argsort(rows["time"].to_numpy(dtype=object), kind="stable")


def count_units(data: RowSet) -> float:
    """Return how many independent units there are: rows, or groups where there are any.

    Of groups of different sizes, the number of equal ones that give means as exact: (sum n)^2 / sum n^2 (Kish 1965). A
    row without a group is one of its own.
    """
    groups = data.rows["group"]
    sizes = np.asarray(groups[groups != ""].value_counts(), dtype=np.float64)
    alone = len(data) - float(sizes.sum())
    return _rounded(len(data) ** 2 / (float((sizes**2).sum()) + alone)) if len(data) else 0.0


def quantiles_of(values: Doubles) -> Doubles:
    """Return the values at the levels `QUANTILES` of sorted values (n,), n >= 1: each is one of them."""
    return np.asarray(values[np.rint(np.array(QUANTILES) * (len(values) - 1)).astype(np.int64)])


def kind_in_card(card: Card, name: str) -> str:
    """Return what a card says that a column holds: categories, dates (a counter) or numbers."""
    return CATEGORY if name in card.vocabulary else COUNTER if name in card.dates else NUMBER


def _column(card: Card, name: str, values: Doubles) -> ReferenceCounts:
    kind, lacks = kind_in_card(card, name), ~np.isfinite(values)
    present = values[~lacks]
    if kind == NUMBER and _is_counter(present):
        kind = COUNTER
    described: ReferenceCounts = {"kind": kind, "missing": int(lacks.sum()), "spread": 1.0}
    described["missing_spread"] = _repetition(lacks)
    if kind == CATEGORY:
        texts = card.vocabulary[name]
        counts = np.bincount(present.astype(np.int64), minlength=len(texts))
        most = sorted(range(len(texts)), key=lambda code: (-counts[code], texts[code]))[:CATEGORIES_KEPT]
        described["counts"] = {texts[code]: int(counts[code]) for code in most if counts[code]}
        described["others"] = sorted(texts[code] for code in set(range(len(texts))) - set(most) if counts[code])
        if len(present):
            described["spread"] = _repetition(present == counts.argmax())
    elif kind == NUMBER and not len(present):
        described |= {"quantiles": [], "below": [], "at_most": [], "scale": 0.0}
    elif kind == NUMBER:
        ordered = np.sort(present)
        levels = quantiles_of(ordered)
        described["quantiles"] = levels.tolist()
        described["below"] = np.searchsorted(ordered, levels, side="left").tolist()
        described["at_most"] = np.searchsorted(ordered, levels, side="right").tolist()
        described["scale"] = _scale(ordered, levels)
        places = np.searchsorted(levels[_INNER], present, side="right").astype(np.float64)
        outward = np.abs(places - (len(QUANTILES) - 2) / 2)
        described["spread"] = max(_repetition(places), _repetition(outward))
    return described


def _is_counter(values: Doubles) -> bool:
    """Return whether values (n,) only rise or only fall, or are different whole numbers with few gaps."""
    n = len(values)
    if n < FEWEST_IN_ORDER:
        return False
    steps = np.diff(values)
    if (steps >= 0).all() or (steps <= 0).all():
        return bool(np.count_nonzero(steps) >= (n - 1) / 2)
    if values.max() - values.min() > MOST_GAPS * n or (values != np.floor(values)).any():
        return False
    return len(np.unique(values)) == n


def _repetition(values: ArrayLike) -> float:
    """Return how many rows count for one: the variance of means of blocks beside that of independent rows.

    Of two lengths of blocks, sqrt(n) and a tenth of the rows, the larger; of each the upper 95 % bound, as for means
    of normal law. 1 where independent rows would give such variances in more than one of 1,000 columns.
    """
    signal: Doubles = np.asarray(values, dtype=np.float64)
    worst = 1.0
    if len(signal) < ENOUGH_ROWS or (variance := float(signal.var())) == 0:
        return worst
    for blocks in (math.isqrt(len(signal)), FEW_BLOCKS):
        length = len(signal) // blocks
        means = signal[: length * blocks].reshape(blocks, length).mean(axis=1)
        ratio = float(length * means.var(ddof=1) / variance)
        if ratio > stats.chi2.isf(CHANCE, blocks - 1) / (blocks - 1):
            worst = max(worst, ratio * (blocks - 1) / stats.chi2.ppf(DOUBT, blocks - 1))
    return _rounded(worst)


def _scale(ordered: Doubles, levels: Doubles) -> float:
    """Return the standard deviation that a normal law with the same interquartile range has; see `learn_reference`."""
    for low, high, width in ((3, 5, 1.349), (1, 7, 3.290)):
        if levels[high] > levels[low]:
            return _rounded(float(levels[high] - levels[low]) / width)
    largest = float(np.abs(ordered).max())
    return _rounded(float((ordered / largest).std()) * largest) if largest else 0.0


def _rounded(value: float) -> float:
    """Return six significant digits, so that a number in a file does not depend on float rounding."""
    return float(f"{value:.6g}")
