"""Named datasets: stable bytes, checked files, and nothing left behind when a file is wrong."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from assay.data import public_sets as registry
from assay.data.batches import as_batch
from assay.data.dataset import read_dataset, write_dataset
from assay.data.modalities.image import Image
from assay.data.modalities.mnist import IMAGE_SETS
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import PUBLIC, PublicFile, dataset_names, load_named
from assay.errors import DataError

SHAPES = {  # rows, columns, anomalies
    "satellite": (6435, 36, 2036),
    "cardio": (1831, 21, 176),
    "thyroid": (3772, 6, 93),
    "satimage-2": (5803, 36, 71),
    "shuttle": (49097, 9, 3511),
    "mammography": (11183, 6, 260),
    "optdigits": (5216, 64, 150),
    "pendigits": (6870, 16, 156),
    "vertebral": (240, 6, 30),
}
BYTES = {  # SHA-256 of features.npy, rows.csv, card.json
    "digits": "ac7a30dbde910ac2d48c9e44c701d3ded2b250352c403ea15bbbfb4cbd212a15",
    "breast_cancer": "f0787bd1ef7b9f1fb42b4dfad2b21a29553c696ef2a6d9368fc5c1c23b98111e",
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with one small file that is registered as "tiny"."""
    mirror = tmp_path / "mirror"
    (mirror / "adbench").mkdir(parents=True)
    path = mirror / "adbench" / "0_tiny.npz"
    np.savez(path, X=np.arange(6.0).reshape(3, 2), y=np.array([0, 1, 0]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLIC, "tiny", PublicFile(path.name, digest))
    return mirror


@pytest.fixture
def server(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A web server, here, that offers the mirror at the public address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tiny / "adbench"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(registry, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{{file}}")
        yield tiny
        server.shutdown()


@pytest.mark.parametrize("name", BYTES)
def test_bundled_sets_have_the_same_bytes_everywhere(name: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, as_batch(load_named(name, mirror=None, cache=tmp_path / "cache")))
    parts = [(tmp_path / file).read_bytes() for file in ("features.npy", "rows.csv", "card.json")]
    assert hashlib.sha256(b"".join(parts)).hexdigest() == BYTES[name]
    assert not (tmp_path / "cache").exists()


def test_digits_are_images_with_zero_as_the_anomaly(tmp_path: Path) -> None:
    digits = load_named("digits", mirror=None, cache=tmp_path)
    assert digits.card.modality == Image((8, 8))
    assert digits.card.columns[8] == "pixel_1_0"
    assert digits.data.rows["row_id"].iloc[[0, -1]].tolist() == ["digits-0000", "digits-1796"]
    assert (digits.data.labels == 1).sum() == 178


def test_malignant_is_the_anomaly(tmp_path: Path) -> None:
    cancer = load_named("breast_cancer", mirror=None, cache=tmp_path)
    assert cancer.card.columns[:2] == ("mean radius", "mean texture")
    radius = cancer.data.features[:, 0]
    assert (cancer.data.labels == 1).sum() == 212
    assert radius[cancer.data.labels == 1].mean() > radius[cancer.data.labels == 0].mean()


def test_a_public_set_is_read_from_the_mirror_and_cached(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = load_named("tiny", mirror=tiny, cache=cache)
    assert found.card.columns == ("x0", "x1")
    assert found.data.labels.tolist() == [0, 1, 0]
    (tiny / "adbench" / "0_tiny.npz").unlink()
    assert load_named("tiny", mirror=tiny, cache=cache).data.features.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_wrong_file_in_the_mirror_is_refused_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    (tiny / "adbench" / "0_tiny.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"https://github\.com/Minqi824/ADBench/raw/.*/0_tiny\.npz"):
        load_named("tiny", mirror=tiny, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_missing_in_the_mirror_is_named_with_its_public_address(tiny: Path, tmp_path: Path) -> None:
    (tiny / "adbench" / "0_tiny.npz").unlink()
    with pytest.raises(DataError, match=r"mirror/adbench/0_tiny\.npz.*https://github\.com/Minqi824"):
        load_named("tiny", mirror=tiny, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_copy_in_the_cache_is_replaced(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_named("tiny", mirror=tiny, cache=cache)
    (cache / "0_tiny.npz").write_bytes(b"damaged")
    assert len(load_named("tiny", mirror=tiny, cache=cache).data) == 3


def test_without_a_mirror_the_file_is_downloaded(server: Path, tmp_path: Path) -> None:
    assert len(load_named("tiny", mirror=None, cache=tmp_path / "cache").data) == 3


def test_a_wrong_or_failed_download_is_refused_and_leaves_nothing(server: Path, tmp_path: Path) -> None:
    path = server / "adbench" / "0_tiny.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="hash"):
        load_named("tiny", mirror=None, cache=tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match="404"):
        load_named("tiny", mirror=None, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'iris'.*digits, breast_cancer, satellite"):
        load_named("iris", mirror=None, cache=tmp_path)


def test_names() -> None:
    assert dataset_names() == ("digits", "breast_cancer", *SHAPES, *IMAGE_SETS, "magnetic-tiles", "ecg5000")


@pytest.mark.skipif("ASSAY_DATA_MIRROR" not in os.environ, reason="ASSAY_DATA_MIRROR names no folder of public files")
@pytest.mark.parametrize("name", SHAPES)
def test_public_sets_are_the_published_ones(name: str, tmp_path: Path) -> None:
    found = load_named(name, mirror=Path(os.environ["ASSAY_DATA_MIRROR"]), cache=tmp_path / "cache")
    labels = found.data.labels
    assert (*found.data.features.shape, (labels == 1).sum()) == SHAPES[name]
    assert set(labels) == {0, 1}
    assert found.card.modality == (Image((8, 8)) if name == "optdigits" else TABULAR)
    write_dataset(tmp_path / "data", found)
    np.testing.assert_array_equal(read_dataset(tmp_path / "data").data.features, found.data.features)
