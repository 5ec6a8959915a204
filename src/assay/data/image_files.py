"""The images of a folder, in grey or in colour, all of one size."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.console import say
from assay.data.mapped import new_array, release
from assay.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MOST_UNREADABLE = 0.01  # of the files
MOST_PIXELS = 128 * 128
TO_GREY = "grey is .299 red + .587 green + .114 blue (--colour keeps colours)"
_GREY = ("1", "L", "LA", "La")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, ArithmeticError, LookupError, struct.error)
_NAMED = 5
RELEASED = 256  # images after which memory is given back
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Size = tuple[int, int]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ReadImages:
    """Images of one size.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, height, width), in colour (n, height, width, 3)
    names : list of str
        File names, relative to the folder, with "/"; none for an archive.
    labels : ndarray of str, shape (n,), or None
        Labels that came with the images.
    """

    pixels: Pixels
    names: list[str]
    labels: NDArray[Any] | None = None


def read_images(folder: Path, size: Size | None = None, *, colour: bool = False) -> ReadImages:
    """Read the images of a folder as ones of one size; what is done with them is printed.

    - Colour becomes grey by luma, .299 red + .587 green + .114 blue (ITU-R 601-2), rounded; with `colour` all images
      are in colour, and red, green and blue of a grey one are equal. Transparency is ignored: a pixel has the colour
      that is stored. Images are turned as their EXIF data say.
    - Where a `size` is given, images of another one are resized to it, by bilinear interpolation over all pixels that a
      new one covers, without keeping proportions.
    - Of a JPEG file with further pictures (MPO, as phones write) the first one counts, which all programs show.
    - Another file of several images, one with more than 8 bits a channel, a truncated one, one of more pixels than
      Pillow's limit against decompression bombs, one that is no image and a link to a missing file are bad. Up to 1 %
      of the files may be: they are left out, and named.
    - Files of other kinds and links to folders are left out, and counted; hidden files and folders are left out.

    Raises
    ------
    DataError
        There is no image; more than 1 % are bad; sizes differ and none is given; images have more than 16,384 pixels; a
        name cannot be written.
    """
    if size is not None:
        check_size(folder, size)
    names = _names_of_images(folder)
    pixels: Pixels | None = None
    kept, bad, n_coloured, n_resized = list[str](), dict[str, str](), 0, 0
    first: tuple[str, Size] | None = None
    for name in names:
        try:
            image, coloured = _pixels(folder / name, colour=colour)
        except _UNREADABLE as error:
            bad[name] = " ".join(str(error).replace(f"{folder}/", "").split()) or type(error).__name__
            continue
        own = (image.shape[0], image.shape[1])
        if size is None and first is None:
            check_size(folder, own)
        first = first or (name, own)
        if size is None and own != first[1]:
            raise DataError(
                f"{first[0]} has {sized(first[1])} pixels (height x width) and {name} has {sized(own)}; give all "
                f"images one size with --image-size HEIGHT WIDTH, for instance --image-size {first[1][0]} {first[1][1]}"
            )
        n_resized += own != (size or own)
        n_coloured += coloured
        image = resized(image, size or own)
        pixels = new_array((len(names), *image.shape), np.uint8) if pixels is None else pixels
        pixels[len(kept)] = image
        kept.append(name)
        if len(kept) % RELEASED == 0:
            release(pixels)
    report_bad(folder, names, bad)
    if colour and n_coloured < len(kept):
        say(f"{folder.name}: {len(kept) - n_coloured} of {len(kept)} images are grey: of three equal colours")
    elif n_coloured and not colour:
        say(f"{folder.name}: {n_coloured} of {len(kept)} images are in colour; {TO_GREY}")
    if n_resized and size:
        say(f"{folder.name}: {n_resized} of {len(kept)} images are resized to {sized(size)}, proportions not kept")
    assert pixels is not None  # `report_bad` refuses a folder without an image
    return ReadImages(pixels[: len(kept)], kept)


def names_of_files(folder: Path, endings: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the files of a kind in a folder, relative to it, in their order, and of what is left out.

    Hidden files and folders are neither. Links to folders are not followed; one to a missing file counts.
    """
    names, others = list[str](), list[str]()
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(place).relative_to(folder)
        for file in [Path(place, name) for name in files if not name.startswith(".")]:
            is_one = file.suffix.lower() in endings and (file.is_file() or not file.exists())
            (names if is_one else others).append((within / file.name).as_posix())
        others += [(within / name).as_posix() for name in folders if Path(place, name).is_symlink()]
    return sorted(names), sorted(others)


def _raise(error: OSError) -> None:
    raise error


def _names_of_images(folder: Path) -> list[str]:
    """Return the names of the images in a folder, and print what is left out."""
    names, others = names_of_files(folder, IMAGE_ENDINGS)
    if not names:
        raise DataError(f"{folder} holds no image; Assay reads files that end in {', '.join(IMAGE_ENDINGS)}")
    if others:
        named = ", ".join(map(repr, others[:_NAMED])) + (
            f", {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        )
        say(f"{folder.name}: files of other kinds and links to folders are left out: {len(others)} ({named})")
    if unwritable := [name for name in names if _UNWRITABLE.search(name)]:
        raise DataError(
            f"the name of the image {unwritable[0]!r} has control characters or is no UTF-8, and names are row ids; "
            "rename it"
        )
    return names


def _pixels(file: Path, *, colour: bool) -> tuple[Pixels, bool]:
    """Return the pixels of a file, (height, width) or with `colour` (height, width, 3), and whether it is in colour.

    Raises one of `_UNREADABLE` if it is bad.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        try:
            with Pillow.open(file, formats=("PNG", "JPEG", "TIFF")) as opened:
                # Phones store a preview or a map of depth behind the photograph, in a JPEG file that is MPO then.
                if (n_frames := getattr(opened, "n_frames", 1)) > 1 and opened.format != "MPO":
                    raise ValueError(f"it holds {n_frames} images, not one")
                # Pillow would cut colours of 16 bits to 8 without a word.
                if opened.mode not in (*_GREY, *_COLOUR) or any(";16" in str(tile[3]) for tile in opened.tile):
                    raise ValueError("its pixels are not grey or colour of 8 bits a channel")
                opened.load()
                picture: Picture = ImageOps.exif_transpose(opened)
            if picture.mode in _GREY:
                grey = np.array(picture.convert("L"), dtype=np.uint8)
                return in_colour(grey) if colour else grey, False
            picture = picture.convert("RGB")
            channels = np.array(picture, dtype=np.uint8)
            kept = channels if colour else np.array(picture.convert("L"), dtype=np.uint8)
            return kept, bool((channels != channels[..., :1]).any())
        except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
            raise ValueError(
                f"it has more than {Pillow.MAX_IMAGE_PIXELS} pixels, too many to be read safely"
            ) from error


def image_pixels(file: Path) -> Pixels:
    """Return the grey pixels of one file, shape (height, width); raise `DataError` if it is bad."""
    try:
        return _pixels(file, colour=False)[0]
    except _UNREADABLE as error:
        raise DataError(f"{file.name} cannot be used: {error}; repair or remove it") from error


def to_grey(images: Pixels) -> Pixels:
    """Return images (n, height, width, 3) in grey, (n, height, width)."""
    from PIL import Image as Pillow

    return np.stack([np.array(Pillow.fromarray(image).convert("L"), dtype=np.uint8) for image in images])


def in_colour(grey: Pixels) -> Pixels:
    """Return grey images (..., height, width) with three equal colours, (..., height, width, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def resized(image: Pixels, size: Size) -> Pixels:
    """Return an image of shape (height, width) or (height, width, 3) at a size."""
    from PIL import Image as Pillow

    if image.shape[:2] == size:
        return image
    picture = Pillow.fromarray(image).resize((size[1], size[0]), Pillow.Resampling.BILINEAR)
    return np.array(picture, dtype=np.uint8)


def report_bad(folder: Path, names: Sequence[str], bad: dict[str, str], noun: str = "images") -> None:
    """Print which files are bad; raise `DataError` if they are too many."""
    named = "; ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:_NAMED])
    named += f"; {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    if len(bad) > MOST_UNREADABLE * len(names):
        raise DataError(
            f"{len(bad)} of {len(names)} {noun} in {folder} cannot be used, and at most {MOST_UNREADABLE:.0%} may be "
            f"left out ({named}); repair or remove them"
        )
    if bad:
        say(f"{folder.name}: {len(bad)} of {len(names)} {noun} cannot be used and are left out ({named})")


def check_size(path: Path, size: Size) -> None:
    """Raise `DataError` if images of a size would make rows that are too long."""
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"the images of {path.name} would have {sized(size)} pixels, and {MOST_PIXELS} are the most that a row "
            "may have; make them smaller with --image-size HEIGHT WIDTH, for instance --image-size 64 64"
        )


def sized(size: Sequence[int]) -> str:
    """Return a size for people: "28 x 28"."""
    return f"{size[0]} x {size[1]}"
