"""Masks: the defective pixels of images, in a folder of a user's, and as texts of runs in tables of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from assay.arrays import Flags
from assay.data.image_files import IMAGE_ENDINGS, Size, image_pixels, names_of_files, resized, sized
from assay.errors import DataError

_RUN = re.compile(r"\d+\+\d+")
_ENDING = re.compile(r"(_mask)?\.[^.]+$")


def read_masks(folder: Path, images: Path, names: Sequence[str], size: Size, may_resize: bool) -> Flags:
    """Return the masks of images, (n, height, width), False all over for those that have none in the folder.

    Masks are images with the names, within their folder, of the images that they belong to, whatever the ending,
    perhaps with "_mask" behind, as in MVTec AD. A pixel is defective where the mask is not 0; of
    masks that are resized, where more than half of it is.

    Raises
    ------
    DataError
        There is no mask, one belongs to no image or to several, cannot be read, or has another size.
    """
    if not folder.is_dir() or not (files := names_of_files(folder, IMAGE_ENDINGS)[0]):
        raise DataError(f"{folder} holds no masks; give a folder of images with the names of those in {images.name}")
    place = {_ENDING.sub("", name): number for number, name in enumerate(names)}
    if len(place) < len(names):
        raise DataError(f"two images in {images.name} differ in their endings alone; masks cannot tell them apart")
    masks = np.zeros((len(names), *size), dtype=np.bool_)
    for file in files:
        number = place.get(_ENDING.sub("", file))
        if number is None:
            raise DataError(f"the mask {file} belongs to no image in {images.name}; its name must be that of one")
        marked = (image_pixels(folder / file) > 0).astype(np.uint8) * 255
        if marked.shape != size and not may_resize:
            raise DataError(
                f"the mask {file} has {sized(marked.shape)} pixels and the images {sized(size)}; resize it, or all "
                f"images with --image-size"
            )
        masks[number] |= resized(marked, size) > 127
    return masks


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
                raise DataError(f"the mask {text[:40]!r} is none of an image of {sized(shape)} pixels")
            mask[int(start) : int(start) + int(length)] = True
    return masks.reshape(len(listed), *shape[:2])
