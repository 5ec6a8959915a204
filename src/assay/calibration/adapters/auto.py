"""The choice of a score adapter without labels: which one, and whether to adapt at all."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.calibration.adapters.outputs import Outputs
from assay.errors import AssayError, ConfigError, DataError

if TYPE_CHECKING:
    from assay.calibration.adapters.registry import ScoreAdapter

NONE, BETTER = "none", "better"
MIN_ROWS, MAX_ROWS = 40, 2000
FOLDS = 5
TAILS = (0.2, 1.0)
CONFIDENCE, LEAST_GAIN = 0.975, 0.2

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The outcome of `choose_adapter`.

    Attributes
    ----------
    label : str
    adapter : ScoreAdapter
        Fitted on all adapt rows.
    evidence : dict
        JSON-able: ``reason`` in words, ``rows`` and ``folds``; and for each candidate but "none" its ``verdict`` and,
        where it was judged, ``gain`` and ``standard_error`` of the mean power, and for each kind of probes the gains
        ``power`` and ``auroc``.
    """

    label: str
    adapter: ScoreAdapter
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Marks:
    """How far a candidate puts one kind of m probes above n held-out normals, for each of `TAILS`.

    Attributes
    ----------
    probes : ndarray, shape (tails, m)
        ``max(0, 1 - U / tail)``, U the share of normals above the probe; the mean over folds.
    normals : ndarray, shape (tails, n)
        The influence of each normal on the mean of `probes`.
    """

    probes: Doubles
    normals: Doubles


def choose_adapter(
    candidates: Mapping[str, ScoreAdapter], outputs: Outputs, probes: Mapping[str, Outputs], *, seed: int
) -> Chosen:
    """Choose between score adapters, "none" among them, by adapt rows and probes made of them alone.

    Each candidate is fitted on four fifths of the adapt rows and judged by how it puts the probes above the
    normals of the last fifth, five times over, by two numbers for each kind of probes: the mean power at
    false-positive rates up to .2 (partial AUROC), and AUROC. An adapter is taken only if

    - by both numbers it is at least as good as "none" on every kind of probes, and
    - its mean power over the kinds is higher by at least .2, and clearly higher than 0 by a one-sided test at .025
      shared by all candidates.

    Of several the one with the highest mean power is taken. The first condition protects the plain score: which
    kind real anomalies are of, nobody knows without labels. The second asks for much, since real anomalies may be of
    no such kind: on two development sets with labels, gains on probes of up to .18 went with real losses as
    often as with real gains.

    The standard error is that of paired differences over normals and probes (DeLong, DeLong, Clarke-Pearson 1988,
    for AUROC; the same for the partial one, to first order). The spread from fitting an adapter to other rows is
    not in it.

    Parameters
    ----------
    candidates : mapping of str to ScoreAdapter
        Unfitted; they stay so. One is called "none".
    outputs : Outputs
        Of the n adapt rows. Below 40 rows nothing is compared and "none" is taken; above 2,000 a random 2,000
        are, and the chosen adapter is fitted on all.
    probes : mapping of str to Outputs
        Of probes by kind (`assay.calibration.adapters.probes`), from the same detector.
    seed : int
        Of that pick and of the folds.

    Raises
    ------
    ConfigError
        No candidate is called "none".
    DataError
        A kind of probes has fewer than two rows.
    """
    if NONE not in candidates:
        raise ConfigError(f"candidates are {sorted(candidates)}; one must be called {NONE!r}")
    if few := [kind for kind, of_kind in probes.items() if len(of_kind) < 2]:
        raise DataError(f"there are {len(probes[few[0]])} probes of kind {few[0]!r}; give at least two of each kind")
    evidence: dict[str, Any] = {"rows": min(len(outputs), MAX_ROWS), "folds": FOLDS, "candidates": {}}
    label = NONE
    if len(outputs) < MIN_ROWS:
        evidence["reason"] = f"{len(outputs)} adapt rows are too few to compare adapters, which takes {MIN_ROWS}"
    elif not probes:
        evidence["reason"] = "there are no probes to compare adapters by"
    else:
        evidence["candidates"] = _compare(candidates, outputs, probes, seed)
        better = {name: found for name, found in evidence["candidates"].items() if found["verdict"] == BETTER}
        label = max(better, key=lambda name: better[name]["gain"], default=NONE)
        evidence["reason"] = f"{label} is better" if better else "no adapter is much better and nowhere worse"
    return Chosen(label, deepcopy(candidates[label]).fit(outputs), evidence)


def _compare(
    candidates: Mapping[str, ScoreAdapter], outputs: Outputs, probes: Mapping[str, Outputs], seed: int
) -> dict[str, dict[str, Any]]:
    """Return what is found of each candidate but "none"."""
    order = np.random.default_rng(seed).permutation(len(outputs))[:MAX_ROWS]
    folds = [np.sort(order[number::FOLDS]) for number in range(FOLDS)]
    outputs, probes = _remember(outputs), {kind: _remember(of_kind) for kind, of_kind in probes.items()}
    plain = _judge(candidates[NONE], outputs, probes, folds)
    found: dict[str, dict[str, Any]] = {}
    limit = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / max(len(candidates) - 1, 1))
    for name in candidates:
        if name == NONE:
            continue
        try:
            found[name] = _verdict(_judge(candidates[name], outputs, probes, folds), plain, limit)
        except AssayError as error:
            found[name] = {"verdict": f"cannot be judged: {error}"}
    return found


def _remember(outputs: Outputs) -> Outputs:
    """Return the same outputs; latent codes are asked for once."""
    return Outputs(outputs.scores, outputs.hardness, cache(outputs.latents))


def _take(outputs: Outputs, picked: NDArray[np.intp]) -> Outputs:
    return Outputs(outputs.scores[picked], outputs.hardness[picked], lambda: outputs.latents()[:, picked])


def _judge(
    candidate: ScoreAdapter, outputs: Outputs, probes: Mapping[str, Outputs], folds: list[NDArray[np.intp]]
) -> dict[str, _Marks]:
    """Return the marks of a candidate by kind of probes."""
    found: dict[str, list[_Marks]] = {kind: [] for kind in probes}
    for fold in folds:
        rest = np.concatenate([other for other in folds if other is not fold])
        fitted = deepcopy(candidate).fit(_take(outputs, np.sort(rest)))
        normals = _scores(fitted, _take(outputs, fold))
        for kind, of_kind in probes.items():
            found[kind].append(_mark(normals, _scores(fitted, of_kind)))
    return {
        kind: _Marks(np.mean([mark.probes for mark in marks], axis=0), np.hstack([mark.normals for mark in marks]))
        for kind, marks in found.items()
    }


def _scores(fitted: ScoreAdapter, outputs: Outputs) -> Doubles:
    scores = fitted.transform(outputs)
    if np.isnan(scores).any():
        raise DataError(f"{np.isnan(scores).sum()} of {scores.size} adapted scores are NaN")
    return scores


def _mark(normals: Doubles, probes: Doubles) -> _Marks:
    above = 1 - _share_below(np.sort(normals), probes)
    of_probes, of_normals = [], []
    for tail in TAILS:
        of_probes.append(np.maximum(0, 1 - above / tail))
        counted = np.sort(probes[above < tail])
        of_normals.append(-_share_below(counted, normals) * counted.size / (probes.size * tail))
    return _Marks(np.stack(of_probes), np.stack(of_normals))


def _share_below(ordered: Doubles, values: Doubles) -> Doubles:
    """Return which share of the ordered numbers lies below each value, ties counting half."""
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(both / (2 * max(ordered.size, 1)), dtype=np.float64)


def _verdict(marks: Mapping[str, _Marks], plain: Mapping[str, _Marks], limit: float) -> dict[str, Any]:
    """Return a candidate's gains over the plain score, their standard error, and what follows from them."""
    kinds, worse = {}, []
    changes = {
        kind: _Marks(m.probes - plain[kind].probes, m.normals - plain[kind].normals) for kind, m in marks.items()
    }
    for kind, change in changes.items():
        gains = change.probes.mean(axis=1)
        kinds[kind] = {"power": float(gains[0]), "auroc": float(gains[1])}
        worse += [kind] if (gains < 0).any() else []
    gain = float(np.mean([found["power"] for found in kinds.values()]))
    over_probes = sum(_variance(change.probes)[0] for change in changes.values()) / len(changes) ** 2
    over_normals = _variance(np.mean([change.normals for change in changes.values()], axis=0))[0]
    error = float(np.sqrt(over_probes + over_normals))
    verdict = (
        f"worse on {', '.join(worse)}"
        if worse
        else BETTER
        if gain > max(limit * error, LEAST_GAIN)
        else "no great gain"
    )
    return {"verdict": verdict, "gain": gain, "standard_error": error, "kinds": kinds}


def _variance(values: Doubles) -> Doubles:
    """Return the variance of the mean along the last axis."""
    return np.asarray(values.var(axis=-1, ddof=1) / values.shape[-1], dtype=np.float64)
