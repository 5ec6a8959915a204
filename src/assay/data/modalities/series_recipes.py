"""Recipes for synthetic anomalies of series: the faults of sensors and of what they watch.

Every recipe changes one piece of one channel of a random window, of those that are not constant, but for `warp`, which
all channels share. Amplitudes are in standard deviations of the channel over all steps of the fitted windows. The kinds
are the point and pattern anomalies of Lai et al. (Revisiting time series outlier detection, NeurIPS 2021, section 3)
and the faults of industrial sensors (stuck, drop-out); places, lengths and amplitudes are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags
from assay.data.recipes import Recipe

Fault = Callable[[Doubles, Flags, Doubles, Doubles, np.random.Generator], Doubles]
_DRAWS = 6
_LONGEST_SPIKE = 3


def spike(values: Doubles, piece: Flags, draws: Doubles, spread: Doubles, rng: np.random.Generator) -> Doubles:
    """Raise or lower one to three steps by 4 to 8 standard deviations."""
    first = piece.argmax(axis=1)
    last = first + np.floor(draws[:, 4] * min(_LONGEST_SPIKE, values.shape[1])).astype(np.intp)
    steps = np.arange(values.shape[1])
    on = (steps >= first[:, None]) & (steps <= last[:, None])
    return np.asarray(values + on * (_sign(draws[:, 1]) * (4 + 4 * draws[:, 2]) * spread)[:, None])


def shift(values: Doubles, piece: Flags, draws: Doubles, spread: Doubles, rng: np.random.Generator) -> Doubles:
    """Raise or lower a piece by 1 to 3 standard deviations."""
    return values + piece * (_sign(draws[:, 1]) * (1 + 2 * draws[:, 2]) * spread)[:, None]


def stuck(values: Doubles, piece: Flags, draws: Doubles, spread: Doubles, rng: np.random.Generator) -> Doubles:
    """Hold the first value of a piece through it; one that is constant already drops by 3 standard deviations."""
    held = values[np.arange(len(values)), piece.argmax(axis=1)]
    is_constant = (~piece | (values == held[:, None])).all(axis=1)
    return np.where(piece, (held - 3 * spread * is_constant)[:, None], values)


def noise(values: Doubles, piece: Flags, draws: Doubles, spread: Doubles, rng: np.random.Generator) -> Doubles:
    """Add white noise of half to 1.5 standard deviations to a piece."""
    return values + piece * rng.standard_normal(values.shape) * ((0.5 + draws[:, 2]) * spread)[:, None]


FAULTS: Mapping[str, Fault] = {"shift": shift, "spike": spike, "stuck": stuck, "noise": noise}


def series_recipes(shape: tuple[int, int]) -> dict[str, Recipe]:
    """Return the recipes for windows of a shape (length, channels)."""
    return {**{name: partial(_of_fault, fault, shape) for name, fault in FAULTS.items()}, "warp": partial(warp, shape)}


def warp(shape: tuple[int, int], X: Doubles, n: int, rng: np.random.Generator) -> tuple[Doubles, NDArray[np.intp]]:
    """Run a piece of random windows 1.5 to 3 times as fast or as slow as it was, in all channels; the rest fits in.

    A window keeps its ends, and steps between two are interpolated.
    """
    choice, drawing = rng.spawn(2)
    source = choice.integers(len(X), size=n)
    draws, length = drawing.random((n, _DRAWS)), shape[0]
    first, last = _piece_ends(draws, length)
    width = (last - first) / max(length - 1, 1)
    factor = np.where(draws[:, 4] < 0.5, 1.5 + 1.5 * draws[:, 5], 1 / (1.5 + 1.5 * draws[:, 5]))
    new_width = width * factor / (width * factor + 1 - width)
    made = np.empty((n, *shape))
    at = np.linspace(0, 1, length)
    for row, window in enumerate(X[source].reshape(n, *shape)):
        begin = first[row] / max(length - 1, 1) * (1 - new_width[row]) / max(1 - width[row], 1e-9)
        knots = [0.0, begin, begin + new_width[row], 1.0]
        old = np.interp(at, knots, [0.0, first[row] / max(length - 1, 1), last[row] / max(length - 1, 1), 1.0])
        made[row] = np.stack([np.interp(old, at, channel) for channel in window.T], axis=1)
    return made.reshape(n, -1), source


def _of_fault(
    fault: Fault, shape: tuple[int, int], X: Doubles, n: int, rng: np.random.Generator
) -> tuple[Doubles, NDArray[np.intp]]:
    """Make windows with a fault in one channel; a recipe (`assay.data.recipes.Recipe`) once `shape` is given."""
    choice, drawing, more = rng.spawn(3)
    length, channels = shape
    source = choice.integers(len(X), size=n)
    draws = drawing.random((n, _DRAWS))
    spreads = X.reshape(-1, channels).std(axis=0)
    varying = np.flatnonzero(spreads) if spreads.any() else np.arange(channels)
    windows = X[source].reshape(n, length, channels)
    channel = varying[(draws[:, 5] * len(varying)).astype(np.intp)]
    first, last = _piece_ends(draws, length)
    piece = (np.arange(length) >= first[:, None]) & (np.arange(length) <= last[:, None])
    rows = np.arange(n)
    windows[rows, :, channel] = fault(windows[rows, :, channel], piece, draws, spreads[channel], more)
    return windows.reshape(n, -1), source


def _piece_ends(draws: Doubles, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and the last step of a piece of a fifth to a half of each window, at least two steps."""
    size = np.clip(np.round((0.2 + 0.3 * draws[:, 3]) * length).astype(np.intp), min(2, length), length)
    first = np.floor(draws[:, 0] * (length - size + 1)).astype(np.intp)
    return first, first + size - 1


def _sign(draws: Doubles) -> Doubles:
    return np.where(draws < 0.5, -1.0, 1.0)
