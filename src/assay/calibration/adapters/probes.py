"""Probes: synthetic anomalies made from rows at hand, by which a choice without labels is judged.

Images and series have kinds that are harder than normal rows, easier, and as hard (`assay.calibration.hardness`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.recipes import RECIPES, synthesize
from assay.errors import ConfigError

EACH = 125
DRAWS = 25
TOO_FEW = 2
FAR = ("global", "cluster")

Rows = NDArray[np.floating[Any]]
Kind = Callable[[Rows, int, np.random.Generator], Rows]


def make_probes(
    rows: Rows,
    modality: str,
    *,
    seed: int,
    image_shape: tuple[int, int] | None = None,
    series_shape: tuple[int, int] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Make probes of four kinds from presumed normal rows, 125 of each.

    Tabular rows: the recipes of `assay.data.recipes`, "cluster" drawn anew 25 times since a draw has three centres
    only. Those that lie far outside the data ("global", "cluster") every score finds, so that they would tell
    no two apart; here they are moved towards a random row, so that a share of the way is left that is log-uniform
    between 1/4 and 1. Images and series have kinds of their own (`IMAGE_KINDS`,
    `SERIES_KINDS`): the recipes treat columns as unordered and make noise of them, which hardness alone tells.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Raw or scaled.
    modality : {"tabular", "image", "series"}
    seed : int
    image_shape, series_shape : tuple of int, optional
        (height, width) and (length, channels); needed where the modality is theirs.

    Returns
    -------
    dict of str to ndarray of float32, shape (125, d)
        By kind; empty where there are fewer than two rows.

    Raises
    ------
    ConfigError
        The modality is unknown, or its shape is missing.
    """
    shapes = {"tabular": (rows.shape[1],), "image": image_shape, "series": series_shape}
    shape = shapes.get(modality)
    if shape is None:
        raise ConfigError(f"no probes for modality {modality!r} without its shape; give one of {', '.join(shapes)}")
    if len(rows) < TOO_FEW:
        return {}
    if modality == "tabular":
        return {recipe: _tabular(recipe, rows, seed) for recipe in RECIPES}
    made = {}
    for number, (name, kind) in enumerate(KINDS[modality].items()):
        rng = np.random.default_rng((seed, number))
        made[name] = kind(rows.reshape(-1, *shape), EACH, rng).reshape(EACH, -1).astype(np.float32)
    return made


def _tabular(recipe: str, rows: Rows, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng((seed, list(RECIPES).index(recipe)))
    draws = DRAWS if recipe == "cluster" else 1
    seeds = rng.integers(2**31, size=draws).tolist()
    normals = rows.astype(np.float32)
    made = np.concatenate([synthesize(recipe, normals, EACH // draws, seed=one, image=False)[0] for one in seeds])
    if recipe not in FAR:
        return made
    towards = normals[rng.integers(len(normals), size=EACH)]
    share = 0.25 ** rng.uniform(size=(EACH, 1))
    return (towards + share * (made - towards)).astype(np.float32)


def patch(images: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Paste a rectangle of another image somewhere (CutPaste: Li, Sohn, Yoon, Pfister, CVPR 2021)."""
    made, others = _draw(images, n, rng), _draw(images, n, rng)
    for image, other in zip(made, others, strict=True):
        height, width = _rectangle(image.shape, rng)
        there, here = (_place(image.shape, (height, width), rng) for _ in range(2))
        image[here] = other[there]
    return made


def erased(images: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Fill a rectangle with the median of the image: detail that is missing."""
    made = _draw(images, n, rng)
    for image in made:
        image[_place(image.shape, _rectangle(image.shape, rng), rng)] = np.median(image)
    return made


def turned(images: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Turn by 90, 180 or 270 degrees (180 where not square): as hard as before (Golan, El-Yaniv, NeurIPS 2018)."""
    square = images.shape[1] == images.shape[2]
    quarters = rng.integers(1, 4, size=n) if square else np.full(n, 2)
    return np.stack([np.rot90(image, k) for image, k in zip(_draw(images, n, rng), quarters, strict=True)])


def confetti(images: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Strew 1 to 8 small squares of a random grey (confetti noise: Liznerski et al., ICLR 2021)."""
    made, low, high = _draw(images, n, rng), images.min(), images.max()
    largest = max(1, min(images.shape[1:]) // 6)
    for image in made:
        for _ in range(rng.integers(1, 9)):
            side = int(rng.integers(1, largest + 1))
            image[_place(image.shape, (side, side), rng)] = rng.uniform(low, high)
    return made


def spike(windows: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Add 2 to 6 standard deviations to one step of one channel, up or down."""
    made = _draw(windows, n, rng)
    for window, step, channel, size in _jumps(windows, made, (2, 6), rng):
        window[step, channel] += size
    return made


def shift(windows: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Add 0.5 to 3 standard deviations to one channel from some step on, up or down."""
    made = _draw(windows, n, rng)
    for window, step, channel, size in _jumps(windows, made, (0.5, 3), rng):
        window[step:, channel] += size
    return made


def stuck(windows: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Repeat the values of one step for a quarter of the window, in all channels: change that is missing."""
    made = _draw(windows, n, rng)
    long = max(1, windows.shape[1] // 4)
    for window in made:
        start = rng.integers(windows.shape[1] - long + 1)
        window[start : start + long] = window[start]
    return made


def backwards(windows: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Turn time around: as hard as before."""
    return _draw(windows, n, rng)[:, ::-1]


IMAGE_KINDS: dict[str, Kind] = {"patch": patch, "erased": erased, "turned": turned, "confetti": confetti}
SERIES_KINDS: dict[str, Kind] = {"spike": spike, "shift": shift, "stuck": stuck, "backwards": backwards}
KINDS: Mapping[str, dict[str, Kind]] = {"image": IMAGE_KINDS, "series": SERIES_KINDS}


def _draw(items: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Return a copy of n random items, in float64."""
    return items[rng.integers(len(items), size=n)].astype(np.float64)


def _rectangle(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """Return height and width of a rectangle of 2 to 15 % of an image, its sides 1:1 to 1:e."""
    area, stretch = rng.uniform(0.02, 0.15), np.exp(rng.uniform(-0.5, 0.5))
    height, width = (round(side * np.sqrt(area) * by) for side, by in zip(shape, (stretch, 1 / stretch), strict=True))
    return max(1, height), max(1, width)


def _place(shape: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(shape, size, strict=True))
    return slice(top, top + size[0]), slice(left, left + size[1])


def _jumps(windows: Rows, made: Rows, sizes: tuple[float, float], rng: np.random.Generator) -> Any:
    """Yield each window made with a step of its middle half, a channel and a signed size in that channel's unit."""
    (length, channels), spread = windows.shape[1:], windows.std(axis=(0, 1))
    for window in made:
        step, channel = rng.integers(length // 4, length - length // 4), rng.integers(channels)
        yield window, step, channel, rng.choice([-1, 1]) * rng.uniform(*sizes) * spread[channel]
