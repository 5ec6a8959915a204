"""Drift: a small frame of test statistics of new rows beside a reference, which expectations of a suite judge.

Every statistic is a share of rows: below a quantile of the reference, missing, of one category, labelled
anomalous, repeated. Shares of two samples are compared by Fisher's exact test. For a quantile that is the exact
law of the number of rows below an order statistic (negative hypergeometric), whatever the distribution, so that
heavy tails need no care; with ties the p-value is too large, never too small. Repeated contents are taken for
independent, which they nearly are where they are few. p-values are multiplied by the number of statistics, that of the
rows among them (Bonferroni): the level .01 is that of the whole frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import gammaln

from assay.arrays import Doubles
from assay.data.card import Card
from assay.data.dataset import ANOMALY, UNKNOWN, Dataset, RowSet, equal_rows, number_copies
from assay.data.reference import (
    CATEGORY,
    COUNTER,
    ENOUGH_ROWS,
    NUMBER,
    QUANTILES,
    ReferenceCounts,
    count_units,
    expected_repeats,
    judged_columns,
    kind_in_card,
    quantiles_of,
)

LEVEL, LEAST_POINTS = 0.01, 5.0
SHIFT, SHARE, LABELS, ROWS, P_VALUE = "shift", "share", "labels", "rows", "p"
WHOLE = "all rows"

Pair = tuple[float, float]


class Statistic(NamedTuple):
    """One share of rows in the reference and now.

    Attributes
    ----------
    column : str
        Column of the dataset, or "all rows".
    kind : str
        The column of the frame that its effect is in.
    what : str
        The share, in words.
    before, now : float
    p : float
        p-value of the hypothesis that both are of one population.
    moved : float
        How far a quantile moved, in robust standard deviations; 0 for other shares.
    """

    column: str
    kind: str
    what: str
    before: float
    now: float
    p: float
    moved: float = 0.0


def compare(
    reference: ReferenceCounts, card: Card, data: RowSet, *, seen: Statistic | None = None, rows: int | None = None
) -> pd.DataFrame:
    """Return the frame of statistics of rows beside a reference, the most significant of each column first.

    Parameters
    ----------
    reference : dict
        From `assay.data.reference.learn_reference`.
    card : Card
        Its columns are those of the reference.
    data : RowSet
        The new rows, n >= 1.
    seen : Statistic, optional
        One more, from `seen_before`.
    rows : int, optional
        How many rows are expected; without it the number is not judged.

    Returns
    -------
    DataFrame
        ``row.id`` (a sentence), ``column``, ``before`` and ``now`` (shares), ``p``; and the effects that a suite
        judges, which are 0 unless p <= .01 and there are at least 100 rows on both sides: ``shift`` (standard
        deviations that a quantile moved by, if more than 5 % of the rows lie on another side of it than before),
        ``share`` (points), ``labels`` (points, if the majority of labels is another one than before) and ``rows``
        (percent; 100 rows must be expected).
    """
    scales = reference["units"] / max(1, reference["rows"]), count_units(data) / max(1, len(data))
    statistics = list(_of_all_rows(reference, card, data, scales)) + ([] if seen is None else [seen])
    for name, values in judged_columns(card, data.features, reference["columns"]):
        if name in reference["columns"]:
            column = reference["columns"][name]
            statistics.extend(_of_column(name, column, reference["rows"], card, values, scales))
    enough = min(reference["rows"], len(data)) >= ENOUGH_ROWS
    frame = _judged(pd.DataFrame(statistics, columns=Statistic._fields), enough=enough)
    if rows is not None:
        frame = pd.concat([_row_count(rows, len(data), len(statistics)), frame], ignore_index=True)
    return frame


def seen_before(accepted: Dataset, grown: Dataset) -> Statistic:
    """Return the share of new rows whose content occurs in the accepted ones, beside that among these themselves."""
    contents = equal_rows(*grown.card.digests(grown.data.features).T)
    old, new = contents[: len(accepted.data)], contents[len(accepted.data) :]
    shares = float((np.bincount(old)[old] > 1).mean()), float(np.isin(new, old).mean())
    sizes = count_units(accepted.data), count_units(grown.data.take(np.arange(len(old), len(contents))))
    return _share_statistic(WHOLE, SHARE, "of the contents occurred in earlier rows", shares, sizes)


def fewer(k: ArrayLike, size: ArrayLike, drawn: ArrayLike, total: ArrayLike) -> Doubles:
    """Return an upper bound, close in the tail, on the probability that at most k of `drawn` rows are of one sample.

    The sample has `size` of `total` rows: the lower tail of the hypergeometric law. Since that is log-concave, the
    tail is at most its last probability / (1 - ratio of the last two). Numbers need not be whole: effective numbers
    of rows are not.
    """
    k, size, drawn, total = (np.asarray(number, dtype=np.float64) for number in (k, size, drawn, total))
    ratio = k * np.maximum(total - size - drawn + k, 0) / ((size - k + 1) * (drawn - k + 1))
    logarithm = _choose(size, k) + _choose(total - size, drawn - k) - _choose(total, drawn)
    with np.errstate(divide="ignore", over="ignore"):
        bound = np.where(ratio < 1, np.exp(np.minimum(logarithm, 0)) / np.maximum(1 - ratio, 1e-12), 1.0)
    return np.asarray(np.minimum(bound, 1.0))


def _choose(n: Doubles, k: Doubles) -> Doubles:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1))


def _share_statistic(column: str, kind: str, what: str, shares: Pair, sizes: Pair) -> Statistic:
    """Return the statistic of shares of two samples of these sizes, with two-sided p-value."""
    counts = np.multiply(shares, sizes)
    p = min(1.0, 2 * float(fewer(counts, sizes, counts.sum(), sum(sizes)).min()))
    return Statistic(column, kind, what, float(shares[0]), float(shares[1]), p)


def _of_all_rows(reference: ReferenceCounts, card: Card, data: RowSet, scales: Pair) -> Iterator[Statistic]:
    # Of more rows more are repeated by chance, so equal numbers are compared.
    n = min(len(data), reference["rows"])
    drawn = np.random.default_rng(0).permutation(len(data))[:n]
    repeated = float((number_copies(card.digests(data.features)[drawn]) > 0).mean())
    sizes = n * scales[0], n * scales[1]
    shares = expected_repeats(reference, n) / max(1, n), repeated
    yield _share_statistic(WHOLE, SHARE, "repeat the content of another row", shares, sizes)
    labels = data.labels[data.labels != UNKNOWN]
    if len(labels) and reference["labelled"]:
        shares = reference["anomalies"] / reference["labelled"], float((labels == ANOMALY).mean())
        sizes = reference["labelled"] * scales[0], len(labels) * scales[1]
        yield _share_statistic("row.label", LABELS, "of the labelled rows are anomalies", shares, sizes)


def _of_column(
    name: str, column: ReferenceCounts, rows: int, card: Card, values: Doubles, scales: Pair
) -> Iterator[Statistic]:
    present = values[np.isfinite(values)]
    lacking = len(values) - len(present)
    kind = kind_in_card(card, name)
    if (column["kind"] == CATEGORY) != (kind == CATEGORY) or (kind == COUNTER and column["kind"] == NUMBER):
        yield Statistic(name, SHARE, f"of the values are of another kind: {kind} in place of {column['kind']}", 0, 1, 0)
        return
    shares = column["missing"] / max(1, rows), lacking / len(values)
    sizes = _effective((rows, len(values)), scales, column["missing_spread"])
    yield _share_statistic(name, SHARE, "of the values are missing", shares, sizes)
    n = rows - column["missing"]
    if not len(present) or not n:
        return
    sizes = _effective((n, len(present)), scales, column["spread"])
    if column["kind"] == CATEGORY:
        yield from _of_categories(name, column, n, card.vocabulary[name], present, sizes)
    elif column["kind"] == NUMBER:
        yield from _of_numbers(name, column, n, np.sort(present), sizes)


def _effective(counts: tuple[int, int], scales: Pair, spread: float) -> Pair:
    """Return numbers of independent rows, if `spread` rows count for one, and no more than units."""
    before, now = (count * min(scale, 1 / spread) for count, scale in zip(counts, scales, strict=True))
    return before, now


def _of_categories(
    name: str, column: ReferenceCounts, n: int, texts: tuple[str, ...], codes: Doubles, sizes: Pair
) -> Iterator[Statistic]:
    """Yield the share of each of the most frequent categories, and of unseen ones."""
    counts = dict(zip(texts, np.bincount(codes.astype(np.int64), minlength=len(texts)).tolist(), strict=True))
    for text, count in column["counts"].items():
        shares = count / n, counts.get(text, 0) / len(codes)
        yield _share_statistic(name, SHARE, f"of the values are {text!r}", shares, sizes)
    seen = {*column["counts"], *column["others"]}
    unseen = sum(count for text, count in counts.items() if text not in seen) / len(codes)
    yield _share_statistic(name, SHARE, "of the values are categories that did not occur", (0.0, unseen), sizes)


def _of_numbers(name: str, column: ReferenceCounts, n: int, ordered: Doubles, sizes: Pair) -> Iterator[Statistic]:
    """Yield the share of rows below each quantile or at most it, whichever tells more."""
    levels = np.array(column["quantiles"])
    below = np.array(column["below"]) / n, np.searchsorted(ordered, levels, side="left") / len(ordered)
    at_most = np.array(column["at_most"]) / n, np.searchsorted(ordered, levels, side="right") / len(ordered)
    total = sizes[0] + sizes[1]
    drawn = below[0] * sizes[0] + below[1] * sizes[1]
    more = fewer(below[0] * sizes[0], sizes[0], drawn, total)
    drawn = at_most[0] * sizes[0] + at_most[1] * sizes[1]
    less = fewer(at_most[1] * sizes[1], sizes[1], drawn, total)
    distance = quantiles_of(ordered) - levels
    scale = column["scale"]
    moved = distance / scale if scale else np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    for place in range(len(QUANTILES)):
        rises = more[place] <= less[place]
        shares = below if rises else at_most
        what = f"of the values are {'below' if rises else 'at most'} {levels[place]:.5g}"
        p = float(min(1.0, 2 * min(more[place], less[place])))
        before, now = (float(share[place]) for share in shares)
        yield Statistic(name, SHIFT, what, before, now, p, float(moved[place]))


def _judged(frame: pd.DataFrame, *, enough: bool) -> pd.DataFrame:
    """Return statistics with adjusted p-values, effects and sentences, in the order of `compare`."""
    frame["p"] = np.minimum(1.0, frame["p"] * (len(frame) + 1))
    points = 100 * (frame["now"] - frame["before"])
    certain = (frame["p"] <= LEVEL) & enough
    far = certain & (frame["kind"] == SHIFT) & (points.abs() > LEAST_POINTS)
    frame[SHIFT] = frame["moved"].where(far, 0.0).clip(-1e9, 1e9)
    frame[SHARE] = points.where(certain & (frame["kind"] == SHARE), 0.0)
    turned = (frame["before"] - 0.5) * (frame["now"] - 0.5) < 0
    frame[LABELS] = points.where(certain & (frame["kind"] == LABELS) & turned, 0.0)
    frame[ROWS] = 0.0
    frame["row.id"] = [
        f"{column}: {100 * before:.3g} % {what}, now {100 * now:.3g} %"
        for column, what, before, now in frame[["column", "what", "before", "now"]].to_numpy().tolist()
    ]
    frame = frame.assign(size=-points.abs()).sort_values(["p", "size"], kind="stable")
    frame = frame.iloc[np.argsort(frame.groupby("column", sort=False).cumcount().to_numpy(), kind="stable")]
    return frame[["row.id", "column", "before", "now", P_VALUE, SHIFT, SHARE, LABELS, ROWS]].reset_index(drop=True)


def _row_count(expected: int, n: int, statistics: int) -> pd.DataFrame:
    """Return the row of the frame of the number of rows, as that of one of two Poisson counts of one rate."""
    p = min(1.0, float(stats.binom.cdf(n, n + expected, 0.5)) * (statistics + 1))
    change = 100 * (n / expected - 1) if p <= LEVEL and expected >= ENOUGH_ROWS else 0.0
    return pd.DataFrame(
        {
            "row.id": [f"{WHOLE}: {expected} were expected, {n} are there"],
            "column": [WHOLE],
            "before": [1.0],
            "now": [n / expected],
            P_VALUE: [p],
            SHIFT: [0.0],
            SHARE: [0.0],
            LABELS: [0.0],
            ROWS: [min(change, 0.0)],
        }
    )
