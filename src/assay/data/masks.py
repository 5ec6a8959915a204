"""Masks of images, the defective pixels, as texts of runs in tables of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from assay.arrays import Flags
from assay.errors import DataError

_RUN = re.compile(r"\d+\+\d+")


def mask_text(mask: Flags) -> str:
    """Return a mask (height, width) as runs of defective pixels, row by row: "12+3 40+5"; "" where there are none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(np.int8), [0]])))
    return " ".join(f"{start}+{end - start}" for start, end in edges.reshape(-1, 2))


def masks_of(texts: Iterable[str], shape: Sequence[int]) -> Flags:
    """Return masks from the texts of `mask_text`, bool of shape (n, height, width).

    Raises `DataError` where a text is none of runs within an image.
    """
    listed = list(texts)
    masks = np.zeros((len(listed), shape[0] * shape[1]), dtype=np.bool_)
    for mask, text in zip(masks, listed, strict=True):
        for run in text.split():
            start, _, length = run.partition("+")
            if not _RUN.fullmatch(run) or int(start) + int(length) > mask.size:
                raise DataError(f"the mask {text[:40]!r} is none of an image of {shape[0]} x {shape[1]} pixels")
            mask[int(start) : int(start) + int(length)] = True
    return masks.reshape(len(listed), *shape[:2])
