"""The choice of a score adapter, or of none, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.calibration.adapters.outputs import Outputs
from assay.errors import AssayError, ConfigError, DataError

if TYPE_CHECKING:
    from assay.calibration.adapters.registry import ScoreAdapter

NONE, BETTER = "none", "better"
_MIN_ROWS, _MAX_ROWS = 40, 2000
FOLDS = 5
TAILS = (0.2, 1.0)
_CONFIDENCE, _LEAST_GAIN = 0.975, 0.2


@dataclass(frozen=True, slots=True)
class Chosen:
    """The outcome of `choose_adapter`.

    Attributes
    ----------
    label : str
    adapter : ScoreAdapter
        Fitted on all adapt rows.
    evidence : dict
        JSON values: ``reason`` as text, ``rows`` and ``folds``; and for each candidate except "none" its ``verdict``
        and, if it was evaluated, ``gain`` and ``standard_error`` of the mean power, and for each kind of probes the
        gains ``power`` and ``auroc``.
    """

    label: str
    adapter: ScoreAdapter
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Marks:
    """Ranks of m probes of one kind above n held-out normals by a candidate, for each of `TAILS`.

    Attributes
    ----------
    probes : ndarray, shape (tails, m)
        ``max(0, 1 - U / tail)``, averaged over folds; U is the share of normals above the probe.
    normals : ndarray, shape (tails, n)
        The influence of each normal on the mean of `probes`.
    """

    probes: Doubles
    normals: Doubles


def choose_adapter(
    candidates: Mapping[str, ScoreAdapter], outputs: Outputs, probes: Mapping[str, Outputs], *, seed: int
) -> Chosen:
    """Choose a score adapter or "none" by adapt rows and probes, which are made from adapt rows alone.

    Five-fold cross-validation: each candidate is fitted on four fifths of the adapt rows and ranks the probes against
    the normals of the last fifth. Two metrics are computed for each kind of probes: the mean power at false-positive
    rates up to .2 (partial AUROC), and AUROC. An adapter is chosen only if

    - both metrics are at least those of "none" on every kind of probes, and
    - its mean power over the kinds is higher by at least .2, and the gain is significant in a one-sided test at .025,
      shared by all candidates.

    Among several the one with the highest mean power is chosen. The first condition protects the plain score: without
    labels the kind of real anomalies is unknown. The second is strict because real anomalies may resemble no kind of
    probes: on two development sets with labels, gains on probes of up to .18 came with real losses as often as with
    real gains.

    The standard error is that of paired differences over normals and probes (DeLong, DeLong, Clarke-Pearson 1988,
    for AUROC; the same for the partial AUROC, to first order). It leaves out the variation from fitting an adapter on
    other rows.

    Parameters
    ----------
    candidates : mapping of str to ScoreAdapter
        Unfitted; copies are fitted. One is called "none".
    outputs : Outputs
        Of the n adapt rows. Below 40 rows nothing is compared and "none" is chosen; above 2,000 the comparison uses a
        random 2,000, and the chosen adapter is fitted on all.
    probes : mapping of str to Outputs
        Of probes by kind (`assay.calibration.adapters.probes`), from the same detector.
    seed : int
        Seed of this sample and of the folds.

    Raises
    ------
    ConfigError
        No candidate is called "none".
    DataError
        A kind of probes has fewer than two rows.
    """
    if NONE not in candidates:
        raise ConfigError(f"candidates are {sorted(candidates)}; one must be called {NONE!r}")
    if few := [kind for kind, kind_outputs in probes.items() if len(kind_outputs) < 2]:
        raise DataError(f"there are {len(probes[few[0]])} probes of kind {few[0]!r}; give at least two of each kind")
    evidence: dict[str, Any] = {"rows": min(len(outputs), _MAX_ROWS), "folds": FOLDS, "candidates": {}}
    label = NONE
    if len(outputs) < _MIN_ROWS:
        evidence["reason"] = f"{len(outputs)} adapt rows are too few to compare adapters, which takes {_MIN_ROWS}"
    elif not probes:
        evidence["reason"] = "there are no probes to compare adapters by"
    else:
        evidence["candidates"] = _compare(candidates, outputs, probes, seed)
        better = {name: result for name, result in evidence["candidates"].items() if result["verdict"] == BETTER}
        label = max(better, key=lambda name: better[name]["gain"], default=NONE)
        evidence["reason"] = f"{label} is better" if better else "no adapter is much better and nowhere worse"
    return Chosen(label, deepcopy(candidates[label]).fit(outputs), evidence)


def _compare(
    candidates: Mapping[str, ScoreAdapter], outputs: Outputs, probes: Mapping[str, Outputs], seed: int
) -> dict[str, dict[str, Any]]:
    """Return the result of each candidate except "none"."""
    order = np.random.default_rng(seed).permutation(len(outputs))[:_MAX_ROWS]
    folds = [np.sort(order[number::FOLDS]) for number in range(FOLDS)]
    outputs, probes = _remember(outputs), {kind: _remember(kind_outputs) for kind, kind_outputs in probes.items()}
    plain = _judge(candidates[NONE], outputs, probes, folds)
    results: dict[str, dict[str, Any]] = {}
    # Bonferroni correction: the candidates share the error probability.
    limit = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / max(len(candidates) - 1, 1))
    for name in candidates:
        if name == NONE:
            continue
        try:
            results[name] = _verdict(_judge(candidates[name], outputs, probes, folds), plain, limit)
        except AssayError as error:
            results[name] = {"verdict": f"cannot be judged: {error}"}
    return results


def _remember(outputs: Outputs) -> Outputs:
    """Return the same outputs with cached latent codes."""
    return Outputs(outputs.scores, outputs.hardness, cache(outputs.latents))


def _take(outputs: Outputs, picked: NDArray[np.intp]) -> Outputs:
    return Outputs(outputs.scores[picked], outputs.hardness[picked], lambda: outputs.latents()[:, picked])


def _judge(
    candidate: ScoreAdapter, outputs: Outputs, probes: Mapping[str, Outputs], folds: list[NDArray[np.intp]]
) -> dict[str, _Marks]:
    """Return the marks of a candidate by kind of probes."""
    marks_of: dict[str, list[_Marks]] = {kind: [] for kind in probes}
    for fold in folds:
        fit_rows = np.concatenate([other for other in folds if other is not fold])
        fitted = deepcopy(candidate).fit(_take(outputs, np.sort(fit_rows)))
        normals = _scores(fitted, _take(outputs, fold))
        for kind, kind_outputs in probes.items():
            marks_of[kind].append(_mark(normals, _scores(fitted, kind_outputs)))
    return {
        kind: _Marks(np.mean([mark.probes for mark in marks], axis=0), np.hstack([mark.normals for mark in marks]))
        for kind, marks in marks_of.items()
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
    """Return the share of the ordered numbers below each value; ties count half."""
    twice_below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(twice_below / (2 * max(ordered.size, 1)), dtype=np.float64)


def _verdict(marks: Mapping[str, _Marks], plain: Mapping[str, _Marks], limit: float) -> dict[str, Any]:
    """Return a candidate's gains over the plain score, their standard error and the verdict."""
    kinds, worse = {}, []
    changes = {
        kind: _Marks(m.probes - plain[kind].probes, m.normals - plain[kind].normals) for kind, m in marks.items()
    }
    for kind, change in changes.items():
        gains = change.probes.mean(axis=1)
        kinds[kind] = {"power": float(gains[0]), "auroc": float(gains[1])}
        worse += [kind] if (gains < 0).any() else []
    gain = float(np.mean([gains["power"] for gains in kinds.values()]))
    over_probes = sum(_variance(change.probes)[0] for change in changes.values()) / len(changes) ** 2
    over_normals = _variance(np.mean([change.normals for change in changes.values()], axis=0))[0]
    error = float(np.sqrt(over_probes + over_normals))
    verdict = (
        f"worse on {', '.join(worse)}"
        if worse
        else BETTER
        if gain > max(limit * error, _LEAST_GAIN)
        else "no great gain"
    )
    return {"verdict": verdict, "gain": gain, "standard_error": error, "kinds": kinds}


def _variance(values: Doubles) -> Doubles:
    """Return the variance of the mean along the last axis."""
    return np.asarray(values.var(axis=-1, ddof=1) / values.shape[-1], dtype=np.float64)
