"""ARES: scores relative to those of neighbours (`ARES: Locally Adaptive Reconstruction-based Anomaly Scoring`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge, Le

from assay.arrays import Doubles, Floats
from assay.calibration.adapters.outputs import LARGEST, Outputs
from assay.calibration.neighbours import Neighbourhoods, Neighbours, in_threads
from assay.errors import DataError
from assay.families import check_part, stored_parameters
from assay.parameters import Count, NotNegative, Seed, Whole, check_parameters, parameters_of, plain_parameters
from assay.parts import Part

_MIN_ROWS = 20
FEWEST_NEIGHBOURS = 10
MOST_CONTAMINATION = 0.25
SUSPECTED = 0.05
ARRAYS = {
    "units": "float64 members in (0,)",
    "errors": "float64 n",
    "reach": "float64 n",
    "density": "float64 n",
    "centres": "float64 2",
    "spreads": "float64 2 in (0,)",
}
_CHUNK_ROWS = 2**16
MOST_PAIRS = 2**26


@dataclass(kw_only=True, eq=False, repr=False)
class Ares:
    """Excess of the score over that of neighbours in latent space, plus the sparsity of latent space around the row.

    ``s = z(r) + density_weight * z(d)`` (ARES eq 8), with ``r = Err - median of Err among the k nearest adapt
    rows`` (eq 6), d the logarithm of the row's local outlier factor LOF_k among the adapt rows (eq 1 and 7), and
    z(v) = (v - median) / interquartile range of v over the adapt rows; no adapt row is its own neighbour.
    Neighbours are nearest by latent code.

    Differs from the paper:

    - Neighbours are adapt rows, which were not used to train the detector. The paper takes training rows,
      whose errors are too small.
    - z makes the two terms comparable: the units of score and codes do not matter. The paper adds half of LOF to
      an error of any unit.
    - d is log LOF: eq 7 requires a negative log density, and LOF is a ratio of densities. Next to identical rows
      LOF has no bound, but its logarithm stays moderate.
    - k grows with the number of rows and the contamination that is given or suspected; the paper's 10 is the minimum.
    - Codes of the members of an ensemble are concatenated, each member's in units of the median distance of its
      codes from their median, so that none dominates.

    Parameters
    ----------
    neighbours : int or "auto"
        k, less than the number of adapt rows. "auto" is the smallest k > 2 n `contamination` of n adapt rows, at
        least 10: then most neighbours are normal even if all anomalies among the adapt rows form one cluster, whose
        members would otherwise make each other look normal. (In the paper's table 4 the best k at n of about 5,000
        and a contamination of .5, 1, 2, 3 and 5 % were 50, 100, 200, 200 and 500.)
    contamination : float or "auto"
        The largest share of anomalies among the adapt rows, from 0 to .25; only ``neighbours="auto"`` reads it. "auto":
        0 if all adapt rows are labelled normal, else .05 of those that are not. No estimate is taken: without labels of
        adapt rows the data give none with an upper end (see
        `assay.calibration.contaminated.estimates.contamination_from_verified`). Larger values blur fine structure,
        since a neighbourhood is twice that share of all rows: on clean rows .05 costs half a point of AUROC beside 0,
        and five points of power (docs/benchmarks/adapters.md). But .05 has the smallest worst loss in the paper's table
        4: 500 neighbours (5 %) were at most .6 points of AUROC below the best k, from no contamination to 10 %, and 10
        neighbours up to 13 points.
    density_weight : float
        Weight of the density term (the paper's alpha), >= 0. At 1 an interquartile range of either term counts the
        same.
    max_rows : int
        At most this many adapt rows are kept, picked at random; "auto" then uses proportionally fewer neighbours.
    seed : int
        Seed of this sample and of the approximate search among many rows (see
        `assay.calibration.neighbours`).

    Attributes
    ----------
    k_ : int
        Number of neighbours; 0 after a fallback.
    units_ : ndarray of float64, shape (S,)
        Divisors of the members' codes.
    index_ : Neighbours, optional
        The adapt rows' codes; None after a fallback.
    errors_ : ndarray of float64, shape (n,)
        The adapt rows' scores.
    reach_ : ndarray of float64, shape (n,)
        Distance of each adapt row to its k-th nearest neighbour.
    density_ : ndarray of float64, shape (n,)
        Local reachability density of each adapt row.
    centres_, spreads_ : ndarray of float64, shape (2,)
        Median and interquartile range of r and d among the adapt rows.
    fallback_ : str
        Why scores are only centred and scaled; empty without a fallback.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """

    kind: ClassVar[str] = "ares"

    neighbours: Literal["auto"] | Count = "auto"
    contamination: Literal["auto"] | Annotated[float, Ge(0), Le(MOST_CONTAMINATION)] = "auto"
    density_weight: NotNegative = 1.0
    max_rows: Annotated[int, Ge(_MIN_ROWS)] = 20_000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_parameters(f"adapter {self.kind!r}", type(self), vars(self))

    def fit(self, outputs: Outputs) -> Self:
        """Fit on the outputs for the adapt rows.

        Fallback: with fewer than 20 rows, or if all codes are equal, scores are only centred and scaled, and
        ``fallback_`` holds the reason.

        Raises
        ------
        DataError
            There are no rows, the shapes differ, a value is not finite, or `neighbours` is not less than the
            number of rows.
        """
        errors, latents = self._sample(_check_scores(outputs.scores), _check_latents(outputs))
        self.units_ = np.array([_unit(codes) for codes in latents])
        self.fallback_ = _degenerate(len(errors), self.units_)
        self.units_[self.units_ == 0] = 1.0  # all codes of such a member are equal
        self.k_, self.index_ = 0, None
        self.errors_ = self.reach_ = self.density_ = np.zeros(0)
        terms = np.stack([errors, np.zeros_like(errors)])
        if not self.fallback_:
            self.k_, self.errors_ = self._count(len(errors), outputs.unlabelled), errors
            self.index_ = Neighbours.build(self._space(latents), self.k_, seed=self.seed)
            terms = self._fit_densities(self.index_)
        self.centres_, self.spreads_ = np.median(terms, axis=1), np.array([_spread(term) for term in terms])
        return self

    def transform(self, outputs: Outputs) -> Doubles:
        """Return the adapted scores, float64 of shape (n,), of the rows with these outputs.

        Raises
        ------
        DataError
            A latent code is not finite, or the numbers of codes and rows differ.
        """
        errors, latents = np.asarray(outputs.scores, dtype=np.float64), _check_latents(outputs)
        starts = range(0, max(1, len(errors)), _CHUNK_ROWS)
        chunks = [self._terms(errors[i : i + _CHUNK_ROWS], latents[:, i : i + _CHUNK_ROWS]) for i in starts]
        r, d = (np.concatenate(chunks, axis=1) - self.centres_[:, None]) / self.spreads_[:, None]
        return np.asarray(np.clip(r + self.density_weight * d, -LARGEST, LARGEST))

    def to_part(self) -> Part:
        """Return the parameters and the fitted state as a part."""
        config = plain_parameters({name: getattr(self, name) for name in parameters_of(type(self))})
        arrays = {name: getattr(self, f"{name}_") for name in ARRAYS}
        arrays |= {} if self.index_ is None else self.index_.arrays()
        return Part(self.kind, config | {"k": self.k_, "fallback": self.fallback_}, arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Return the adapter that `to_part` described; needs neither scikit-learn nor scipy."""
        k = part.config.get("k")
        config = {**stored_parameters(cls), "k": Whole, "fallback": str}
        check_part(part, config, {**ARRAYS, **(Neighbours.stored if k else {})})
        adapter = cls(**{name: part.config[name] for name in parameters_of(cls)})
        adapter.k_, adapter.fallback_ = part.config["k"], part.config["fallback"]
        for name in ARRAYS:
            setattr(adapter, f"{name}_", part.arrays[name])
        adapter.index_ = Neighbours.from_arrays(adapter.k_, part.arrays) if adapter.k_ else None
        return adapter

    def _sample(self, errors: Doubles, latents: Floats) -> tuple[Doubles, Floats]:
        if len(errors) <= self.max_rows:
            return errors, latents
        picked = np.sort(np.random.default_rng(self.seed).choice(len(errors), self.max_rows, replace=False))
        return errors[picked], latents[:, picked]

    def _count(self, n_rows: int, unlabelled: float) -> int:
        """Return k for n adapt rows, of which a share is not labelled."""
        if self.neighbours == "auto":
            rho = SUSPECTED * unlabelled if self.contamination == "auto" else self.contamination
            return max(FEWEST_NEIGHBOURS, int(2 * rho * n_rows) + 1)
        if self.neighbours >= n_rows:
            raise DataError(
                f"ares: neighbours is {self.neighbours}, but an adapt row has {n_rows - 1} others; lower it, or "
                "use 'auto'"
            )
        return self.neighbours

    def _space(self, latents: Floats) -> Doubles:
        """Return the concatenated codes of all members, shape (n, S * k)."""
        return np.concatenate([codes / unit for codes, unit in zip(latents, self.units_, strict=True)], axis=1)

    def _terms(self, errors: Doubles, latents: Floats) -> Doubles:
        """Return r and d of rows, shape (2, n)."""
        terms = np.stack([errors, np.zeros_like(errors)])

        def add_terms(neighbourhoods: Neighbourhoods) -> None:
            terms[0, neighbourhoods.rows] -= _medians(self.errors_.take(neighbourhoods.neighbours))
            terms[1, neighbourhoods.rows] = self._log_factors(neighbourhoods, self._density(neighbourhoods))

        if self.index_ is not None:
            self.index_.search(self._space(latents), add_terms)
        return terms

    def _fit_densities(self, index: Neighbours) -> Doubles:
        """Fit reach and density of every adapt row, and return its terms, shape (2, n)."""
        n_rows = len(self.errors_)
        terms = np.stack([self.errors_, np.zeros(n_rows)])
        self.reach_, self.density_ = np.empty(n_rows), np.empty(n_rows)
        # Three passes over the neighbourhoods, since densities need every row's reach and factors every row's density.
        # The neighbourhoods are kept if memory allows, else searched again.
        kept: list[Neighbourhoods] = []
        keep = n_rows * self.k_ <= MOST_PAIRS

        def repeat(use: Callable[[Neighbourhoods], None]) -> None:
            in_threads(use, kept, n_rows) if keep else index.search_stored(use)

        def fit_reach(neighbourhoods: Neighbourhoods) -> None:
            terms[0, neighbourhoods.rows] -= _medians(self.errors_.take(neighbourhoods.neighbours))
            self.reach_[neighbourhoods.rows] = neighbourhoods.distances.max(axis=1)
            if keep:
                kept.append(neighbourhoods)

        def fit_density(neighbourhoods: Neighbourhoods) -> None:
            self.density_[neighbourhoods.rows] = self._density(neighbourhoods)

        def fit_log_factor(neighbourhoods: Neighbourhoods) -> None:
            terms[1, neighbourhoods.rows] = self._log_factors(neighbourhoods, self.density_[neighbourhoods.rows])

        index.search_stored(fit_reach)
        repeat(fit_density)
        repeat(fit_log_factor)
        return terms

    def _density(self, neighbourhoods: Neighbourhoods) -> Doubles:
        """Return the local reachability density of rows with these neighbours."""
        assert self.index_ is not None
        reachability = np.maximum(self.reach_.take(neighbourhoods.neighbours), neighbourhoods.distances).mean(axis=1)
        # Next to equal rows the mean is 0; the step of the grid keeps the density finite.
        return np.asarray(1.0 / np.maximum(reachability, self.index_.grid.step))

    def _log_factors(self, neighbourhoods: Neighbourhoods, density: Doubles) -> Doubles:
        """Return log LOF (eq 1) of rows of this density."""
        return np.asarray(np.log(self.density_.take(neighbourhoods.neighbours).mean(axis=1) / density))


def _check_scores(scores: Floats) -> Doubles:
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise DataError(f"ares cannot be fitted on scores of shape {scores.shape}; give (n,), n >= 1, all finite")
    return np.asarray(scores, dtype=np.float64)


def _check_latents(outputs: Outputs) -> Floats:
    latents = outputs.latents()
    if latents.ndim != 3 or latents.shape[1] != len(outputs) or not np.isfinite(latents).all():
        raise DataError(
            f"ares cannot use latent codes of shape {latents.shape} for {len(outputs)} rows; give (S, n, k), all finite"
        )
    return latents


def _medians(values: Doubles) -> Doubles:
    """Return the median of each row of (b, k), like `numpy.median` in a fifth of the time."""
    middle = values.shape[1] // 2
    parted = np.partition(values, middle, axis=1)
    upper = parted[:, middle]
    return np.asarray(upper if values.shape[1] % 2 else (parted[:, :middle].max(axis=1) + upper) / 2)


def _unit(codes: Floats) -> float:
    """Return the median distance of codes (n, k) from their median; if it is 0 the root mean square."""
    codes = np.asarray(codes, dtype=np.float64)
    distances = np.linalg.norm(codes - np.median(codes, axis=0), axis=1)
    return float(np.median(distances)) or float(np.sqrt(np.square(distances).mean()))


def _degenerate(n_rows: int, units: Doubles) -> str:
    if n_rows < _MIN_ROWS:
        return f"{n_rows} rows, neighbourhoods need {_MIN_ROWS}"
    return "" if units.any() else "all latent codes are equal"


def _spread(values: Doubles) -> float:
    """Return the interquartile range; if it is 0 the full range, and if that is 0 too, 1."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) or float(np.ptp(values)) or 1.0
