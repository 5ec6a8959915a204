"""Recipes for synthetic anomalies of images: corruptions of random images.

In the manner of MNIST-C (Mu and Gilmer: MNIST-C, a robustness benchmark for computer vision, 2019), but for ``patch``,
a square as in confetti (Ruff 2021, section 3.1.2). Places, sizes and strengths are ours: they follow the image's
smaller side, and the range of the pixels of all fitted images. Colours change alike, but in patches and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Doubles
from assay.data.recipes import Recipe

Corruption = Callable[[Doubles, Doubles, float, float, np.random.Generator], Doubles]
_DRAWS = 8


def patch(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Cover a square of an eighth to a third of the smaller side by one value, at least a fifth of the range away."""
    window = _square(image, u, 1 / 8, 1 / 3)
    made, covered, span = image.copy(), image[window].mean(axis=(0, 1)), high - low
    value = low + span * u[3 : 3 + image.shape[2]]
    away = np.where(covered < low + span / 2, covered + span / 2, covered - span / 2)
    made[window] = np.where(np.abs(value - covered).max() < span / 5, away, value)
    return made


def line(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Draw a line from side to side, a scratch, of the lightest or the darkest value, whichever is further away."""
    height, width, _ = image.shape
    along = np.linspace(0, 1, 2 * max(height, width))
    ends = np.stack([u[0] + (u[1] - u[0]) * along, along], axis=1)[:, :: 1 if u[2] < 0.5 else -1]
    rows, columns = np.round(ends * [height - 1, width - 1]).astype(np.intp).T
    made = image.copy()
    made[rows, columns] = high if image[rows, columns].mean() < (low + high) / 2 else low
    return made


def blur(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Blur by a Gaussian with a deviation of a tenth to a fifth of the smaller side."""
    from scipy.ndimage import gaussian_filter

    deviation = (0.1 + 0.1 * u[0]) * min(image.shape[:2])
    return np.asarray(gaussian_filter(image, (deviation, deviation, 0), mode="nearest"))


def grainy(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Add white noise of a tenth to three tenths of the range to every pixel."""
    return np.asarray(image + (0.1 + 0.2 * u[0]) * (high - low) * rng.standard_normal(image.shape))


def bright(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Make all pixels brighter or darker by a quarter to a half of the range, to where there is more room."""
    shift = (0.25 + 0.25 * u[0]) * (high - low)
    return np.asarray(image + (shift if image.mean() < (low + high) / 2 else -shift))


def turned(image: Doubles, u: Doubles, low: float, high: float, rng: np.random.Generator) -> Doubles:
    """Turn the image by 20 to 60 degrees in either direction; what is beyond the border repeats it."""
    from scipy.ndimage import rotate

    angle = (20 + 40 * u[0]) * (1 if u[1] < 0.5 else -1)
    return np.asarray(rotate(image, angle, reshape=False, order=1, mode="nearest"))


CORRUPTIONS: Mapping[str, Corruption] = {
    "patch": patch,
    "line": line,
    "blur": blur,
    "noise": grainy,
    "bright": bright,
    "turned": turned,
}


def image_recipes(shape: Sequence[int]) -> dict[str, Recipe]:
    """Return the recipes for images of a shape, (height, width) or (height, width, 3)."""
    return {name: partial(_corrupted, corruption, tuple(shape)) for name, corruption in CORRUPTIONS.items()}


def _corrupted(
    corruption: Corruption, shape: tuple[int, ...], X: Doubles, n: int, rng: np.random.Generator
) -> tuple[Doubles, NDArray[np.intp]]:
    """Corrupt random images; a recipe once the first two arguments are given."""
    choice, drawing, more = rng.spawn(3)
    source, draws = choice.integers(len(X), size=n), drawing.random((n, _DRAWS))
    low, high = float(X.min()), float(X.max())
    images = X[source].reshape(n, shape[0], shape[1], -1)
    made = [corruption(image, u, low, high, more) for image, u in zip(images, draws, strict=True)]
    return np.stack(made).reshape(n, -1) if n else np.empty((0, X.shape[1])), source


def _square(image: Doubles, u: Doubles, least: float, most: float) -> tuple[slice, slice]:
    """Return a square of a share of the smaller side, of at least two pixels, within the image where it can be."""
    height, width, _ = image.shape
    side = max(2, round((least + (most - least) * u[0]) * min(height, width)))
    top, left = int(u[1] * max(1, height - side + 1)), int(u[2] * max(1, width - side + 1))
    return slice(top, top + side), slice(left, left + side)
