"""Images of users: what becomes of each kind of file, and what is refused."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from assay.data import archives
from assay.data.batches import as_batch, with_batch
from assay.data.image_datasets import ImageBlocks, holds_images, read_image_dataset
from assay.data.image_files import read_images
from assay.data.masks import masks_of
from assay.data.modalities.image import Image
from assay.errors import DataError

DRAW = np.random.default_rng(0).integers(0, 256, size=(200, 5, 4), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Pillow.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (kind, name) in enumerate((("ok", "b.png"), ("ok", "a.tif"), ("bad", "c.png"), ("other", "d.PNG"))):
        save(tmp_path / "shots" / kind / name, DRAW[i])
    (tmp_path / "shots" / "notes.txt").write_text("no image")
    save(tmp_path / "shots" / ".thumbs" / "x.png", DRAW[5])
    return tmp_path / "shots"


def test_rows_are_files_in_the_order_of_their_names(folder: Path) -> None:
    dataset = read_image_dataset(folder, name="shots")
    assert dataset.data.rows["row_id"].tolist() == ["bad/c.png", "ok/a.tif", "ok/b.png", "other/d.PNG"]
    assert np.array_equal(dataset.data.features, DRAW[[2, 1, 0, 3]].reshape(4, -1))
    assert dataset.card.modality == Image((5, 4))
    assert dataset.card.columns[:5] == ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_0_3", "pixel_1_0")
    assert dataset.data.labels.tolist() == [-1] * 4


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"normal": "ok"}, [1, 0, 0, 1]),
        ({"anomaly": "bad"}, [1, 0, 0, 0]),
        ({"normal": "ok", "anomaly": "bad"}, [1, 0, 0, -1]),
    ],
)
def test_folders_are_labels(folder: Path, options: dict[str, str], labels: list[int]) -> None:
    dataset = read_image_dataset(folder, name="shots", **options)
    assert dataset.data.labels.tolist() == labels
    assert dataset.card.source == "; ".join(["shots", *(f"{kind} = {value!r}" for kind, value in options.items())])


def test_what_each_folder_counts_as_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "stray.png", DRAW[6])
    read_image_dataset(folder, name="shots", normal="ok", anomaly="bad")
    said = " ".join(capsys.readouterr().err.split())
    assert "'ok' is normal (2)" in said
    assert "'bad' is an anomaly (1), 'other' is unknown (1), 'shots' is unknown (1)" in said


def test_a_folder_that_is_not_there_is_refused_as_label(folder: Path) -> None:
    with pytest.raises(DataError, match="--normal good: no image of shots has that label; there are 'bad', 'ok'"):
        read_image_dataset(folder, name="shots", normal="good")


def test_colour_becomes_luma_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.zeros((1, 3, 3), dtype=np.uint8)
    pixels[0] = np.eye(3, dtype=np.uint8) * 255
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "b.png", np.dstack([pixels, np.full((1, 3), 7, np.uint8)]))  # transparent
    save(tmp_path / "c.png", pixels, "P")
    save(tmp_path / "d.png", np.full((1, 3, 3), 9, np.uint8))  # grey, written as colour
    save(tmp_path / "e.png", np.full((1, 3), 9, np.uint8), "LA")
    save(tmp_path / "f.png", np.full((1, 3), 255, np.uint8), "1")
    images = read_images(tmp_path)
    assert images.pixels[:, 0].tolist() == [[76, 150, 29]] * 3 + [[9, 9, 9]] * 2 + [[255] * 3]
    assert "3 of 6 images are in colour; grey is .299 red + .587 green + .114 blue" in capsys.readouterr().err


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    Pillow.fromarray(DRAW[0]).convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert np.array_equal(read_images(tmp_path).pixels[0], DRAW[0])


def test_images_are_turned_by_their_exif_data(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    Pillow.fromarray(DRAW[0]).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_images(tmp_path).pixels[0], np.rot90(DRAW[0], -1))


def test_of_a_photograph_with_further_pictures_the_first_counts(tmp_path: Path) -> None:
    first, second = (Pillow.fromarray(np.full((9, 8), value, dtype=np.uint8)) for value in (40, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(read_images(tmp_path).pixels[0].astype(int) - 40).max() <= 2


def test_sizes_that_differ_need_an_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "ok" / "aa.png", np.uint8([[0, 100], [50, 250]]).repeat(5, 0).repeat(4, 1))
    with pytest.raises(DataError, match=r"bad/c.png has 5 x 4 .* and ok/aa.png has 10 x 8; .*--image-size 5 4"):
        read_images(folder)
    images = read_images(folder, (5, 4))
    assert images.pixels.shape == (5, 5, 4)
    assert images.pixels[images.names.index("ok/aa.png")][[0, 0, 4, 4], [0, 3, 0, 3]].tolist() == [0, 100, 50, 250]
    assert "1 of 5 images are resized to 5 x 4, proportions not kept" in capsys.readouterr().err


def bomb(path: Path) -> None:
    """Write the head of a PNG file of 30,000 x 30,000 pixels."""
    head = (30_000).to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def bad(path: Path, kind: str) -> None:
    pictures = [Pillow.fromarray(each) for each in DRAW[:2]]
    if kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        Pillow.fromarray(DRAW.reshape(50, 80)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "animated":
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    elif kind == "16 bits":
        Pillow.fromarray(DRAW[0].astype(np.uint16)).save(path)
    elif kind == "16 bits colour":
        head = (1).to_bytes(4) * 2 + bytes([16, 2, 0, 0, 0])
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")]
        parts = [len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4) for name, body in chunks]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    else:
        bomb(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "cannot identify image file"),
        ("empty", "cannot identify image file"),
        ("truncated", "truncated"),
        ("animated", "it holds 2 images, not one"),
        ("16 bits", "its pixels are not grey or colour of 8 bits a channel"),
        ("16 bits colour", "its pixels are not grey or colour of 8 bits a channel"),
        ("bomb", "pixels, too many to be read safely"),
    ],
)
def test_bad_files_are_named_and_refused(folder: Path, kind: str, reason: str) -> None:
    bad(folder / "ok" / "z.png", kind)
    with pytest.raises(DataError, match=f"1 of 5 images .* at most 1% may be left out .ok/z.png: .*{reason}"):
        read_images(folder)


def test_one_bad_file_of_a_hundred_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(99):
        save(tmp_path / f"{i:03}.png", DRAW[i])
    bad(tmp_path / "050x.png", "text")
    images = read_images(tmp_path)
    assert len(images.pixels) == len(images.names) == 99
    assert np.array_equal(images.pixels, DRAW[:99])
    assert "1 of 100 images cannot be used and are left out (050x.png: " in capsys.readouterr().err
    bad(tmp_path / "050y.png", "text")
    with pytest.raises(DataError, match="2 of 101 images"):
        read_images(tmp_path)


def test_images_that_are_too_large_for_rows_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((129, 128), dtype=np.uint8))
    with pytest.raises(DataError, match="would have 129 x 128 pixels, and 16384 are the most"):
        read_images(tmp_path)
    with pytest.raises(DataError, match="would have 200 x 100 pixels"):
        read_images(tmp_path, (200, 100))
    assert read_images(tmp_path, (128, 128)).pixels.shape == (1, 128, 128)


def test_names_that_no_table_can_hold_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a\nb.png", DRAW[0])
    with pytest.raises(DataError, match=r"the image 'a\\nb.png' has control characters"):
        read_images(tmp_path)


def test_what_is_left_out_beside_images_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "linked").symlink_to(folder / "ok")
    (folder / "bad" / "e.bmp").touch()
    assert len(read_images(folder).names) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "files of other kinds and links to folders are left out: 3 ('bad/e.bmp', 'linked', 'notes.txt')" in said


def test_a_link_to_a_missing_image_is_a_bad_image(folder: Path) -> None:
    (folder / "ok" / "z.png").symlink_to(folder / "gone.png")
    (folder / "ok" / "y.png").symlink_to(folder / "bad" / "c.png")
    with pytest.raises(DataError, match=r"1 of 6 images .* .ok/z.png: .*No such file"):
        read_images(folder)


@pytest.mark.parametrize("name", [".thumbs/a.png", "a.png/b.csv"])
def test_hidden_images_and_folders_called_like_one_make_no_folder_of_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    assert not holds_images(tmp_path)
    (tmp_path / "c.JPEG").touch()
    assert holds_images(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        read_images(tmp_path)


def test_an_archive_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=DRAW[:3], labels=np.array([0, 1, -1]))
    dataset = read_image_dataset(tmp_path / "a.npz", name="made")
    assert np.array_equal(dataset.data.features, DRAW[:3].reshape(3, -1))
    assert dataset.data.labels.tolist() == [0, 1, -1]
    assert dataset.data.rows["row_id"].tolist() == ["made-0000000", "made-0000001", "made-0000002"]
    np.savez(tmp_path / "b.npz", images=DRAW[:3], labels=np.array(["good", "hole", "good"]))
    labelled = read_image_dataset(tmp_path / "b.npz", name="made", normal="good", size=(2, 2))
    assert labelled.data.labels.tolist() == [0, 1, 0]
    assert labelled.card.modality == Image((2, 2))
    np.savez(tmp_path / "c.npz", images=DRAW[:3])
    assert read_image_dataset(tmp_path / "c.npz", name="made").data.labels.tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"pictures": DRAW}, {}, "needs an array `images` of uint8, shape .n, height, width. or .*; it holds none"),
        ({"images": DRAW.astype(float)}, {}, r"it holds one of float64 and shape \(200, 5, 4\)"),
        ({"images": DRAW[0]}, {}, r"it holds one of uint8 and shape \(5, 4\)"),
        ({"images": DRAW, "labels": np.zeros(3)}, {}, "`labels` must be 200 numbers or texts"),
        ({"images": DRAW, "labels": np.full(200, None)}, {}, "no NumPy archive that can be read safely"),
        ({"images": DRAW}, {"normal": "good"}, "--normal good: a.npz has no array `labels`"),
        ({"images": DRAW, "labels": np.full(200, "x")}, {}, "has the label 'x'"),
    ],
)
def test_archives_that_cannot_be_used_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], options: dict[str, str], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_image_dataset(tmp_path / "a.npz", name="made", **options)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="no NumPy archive"):
        read_image_dataset(tmp_path / "a.npz", name="made")


def damaged(path: Path, kind: str) -> None:
    """Write an archive that is damaged where NumPy does not look for it."""
    np.savez_compressed(path, images=DRAW)
    whole = bytearray(path.read_bytes())
    method = {"lzma": zipfile.ZIP_LZMA}.get(kind, zipfile.ZIP_STORED)
    if kind == "deflated":
        whole[200] ^= 255
    elif kind == "encrypted":
        whole[whole.index(b"PK\x01\x02") + 8] |= 1
    elif kind == "unknown method":
        whole[whole.index(b"PK\x01\x02") + 10] = 99
    else:
        head = b"\x93NUMPY\x01\x00" + (10).to_bytes(2, "little") + b"{'descr': " + DRAW.tobytes()
        with zipfile.ZipFile(path, "w", method) as packed:
            packed.writestr("images.npy", head)
        whole = bytearray(path.read_bytes())
        if kind == "lzma":
            whole[200:220] = bytes(20)
    path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["deflated", "encrypted", "unknown method", "lzma", "header"])
def test_damaged_archives_are_refused(tmp_path: Path, kind: str) -> None:
    damaged(tmp_path / "a.npz", kind)
    with pytest.raises(DataError, match=r"a\.npz is no NumPy archive that can be read safely"):
        read_image_dataset(tmp_path / "a.npz", name="made")


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 100, 100), dtype=np.uint8))
    monkeypatch.setattr(archives, "MOST_UNPACKED", 10**6)
    with pytest.raises(DataError, match=r"it unpacks to 1000\d\d\d bytes, and 1000000 are the most that are read"):
        read_image_dataset(tmp_path / "a.npz", name="made")


def test_colours_are_kept_where_asked_and_grey_images_have_three_equal_ones(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    save(tmp_path / "shots" / "a.png", colours)
    save(tmp_path / "shots" / "b.png", DRAW[0])
    dataset = read_image_dataset(tmp_path / "shots", name="shots", colour=True)
    assert dataset.card.modality == Image((5, 4, 3))
    assert dataset.card.columns[:4] == ("pixel_0_0_red", "pixel_0_0_green", "pixel_0_0_blue", "pixel_0_1_red")
    assert np.array_equal(dataset.data.features[0], colours.ravel())
    assert np.array_equal(dataset.data.features[1].reshape(5, 4, 3), np.repeat(DRAW[0][..., None], 3, axis=2))
    np.savez(tmp_path / "a.npz", images=colours[None])
    packed = read_image_dataset(tmp_path / "a.npz", name="shots", colour=True)
    assert np.array_equal(packed.data.features, dataset.data.features[:1])
    grey = read_image_dataset(tmp_path / "a.npz", name="shots").data.features
    assert np.array_equal(grey, read_image_dataset(tmp_path / "shots", name="shots").data.features[:1])
    frames = list(ImageBlocks(tmp_path / "shots", dataset.card.columns).frames(9))
    assert np.array_equal(frames[0][list(dataset.card.columns)], dataset.data.features)


def test_masks_are_those_of_the_files_of_the_same_name(folder: Path, tmp_path: Path) -> None:
    mask = np.zeros((5, 4), dtype=np.uint8)
    mask[1:3, 2:] = 1
    save(tmp_path / "truth" / "bad" / "c_mask.png", mask)
    dataset = read_image_dataset(folder, name="shots", normal="ok", masks=tmp_path / "truth")
    texts = dataset.data.rows["mask"].tolist()
    assert texts == ["6+2 10+2", "", "", ""]
    assert np.array_equal(masks_of(texts, (5, 4))[0], mask == 1)
    assert not masks_of(texts, (5, 4))[1:].any()
    large = read_image_dataset(folder, name="shots", normal="ok", masks=tmp_path / "truth", size=(10, 8))
    assert masks_of(large.data.rows["mask"], (10, 8))[0].sum() == 16
    with pytest.raises(DataError, match=r"bad/c\.png counts as normal, and its mask marks defects"):
        read_image_dataset(folder, name="shots", normal="bad", masks=tmp_path / "truth")
    save(tmp_path / "truth" / "ok" / "x.png", mask)
    with pytest.raises(DataError, match=r"the mask ok/x.png belongs to no image in shots"):
        read_image_dataset(folder, name="shots", normal="ok", masks=tmp_path / "truth")
    for damaged in ("6+99", "x", "6-2"):
        with pytest.raises(DataError, match="is none of an image of 5 x 4 pixels"):
            masks_of([damaged], (5, 4))


def test_the_mask_of_an_image_that_is_left_out_is_left_out_too(tmp_path: Path) -> None:
    for number in range(100):
        save(tmp_path / "shots" / "bad" / f"{number}.png", DRAW[0])
    (tmp_path / "shots" / "bad" / "7.png").write_bytes(b"damaged")
    for number in (7, 8):
        save(tmp_path / "truth" / "bad" / f"{number}_mask.png", DRAW[0])
    rows = read_image_dataset(tmp_path / "shots", name="shots", anomaly="bad", masks=tmp_path / "truth").data.rows
    assert rows["row_id"][rows["mask"] != ""].tolist() == ["bad/8.png"]


def test_labels_come_from_a_table_where_one_is_given(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label,who\nok/b.png,fine,ann\nbad/c.png,hole,bob\n")
    dataset = read_image_dataset(folder, name="shots", normal="fine", labels=table)
    assert dataset.data.labels.tolist() == [1, -1, 0, -1]
    table.write_text("file,label\nc.png,hole\n")
    with pytest.raises(DataError, match=r"lists 'c\.png', which is no image such as 'bad/c\.png'"):
        read_image_dataset(folder, name="shots", normal="fine", labels=table)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist_is_read_as_it_is_downloaded(tmp_path: Path, ending: str) -> None:
    opened: Any = gzip.open if ending else open
    images, labels = tmp_path / f"train-images-idx3-ubyte{ending}", tmp_path / f"train-labels-idx1-ubyte{ending}"
    head = bytes([0, 0, 8, 3]) + b"".join(side.to_bytes(4) for side in (3, 5, 4))
    with opened(images, "wb") as stream:
        stream.write(head + DRAW[:3].tobytes())
    with opened(labels, "wb") as stream:
        stream.write(bytes([0, 0, 8, 1]) + (3).to_bytes(4) + bytes([7, 2, 7]))
    dataset = read_image_dataset(images, name="mnist", normal="7")
    assert np.array_equal(dataset.data.features, DRAW[:3].reshape(3, -1))
    assert dataset.data.labels.tolist() == [0, 1, 0]
    for body, reason in ((head + bytes(59), "holds 59"), (head + bytes(61), "holds more"), (b"PK", "its head")):
        with opened(images, "wb") as stream:
            stream.write(body)
        with pytest.raises(DataError, match=f"no IDX file that can be read: .*{reason}"):
            read_image_dataset(images, name="mnist", normal="7")


def test_images_join_a_dataset_in_its_size_and_colours_with_their_masks(folder: Path, tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, size=(4, 10, 8, 3), dtype=np.uint8)
    accepted = as_batch(read_image_dataset(folder, name="shots", normal="ok", colour=True))
    for i, image in enumerate(colours):
        save(tmp_path / "may" / ("ok" if i else "bad") / f"{'abcd'[i]}.png", image)
    save(tmp_path / "truth" / "bad" / "a.png", np.full((10, 8), 255, dtype=np.uint8))
    options: dict[str, Any] = {"name": "shots", "like": accepted.card, "normal": "ok", "anomaly": "gone"}
    grown = with_batch(accepted, read_image_dataset(tmp_path / "may", **options, masks=tmp_path / "truth"))
    assert len(grown.data) == 8
    assert grown.data.rows["row_id"].tolist()[4:] == ["may/bad/a.png", "may/ok/b.png", "may/ok/c.png", "may/ok/d.png"]
    assert grown.data.labels.tolist()[4:] == [-1, 0, 0, 0]
    assert grown.data.rows["mask"].tolist() == [""] * 4 + ["0+20", "", "", ""]
    alone = read_image_dataset(tmp_path / "may", name="may", size=(5, 4), colour=True)
    assert np.array_equal(grown.data.features[4:], alone.data.features)
    with pytest.raises(DataError, match="have the size and the colours of the dataset"):
        read_image_dataset(tmp_path / "may", **options, colour=True)
