"""Which moments and channels of a window of series raise its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.arrays import Doubles, Floats, Integers
from assay.calibration.decisions import score_with_adapter
from assay.data.windows import Windows
from assay.detectors.base import PredictsSteps
from assay.scorer.explaining import Normals, pieces_of
from assay.scorer.scorer import Scorer

PIECES = 8


@dataclass(frozen=True, slots=True)
class Moment:
    """A piece of a window: steps `first` to `last` of a channel, from 0, and its share of what raises the score."""

    channel: str
    first: int
    last: int
    share: float


def window_moments(scorer: Scorer, window: Floats, windows: Windows, n_moments: int) -> list[Moment]:
    """Return the pieces of a raw window (1, length * channels) that raise its score most, the largest share first.

    By a detector with an error for each step (lstm_predictor, lstm_autoencoder) a piece is a step, and its share that
    of the squared error. By any other one a piece is a span of a channel, up to an eighth
    (`assay.scorer.explaining.pieces_of`), and its share that of what the score has beyond the nearest normal windows
    (`Scorer.explain`). In a scorer of an earlier version, which holds no normal windows, a piece raises the score by as
    much as the score falls where the channel has its mean over the training rows there (occlusion, Zeiler and Fergus
    2014).
    """
    function, shape = scorer.function, (windows.length, len(windows.channels))
    scaled = np.asarray(function.scaler.transform(np.asarray(window, dtype=function.scaler.precision)), np.float32)
    if isinstance(function.detector, PredictsSteps):
        edges = np.arange(windows.length + 1)
        rises = np.asarray(function.detector.step_errors(scaled), dtype=np.float64).reshape(shape)
    elif isinstance(scorer.reference.strata, Normals):
        pieces = pieces_of(scorer.head)
        spans = pieces.reshape(shape)[:, 0] // len(windows.channels)
        edges = np.append(np.unique(spans, return_index=True)[1], windows.length).astype(np.intp)
        added = np.bincount(pieces, scorer.explain(window).contributions[0])
        rises = np.asarray(added, dtype=np.float64).reshape(-1, len(windows.channels))
    else:
        edges = np.unique(np.linspace(0, windows.length, PIECES + 1).round().astype(np.intp))
        rises = _falls(scorer, scaled, edges, shape)
    return _largest(np.maximum(rises, 0), edges, windows.channels, n_moments)


def _falls(scorer: Scorer, scaled: Floats, edges: Integers, shape: tuple[int, int]) -> Doubles:
    """Return by how much the score falls without each piece, shape (pieces, channels)."""
    function, (length, channels) = scorer.function, shape
    n_pieces = len(edges) - 1
    changed = np.repeat(scaled, 1 + n_pieces * channels, axis=0).reshape(-1, length, channels)
    for piece in range(n_pieces):
        for channel in range(channels):
            changed[1 + piece * channels + channel, edges[piece] : edges[piece + 1], channel] = 0
    rows = changed.reshape(len(changed), -1)
    scored = score_with_adapter(function.detector, function.null_model, function.adapter, rows, rows)
    scores = np.asarray(scored.scores, dtype=np.float64)
    return np.asarray((scores[0] - scores[1:]).reshape(n_pieces, channels))


def _largest(rises: Doubles, edges: Integers, channels: tuple[str, ...], n_moments: int) -> list[Moment]:
    total = rises.sum()
    places = np.argsort(-rises, axis=None, kind="stable")[:n_moments]
    pairs = [divmod(int(place), len(channels)) for place in places]
    return [
        Moment(channels[c], int(edges[piece]), int(edges[piece + 1]) - 1, float(rises[piece, c] / total))
        for piece, c in pairs
        if rises[piece, c] > 0
    ]
