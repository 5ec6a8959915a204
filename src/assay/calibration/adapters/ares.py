"""ARES: scores relative to the neighbours' (`ARES: Locally Adaptive Reconstruction-based Anomaly Scoring`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from assay.calibration.adapters.neighbours import Found, Neighbours, in_threads
from assay.calibration.adapters.outputs import Outputs
from assay.errors import DataError
from assay.families import check_part, stored_parameters
from assay.parameters import Count, NotNegative, Seed, Whole, check_parameters, parameters_of, plain_parameters
from assay.parts import Part

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
MIN_ROWS = 20
FEWEST_NEIGHBOURS = 10
MOST_CONTAMINATION = 0.25
LARGEST = float(np.finfo(np.float32).max)
ARRAYS = {
    "units": "float64 members",
    "errors": "float64 n",
    "reach": "float64 n",
    "density": "float64 n",
    "centres": "float64 2",
    "spreads": "float64 2",
}
CHUNK = 2**16
MOST_PAIRS = 2**26


@dataclass(kw_only=True, eq=False, repr=False)
class Ares:
    """Score above that of the neighbours in latent space, plus how sparse the latent space is around the row.

    ``s = z(r) + density_weight * z(d)`` (ARES eq 8), with ``r = Err - median of Err among the k nearest adapt
    rows`` (eq 6), d the logarithm of the row's local outlier factor LOF_k among the adapt rows (eq 1 and 7), and
    z(v) = (v - median) / interquartile range of v over the adapt rows, each one left out of its own
    neighbourhood. Neighbours are nearest by latent code.

    Differs from the paper:

    - Neighbours are adapt rows, which the detector was not trained on. The paper takes the training rows,
      whose errors are too small.
    - z makes the two terms comparable: neither the unit of the score nor that of the codes matters. The paper adds
      half of LOF to an error in any unit.
    - d is log LOF: eq 7 asks for a negative log density, and LOF is a ratio of densities. Next to rows that are
      all alike LOF is as large as you like, and its logarithm stays in bounds.
    - k grows with the rows and with the suspected contamination; the paper's 10 is the least.
    - Codes of the members of an ensemble lie side by side in one space, each member's in units of the median
      distance of its codes from their median, so that none dominates.

    Parameters
    ----------
    neighbours : int or "auto"
        k, less than the number of adapt rows. "auto" is the smallest k > 2 n `contamination` of n adapt rows, at
        least 10: then most neighbours are normal even where all anomalies among the adapt rows form one
        cluster, whose members would otherwise vouch for each other. (In the paper's table 4 the best k at n of
        about 5,000 and a contamination of .5, 1, 2, 3 and 5 % were 50, 100, 200, 200 and 500.)
    contamination : float
        The largest share of anomalies suspected among the adapt rows, from 0 to .25; only "auto" reads it. It costs
        fine structure, since a neighbourhood is twice that share of all rows. The default is the k of the
        paper's table 4 that loses least at worst: 500 neighbours (5 %) were at most .6 points of AUROC below the
        best k, from no contamination to 10 %, and 10 neighbours up to 13.
    density_weight : float
        Weight of the density term (the paper's alpha), >= 0. At 1 a row that is unusual by as many
        interquartile ranges in either term counts the same.
    max_rows : int
        At most so many adapt rows are kept, picked at random; "auto" then has as many fewer neighbours, which
        are the same share of the rows.
    seed : int
        Of that pick, and of the approximate search among many rows (see `assay.calibration.adapters.neighbours`).

    Attributes
    ----------
    k_ : int
        0 where the fit fell back.
    units_ : ndarray of float64, shape (S,)
        What the members' codes are divided by.
    index_ : Neighbours, optional
        The adapt rows' codes; None where the fit fell back.
    errors_ : ndarray of float64, shape (n,)
        The adapt rows' scores.
    reach_ : ndarray of float64, shape (n,)
        Distance of each adapt row to its k-th nearest other one.
    density_ : ndarray of float64, shape (n,)
        Its local reachability density.
    centres_, spreads_ : ndarray of float64, shape (2,)
        Median and interquartile range of r and d among the adapt rows.
    fallback_ : str
        Why scores are only centred and scaled; empty where they are not.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """

    kind: ClassVar[str] = "ares"

    neighbours: Literal["auto"] | Count = "auto"
    contamination: Annotated[float, Ge(0), Le(MOST_CONTAMINATION)] = 0.05
    density_weight: NotNegative = 1.0
    max_rows: Annotated[int, Ge(MIN_ROWS)] = 20_000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_parameters(f"adapter {self.kind!r}", type(self), vars(self))

    def fit(self, outputs: Outputs) -> Self:
        """Fit on the outputs for the adapt rows.

        With fewer than 20 rows, or where all their codes are equal, scores are only centred and scaled, and
        ``fallback_`` says why.

        Raises
        ------
        DataError
            There are no rows, the shapes differ, a value is not finite, or `neighbours` is not less than the
            number of rows.
        """
        errors, latents = self._sample(_check_scores(outputs.scores), _check_latents(outputs))
        self.units_ = np.array([_unit(codes) for codes in latents])
        self.fallback_ = _degenerate(len(errors), self.units_)
        self.units_[self.units_ == 0] = 1.0
        self.k_, self.index_ = 0, None
        self.errors_ = self.reach_ = self.density_ = np.zeros(0)
        terms = np.stack([errors, np.zeros_like(errors)])
        if not self.fallback_:
            self.k_, self.errors_ = self._count(len(errors)), errors
            self.index_ = Neighbours.build(self._space(latents), self.k_, seed=self.seed)
            terms = self._fit_densities(self.index_)
        self.centres_, self.spreads_ = np.median(terms, axis=1), np.array([_spread(term) for term in terms])
        return self

    def transform(self, outputs: Outputs) -> Doubles:
        """Return the adapted scores, float64 of shape (n,), of the rows with these outputs.

        Raises
        ------
        DataError
            A latent code is not finite, or there are not as many as rows.
        """
        errors, latents = np.asarray(outputs.scores, dtype=np.float64), _check_latents(outputs)
        starts = range(0, max(1, len(errors)), CHUNK)
        chunks = [self._terms(errors[i : i + CHUNK], latents[:, i : i + CHUNK]) for i in starts]
        r, d = (np.concatenate(chunks, axis=1) - self.centres_[:, None]) / self.spreads_[:, None]
        return np.asarray(np.clip(r + self.density_weight * d, -LARGEST, LARGEST))

    def to_part(self) -> Part:
        """Return the parameters and what is known of the adapt rows as a part."""
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

    def _count(self, n_rows: int) -> int:
        """Return k for n adapt rows."""
        if self.neighbours == "auto":
            return max(FEWEST_NEIGHBOURS, int(2 * self.contamination * n_rows) + 1)
        if self.neighbours >= n_rows:
            raise DataError(
                f"ares: neighbours is {self.neighbours}, but an adapt row has {n_rows - 1} others; lower it, or "
                "use 'auto'"
            )
        return self.neighbours

    def _space(self, latents: Floats) -> Doubles:
        """Return the codes of all members side by side, of shape (n, S * k)."""
        return np.concatenate([codes / unit for codes, unit in zip(latents, self.units_, strict=True)], axis=1)

    def _terms(self, errors: Doubles, latents: Floats) -> Doubles:
        """Return r and d of rows, shape (2, n)."""
        terms = np.stack([errors, np.zeros_like(errors)])

        def judge(found: Found) -> None:
            terms[0, found.places] -= _medians(self.errors_.take(found.neighbours))
            terms[1, found.places] = self._log_factors(found, self._density(found))

        if self.index_ is not None:
            self.index_.search(self._space(latents), judge)
        return terms

    def _fit_densities(self, index: Neighbours) -> Doubles:
        """Fit reach and density of every adapt row, and return its terms, shape (2, n)."""
        n_rows = len(self.errors_)
        terms = np.stack([self.errors_, np.zeros(n_rows)])
        self.reach_, self.density_ = np.empty(n_rows), np.empty(n_rows)
        kept: list[Found] = []
        keep = n_rows * self.k_ <= MOST_PAIRS

        def again(use: Callable[[Found], None]) -> None:
            in_threads(use, kept, n_rows) if keep else index.search_stored(use)

        def compare(found: Found) -> None:
            terms[0, found.places] -= _medians(self.errors_.take(found.neighbours))
            self.reach_[found.places] = found.distances.max(axis=1)
            if keep:
                kept.append(found)

        def weigh(found: Found) -> None:
            self.density_[found.places] = self._density(found)

        def relate(found: Found) -> None:
            terms[1, found.places] = self._log_factors(found, self.density_[found.places])

        index.search_stored(compare)
        again(weigh)
        again(relate)
        return terms

    def _density(self, found: Found) -> Doubles:
        """Return the local reachability density of rows with these neighbours; finite next to equal rows."""
        assert self.index_ is not None
        reachability = np.maximum(self.reach_.take(found.neighbours), found.distances).mean(axis=1)
        return np.asarray(1.0 / np.maximum(reachability, self.index_.grid.step))

    def _log_factors(self, found: Found, density: Doubles) -> Doubles:
        """Return log LOF (eq 1) of rows of this density."""
        return np.asarray(np.log(self.density_.take(found.neighbours).mean(axis=1) / density))


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
    """Return the median of each row of (b, k); what `numpy.median` gives, in a fifth of the time."""
    middle = values.shape[1] // 2
    parted = np.partition(values, middle, axis=1)
    upper = parted[:, middle]
    return np.asarray(upper if values.shape[1] % 2 else (parted[:, :middle].max(axis=1) + upper) / 2)


def _unit(codes: Floats) -> float:
    """Return the median distance of codes (n, k) from their median; where that is 0 the root mean square."""
    codes = np.asarray(codes, dtype=np.float64)
    distances = np.linalg.norm(codes - np.median(codes, axis=0), axis=1)
    return float(np.median(distances)) or float(np.sqrt(np.square(distances).mean()))


def _degenerate(n_rows: int, units: Doubles) -> str:
    if n_rows < MIN_ROWS:
        return f"{n_rows} rows, neighbourhoods need {MIN_ROWS}"
    return "" if units.any() else "all latent codes are equal"


def _spread(values: Doubles) -> float:
    """Return the interquartile range; where it is 0 the full range, and where that is 0 too, 1."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) or float(np.ptp(values)) or 1.0
