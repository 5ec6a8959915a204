"""Magnetic tiles: photographs of tiles without defects, and of tiles with five kinds of them, with their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Flags, Labels
from assay.data.mirrored import MirroredFile
from assay.data.modalities.base import RawDataset, Reader

TILE_SIDE = 128
_SMALL = 64
TILES = MirroredFile(
    "wider/mtd_128.npz",
    "eb278adb230f90b3a3bdd40cc2b0254c87952025b191b8b397a03969d77b9f2c",
    "uint8 array images (1344, 128, 128), bit-packed masks (1344, 2048), kind (1344,), 0 where a tile has no defect",
    "Magnetic-tile-defect-datasets, https://github.com/abin24/Magnetic-tile-defect-datasets.",
)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Magnetic tiles.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, 128, 128)
    masks : ndarray of bool, shape (n, 128, 128)
        The pixels of defects; four tiles with a defect have none.
    kinds : ndarray of int8, shape (n,)
        0 no defect, 1 to 5 kinds of defects.
    """

    images: NDArray[np.uint8]
    masks: Flags
    kinds: Labels


def load_tiles(mirror: Path | None) -> Tiles:
    """Return all tiles.

    Raises
    ------
    DataError
        The file is missing or has another hash.
    """
    arrays = TILES.read(mirror)
    masks = np.unpackbits(arrays["masks"], axis=1).reshape(-1, TILE_SIDE, TILE_SIDE).astype(np.bool_)
    return Tiles(arrays["images"], masks, arrays["kind"].astype(np.int8))


def halved(tiles: NDArray[np.number]) -> NDArray[np.float64]:
    """Return images (n, 128, 128) at half of the size: the mean of 2 x 2 pixels."""
    blocks = tiles.reshape(-1, _SMALL, 2, _SMALL, 2).astype(np.float64)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _small_tiles(mirror: Path | None) -> RawDataset:
    """Return the tiles at 64 x 64 pixels, of shape (1344, 4096); those with a defect are anomalies."""
    tiles = load_tiles(mirror)
    columns = tuple(f"pixel_{row}_{column}" for row in range(_SMALL) for column in range(_SMALL))
    source = f"{TILES.origin}; 64 x 64, the mean of 2 x 2 pixels of 128 x 128; anomaly = any defect"
    return RawDataset(columns, (_SMALL, _SMALL), source, halved(tiles.images).reshape(-1, _SMALL**2), tiles.kinds > 0)


TILE_SETS: Mapping[str, Reader] = {"magnetic-tiles": _small_tiles}
