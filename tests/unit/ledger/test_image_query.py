"""A folder of images asks by pixels, in the size and the colours of the dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from assay.data.image_datasets import read_image_dataset
from assay.data.modalities.image import pixel_columns
from assay.errors import DataError
from assay.ledger.query import Layout, read_query


def test_images_are_told_by_their_pixels_whatever_they_are_called(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 5, 4, 3), dtype=np.uint8)
    for folder, names in (("first", "abc"), ("again", "zyx")):
        (tmp_path / folder).mkdir()
        for name, image in zip(names, pixels, strict=True):
            Pillow.fromarray(image).save(tmp_path / folder / f"{name}.png")
    for colour in (False, True):
        card = read_image_dataset(tmp_path / "first", name="shots", colour=colour).card
        layouts = [Layout("shots", card.columns, "file"), Layout("table", ("x", "y"), None)]
        first, again = (read_query(tmp_path / folder, layouts) for folder in ("first", "again"))
        assert first.by == again.by == "content"
        assert again.n_rows == 3
        assert set(first.keys["key"]) == set(again.keys["key"])
        assert set(first.keys["dataset"]) == {"shots"}
    with pytest.raises(DataError, match="first holds images, and no dataset here is of images"):
        read_query(tmp_path / "first", layouts[1:])
    others = [*layouts, Layout("small", pixel_columns((2, 2)), "file")]
    both = read_query(tmp_path / "first", others)
    assert set(both.keys["dataset"]) == {"shots", "small"}
    assert both.n_rows == both.different == 3
    assert read_query(tmp_path / "first", others, dataset="small").n_rows == 3


def test_a_dataset_that_was_brought_in_in_another_size_or_in_grey_is_asked_for_both(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 8, 6, 3), dtype=np.uint8)
    (tmp_path / "shots").mkdir()
    for number, image in enumerate(pixels):
        Pillow.fromarray(image).save(tmp_path / "shots" / f"{number}.png")
    versions = [
        read_image_dataset(tmp_path / "shots", name="shots", size=size, colour=colour)
        for size, colour in ((None, True), (None, False), ((4, 4), True))
    ]
    layouts = [Layout("shots", version.card.columns, "file") for version in versions]
    keys = {*read_query(tmp_path / "shots", layouts, dataset="shots").keys["key"]}
    for version in versions:
        assert {*version.card.fingerprints(version.data.features)} <= keys
