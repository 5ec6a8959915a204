"""MNIST and Fashion-MNIST: one class is normal, the other nine are anomalies."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.mirrored import MirroredFile
from assay.data.modalities.base import RawDataset
from assay.errors import DataError

SIDE, CLASSES = 28, 10
_ANOMALY_SHARE = 0.2
_SEED = 0

IMAGE_FILES: dict[str, MirroredFile] = {
    "mnist": MirroredFile(
        "mnist_70k_uint8.npz",
        "7eec1816e7bcf11df5b9069f84d8aa684bf61058ee925a04e83dea087b99c35c",
        "uint8 arrays train_images (60000, 28, 28), train_labels, test_images (10000, 28, 28) and test_labels",
        "MNIST, http://yann.lecun.com/exdb/mnist",
    ),
    "fashion-mnist": MirroredFile(
        "fashion_mnist_70k_uint8.npz",
        "280eed919fb73e2582d786a3f205635124d0d3bfad61406ffd5f1fb174997580",
        "uint8 arrays images (70000, 28, 28) and labels",
        "Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist",
    ),
}
IMAGE_SETS: dict[str, tuple[str, int]] = {
    f"{collection}-{normal}": (collection, normal) for collection in IMAGE_FILES for normal in range(CLASSES)
}

Images = NDArray[np.uint8]


def load_images(name: str, *, mirror: Path | None = None) -> tuple[Images, Images]:
    """Return all 70,000 images of a collection, of shape (n, 28, 28), and their classes 0 to 9, of shape (n,).

    MNIST is in its official order, the 60,000 training images first; Fashion-MNIST in the order of its file. The
    arrays are read once per process and are read-only.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist"}
    mirror : Path, optional
        Folder that holds the file; by default the one in the environment variable ASSAY_DATA_MIRROR.

    Raises
    ------
    DataError
        The name is unknown, or the file is missing or has another hash.
    """
    if name not in IMAGE_FILES:
        raise DataError(f"unknown image collection {name!r}; known: {', '.join(IMAGE_FILES)}")
    named = os.environ.get("ASSAY_DATA_MIRROR")
    return _read(name, mirror or (Path(named) if named else None))


@cache
def _read(name: str, mirror: Path | None) -> tuple[Images, Images]:
    arrays = IMAGE_FILES[name].read(mirror)
    if name == "mnist":
        images = np.concatenate([arrays["train_images"], arrays["test_images"]])
        classes = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    else:
        images, classes = arrays["images"], arrays["labels"]
    images.setflags(write=False)
    classes.setflags(write=False)
    return images, classes


def one_class(name: str, mirror: Path | None) -> RawDataset:
    """Return the dataset of a key of `IMAGE_SETS`: features of shape (n, 784), anomalies marked.

    It holds all images of the normal class, and the same number of each other class, drawn with a fixed seed, so that
    the anomalies are at most 20 % of the normals. Images keep the order of the collection; its official split into
    training and test images is ignored.
    """
    collection, normal = IMAGE_SETS[name]
    images, classes = load_images(collection, mirror=mirror)
    n_per_class = int(_ANOMALY_SHARE * np.count_nonzero(classes == normal)) // (CLASSES - 1)
    rng = np.random.default_rng((_SEED, normal))
    anomalies = [rng.permutation(np.flatnonzero(classes == c))[:n_per_class] for c in range(CLASSES) if c != normal]
    picked = np.sort(np.concatenate([np.flatnonzero(classes == normal), *anomalies]))
    columns = tuple(f"pixel_{row}_{column}" for row in range(SIDE) for column in range(SIDE))
    source = (
        f"{IMAGE_FILES[collection].origin}; normal = all images of class {normal}, anomaly = {n_per_class} images of "
        f"each other class, drawn by seed {_SEED}"
    )
    features = images[picked].reshape(len(picked), -1)
    return RawDataset(columns, (SIDE, SIDE), source, features, classes[picked] != normal)
