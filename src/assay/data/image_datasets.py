"""A user's images, in a folder, a NumPy archive or files of MNIST's form, as a dataset of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    Pixels,
    ReadImages,
    Size,
    check_size,
    in_colour,
    names_of_files,
    read_images,
    resized,
    sized,
)
from assay.data.masks import mask_text, read_masks
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
    is_partial: bool = False,
) -> Dataset:
    """Read a folder of images, a NumPy archive or an IDX file as a dataset of images.

    Parameters
    ----------
    path : Path
        A folder of PNG, JPEG and TIFF files, at any depth; or an .npz file with an array ``images`` of uint8,
        (n, height, width) or (n, height, width, 3), and maybe arrays ``labels`` (n,) and ``masks`` (n, height, width)
        of bool; or an IDX file of images, as MNIST comes, with its file of labels beside it. Rows are in the order of
        the files' names, by code points, or of the archive.
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
    is_partial : bool
        Whether the images join others: then they need not have the labels that are named.

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
    images = _read(path, size, colour=colour)
    if not images.names and (labels is not None or masks is not None):
        option = "--labels" if labels is not None else "--masks"
        raise DataError(f"{option} is for a folder of images; {path.name} holds its own labels and masks, or none")
    if labels is not None:
        images = replace(images, labels=_listed(labels, images.names))
    if masks is not None:
        images = replace(
            images, masks=read_masks(masks, path, images.names, images.pixels.shape[1:3], size is not None)
        )
    n, shape = len(images.pixels), images.pixels.shape[1:]
    ids = images.names or [f"{name}-{i:07d}" for i in range(n)]
    kinds, origin = _labels(path, images, normal, anomaly, is_partial=is_partial)
    rows = pd.DataFrame({"row_id": ids, "label": kinds, "group": "", "time": ""})
    if images.masks is not None:
        if (masked := images.masks.any(axis=(1, 2)) & (kinds == NORMAL)).any():
            raise DataError(
                f"{ids[int(masked.argmax())]} counts as normal, and its mask marks defects; correct one of them"
            )
        rows[MASK] = [mask_text(mask) for mask in images.masks]
        say(f"{path.name}: {int(images.masks.any(axis=(1, 2)).sum())} of {n} images have a mask of their defects")
    rows = rows.astype({column: "str" for column in rows if column != "label"})
    source = f"{path.resolve().name}{origin}"
    id_column = NAME_OF_FILE if images.names else None
    card = Card(name, Image(shape), pixel_columns(shape), source, id_column, normal_label=normal, anomaly_label=anomaly)
    return Dataset(card, RowSet(images.pixels.reshape(n, -1).astype(np.float64), rows))


def appended_images(path: Path, card: Card, given: Mapping[str, Any], options: Mapping[str, Any]) -> Dataset:
    """Return images as rows that join a dataset of images: of its size and colour, their ids with the folder's name.

    Raises
    ------
    DataError
        These are no images, an option has no meaning for them, or what `read_image_dataset` raises.
    """
    if not holds_images(path):
        raise DataError(f"{card.name} holds images, and {path.name} none; give a folder of images, or an archive")
    if options["size"] is not None or options["colour"]:
        raise DataError("with --append, images have the size and the colours of the dataset; leave such options out")
    unusable = [key for key, value in given.items() if value is not None and key not in ("normal", "anomaly")]
    if unusable:
        raise DataError(
            f"--{unusable[0].removesuffix('_column')} is for tables, and {path.name} holds images; leave it out"
        )
    shape = card.modality.shape or ()
    kinds = {"normal": given.get("normal") or card.normal_label, "anomaly": given.get("anomaly") or card.anomaly_label}
    dataset = read_image_dataset(
        path,
        name=card.name,
        size=(shape[0], shape[1]),
        colour=len(shape) > 2,
        **kinds,
        labels=options["labels"],
        masks=options["masks"],
        is_partial=True,
    )
    if not path.is_dir():
        return dataset
    ids = f"{path.resolve().name}/" + dataset.data.rows["row_id"]
    return replace(dataset, data=RowSet(dataset.data.features, dataset.data.rows.assign(row_id=ids)))


def image_lines(dataset: Dataset) -> list[str]:
    """Return what images were taken for, for people."""
    features, labels = dataset.data.features, dataset.data.labels
    flat = int((features == features[:, :1]).all(axis=1).sum())
    counts = ", ".join(f"{int((labels == kind).sum())} {word}" for kind, word in _KINDS.items())
    return [
        f"{dataset.card.source}: {len(features)} images, {' x '.join(map(str, dataset.card.modality.shape or ()))}",
        f"labels: {counts}",
        f"values: {features.min():.0f} to {features.max():.0f}, mean {features.mean():.1f}",
        *([f"looks wrong: {flat} images are of one value all over"] if flat else []),
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
        pixels, classes = idx_array(path, 3), None
        if (beside := path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))).is_file():
            classes = idx_array(beside, 1)
            say(f"{path.name}: labels are those of {beside.name}")
            if len(classes) != len(pixels):
                raise DataError(f"{beside.name} holds {len(classes)} labels for {len(pixels)} images; get both again")
        images = ReadImages(
            pixels, [], None if classes is None else texts_of(pd.Series(classes)).to_numpy(dtype=object)
        )
    pixels, own = images.pixels, (int(images.pixels.shape[1]), int(images.pixels.shape[2]))
    target = size or own
    check_size(path, target)
    if pixels.ndim > 3 and not colour:
        say(f"{path.name}: {len(pixels)} images are in colour; {TO_GREY}")
        pixels = _to_grey(pixels)
    if target != own:
        say(f"{path.name}: {len(pixels)} images of {sized(own)} are resized to {sized(target)}, proportions not kept")
        pixels = np.stack([resized(image, target) for image in pixels])
    masks = images.masks
    if masks is not None and target != own:
        masks = np.stack([resized(mask.astype(np.uint8) * 255, target) > 127 for mask in masks])
    return replace(images, pixels=in_colour(pixels) if colour and pixels.ndim == 3 else pixels, masks=masks)


def _to_grey(pixels: Pixels) -> Pixels:
    """Return images (n, height, width, 3) in grey, as Pillow makes them."""
    from PIL import Image as Pillow

    return np.stack([np.array(Pillow.fromarray(image).convert("L"), dtype=np.uint8) for image in pixels])


def _listed(path: Path, names: Sequence[str]) -> Any:
    """Return the label of each file by a table with the columns ``file`` and ``label``; "" for files not in it."""
    frame = read_frame(path, ["file", "label"])
    of_file = pd.Series(texts_of(frame["label"]).to_numpy(), index=texts_of(frame["file"]).to_numpy())
    if of_file.index.has_duplicates:
        raise DataError(
            f"{path.name} lists {of_file.index[of_file.index.duplicated()][0]!r} twice; list each file once"
        )
    if missing := sorted(set(of_file.index) - set(names)):
        raise DataError(
            f"{path.name} lists {missing[0]!r}, and there is no such image; names are those within the folder, such as "
            f"{names[0]!r}"
        )
    if n_without := len(names) - len(of_file):
        say(f"{path.name}: {n_without} of {len(names)} images are not in it, and unknown")
    return of_file.reindex(list(names)).fillna("").to_numpy(dtype=object)


def _labels(
    path: Path, images: ReadImages, normal: str | None, anomaly: str | None, *, is_partial: bool
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
        if not is_partial and not (labels == kind).any():
            present = ", ".join(sorted(map(repr, set(texts)))[:10])
            raise DataError(f"--{option} {value}: no image of {path.name} has that label; there are {present}")
    if given:
        counts = Counter(zip(texts, labels.tolist(), strict=True)).most_common()
        said = [f"{text!r} is {_KINDS[kind]} ({number})" for (text, kind), number in counts[:_LABELS_SAID]]
        say(f"{path.name}: {', '.join(said)}{', ...' * (len(counts) > _LABELS_SAID)}")
    return labels, "".join(f"; {option} = {value!r}" for _, option, value in given)


def _read_archive(path: Path) -> ReadImages:
    """Return the images of an .npz file, its labels as texts and its masks, if it has any."""
    arrays = archive_arrays(path, ("images", "labels", "masks"))
    images, labels, masks = (arrays.get(name) for name in ("images", "labels", "masks"))
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
    if masks is not None and (masks.shape != images.shape[:3] or masks.dtype.kind not in "bu"):
        raise DataError(
            f"{path.name}: `masks` must be of bool and shape {images.shape[:3]}; they are of {masks.dtype} and shape "
            f"{masks.shape}"
        )
    texts = None if labels is None else texts_of(pd.Series(labels)).to_numpy(dtype=object)
    return ReadImages(images, [], texts, None if masks is None else masks > 0)
