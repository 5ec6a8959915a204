"""Masks of images, the defective pixels, as a folder of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.arrays import Flags
from assay.data.image_files import IMAGE_ENDINGS, Size, image_pixels, names_of_files, resized, sized
from assay.errors import DataError

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
    left_out = {_ENDING.sub("", name) for name in names_of_files(images, IMAGE_ENDINGS)[0]} - {*place}
    masks = np.zeros((len(names), *size), dtype=np.bool_)
    for file in files:
        number = place.get(_ENDING.sub("", file))
        if number is None and _ENDING.sub("", file) in left_out:  # the image cannot be read
            continue
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
