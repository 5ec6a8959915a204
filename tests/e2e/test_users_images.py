"""A user's own images, from a folder of files to the roles of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow
from tests.conftest import Checkout

from assay.data.dataset import read_dataset
from assay.data.modalities.image import Image
from assay.hashing import hash_tree


def save_images(folder: Path) -> None:
    """Save 200 images of stripes as "good" and 20 of noise as "torn", of 12 x 12 pixels, every tenth of 24 x 24."""
    rng = np.random.default_rng(0)
    for i in range(220):
        side = 24 if i % 10 == 0 else 12
        stripes = np.tile(np.where(np.arange(side) % 4 < 2, 60, 180), (side, 1)) + rng.normal(
            scale=9, size=(side, side)
        )
        pixels = stripes if i < 200 else rng.uniform(0, 255, size=(side, side))
        kind = folder / ("good" if i < 200 else "torn")
        kind.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(kind / f"{i:03}.png")


def test_a_folder_of_images_comes_in_and_is_split(checkout: Checkout) -> None:
    root = checkout.root
    save_images(root / "shots")
    options = ("shots", "--name", "shots", "--normal", "good")
    refused = checkout.assay("ingest", *options, code=2).stderr
    assert "good/000.png has 24 x 24 pixels (height x width) and good/001.png has 12 x 12" in refused
    assert not (root / "data/shots").exists()

    done = checkout.assay("ingest", *options, "--image-size", "12", "12")
    assert "data/shots: 220 rows x 144 columns, 20 labelled anomalies, 0 unlabelled" in done.stdout
    assert "22 of 220 images are resized to 12 x 12, proportions not kept" in done.stderr
    dataset = read_dataset(root / "data/shots")
    assert dataset.card.modality == Image((12, 12))
    assert dataset.data.rows["row_id"].iloc[[0, 219]].tolist() == ["good/000.png", "torn/219.png"]

    before = hash_tree(root / "data")
    checkout.assay("ingest", *options, "--image-size", "12", "12")
    assert hash_tree(root / "data") == before

    checked = checkout.assay("ingest", *options, "--image-size", "12", "12", "--check").stdout
    assert "220 images of 12 x 12, values 0 to 254; 200 normal, 20 an anomaly, 0 unknown" in checked
    assert hash_tree(root / "data") == before
    (root / "may/good").mkdir(parents=True)
    for i in range(3):
        pixels = np.random.default_rng(i + 1).integers(50, 200, size=(24, 24)).astype(np.uint8)
        Pillow.fromarray(pixels).save(root / "may/good" / f"{i:03}.png")
    joined = checkout.assay("ingest", "--append", "may", "--name", "shots").stdout
    assert "3 rows from may" in joined
    dataset = read_dataset(root / "data/shots")
    assert dataset.data.rows["row_id"].tolist()[-3:] == [f"may/good/00{i}.png" for i in range(3)]
    assert dataset.data.labels.tolist()[-3:] == [0, 0, 0]

    np.savez(root / "june.npz", images=np.zeros((3, 12, 12), dtype=np.uint8))
    unnamed = checkout.assay("ingest", "--append", "june.npz", "--name", "shots", code=2).stderr
    assert "the images of shots came in a folder, june.npz is one file" in unnamed

    params = root / "params.yaml"
    params.write_text(params.read_text().replace("breast_cancer", "shots"))
    checkout.assay("stage", "split@shots")
    parts = list((root / "work/shots/split").glob("*/rows.csv"))
    ids = pd.concat([pd.read_csv(path, dtype=str) for path in parts])["row_id"]
    assert len(parts) > 2
    assert sorted(ids) == sorted(dataset.data.rows["row_id"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("shots", "--name", "shots", "--label", "kind"), "--label is for tables, and shots holds images"),
        (("shots", "--name", "shots", "--sep", ";"), "such as --sep, is for tables, and shots holds images"),
        (("shots", "--name", "shots", "--normal", "fine"), "no image of shots has that label; there are 'good'"),
        (("shots",), "give the dataset of shots a name"),
        (("shots", "--check", "--normal", "fine"), "no image of shots has that label; there are 'good'"),
        (("shots", "--append", "--name", "breast_cancer"), "shots holds images, and breast_cancer none"),
        (("a.csv", "--name", "a", "--image-size", "8", "8"), "--image-size is for images, and a.csv holds none"),
        (("digits", "--image-size", "8", "8"), "--image-size is for your own files"),
        (("shots", "--name", "shots", "--image-size", "0", "8"), "--image-size"),
    ],
)
def test_what_images_cannot_be_is_said(checkout: Checkout, options: tuple[str, ...], message: str) -> None:
    (checkout.root / "shots/good").mkdir(parents=True)
    Pillow.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(checkout.root / "shots/good/a.png")
    (checkout.root / "a.csv").write_text("x\n1\n2\n")
    assert message in checkout.assay("ingest", *options, code=2).stderr
    assert not (checkout.root / "data/shots").exists()
