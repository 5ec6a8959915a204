"""Image collections as one-class sets, series, and files that only a mirror holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, read_dataset, write_dataset
from assay.data.expectations import learn_suite
from assay.data.mirrored import MirroredFile
from assay.data.modalities import ecg5000, mnist
from assay.data.modalities.image import Image
from assay.data.modalities.mnist import IMAGE_SETS, load_images
from assay.data.modalities.series import Series
from assay.data.public_sets import load_named
from assay.data.ranges import MANY_COLUMNS
from assay.data.validation import validate_dataset
from assay.errors import DataError

NO_MIRROR = pytest.mark.skipif(
    "ASSAY_DATA_MIRROR" not in os.environ, reason="ASSAY_DATA_MIRROR names no folder of public files"
)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror with small files of the form of the real ones."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(10, dtype=np.uint8), 90)
    pixels = rng.integers(0, 256, (900, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "small.npz", images=pixels, labels=rng.permutation(classes))
    np.savez(tmp_path / "beats.npz", X=rng.normal(size=(20, 6)).astype(np.float32), y=np.arange(20) % 2)

    def named(known: MirroredFile, file: str) -> MirroredFile:
        return replace(known, file=file, sha256=hashlib.sha256((tmp_path / file).read_bytes()).hexdigest())

    monkeypatch.setitem(mnist.IMAGE_FILES, "fashion-mnist", named(mnist.IMAGE_FILES["fashion-mnist"], "small.npz"))
    monkeypatch.setattr(ecg5000, "ECG5000", named(ecg5000.ECG5000, "beats.npz"))
    mnist._read.cache_clear()
    yield tmp_path
    mnist._read.cache_clear()


def test_one_class_is_normal_and_the_others_are_equally_many_anomalies(mirror: Path, tmp_path: Path) -> None:
    found = load_named("fashion-mnist-3", mirror=mirror, cache=tmp_path / "cache")
    pixels, classes = load_images("fashion-mnist", mirror=mirror)
    assert found.card.modality == Image((28, 28))
    assert found.card.columns[29] == "pixel_1_1"
    assert "2 images of each other class" in found.card.source
    assert (found.data.labels == 0).sum() == 90
    assert (found.data.labels == 1).sum() == 18
    places = {image.tobytes(): place for place, image in enumerate(pixels)}
    picked = [places[row.astype(np.uint8).tobytes()] for row in found.data.features]
    assert picked == sorted(picked)
    assert ((classes[picked] != 3) == (found.data.labels == 1)).all()
    assert np.bincount(classes[picked]).tolist() == [2, 2, 2, 90, 2, 2, 2, 2, 2, 2]
    again = load_named("fashion-mnist-3", mirror=mirror, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.data.features, found.data.features)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_series_have_their_shape_on_the_card(mirror: Path, tmp_path: Path) -> None:
    found = load_named("ecg5000", mirror=mirror, cache=tmp_path / "cache")
    assert found.card.modality == Series((6, 1))
    assert found.card.columns == ("t000", "t001", "t002", "t003", "t004", "t005")
    assert (found.data.labels == 1).sum() == 10
    write_dataset(tmp_path / "data", found)
    assert read_dataset(tmp_path / "data").card == found.card


def test_series_are_scaled_channel_by_channel() -> None:
    windows = np.random.default_rng(0).normal(size=(50, 4, 2)) * [1, 10] + [0, 5]
    scaler = Series((4, 2)).scaler().fit(windows.reshape(50, 8))
    scaled = scaler.transform(windows.reshape(50, 8)).reshape(50, 4, 2)
    np.testing.assert_allclose(scaled.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, atol=1e-6)
    steps = scaled.mean(axis=0)
    assert np.abs(steps).max() > 1e-3
    with pytest.raises(DataError, match="2 channels"):
        Series((4, 2)).scaler().fit(np.ones((3, 7)))


def test_a_file_that_only_a_mirror_holds_says_where_the_original_is(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASSAY_DATA_MIRROR", raising=False)
    told = r"SHA-256 \w{64}, made from the original data of Fashion-MNIST, https://github\.com/zalandoresearch"
    with pytest.raises(DataError, match=f"not published in this form; .*{told}.*ASSAY_DATA_MIRROR"):
        load_named("fashion-mnist-0", mirror=None, cache=tmp_path)
    (mirror / "small.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match=f"small.npz has SHA-256 .*{told}"):
        load_named("fashion-mnist-0", mirror=mirror, cache=tmp_path)
    (mirror / "small.npz").unlink()
    with pytest.raises(DataError, match=f"there is no .*small.npz; .*{told}"):
        load_named("fashion-mnist-0", mirror=mirror, cache=tmp_path)
    with pytest.raises(DataError, match="'cifar'; known: mnist, fashion-mnist"):
        load_images("cifar")


def test_large_images_are_judged_as_a_whole(tmp_path: Path) -> None:
    """Few expectations, which a pixel that is missing or infinite still fails."""
    side = 17
    assert side**2 > MANY_COLUMNS
    features = np.random.default_rng(0).random((30, side**2)).astype(np.float32)
    rows = pd.DataFrame(
        {"row_id": [f"r{i}" for i in range(30)], "label": np.zeros(30, np.int8), "group": "", "time": "", "copy": 0}
    )
    columns = tuple(f"p{i}" for i in range(side**2))
    card = Card("large", Image((side, side)), columns, "made here")
    suite = learn_suite(Dataset(card, RowSet(features, rows)))
    assert len(suite["expectations"]) < 16
    spoilt = features.copy()
    spoilt[3, 7], spoilt[5, 0], spoilt[8, 100] = np.nan, np.inf, -np.inf
    for values, failing in ((features, []), (spoilt, ["r3", "r5", "r8"])):
        data = RowSet(values, rows)
        roles = {"train": data, "pool": data.take(np.arange(0))}
        summary = validate_dataset(suite, Dataset(card, data), roles, [], docs=tmp_path / "docs")
        assert sorted({row for _, check in summary.failures() for row in check.row_ids}) == failing


@NO_MIRROR
def test_the_real_collections() -> None:
    for name, normals in (("mnist", 6903), ("fashion-mnist", 7000)):
        pixels, classes = load_images(name)
        assert pixels.shape == (70000, 28, 28)
        assert (classes == 0).sum() == normals
    assert len(IMAGE_SETS) == 20
    found = load_named("ecg5000", mirror=Path(os.environ["ASSAY_DATA_MIRROR"]), cache=Path("unused"))
    assert found.data.features.shape == (5000, 140)
    assert (found.data.labels == 1).sum() == 2081
