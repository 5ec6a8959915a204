"""A user's images, in a folder or a NumPy archive, as a dataset of grey images."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Labels
from assay.console import say
from assay.data.archives import ARCHIVE, archive_arrays
from assay.data.card import Card
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset, RowSet
from assay.data.files import labels_of, texts_of
from assay.data.modalities.image import Image, pixel_columns
from assay.errors import DataError
from assay.names import check_name

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NAME_OF_FILE = "file"
MOST_UNREADABLE = 0.01  # of the files
MOST_PIXELS = 128 * 128
_GREY = ("1", "L", "LA", "La")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, ArithmeticError, LookupError, struct.error)
_NAMED, _LABELS_SAID = 5, 20
_KINDS = {NORMAL: "normal", ANOMALY: "an anomaly", UNKNOWN: "unknown"}
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Size = tuple[int, int]
Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GreyImages:
    """Grey images of one size.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, height, width)
    names : list of str
        File names, relative to the folder, with "/"; none for an archive.
    labels : ndarray of str, shape (n,), or None
        Labels of an archive.
    """

    pixels: Grey
    names: list[str]
    labels: NDArray[Any] | None = None


def holds_images(path: Path) -> bool:
    """Return whether a path is a NumPy archive, or a folder with images at any depth."""
    if path.is_dir():
        return bool(_files_of(path)[0])
    return path.suffix.lower() == ARCHIVE


def read_image_dataset(
    path: Path, *, name: str, size: Size | None = None, normal: str | None = None, anomaly: str | None = None
) -> Dataset:
    """Read a folder of images, or a NumPy archive, as a dataset of grey images.

    Parameters
    ----------
    path : Path
        A folder of PNG, JPEG and TIFF files, at any depth; or an .npz file with an array ``images`` (n, height, width)
        of uint8, and maybe an array ``labels`` (n,). Rows are in the order of the files' names, by code points, or of
        the archive.
    name : str
        Name of the dataset.
    size : (int, int), optional
        Height and width; see `read_images`.
    normal, anomaly : str, optional
        The label of normal images, or of anomalies, as in `assay.data.files.read_table`. The label of a file is the
        name of the folder that it lies in. Without both, files have no label; those of an archive are 0, 1 and -1.

    Returns
    -------
    Dataset
        Row ids are the files' names, relative to the folder; for an archive "<name>-<row number>".

    Raises
    ------
    DataError
        Something cannot be used; the message names it.
    """
    check_name(name, "the dataset's name")
    images = read_images(path, size) if path.is_dir() else _read_archive(path, size)
    n, height, width = images.pixels.shape
    ids = images.names or [f"{name}-{i:07d}" for i in range(n)]
    labels, origin = _labels(path, images, normal, anomaly)
    rows = pd.DataFrame({"row_id": ids, "label": labels, "group": "", "time": ""})
    rows = rows.astype({"row_id": "str", "group": "str", "time": "str"})
    card = Card(name, Image((height, width)), pixel_columns((height, width)), f"{path.resolve().name}{origin}")
    return Dataset(card, RowSet(images.pixels.reshape(n, -1).astype(np.float64), rows))


def read_images(folder: Path, size: Size | None = None) -> GreyImages:
    """Read the images of a folder as grey ones of one size; what is done with them is printed.

    - Colour becomes grey by luma, .299 red + .587 green + .114 blue (ITU-R 601-2), rounded. Transparency is ignored: a
      pixel has the colour that is stored. Images are turned as their EXIF data say.
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
        _check_size(folder, size)
    names = _names_of_images(folder)
    pixels: list[Grey] = []
    kept, bad, n_coloured, n_resized = list[str](), dict[str, str](), 0, 0
    first: tuple[str, Size] | None = None
    for name in names:
        try:
            grey, coloured = _grey(folder / name)
        except _UNREADABLE as error:
            bad[name] = " ".join(str(error).replace(f"{folder}/", "").split()) or type(error).__name__
            continue
        own = (grey.shape[0], grey.shape[1])
        if size is None and first is None:
            _check_size(folder, own)
        first = first or (name, own)
        if size is None and own != first[1]:
            raise DataError(
                f"{first[0]} has {_times(first[1])} pixels (height x width) and {name} has {_times(own)}; give all "
                f"images one size with --image-size HEIGHT WIDTH, for instance --image-size {first[1][0]} {first[1][1]}"
            )
        n_resized += own != (size or own)
        n_coloured += coloured
        pixels.append(_resized(grey, size or own))
        kept.append(name)
    _report_bad(folder, names, bad)
    if n_coloured:
        say(
            f"{folder.name}: {n_coloured} of {len(kept)} images are in colour; "
            "grey is .299 red + .587 green + .114 blue"
        )
    if n_resized and size:
        say(f"{folder.name}: {n_resized} of {len(kept)} images are resized to {_times(size)}, proportions not kept")
    return GreyImages(np.stack(pixels), kept)


class ImageBlocks:
    """Images of a folder or an archive in blocks (`assay.data.blocks.Blocks`): names, or numbers from 0, and pixels.

    Images of another size than the one that the columns name are resized; see `read_images`.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        The pixels of a dataset of images.

    Raises
    ------
    DataError
        The columns are no pixels, or the images cannot be used.
    """

    start = 0

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        import pyarrow as pa

        sides = re.fullmatch(r"pixel_(\d+)_(\d+)", columns[-1])
        size = (int(sides[1]) + 1, int(sides[2]) + 1) if sides else (0, 0)
        if size[0] * size[1] != len(columns) or tuple(columns) != pixel_columns(size):
            raise DataError(f"{path.name} holds images, and this scorer takes none; give it a table")
        images = read_images(path, size) if path.is_dir() else _read_archive(path, size)
        self.n_rows, self._columns = len(images.pixels), list(columns)
        self._pixels = images.pixels.reshape(self.n_rows, -1)
        self._names = images.names or [str(number) for number in range(self.n_rows)]
        self.types = {NAME_OF_FILE: pa.string(), **dict.fromkeys(columns, pa.float64())}

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield frames of at most so many rows."""
        for start in range(0, self.n_rows, rows):
            frame = pd.DataFrame(self._pixels[start : start + rows].astype(np.float64), columns=self._columns)
            frame.insert(0, NAME_OF_FILE, self._names[start : start + rows])
            yield frame


def _files_of(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the images in a folder, relative to it, in their order, and what is left out beside them.

    Hidden files and folders are neither. Links to folders are not followed; one to a missing file is a bad image.
    """
    names, others = list[str](), list[str]()
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(place).relative_to(folder)
        for file in [Path(place, name) for name in files if not name.startswith(".")]:
            is_image = file.suffix.lower() in IMAGE_ENDINGS and (file.is_file() or not file.exists())
            (names if is_image else others).append((within / file.name).as_posix())
        others += [(within / name).as_posix() for name in folders if Path(place, name).is_symlink()]
    return sorted(names), sorted(others)


def _raise(error: OSError) -> None:
    raise error


def _names_of_images(folder: Path) -> list[str]:
    """Return the names of the images in a folder, and print what is left out."""
    names, others = _files_of(folder)
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


def _grey(file: Path) -> tuple[Grey, bool]:
    """Return the grey pixels of a file, shape (height, width), and whether it is in colour.

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
                return np.array(picture.convert("L"), dtype=np.uint8), False
            picture = picture.convert("RGB")
            channels = np.asarray(picture)
            return np.array(picture.convert("L"), dtype=np.uint8), bool((channels != channels[..., :1]).any())
        except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
            raise ValueError(
                f"it has more than {Pillow.MAX_IMAGE_PIXELS} pixels, too many to be read safely"
            ) from error


def _resized(grey: Grey, size: Size) -> Grey:
    """Return an image of shape (height, width) at a size."""
    from PIL import Image as Pillow

    if grey.shape == size:
        return grey
    picture = Pillow.fromarray(grey).resize((size[1], size[0]), Pillow.Resampling.BILINEAR)
    return np.array(picture, dtype=np.uint8)


def _report_bad(folder: Path, names: Sequence[str], bad: dict[str, str]) -> None:
    """Print which files are bad; raise `DataError` if they are too many."""
    named = "; ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:_NAMED])
    named += f"; {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    if len(bad) > MOST_UNREADABLE * len(names):
        raise DataError(
            f"{len(bad)} of {len(names)} images in {folder} cannot be used, and at most {MOST_UNREADABLE:.0%} may be "
            f"left out ({named}); repair or remove them"
        )
    if bad:
        say(f"{folder.name}: {len(bad)} of {len(names)} images cannot be used and are left out ({named})")


def _check_size(path: Path, size: Size) -> None:
    """Raise `DataError` if images of a size would make rows that are too long."""
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"the images of {path.name} would have {_times(size)} pixels, and {MOST_PIXELS} are the most that a row "
            "may have; make them smaller with --image-size HEIGHT WIDTH, for instance --image-size 64 64"
        )


def _times(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _labels(path: Path, images: GreyImages, normal: str | None, anomaly: str | None) -> tuple[Labels, str]:
    """Return the labels of images, and which ones the user named, for people."""
    texts, given = images.labels, [(NORMAL, "normal", normal), (ANOMALY, "anomaly", anomaly)]
    given = [each for each in given if each[2] is not None]
    if images.names and given:
        texts = np.array([(path.resolve() / name).parent.name for name in images.names], dtype=object)
    if texts is None and given:
        raise DataError(f"--{given[0][1]} {given[0][2]}: {path.name} has no array `labels`; leave the option out")
    if texts is None:
        return np.full(len(images.pixels), UNKNOWN, dtype=np.int8), ""
    labels = labels_of(path, texts, normal, anomaly)
    for kind, option, value in given:
        if not (labels == kind).any():
            present = ", ".join(sorted(map(repr, set(texts)))[:10])
            raise DataError(f"--{option} {value}: no image of {path.name} has that label; there are {present}")
    if given:
        counts = Counter(zip(texts, labels.tolist(), strict=True)).most_common()
        said = [f"{text!r} is {_KINDS[kind]} ({number})" for (text, kind), number in counts[:_LABELS_SAID]]
        say(f"{path.name}: {', '.join(said)}{', ...' * (len(counts) > _LABELS_SAID)}")
    return labels, "".join(f"; {option} = {value!r}" for _, option, value in given)


def _read_archive(path: Path, size: Size | None) -> GreyImages:
    """Return the images of an .npz file, and its labels as texts, if it has any."""
    arrays = archive_arrays(path, ("images", "labels"))
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.ndim != 3 or images.dtype != np.uint8 or not images.size:
        held = "none" if images is None else f"one of {images.dtype} and shape {images.shape}"
        raise DataError(f"{path.name} needs an array `images` of uint8, shape (n, height, width); it holds {held}")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "biufU"):
        raise DataError(
            f"{path.name}: `labels` must be {len(images)} numbers or texts, one for each image; they are of "
            f"{labels.dtype} and shape {labels.shape}"
        )
    own = (int(images.shape[1]), int(images.shape[2]))
    target = size or own
    _check_size(path, target)
    if target != own:
        say(f"{path.name}: {len(images)} images of {_times(own)} are resized to {_times(target)}, proportions not kept")
        images = np.stack([_resized(image, target) for image in images])
    return GreyImages(images, [], None if labels is None else texts_of(pd.Series(labels)).to_numpy(dtype=object))
