"""A user's images, in a folder, a NumPy archive or files of MNIST's form, as a dataset of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Labels
from assay.console import say
from assay.data.archives import ARCHIVE, IDX_IMAGES, archive_arrays, idx_array
from assay.data.blocks import read_frame
from assay.data.card import Card
from assay.data.dataset import ANOMALY, MASK, NORMAL, UNKNOWN, Dataset, RowSet
from assay.data.files import labels_of, texts_of
from assay.data.image_files import (
    IMAGE_ENDINGS,
    TO_GREY,
    ReadImages,
    Size,
    check_size,
    in_colour,
    names_of_files,
    read_images,
    resized,
    sized,
    to_grey,
)
from assay.data.mapped import flattened_rows
from assay.data.mask_files import read_masks
from assay.data.masks import mask_text
from assay.data.modalities.image import COLOURS, Image, pixel_columns
from assay.errors import DataError
from assay.names import check_name

NAME_OF_FILE = "file"
_LABELS_SAID = 20
_KINDS = {NORMAL: "normal", ANOMALY: "an anomaly", UNKNOWN: "unknown"}


def holds_images(path: Path) -> bool:
    """Return whether a path is a NumPy archive, an IDX file of images, or a folder with images at any depth."""
    if path.is_dir():
        return bool(names_of_files(path, IMAGE_ENDINGS)[0])
    return path.suffix.lower() == ARCHIVE or IDX_IMAGES.search(path.name) is not None


def read_image_dataset(
    path: Path,
    *,
    name: str,
    size: Size | None = None,
    normal: str | None = None,
    anomaly: str | None = None,
    colour: bool = False,
    labels: Path | None = None,
    masks: Path | None = None,
    like: Card | None = None,
) -> Dataset:
    """Read a folder of images, a NumPy archive or an IDX file as a dataset of images.

    Parameters
    ----------
    path : Path
        A folder of PNG, JPEG and TIFF files, at any depth; or an .npz file with an array ``images`` of uint8,
        (n, height, width) or (n, height, width, 3), and maybe an array ``labels`` (n,); or an IDX file of images, as
        MNIST comes, with its file of labels beside it. Rows are in the order of the files' names, by code points, or
        of the archive.
    name : str
        Name of the dataset.
    size : (int, int), optional
        Height and width; see `read_images`.
    normal, anomaly : str, optional
        The label of normal images, or of anomalies, as in `assay.data.files.read_table`. The label of a file is the
        name of the folder that it lies in, unless `labels` are given. Without both, files have no label; those of an
        archive or of a table are 0, 1 and -1.
    colour : bool
        Whether images are in colour; see `read_images`.
    labels : Path, optional
        A table with the columns ``file`` (names relative to the folder) and ``label``.
    masks : Path, optional
        A folder of masks; see `assay.data.masks.read_masks`.
    like : Card, optional
        The dataset that the images join: they get its size and colours, need not have all labels that are named, and
        their ids begin with the name of the folder.

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
    if like is not None and like.modality.shape is not None:
        if size is not None or colour:
            raise DataError("with --append, images have the size and the colours of the dataset; leave options out")
        size, colour = like.modality.two_sides, len(like.modality.shape) > 2
    images = _read(path, size, colour=colour)
    if not images.names and (labels is not None or masks is not None):
        raise DataError(f"--labels and --masks are for a folder of images; {path.name} is one file")
    if labels is not None:
        images = replace(images, labels=_listed(labels, images.names))
    n, shape = len(images.pixels), images.pixels.shape[1:]
    ids = images.names or [f"{name}-{i:07d}" for i in range(n)]
    kinds, origin = _labels(path, images, normal, anomaly, is_whole=like is None)
    rows = pd.DataFrame({"row_id": ids, "label": kinds, "group": "", "time": ""})
    if masks is not None:
        marked = read_masks(masks, path, images.names, images.pixels.shape[1:3], size is not None)
        if (odd := marked.any(axis=(1, 2)) & (kinds == NORMAL)).any():
            raise DataError(f"{ids[int(odd.argmax())]} counts as normal, and its mask marks defects; correct one")
        rows[MASK] = [mask_text(mask) for mask in marked]
        say(f"{path.name}: {int(marked.any(axis=(1, 2)).sum())} of {n} images have a mask of their defects")
    if like is not None and images.names:
        rows["row_id"] = f"{path.resolve().name}/" + rows["row_id"]
    rows = rows.astype({column: "str" for column in rows if column != "label"})
    source, id_column = f"{path.resolve().name}{origin}", NAME_OF_FILE if images.names else None
    card = Card(name, Image(shape), pixel_columns(shape), source, id_column, normal_label=normal, anomaly_label=anomaly)
    return Dataset(card, RowSet(flattened_rows(images.pixels), rows))


def image_lines(dataset: Dataset) -> list[str]:
    """Return what images were taken for, for people."""
    features, labels = dataset.data.features, dataset.data.labels
    counts = ", ".join(f"{int((labels == kind).sum())} {word}" for kind, word in _KINDS.items())
    size = " x ".join(map(str, dataset.card.modality.shape or ()))
    return [
        f"{len(features)} images of {size}, values {features.min():.0f} to {features.max():.0f}; {counts}",
        "`assay ingest` can take them; nothing was changed",
    ]


def shape_of_columns(columns: Sequence[str]) -> tuple[int, ...] | None:
    """Return the shape of the images whose pixels some columns are; None where they are no pixels."""
    last = re.fullmatch(r"pixel_(\d+)_(\d+)(_blue)?", columns[-1])
    if last is None:
        return None
    shape = (int(last[1]) + 1, int(last[2]) + 1, *([len(COLOURS)] if last[3] else []))
    return shape if int(np.prod(shape)) == len(columns) and tuple(columns) == pixel_columns(shape) else None


class ImageBlocks:
    """Images of a folder or an archive in blocks (`assay.data.blocks.Blocks`): names, or numbers from 0, and pixels.

    Images of another size than the one that the columns name are resized, and become grey or of three colours as the
    columns are; see `read_images`.

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

        if (shape := shape_of_columns(columns)) is None:
            raise DataError(f"{path.name} holds images, and this scorer takes none; give it a table")
        images = _read(path, (shape[0], shape[1]), colour=len(shape) > 2)
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


def _read(path: Path, size: Size | None, *, colour: bool) -> ReadImages:
    if path.is_dir():
        return read_images(path, size, colour=colour)
    if path.suffix.lower() == ARCHIVE:
        images = _read_archive(path)
    else:
        images = ReadImages(idx_array(path, 3), [])
        if (labels_file := path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))).is_file():
            say(f"{path.name}: labels are those of {labels_file.name}")
            classes = idx_array(labels_file, 1)
            if len(classes) != len(images.pixels):
                raise DataError(
                    f"{labels_file.name} holds {len(classes)} labels for {len(images.pixels)} images; get both"
                )
            images = replace(images, labels=texts_of(pd.Series(classes)).to_numpy(dtype=object))
    pixels, own = images.pixels, (int(images.pixels.shape[1]), int(images.pixels.shape[2]))
    target = size or own
    check_size(path, target)
    if pixels.ndim > 3 and not colour:
        say(f"{path.name}: {len(pixels)} images are in colour; {TO_GREY}")
        pixels = to_grey(pixels)
    if target != own:
        say(f"{path.name}: {len(pixels)} images of {sized(own)} are resized to {sized(target)}, proportions not kept")
        pixels = np.stack([resized(image, target) for image in pixels])
    return replace(images, pixels=in_colour(pixels) if colour and pixels.ndim == 3 else pixels)


def _listed(path: Path, names: Sequence[str]) -> Any:
    """Return the label of each file by a table with the columns ``file`` and ``label``; "" for files not in it."""
    frame = read_frame(path, ["file", "label"])
    of_file = pd.Series(texts_of(frame["label"]).to_numpy(), index=texts_of(frame["file"]).to_numpy())
    odd = sorted(set(of_file.index) - set(names)) or of_file.index[of_file.index.duplicated()].tolist()
    if odd:
        raise DataError(f"{path.name} lists {odd[0]!r}, which is no image such as {names[0]!r}, or is listed twice")
    if n_without := len(names) - len(of_file):
        say(f"{path.name}: {n_without} of {len(names)} images are not in it, and unknown")
    return of_file.reindex(list(names)).fillna("").to_numpy(dtype=object)


def _labels(
    path: Path, images: ReadImages, normal: str | None, anomaly: str | None, *, is_whole: bool
) -> tuple[Labels, str]:
    """Return the labels of images, and which ones the user named, for people."""
    texts, given = images.labels, [(NORMAL, "normal", normal), (ANOMALY, "anomaly", anomaly)]
    given = [each for each in given if each[2] is not None]
    if texts is None and images.names and given:
        texts = np.array([(path.resolve() / name).parent.name for name in images.names], dtype=object)
    if texts is None and given:
        raise DataError(f"--{given[0][1]} {given[0][2]}: {path.name} has no array `labels`; leave the option out")
    if texts is None:
        return np.full(len(images.pixels), UNKNOWN, dtype=np.int8), ""
    labels = labels_of(path, texts, normal, anomaly)
    for kind, option, value in given:
        if is_whole and not (labels == kind).any():
            present = ", ".join(sorted(map(repr, set(texts)))[:10])
            raise DataError(f"--{option} {value}: no image of {path.name} has that label; there are {present}")
    if given:
        counts = Counter(zip(texts, labels.tolist(), strict=True)).most_common()
        said = [f"{text!r} is {_KINDS[kind]} ({number})" for (text, kind), number in counts[:_LABELS_SAID]]
        say(f"{path.name}: {', '.join(said)}{', ...' * (len(counts) > _LABELS_SAID)}")
    return labels, "".join(f"; {option} = {value!r}" for _, option, value in given)


def _read_archive(path: Path) -> ReadImages:
    """Return the images of an .npz file, and its labels as texts, if it has any."""
    arrays = archive_arrays(path, ("images", "labels"))
    images, labels = arrays.get("images"), arrays.get("labels")
    is_colour = images is not None and images.ndim == 4 and images.shape[-1] == len(COLOURS)
    if images is None or not (images.ndim == 3 or is_colour) or images.dtype != np.uint8 or not images.size:
        held = "none" if images is None else f"one of {images.dtype} and shape {images.shape}"
        raise DataError(
            f"{path.name} needs an array `images` of uint8, shape (n, height, width) or (n, height, width, 3); it "
            f"holds {held}"
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "biufU"):
        raise DataError(
            f"{path.name}: `labels` must be {len(images)} numbers or texts, one for each image; they are of "
            f"{labels.dtype} and shape {labels.shape}"
        )
    return ReadImages(images, [], None if labels is None else texts_of(pd.Series(labels)).to_numpy(dtype=object))
