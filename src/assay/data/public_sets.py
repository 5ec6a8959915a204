"""Datasets by name: two from scikit-learn, and public ones with a pinned hash and, mostly, a pinned address."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Flags
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet
from assay.data.modalities.base import Modality, Reader
from assay.data.modalities.image import Image
from assay.data.modalities.registry import modality_classes
from assay.data.modalities.tabular import TABULAR
from assay.errors import DataError

ADDRESS = (
    "https://github.com/Minqi824/ADBench/raw/3dac8221081e190f157d78e93bfa8867f90d0965/adbench/datasets/Classical/{file}"
)


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A dataset file of ADBench (Han et al. 2022): its name, SHA-256 and modality."""

    file: str
    sha256: str
    modality: Modality = TABULAR

    @property
    def address(self) -> str:
        """The public address of the file."""
        return ADDRESS.format(file=self.file)


PUBLIC: dict[str, PublicFile] = {
    "satellite": PublicFile("30_satellite.npz", "1f048f5686f1b8c16a227fdfa3c81a62cd9a92715714a6b24c69b1c5ad96b46e"),
    "cardio": PublicFile("6_cardio.npz", "bc5009bde6930b4d298b594f31b34485a9a17210cff0e8fb00a8c3068b885a2d"),
    "thyroid": PublicFile("38_thyroid.npz", "8de161b3f235b7647bb0b39a836d983ff61d67bf234edac461da2d71e889cb87"),
    "satimage-2": PublicFile("31_satimage-2.npz", "1b056e357f801b8b20c3f380a30224a3c4088d7ed764ec5a24828dc9b1918d6f"),
    "shuttle": PublicFile("32_shuttle.npz", "26900b0f6be45d9ddb7a402c9b2f956ceda42d23a8ca4cf4406b8bc1352823d1"),
    "mammography": PublicFile("23_mammography.npz", "a0308ac9712d78321073b1c2dc98dc37665c0f35c1cc33019416fe8f8d7de7ea"),
    "optdigits": PublicFile(
        "26_optdigits.npz", "60de17a375a278ba220a7849727d998aa02b5e2f9fd17732a004bba28de4656e", Image((8, 8))
    ),
    "pendigits": PublicFile("28_pendigits.npz", "c4936b89dcdad59d303020e492f763a0f54170080d787c77497609acbb9c2d79"),
    "vertebral": PublicFile("39_vertebral.npz", "0816286f92b96fe6867664a41a031ac7228dcfbf1a5feefe50ca3883b2e9073d"),
}


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_named` accepts: bundled datasets, public ones, then those of the modalities."""
    return (*_BUNDLED, *PUBLIC, *_by_modality())


def load_named(name: str, *, mirror: Path | None, cache: Path) -> Dataset:
    """Return a dataset by its name; the same bytes on every machine.

    Parameters
    ----------
    name : str
        One of `dataset_names`.
    mirror : Path or None
        Folder with copies of the public files as ``adbench/<file>`` and of the files that the modalities' readers
        read, which are not published in that form. With None the public files are downloaded.
    cache : Path
        Folder that keeps verified copies of the public files.

    Raises
    ------
    DataError
        The name is unknown, or the file is missing or has another hash.
    """
    if name in _BUNDLED:
        return _BUNDLED[name]()
    if name in PUBLIC:
        return _load_public(name, PUBLIC[name], mirror, cache)
    if name in (modality_sets := _by_modality()):
        modality, read = modality_sets[name]
        raw = read(mirror)
        card = Card(name, modality(raw.shape), raw.columns, raw.source)
        return _dataset(card, raw.features, raw.anomalous)
    raise DataError(f"unknown dataset {name!r}; known: {', '.join(dataset_names())}")


def _by_modality() -> dict[str, tuple[type[Modality], Reader]]:
    """Return the datasets that come with a modality."""
    return {name: (modality, read) for modality in modality_classes() for name, read in modality.sets.items()}


def _load_public(name: str, public: PublicFile, mirror: Path | None, cache: Path) -> Dataset:
    with np.load(_fetch(public, mirror, cache), allow_pickle=False) as arrays:
        X, y = arrays["X"], arrays["y"]
    columns = tuple(f"x{i}" for i in range(X.shape[1]))
    source = f"ADBench (Han et al. 2022), {public.address}"
    return _dataset(Card(name, public.modality, columns, source), X, y == 1)


def _fetch(public: PublicFile, mirror: Path | None, cache: Path) -> Path:
    """Return the path of a verified copy of a public file, fetched if there is none.

    A copy gets its final name only after its hash has been checked.
    """
    import pooch

    def copy(_: str, target: str, __: object) -> None:
        assert mirror is not None
        shutil.copyfile(mirror / "adbench" / public.file, target)

    pooch.get_logger().setLevel("WARNING")
    try:
        file = pooch.retrieve(
            public.address,
            known_hash=f"sha256:{public.sha256}",
            fname=public.file,
            path=cache,
            downloader=None if mirror is None else copy,
        )
    except (ValueError, OSError) as error:  # pooch: wrong hash; requests' errors are OSErrors
        origin = public.address if mirror is None else mirror / "adbench" / public.file
        raise DataError(
            f"{public.file} could not be fetched from {origin}: {error}. Get the file with SHA-256 "
            f"{public.sha256} from {public.address} and put it at adbench/{public.file} in a mirror folder"
        ) from error
    return Path(file)


def _digits() -> Dataset:
    """Return scikit-learn's 8x8 digits; 0 is the anomaly, as in ODDS's optdigits."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    columns = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    source = "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits); anomaly = digit 0"
    return _dataset(Card("digits", Image((8, 8)), columns, source), X, y == 0)


def _breast_cancer() -> Dataset:
    """Return scikit-learn's breast cancer data; malignant is the anomaly."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    columns = tuple(str(column) for column in bunch.feature_names)
    source = "scikit-learn load_breast_cancer (UCI Breast Cancer Wisconsin, Diagnostic); anomaly = malignant"
    malignant = bunch.target == list(bunch.target_names).index("malignant")
    return _dataset(Card("breast_cancer", TABULAR, columns, source), bunch.data, malignant)


def _dataset(card: Card, X: NDArray[Any], anomalous: Flags) -> Dataset:
    width = max(4, len(str(len(X) - 1)))
    rows = pd.DataFrame(
        {
            "row_id": [f"{card.name}-{i:0{width}d}" for i in range(len(X))],
            "label": anomalous.astype(np.int8),
            "group": "",
            "time": "",
        }
    )
    return Dataset(card, RowSet(X.astype(np.float64), rows))


_BUNDLED: dict[str, Callable[[], Dataset]] = {"digits": _digits, "breast_cancer": _breast_cancer}
