"""Monitoring: an alarm when a stream of scores is no longer exchangeable with the calibration scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from assay.arrays import Doubles, Floats, Integers, Singles
from assay.calibration.streams.martingale import Martingale, SimpleJumper, load_martingale
from assay.errors import ConfigError, DataError, InputError
from assay.families import Family, Head, check_part, inner_part
from assay.parameters import Count, Seed, Whole
from assay.parts import Array, Part

_BLOCK_ROWS = 128
EDGE_SHARE = 4
DRAWS_PER_COUNT = 4  # Philox makes four numbers of 64 bits for each value of its counter


class AllScores:
    """Stores every score, in sorted runs that are merged so that each is more than twice as long as the next.

    Ranking a score among n takes O(log^2 n), storing it O(log n) on average.
    """

    def __init__(self, scores: Singles) -> None:
        self.size = scores.size
        self._runs = [np.sort(scores)]

    def add(self, scores: Singles) -> tuple[Integers, Integers]:
        """Rank each of the scores (n,) among all earlier ones, in order, and store them.

        Returns the numbers of earlier scores that are higher and that are equal, each of shape (n,).
        """
        above, equal = np.empty(scores.size, np.int64), np.empty(scores.size, np.int64)
        for start in range(0, scores.size, _BLOCK_ROWS):
            block = scores[start : start + _BLOCK_ROWS]
            rows = slice(start, start + block.size)
            above[rows], equal[rows] = _among_themselves(block)
            # Sorted, the block becomes the next run, and searches pass through each run in order.
            order = np.argsort(block, kind="stable") + start
            for run in self._runs:
                ends = np.searchsorted(run, scores[order], side="right")
                above[order] += run.size - ends
                equal[order] += ends - np.searchsorted(run, scores[order], side="left")
            self._keep(scores[order])
        return above, equal

    def _keep(self, run: Singles) -> None:
        self.size += run.size
        while self._runs and self._runs[-1].size <= 2 * run.size:
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)

    def to_part(self) -> Part:
        """Return the scores in increasing order as a part."""
        return Part("all", {}, {"scores": np.sort(np.concatenate(self._runs))})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the scores that `to_part` described: the runs may differ, the ranks do not."""
        check_part(part, {}, {"scores": "float32? m"})
        return cls(part.arrays["scores"])


class BinnedScores:
    """Stores the number of scores in each bin between fixed edges; scores of one bin count as equal.

    Parameters
    ----------
    edges : ndarray of float32, shape (k,)
        Increasing; an edge belongs to the bin above it. Edges must be independent of the counted scores.
    counts : ndarray of int64, shape (k + 1,)
    """

    def __init__(self, edges: Singles, counts: Integers) -> None:
        self._edges = edges
        self._counts = counts
        self.size = int(counts.sum())

    @classmethod
    def start(cls, scores: Singles, *, bins: int, seed: int) -> Self:
        """Take edges from a random quarter of the scores and count the rest."""
        shuffled = np.random.default_rng(seed).permutation(scores)
        n_edges = -(-scores.size // EDGE_SHARE)
        levels = np.arange(1, bins) / bins
        edges = np.unique(np.quantile(shuffled[:n_edges], levels, method="inverted_cdf"))
        past = cls(edges, np.zeros(edges.size + 1, np.int64))
        past.add(shuffled[n_edges:])
        return past

    def add(self, scores: Singles) -> tuple[Integers, Integers]:
        """Rank scores one after the other; see `AllScores.add`."""
        above, equal = np.empty(scores.size, np.int64), np.empty(scores.size, np.int64)
        bins = np.searchsorted(self._edges, scores, side="right")
        for start in range(0, scores.size, _BLOCK_ROWS):
            block = bins[start : start + _BLOCK_ROWS]
            rows = slice(start, start + block.size)
            above[rows], equal[rows] = _among_themselves(block)
            above[rows] += self.size - np.cumsum(self._counts)[block]
            equal[rows] += self._counts[block]
            # Only now, since scores of this block were ranked among themselves above.
            self._counts += np.bincount(block, minlength=self._counts.size)
            self.size += block.size
        return above, equal

    def to_part(self) -> Part:
        """Return edges and counts as a part."""
        return Part("binned", {}, {"edges": self._edges, "counts": self._counts.copy()})  # counts change in place

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the bins that `to_part` described."""
        check_part(part, {}, {"edges": "float32? edges", "counts": "int64 bins"})
        if part.arrays["counts"].size != part.arrays["edges"].size + 1:
            raise ValueError("its counts are not one more than its edges")
        return cls(part.arrays["edges"], part.arrays["counts"].copy())


Past = AllScores | BinnedScores
_PASTS = Family[Past]("past scores", {"all": AllScores, "binned": BinnedScores})


class Monitor:
    """Watches a stream of scores; raises an alarm when it is no longer exchangeable with the calibration scores.

    Each score gets a smoothed p-value, ``(#{earlier > s} + U (#{earlier = s} + 1)) / (#earlier + 1)``,
    where the calibration scores and all earlier scores of the stream count as earlier, and U is drawn from
    (seed, number of the row). A martingale bets against these p-values (Vovk, Gammerman, Shafer 2022, sections 2.2 and
    8.1). Only the monitor uses them; decisions about rows do not.

    **Guarantee.** If calibration scores and stream are exchangeable, the p-values are independent and
    uniform, ties or not, and ``P(an alarm is ever raised) <= 1 / threshold``, however long the stream. The probability
    is over calibration rows, stream and seed. p-values against the calibration scores alone would depend on each other,
    and the bound would fail. The stream consists of all scored rows: an alarm may mean a drift of normal rows, more
    anomalies than among the calibration rows, or (with `SimpleJumper`) smaller scores.

    **After an alarm** the martingale continues; `reset` starts a new one against all scores so far. If the decision to
    reset depends on the martingale alone, each alarm still has at most this probability given the earlier ones. Under
    exchangeability the probability of k alarms is at most ``threshold ** -k``, and the expected total number of alarms
    is at most ``1 / (threshold - 1)``. After retraining, start a new monitor.

    **Bounded memory.** With `memory`, a random quarter of the calibration scores fixes the edges of at most that many
    bins, and only the number of later scores in each bin is stored. The edges are independent of the counted scores, so
    the guarantee does not change; the cost is this quarter and the order within a bin. (A reservoir of earlier scores
    gives uniform p-values that depend on each other like those against the calibration scores alone, and the bound
    fails; for a window of recent scores no bound is known.)

    Create monitors by `start` or `load_monitor`.

    Attributes
    ----------
    threshold : float
        Capital that raises the alarm.
    n_seen : int
        Rows monitored so far.
    alarm : int or None
        Number of the row, counted from 1, at which the capital first reached the threshold since the last reset.
    """

    def __init__(self, past: Past, martingale: Martingale, *, seed: int, threshold: float) -> None:
        self._past = past
        self._martingale = martingale
        self.seed = seed
        self.threshold = threshold
        self.n_seen = 0
        self.alarm: int | None = None

    @classmethod
    def start(
        cls,
        calibration_scores: Floats,
        *,
        seed: int,
        threshold: float = 100.0,
        martingale: Martingale | None = None,
        memory: int | None = None,
    ) -> Self:
        """Return a monitor at the start of a stream.

        Parameters
        ----------
        calibration_scores : ndarray of float, shape (m,)
            In any order; infinities and ties are allowed. Compared in float32, as `ConformalCalibrator` does.
        seed : int
            Of the smoothing; use a different one for every replica.
        threshold : float
            Above 1; see `alarm_threshold`.
        martingale : Martingale, optional
            A new martingale; by default a `SimpleJumper`.
        memory : int, optional
            Maximum number of bins, at least 2; by default every score is stored (4 bytes each).

        Raises
        ------
        ConfigError
            The seed, the threshold or the memory is out of range.
        DataError
            There are no calibration scores, or one is NaN.
        """
        if seed < 0 or not 1 < threshold < math.inf or (memory is not None and memory < 2):
            raise ConfigError(
                f"monitor: seed {seed!r}, threshold {threshold!r}, memory {memory!r}; give a seed >= 0, a finite "
                "threshold above 1, and a memory of at least 2 or none"
            )
        if calibration_scores.ndim != 1 or calibration_scores.size == 0 or np.isnan(calibration_scores).any():
            raise DataError(f"calibration scores of shape {calibration_scores.shape}: give (m,), m >= 1, none NaN")
        scores = _round(calibration_scores)
        past = AllScores(scores) if memory is None else BinnedScores.start(scores, bins=memory, seed=seed)
        return cls(past, martingale or SimpleJumper(), seed=seed, threshold=threshold)

    @property
    def log10_value(self) -> float:
        """Logarithm to base 10 of the capital, the evidence against exchangeability."""
        return self._martingale.log10_value

    def update(self, scores: Floats) -> Doubles:
        """Process scores of the stream in order, with exactly the same results as one by one.

        Parameters
        ----------
        scores : ndarray of float, shape (n,)

        Returns
        -------
        ndarray of float64, shape (n,)
            Log10 of the capital after each score.

        Raises
        ------
        InputError
            A score is NaN, or the shape is not (n,); the monitor is unchanged.
        """
        if scores.ndim != 1 or np.isnan(scores).any():
            raise InputError(f"{np.isnan(scores).sum()} NaN among scores of shape {scores.shape}; give (n,), none NaN")
        earlier = self._past.size
        above, equal = self._past.add(_round(scores))
        smoothed = above + _uniforms(self.seed, self.n_seen, scores.size) * (equal + 1)
        path = self._martingale.update(smoothed / (earlier + 1 + np.arange(scores.size)))
        reached = np.flatnonzero(path >= math.log10(self.threshold))
        if self.alarm is None and reached.size:
            self.alarm = self.n_seen + int(reached[0]) + 1
        self.n_seen += scores.size
        return path

    def reset(self) -> None:
        """Clear the alarm and start a new martingale, with capital 1, against all scores so far."""
        self._martingale = self._martingale.fresh()
        self.alarm = None

    def to_part(self) -> Part:
        """Return settings and state as a part."""
        config: dict[str, Any] = {name: getattr(self, name) for name in ("seed", "threshold", "n_seen", "alarm")}
        arrays: dict[str, Array] = {}
        for name, part in (("past", self._past.to_part()), ("martingale", self._martingale.to_part())):
            config[name] = {"kind": part.kind, "config": part.config}
            arrays |= {f"{name}.{key}": array for key, array in part.arrays.items()}
        return Part("monitor", config, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the monitor that `to_part` described (see `load_monitor`)."""
        config = {
            "seed": Seed,
            "threshold": Annotated[float, Gt(1)],
            "n_seen": Whole,
            "alarm": Count | None,
            "past": Head,
            "martingale": Head,
        }
        check_part(part, config, {"past.*": "any ...", "martingale.*": "any ..."})
        past = _PASTS.load(inner_part(part, "past.", part.config["past"]))
        martingale = load_martingale(inner_part(part, "martingale.", part.config["martingale"]))
        monitor = cls(past, martingale, seed=part.config["seed"], threshold=part.config["threshold"])
        monitor.n_seen, monitor.alarm = part.config["n_seen"], part.config["alarm"]
        return monitor


_MONITOR = Family[Monitor]("monitor", {"monitor": Monitor})


def load_monitor(part: Part) -> Monitor:
    """Return the monitor that a part describes; it continues with exactly the same results.

    Raises
    ------
    ScorerError
        The part, or one inside it, is of an unknown kind, or damaged.
    """
    return _MONITOR.load(part)


def alarm_threshold(false_alarm_probability: float) -> float:
    """Return the threshold that an exchangeable stream ever reaches with at most this probability: its inverse.

    Raises
    ------
    ConfigError
        The probability is not between 0 and 1, both excluded.
    """
    if not 0 < false_alarm_probability < 1:
        raise ConfigError(
            f"false-alarm probability is {false_alarm_probability!r}; it must lie between 0 and 1 (for instance 0.01)"
        )
    return 1 / false_alarm_probability


def merged_threshold(false_alarm_probability: float, replicas: int) -> float:
    """Return the threshold for the mean of the highest capitals that K replicas have reached.

    **Guarantee**, if rows are assigned to replicas regardless of their scores: each replica's rows are exchangeable
    with the calibration rows, and its highest capital ever is at least c with probability at most 1 / c. Replicas share
    calibration rows, so that their capitals depend on each other, in an unknown way. The mean of K such highest values
    is at least c with probability at most ``e ln(K) / c`` for K > 2, and 2 / c for K = 2 (harmonic means of dependent
    p-values; Vovk and Wang 2020, `Combining p-values via averaging`). For one replica it is 1 / c. The mean of the
    capitals at any one moment is never higher, so the bound holds for whether it ever reaches c, too.

    Raises
    ------
    ConfigError
        The probability is not between 0 and 1, or there are no replicas.
    """
    if replicas < 1:
        raise ConfigError(f"{replicas} replicas; give their number, at least 1")
    factor = math.e * math.log(replicas) if replicas > 2 else float(replicas)
    return factor * alarm_threshold(false_alarm_probability)


def merge(monitors: Sequence[Monitor]) -> float:
    """Return log10 of the mean capital of K replicas that watch parts of one stream.

    **Guarantee**, if rows are assigned to replicas regardless of their scores: a replica's capital has mean at most 1
    while its rows are exchangeable with the calibration rows, and so has the mean of K capitals. At one moment fixed in
    advance, this mean is at least c with probability at most 1/c (Markov). Each replica's alarm keeps its guarantee.
    The bound on the mean *ever* reaching c is weaker, since the mean is not a martingale: see `merged_threshold`. The
    product of capitals has no such bound.

    Raises
    ------
    InputError
        There are no monitors.
    """
    if not monitors:
        raise InputError("no monitors to merge; give at least one")
    return log10_mean([monitor.log10_value for monitor in monitors])


def log10_mean(values: Sequence[float]) -> float:
    """Return log10 of the mean of numbers whose log10 are given, none of which has to fit into a float."""
    most = max(values)
    return most + math.log10(float(np.power(10.0, np.array(values) - most).mean()))


def _among_themselves(values: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return for each value the numbers of earlier values that are higher and that are equal."""
    earlier = np.tri(values.size, k=-1, dtype=bool)
    above = (values > values[:, None]) & earlier
    equal = (values == values[:, None]) & earlier
    return above.sum(axis=1), equal.sum(axis=1)


def _uniforms(seed: int, first: int, n: int) -> Doubles:
    """Return n numbers in (0, 1); row i of the stream gets the same number in every batch."""
    # Starting at the counter of the first row gives each row its number without drawing those of earlier rows.
    generator = np.random.Philox(seed, counter=first // DRAWS_PER_COUNT)
    skipped = first % DRAWS_PER_COUNT
    raw = generator.random_raw(skipped + n)[skipped:]
    # The upper 52 bits plus one half: float64 holds all values exactly, and 0 and 1 are excluded.
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _round(scores: Floats) -> Singles:
    # Scores beyond float32 become infinite, and are ranked as such.
    with np.errstate(over="ignore"):
        return np.asarray(scores, dtype=np.float32)
